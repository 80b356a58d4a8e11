"""A VM of several networks: a peer for each of them, from the launch to the end."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from broker import gateway, network, peer, token, vm
from broker.errors import InvalidRequest
from broker.states import PeerState, VMState
from broker.store import GatewayRow, NetworkRow, PeerRow, SubnetRow, VMRow
from providers.port import VMReport, VMSpec
from providers.simulated import SimulatedProvider
from vpn import keys
from vpn.userdata import LIMIT_BYTES

if TYPE_CHECKING:
    from tests.broker.conftest import Agent, Stage

BOTH: dict[str, Any] = {"networks": ["net", "far"], "requirements": "elastic"}


def add_network(
    stage: Stage,
    name: str = "far",
    part: int = 50,
    *,
    endpoint: str = "198.51.100.7:51820",
    key: str | None = None,
    campus: bool = True,
) -> Agent:
    """Another network over the same sites, with a gateway and its agent."""
    broker, admin = stage.broker, stage.admin
    network.create(broker, admin, name=name, cidr=f"10.{part}.0.0/16")
    network.add_subnet(broker, admin, name, site_ref="cloud", cidr=f"10.{part}.128.0/24")
    network.add_subnet(broker, admin, name, site_ref="campus", cidr=f"10.{part}.1.0/24")
    _, secret = gateway.create(
        broker, admin, name=f"gate-{name}", site_ref="campus", network_ref=name, endpoint=endpoint
    )
    if not campus:
        network.remove_subnet(broker, admin, name, "campus")
    kind = type(stage.agents[0])
    agent = kind(stage, token.authenticate(broker, secret), key or keys.generate()[1])
    gateway.register(broker, agent.actor, agent.key)
    agent.turn()
    stage.agents.append(agent)
    return agent


@pytest.fixture
def twofold(hybrid: Stage) -> Stage:
    """A cloud that two networks reach, each through a gateway of its own."""
    add_network(hybrid)
    return hybrid


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The user data of all launches, in their order."""
    found: list[str] = []
    ensure = SimulatedProvider.ensure_vm

    def note(self: SimulatedProvider, spec: VMSpec) -> VMReport:
        found.append(spec.user_data)
        return ensure(self, spec)

    monkeypatch.setattr(SimulatedProvider, "ensure_vm", note)
    return found


def peers(stage: Stage, vm_id: str) -> list[tuple[str, PeerState, str]]:
    """All peers that a VM has or had: (gateway, state, address)."""
    with stage.broker.store.reading() as session:
        rows = session.scalars(select(PeerRow).where(PeerRow.vm_id == vm_id))
        return sorted((row.gateway.name, row.state, row.address) for row in rows)


def documents(stage: Stage) -> list[list[tuple[str, tuple[str, ...]]]]:
    """What each gateway's document has for peers: (kind, addresses)."""
    shown = [gateway.document(stage.broker, agent.actor) for agent in stage.agents]
    return [[(entry.kind, entry.allowed_ips) for entry in each.peers] for each in shown]


def test_burst_vm_of_two_networks_is_a_peer_of_both_gateways(twofold: Stage, sent: list[str]) -> None:
    row = twofold.create("web", **BOTH)
    assert peers(twofold, row.id) == [
        ("gate", "enrolled", "10.20.128.2"),
        ("gate-far", "enrolled", "10.50.128.2"),
    ]
    assert documents(twofold) == [[("vm", ("10.20.128.2/32",))], [("vm", ("10.50.128.2/32",))]]
    assert row.enrolled_at is not None
    # One script that enrols at each, in the order of the NICs.
    (text,) = sent
    joins = [line.split() for line in text.splitlines() if line.startswith("join /")]
    assert [(line[2], line[4]) for line in joins] == [
        ("isthmus0", "'203.0.113.7:51820'"),
        ("isthmus1", "'198.51.100.7:51820'"),
    ]
    assert text.count("#!/bin/sh\n# Isthmus") == 1
    keys_sent = {line[3] for line in joins}
    assert keys_sent == {f"'{agent.key}'" for agent in twofold.agents}
    listed = peer.list_peers(twofold.broker, twofold.member, vm_id=row.id)
    assert sorted(entry.gateway.network.name for entry in listed) == ["far", "net"]


def test_script_of_two_tunnels_travels_with_the_users_own_data_once(twofold: Stage, sent: list[str]) -> None:
    twofold.create("web", **BOTH, user_data="#!/bin/sh\necho hello\n")
    (text,) = sent
    assert text.count('filename="00-isthmus-join"') == 1
    assert text.count("echo hello") == 1


def test_second_tunnel_of_a_vm_has_the_first_interface_when_its_network_is_named_first(
    twofold: Stage, sent: list[str]
) -> None:
    twofold.create("web", networks=["far", "net"], requirements="elastic")
    (text,) = sent
    joins = [line.split()[2:5:2] for line in text.splitlines() if line.startswith("join /")]
    assert joins == [["isthmus0", "'198.51.100.7:51820'"], ["isthmus1", "'203.0.113.7:51820'"]]


def test_launch_waits_until_every_gateway_knows_its_key(twofold: Stage) -> None:
    twofold.agents[1].awake = False
    row, task = twofold.request("web", **BOTH)
    twofold.drive(task, most_s=30)
    assert twofold.operation(task.id).phase == "peer"
    assert twofold.operation(task.id).message == "waiting for gateway gate-far to know the launch"
    assert twofold.machines(row.id) == []
    twofold.agents[1].awake = True
    twofold.finish(task)


def test_vm_has_enrolled_when_it_has_at_every_gateway(twofold: Stage) -> None:
    twofold.agents[1].guests_enrol = False
    row, task = twofold.request("web", **BOTH)
    twofold.drive(task, until=lambda: peers(twofold, row.id)[:1] == [("gate", "enrolled", "10.20.128.2")])
    assert twofold.operation(task.id).phase == "enrol"
    assert twofold.vm(row.id).enrolled_at is None
    twofold.agents[1].guests_enrol = True
    assert "10.20.128.2, 10.50.128.2" in twofold.finish(task).message
    assert twofold.vm(row.id).enrolled_at is not None


def test_vm_that_enrols_at_one_gateway_only_is_given_up_with_all_that_it_had(twofold: Stage) -> None:
    twofold.agents[1].guests_enrol = False
    row, task = twofold.request("web", **BOTH)
    assert twofold.drive(task).state == "failed"
    assert "it did not enrol at the gateway of far" in twofold.vm(row.id).status_reason
    twofold.wait(3)
    assert twofold.nothing_left(row.id)
    assert documents(twofold) == [[], []]


def test_peers_of_all_networks_go_before_the_vm_does(twofold: Stage) -> None:
    row = twofold.create("web", **BOTH)
    twofold.agents[1].awake = False
    _, task = vm.delete(twofold.broker, twofold.member, row.id)
    # Until this gateway has answered, or was waited for long enough, the machine stays.
    twofold.drive(task, most_s=10)
    assert documents(twofold) == [[], []]
    assert twofold.operation(task.id).message == "waiting for gateway gate-far to drop the peer"
    assert len(twofold.machines(row.id)) == 1
    twofold.agents[1].awake = True
    twofold.finish(task)
    assert [state for _, state, _ in peers(twofold, row.id)] == ["removed", "removed"]
    assert twofold.nothing_left(row.id)


def test_launch_that_is_taken_back_is_prepared_anew_at_both(twofold: Stage) -> None:
    with twofold.broker.store.reading() as session:
        site = twofold.there(
            session.scalars(select(SubnetRow).where(SubnetRow.mode == "tunnel")).first()
        ).site
    twofold.agents[0].guests_enrol = twofold.agents[1].guests_enrol = False
    row, task = twofold.request("web", **BOTH)
    twofold.drive(task, until=lambda: twofold.operation(task.id).phase == "enrol")
    (machine,) = twofold.machines(row.id)
    twofold.broker.providers.of(site).delete_vm(machine.host, row.id, machine.ref)
    twofold.agents[0].guests_enrol = twofold.agents[1].guests_enrol = True
    twofold.finish(task)
    assert [state for _, state, _ in peers(twofold, row.id)] == ["enrolled", "removed"] * 2


def test_removing_and_preparing_again_change_nothing(twofold: Stage) -> None:
    row = twofold.create("web", **BOTH)
    broker = twofold.broker
    nics = {nic.network_id: nic for nic in row.nics}
    with broker.store.transaction() as session:
        have = peer.tunnels(session, row.id)
        for network_id, entry in have.items():
            assert peer.prepare(broker, session, row, entry.gateway, nics[network_id]) is entry
        first = [(entry.id, entry.generation) for entry in peer.remove(broker, session, row.id)]
        again = [(entry.id, entry.generation) for entry in peer.remove(broker, session, row.id)]
    assert first == again
    assert sorted(id for id, _ in first) == sorted(entry.id for entry in have.values())


def test_gateways_of_a_vm_are_locked_in_one_order(twofold: Stage) -> None:
    for number in range(2):
        row = twofold.create(
            f"web-{number}", networks=["net", "far"][:: 1 - 2 * number], requirements="elastic"
        )
        with twofold.broker.store.transaction() as session:
            ended = peer.remove(twofold.broker, session, row.id)
            assert all(one.gateway_id < other.gateway_id for one, other in pairwise(ended))


# What one VM cannot have


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoint": "203.0.113.7:51820"}, "networks net and far share one gateway"),
        ({"key": "the same"}, "networks net and far share one gateway"),
        (
            {"endpoint": "10.20.1.9:51820"},
            "endpoint 10.20.1.9:51820 of gateway gate-far is an address of network net",
        ),
    ],
    ids=["endpoint", "key", "inside"],
)
def test_networks_whose_tunnels_a_vm_cannot_have_are_refused_before_anything_is_made(
    hybrid: Stage, change: dict[str, Any], words: str
) -> None:
    if "key" in change:
        change = {"key": hybrid.agents[0].key}
    add_network(hybrid, **change)
    row, task = hybrid.request("web", **BOTH)
    hybrid.drive(task, most_s=120)
    assert hybrid.operation(task.id).phase == "place"
    assert words in hybrid.vm(row.id).status_reason
    assert hybrid.nothing_left(row.id)
    assert peers(hybrid, row.id) == []
    # On hosts of one's own it needs no tunnel.
    assert hybrid.create("local", networks=["net", "far"]).state == VMState.RUNNING
    # And each network alone is reached.
    hybrid.burst("alone", networks=["far"])


def test_networks_that_are_together_in_clouds_only_and_cannot_be_are_refused_at_once(hybrid: Stage) -> None:
    add_network(hybrid, endpoint="203.0.113.7:51820", campus=False)
    with pytest.raises(InvalidRequest, match="share one gateway") as caught:
        hybrid.request("web", networks=["net", "far"])
    assert caught.value.hint == "leave one of the networks out"
    assert vm.list_vms(hybrid.broker, hybrid.admin) == []


def test_overlapping_networks_cannot_be_told_apart() -> None:
    def at(name: str, cidr: str, endpoint: str) -> GatewayRow:
        row = GatewayRow(name=f"gate-{name}", endpoint=endpoint, public_key=None)
        row.network = NetworkRow(name=name, cidr=cidr)
        return row

    rows = [at("a", "10.20.0.0/16", "203.0.113.7:1"), at("b", "10.20.4.0/24", "gw.example.org:1")]
    assert "networks a and b overlap" in peer.clash(rows)
    assert peer.clash(rows[:1]) == ""
    assert peer.clash([rows[0], at("c", "10.30.0.0/16", "[2001:db8::1]:1")]) == ""


def test_user_data_that_leaves_room_for_one_tunnel_and_not_for_two_is_refused_with_two(
    twofold: Stage, sent: list[str]
) -> None:
    # The largest with which one script fits, found by the refusal itself.
    with twofold.broker.store.reading() as session:
        gates = list(session.scalars(select(GatewayRow).order_by(GatewayRow.id)))

    def text(size: int) -> str:
        return "#!/bin/sh\n" + "#" * size

    def refused(size: int, count: int) -> str:
        row = VMRow(sealed_user_data=twofold.broker.sealer.seal(text(size)))
        return peer.refusal(twofold.broker, row, gates[:count])

    size = max(size for size in range(11_000, 13_500, 10) if not refused(size, 1))
    assert (
        refused(size, 2)
        == "the VM's user data leaves no room for the script that joins the 2 private networks"
    )
    waits, task = twofold.request("big", **BOTH, user_data=text(size))
    twofold.drive(task, most_s=120)
    assert (
        "leaves no room for the script that joins the 2 private networks"
        in twofold.vm(waits.id).status_reason
    )
    assert twofold.nothing_left(waits.id)
    # What is not refused does fit, to the last byte.
    twofold.burst("one", networks=["net"], user_data=text(size))
    twofold.create("two", **BOTH, user_data=text(size - 300))
    assert all(len(each.encode()) <= LIMIT_BYTES for each in sent)
    assert max(len(each.encode()) for each in sent) > LIMIT_BYTES - 50


def test_networks_so_many_that_their_script_is_too_long_are_refused(hybrid: Stage) -> None:
    add_network(hybrid)
    with hybrid.broker.store.reading() as session:
        first = session.scalars(select(GatewayRow).where(GatewayRow.name == "gate")).one()

    def another(number: int) -> GatewayRow:
        row = GatewayRow(name=f"g{number}", endpoint=f"{'x' * 200}-{number}.example.org:51820")
        row.network = NetworkRow(name=f"n{number}", cidr=f"10.{100 + number}.0.0/16")
        return row

    row = VMRow(sealed_user_data="")
    assert peer.refusal(hybrid.broker, row, [first, another(1)]) == ""
    assert (
        peer.refusal(hybrid.broker, row, [first, *map(another, range(40))])
        == "the script that joins 41 private networks is longer than user data may be"
    )
