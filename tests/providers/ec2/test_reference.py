"""docs/reference/sites-ec2.md is held to the code."""

from __future__ import annotations

import re
from pathlib import Path

from providers.ec2 import flavor, options

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "sites-ec2.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", section(title), re.MULTILINE))


def test_the_options_of_the_reference_are_those_that_are_read() -> None:
    assert rows("Options") == options.KNOWN
    assert rows("Credentials") == {"access_key_id", "secret_access_key", "session_token"}


def test_the_attributes_of_the_reference_are_those_that_hosts_tell() -> None:
    kind = flavor.InstanceType("t3.small", 2, 2048)
    told = set(flavor.attributes(options.Options(region="r"), "z", kind))
    assert told == set(re.findall(r"`(\w+)`", section("What a host tells").split("Types and offers")[0]))
