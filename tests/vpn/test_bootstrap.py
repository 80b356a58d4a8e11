"""The script that takes a burst VM into the private network (run for real in test_enrolment.py)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields, replace
from typing import Any

import pytest

from vpn import bootstrap, keys, userdata

PRIVATE, PUBLIC = keys.generate(lambda count: b"\x07" * count)
_, GATEWAY = keys.generate(lambda count: b"\x09" * count)


FIRST = bootstrap.End(
    bootstrap_private_key=PRIVATE,
    bootstrap_public_key=PUBLIC,
    bootstrap_address="169.254.64.2",
    gateway_public_key=GATEWAY,
    endpoint="203.0.113.2:51820",
)
SECOND = bootstrap.End(
    *keys.generate(lambda count: b"\x0b" * count),
    bootstrap_address="169.254.64.3",
    gateway_public_key=keys.generate(lambda count: b"\x0d" * count)[1],
    endpoint="198.51.100.2:51820",
    interface="isthmus1",
)


def _script(**changes: Any) -> str:
    of_the_end = {field.name for field in fields(bootstrap.End)} & changes.keys()
    end = replace(FIRST, **{name: changes.pop(name) for name in of_the_end})
    return bootstrap.script(end, **changes)


@pytest.mark.parametrize("shell", [["busybox", "ash"], ["dash"], ["bash", "--posix"]])
def test_every_posix_shell_reads_the_script(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    for text in (_script(), bootstrap.script(FIRST, SECOND)):
        done = subprocess.run([*shell, "-n"], input=text, text=True, capture_output=True, check=False)
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
    assert f" '{endpoint}' " in _script(endpoint=endpoint)


@pytest.mark.parametrize("same", ["interface", "gateway_public_key", "endpoint", "bootstrap_public_key"])
def test_two_ends_share_neither_gateway_nor_interface(same: str) -> None:
    with pytest.raises(ValueError, match=f"two ends have the same {same}"):
        bootstrap.script(FIRST, replace(SECOND, **{same: getattr(FIRST, same)}))


def test_a_script_without_an_end_is_none() -> None:
    with pytest.raises(ValueError, match="joins nothing"):
        bootstrap.script()


def test_a_second_end_costs_its_own_values_and_no_second_script() -> None:
    more = len(bootstrap.script(FIRST, SECOND)) - len(bootstrap.script(FIRST))
    assert more < 300


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_sample_is_as_long_as_any_script_for_these_gateways(count: int) -> None:
    ends = [
        bootstrap.End(
            *keys.generate(),
            bootstrap_address="169.254.127.200",
            gateway_public_key=keys.generate()[1],
            endpoint=f"gateway-{number}.example.org:51820",
            mtu=1420,
            interface=bootstrap.interface_of(number),
        )
        for number in range(count)
    ]
    sample = bootstrap.sample([end.endpoint for end in ends])
    assert 0 <= len(sample) - len(bootstrap.script(*ends)) <= count
