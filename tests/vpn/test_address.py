"""Prefixes that clash, addresses that are free."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpn.address import AddressError, Pool, contains, free_address, overlapping


@st.composite
def _ipv4_prefixes(draw: st.DrawFn) -> str:
    length = draw(st.integers(4, 32))
    # Few distinct high bits, so that overlaps are common.
    value = draw(st.integers(0, 2**6 - 1)) << 26 | draw(st.integers(0, 2**26 - 1))
    return str(ip_network((value >> (32 - length) << (32 - length), length)))


_ipv6_prefixes = st.builds(
    lambda site, length: str(ip_network((0xFD << 120 | site << 64, length), strict=False)),
    st.integers(0, 7),
    st.integers(48, 64),
)


@settings(deadline=None)
@given(_ipv4_prefixes(), st.lists(_ipv4_prefixes(), max_size=8))
def test_prefixes_overlap_exactly_when_they_share_an_address(cidr: str, others: list[str]) -> None:
    def ends(text: str) -> tuple[int, int]:
        net = ip_network(text)
        return int(net.network_address), int(net.broadcast_address)

    low, high = ends(cidr)
    expected = [other for other in others if ends(other)[0] <= high and low <= ends(other)[1]]
    assert overlapping(cidr, others) == expected


@settings(deadline=None)
@given(_ipv4_prefixes(), _ipv4_prefixes())
def test_overlap_is_mutual(a: str, b: str) -> None:
    assert bool(overlapping(a, [b])) == bool(overlapping(b, [a]))


@settings(deadline=None)
@given(_ipv4_prefixes(), _ipv6_prefixes)
def test_the_two_families_never_overlap(four: str, six: str) -> None:
    assert overlapping(four, [six]) == []
    assert overlapping(six, [four]) == []
    assert not contains(four, six)


def test_an_ipv6_prefix_inside_another_overlaps_it() -> None:
    assert overlapping("fd00::/8", ["fd00:1::/32", "2001:db8::/32"]) == ["fd00:1::/32"]
    assert overlapping("fd00:1:2::/48", ["fd00:1::/32"]) == ["fd00:1::/32"]


def test_a_prefix_with_host_bits_is_refused_with_the_mend() -> None:
    with pytest.raises(AddressError, match=r"10\.0\.0\.5/24 has host bits set; write 10\.0\.0\.0/24"):
        overlapping("10.0.0.5/24", [])
    with pytest.raises(AddressError, match="not a CIDR prefix"):
        overlapping("ten", [])


@settings(deadline=None)
@given(st.integers(24, 31), st.data())
def test_every_host_address_is_given_out_once_and_then_the_subnet_is_full(
    length: int, data: st.DataObject
) -> None:
    cidr = f"10.9.8.0/{length}"
    hosts = {str(host) for host in ip_network(cidr).hosts()}
    gateway = data.draw(st.sampled_from(sorted(hosts)))
    taken: set[str] = set()
    for _ in range(len(hosts) - 1):
        address = free_address(cidr, taken, gateway)
        assert address in hosts - taken - {gateway}
        taken.add(address)
    with pytest.raises(AddressError, match="is full"):
        free_address(cidr, taken, gateway)


def test_an_ipv6_subnet_gives_out_its_lowest_free_host_address() -> None:
    assert free_address("fd00:1::/64", {"fd00:1::2"}, "fd00:1::1") == "fd00:1::3"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("10.0.1.1", "not in subnet"),
        ("10.0.0.0", "network address"),
        ("10.0.0.255", "broadcast address"),
        ("10.0.0.1", "is the gateway"),
        ("10.0.0.7", "is taken"),
        ("fd00::7", "not in subnet"),
        ("seven", "not an IP address"),
    ],
)
def test_a_wanted_address_that_cannot_be_had_is_refused_in_words(wanted: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        free_address("10.0.0.0/24", {"10.0.0.7"}, "10.0.0.1", wanted)


def test_a_wanted_free_address_is_given() -> None:
    assert free_address("10.0.0.0/24", {"10.0.0.7"}, "10.0.0.1", "10.0.0.8") == "10.0.0.8"


def test_what_is_taken_in_the_other_family_takes_nothing() -> None:
    pool = Pool("10.0.0.0/30", ["::a00:1", "fd00::1"])
    assert (len(pool), pool.take()) == (2, "10.0.0.1")
    pool.give_back("fd00::1")
    assert pool.take() == "10.0.0.2"
    assert Pool("::a00:0/126", ["10.0.0.1"]).take() == "::a00:1"


def test_text_that_is_no_address_is_not_taken_for_one() -> None:
    for text in ("10.0.0", "10.0.0.01", "10.0.0.256", "10.0.0.1\0", "10.0.0.\ud800", "ten", ""):
        with pytest.raises(AddressError, match="is not an IP address"):
            Pool("10.0.0.0/24", [text])


def test_address_that_is_given_back_is_the_next_one() -> None:
    pool = Pool("10.0.0.0/29", ["10.0.0.1"])
    assert [pool.take() for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.give_back("10.0.0.3")
    assert [pool.take() for _ in range(2)] == ["10.0.0.3", "10.0.0.5"]
