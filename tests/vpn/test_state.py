"""What an agent keeps on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpn.plan import GatewaySpec, plan
from vpn.state import State, StateError

DOCUMENT = plan(GatewaySpec("gw", 1, ("10.10.2.0/24",)), [])


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    public = State(tmp_path / "new" / "state").public_key()
    state = State(tmp_path / "new" / "state")
    assert state.public_key() == public
    assert state.key_file.stat().st_mode & 0o777 == 0o600
    assert state.directory.stat().st_mode & 0o777 == 0o700


def test_a_damaged_key_is_named_and_not_replaced(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.key_file.write_text("half a k")
    with pytest.raises(StateError, match=r"private\.key holds no WireGuard key"):
        state.public_key()
    assert state.key_file.read_text() == "half a k"


def test_the_last_document_is_found_again(tmp_path: Path) -> None:
    assert State(tmp_path).document() is None
    State(tmp_path).save_document(DOCUMENT)
    assert State(tmp_path).document() == DOCUMENT


def test_the_document_that_an_agent_of_0_1_0_left_is_found(tmp_path: Path) -> None:
    # Without a version, and with a VM of the kind "node".
    (tmp_path / "document.json").write_text(
        '{"addresses":["169.254.64.1/32"],'
        '"enrolment":{"address":"169.254.64.1","pool":"169.254.64.0/18","port":8775},'
        '"gateway_id":"gw-1","generation":7,"interface":"wg-isthmus","listen_port":51820,"mtu":1420,'
        '"peers":[{"allowed_ips":["10.10.2.5/32"],"expires_at":0.0,"id":"peer-2","keepalive":0,"kind":"node",'
        '"public_key":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="}],'
        '"routes":["10.10.2.0/24","169.254.64.0/18"]}'
    )
    found = State(tmp_path).document()
    assert found is not None
    assert (found.generation, [(peer.kind, peer.id) for peer in found.peers]) == (7, [("vm", "peer-2")])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", DOCUMENT.to_json().replace("wg-isthmus", "wg; reboot")]
)
def test_a_document_that_cannot_be_applied_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "document.json").write_text(text)
    assert State(tmp_path).document() is None


def test_a_write_that_was_cut_short_leaves_the_old_text(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.write("x", "old")
    (tmp_path / ".x.new").write_text("ne")
    assert state.read("x") == "old"
    state.write("x", "new")
    assert state.read("x") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_two_agents_do_not_share_a_directory(tmp_path: Path) -> None:
    first = State(tmp_path)
    first.lock()
    with pytest.raises(StateError, match="another agent"):
        State(tmp_path).lock()


def test_a_place_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot make state directory"):
        State(tmp_path / "file" / "state")
