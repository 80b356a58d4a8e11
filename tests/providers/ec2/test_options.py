"""The options of an ec2 site that are about safety."""

from __future__ import annotations

import pytest

from providers.ec2.options import Options, read_options
from providers.port import InvalidSpec, SiteContext


def options_of(**given: object) -> Options:
    options = read_options(SiteContext("brk", "site", "cloud", options={"region": "r", **given}))
    assert options is not None
    return options


def test_plain_http_to_another_machine_must_be_allowed_on_purpose() -> None:
    plain = "http://cloud.example.org:8773"
    with pytest.raises(InvalidSpec, match="allow_plain_http"):
        options_of(endpoint=plain)
    assert options_of(endpoint=plain, allow_plain_http=True).endpoint == plain


@pytest.mark.parametrize("here", ["http://127.0.0.1:8773", "http://localhost:8773", "http://[::1]:8773"])
def test_plain_http_on_this_machine_is_fine(here: str) -> None:
    assert options_of(endpoint=here).endpoint == here
