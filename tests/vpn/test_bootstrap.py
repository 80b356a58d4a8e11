"""The script that takes a burst VM into the private network (run for real in test_enrolment.py)."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from vpn import bootstrap, keys, userdata

PRIVATE, PUBLIC = keys.generate(lambda count: b"\x07" * count)
_, GATEWAY = keys.generate(lambda count: b"\x09" * count)


def _script(**changes: Any) -> str:
    values: dict[str, Any] = {
        "bootstrap_private_key": PRIVATE,
        "bootstrap_public_key": PUBLIC,
        "bootstrap_address": "169.254.64.2",
        "gateway_public_key": GATEWAY,
        "endpoint": "203.0.113.2:51820",
    }
    return bootstrap.script(**{**values, **changes})


@pytest.mark.parametrize("shell", [["busybox", "ash"], ["dash"], ["bash", "--posix"]])
def test_every_posix_shell_reads_the_script(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    done = subprocess.run([*shell, "-n"], input=_script(), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_placeholder_is_left() -> None:
    assert "@" not in _script()


def test_it_leaves_room_for_the_largest_user_data_that_the_api_takes() -> None:
    largest = "#!/bin/sh\n" + "#" * (12288 - 10)
    assert len(userdata.multipart(largest, _script())) <= userdata.LIMIT_BYTES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bootstrap_private_key", "'; reboot; '"),
        ("bootstrap_public_key", PUBLIC + "\n"),
        ("gateway_public_key", ""),
        ("endpoint", "203.0.113.2"),
        ("endpoint", "203.0.113.2:0"),
        ("endpoint", "$(reboot):51820"),
        ("endpoint", "host:51820\n"),
        ("bootstrap_address", "169.254.64.2; reboot"),
        ("link_address", "fd00::1"),
        ("interface", "wg0;reboot"),
        ("interface", "sixteen-letters1"),
        ("state_dir", "/var/lib/$(reboot)"),
        ("run_dir", "run"),
        ("mtu", "1420; reboot"),
        ("port", "x"),
    ],
)
def test_nothing_but_plain_values_gets_into_the_script(name: str, value: str) -> None:
    with pytest.raises(ValueError):
        _script(**{name: value})


@pytest.mark.parametrize("endpoint", ["gw.example.org:51820", "[2001:db8::1]:51820", "203.0.113.2:1"])
def test_endpoints_may_be_names_and_addresses_of_both_families(endpoint: str) -> None:
    assert f"endpoint '{endpoint}'" in _script(endpoint=endpoint)
