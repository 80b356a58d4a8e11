"""Gateways' documents, and the peers in them from their bootstrap key to their removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from broker import gateway, network, peer, token, vm
from broker.errors import (
    Conflict,
    EnrolmentRefused,
    Exists,
    Forbidden,
    InUse,
    InvalidRequest,
    Unauthenticated,
)
from broker.store import GatewayRow, OperationRow, PeerRow, VMRow
from vpn import keys
from vpn.document import GatewayDocument

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def document(stage: Stage) -> GatewayDocument:
    return gateway.document(stage.broker, stage.agents[0].actor)


def bootstrapping(stage: Stage, name: str = "web") -> tuple[VMRow, OperationRow, PeerRow]:
    """A launch whose bootstrap key the gateway knows, and whose guest has not posted its own."""
    stage.agents[0].guests_enrol = False
    row, task = stage.request(name, requirements="elastic")
    stage.drive(task, until=lambda: stage.operation(task.id).phase == "enrol")
    assert stage.operation(task.id).phase == "enrol"
    return row, task, peer_of(stage, row.id)


def peer_of(stage: Stage, vm_id: str) -> PeerRow:
    """The newest."""
    with stage.broker.store.reading() as session:
        found = session.scalars(
            select(PeerRow)
            .where(PeerRow.vm_id == vm_id)
            .order_by(PeerRow.created_at.desc(), PeerRow.id.desc())
        )
        return stage.there(found.first())


def enrol(stage: Stage, address: str, key: str | None = None) -> tuple[PeerRow, list[str]]:
    return peer.enrol(stage.broker, stage.agents[0].actor, address, key or keys.generate()[1])


def test_each_change_of_peers_is_a_new_generation(hybrid: Stage) -> None:
    generations = [document(hybrid).generation]
    assert document(hybrid).generation == generations[0]
    _, task, entry = bootstrapping(hybrid)
    generations.append(document(hybrid).generation)
    assert [(item.kind, item.public_key) for item in document(hybrid).peers] == [
        ("bootstrap", entry.bootstrap_public_key)
    ]
    own = keys.generate()[1]
    enrol(hybrid, entry.bootstrap_address, own)
    generations.append(document(hybrid).generation)
    assert [(item.kind, item.public_key, item.allowed_ips) for item in document(hybrid).peers] == [
        ("vm", own, ("10.20.128.2/32",))
    ]
    hybrid.finish(task)
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, task.target)[1])
    generations.append(document(hybrid).generation)
    assert document(hybrid).peers == ()
    assert generations == sorted(set(generations))


def test_document_is_one_an_agent_may_apply(hybrid: Stage) -> None:
    for number in range(3):
        hybrid.burst(f"web-{number}")
    shown = document(hybrid)
    assert shown.problems() == []
    assert "10.20.128.0/24" in shown.routes
    assert len({ip for item in shown.peers for ip in item.allowed_ips}) == 3


def test_agent_that_has_the_newest_document_waits_for_the_next(hybrid: Stage) -> None:
    actor = hybrid.agents[0].actor
    newest = document(hybrid).generation
    assert gateway.next_document(hybrid.broker, actor, newest, 0) is None
    following = gateway.next_document(hybrid.broker, actor, newest - 1, 60)
    assert following is not None
    assert following.generation == newest
    # Another database, a lower number: the agent must follow it.
    following = gateway.next_document(hybrid.broker, actor, newest + 5, 60)
    assert following is not None
    assert following.generation == newest


def test_enrolment_answers_with_the_routes_into_the_network(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    row, prefixes = enrol(hybrid, entry.bootstrap_address)
    assert row.address == "10.20.128.2"
    assert "10.20.0.0/16" in prefixes


def test_post_that_is_repeated_with_the_same_key_succeeds_again(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    own = keys.generate()[1]
    first, _ = enrol(hybrid, entry.bootstrap_address, own)
    generation = document(hybrid).generation
    again, _ = enrol(hybrid, entry.bootstrap_address, own)
    assert again.id == first.id
    assert document(hybrid).generation == generation
    assert hybrid.events(kind="peer.enrolled") == ["peer.enrolled"]


def test_used_bootstrap_key_is_refused(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    enrol(hybrid, entry.bootstrap_address)
    with pytest.raises(EnrolmentRefused, match="used already"):
        enrol(hybrid, entry.bootstrap_address)
    assert hybrid.events(kind="peer.refused") == ["peer.refused"]


def test_expired_bootstrap_key_is_refused(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    hybrid.wait(hybrid.settings.timing.enrol_s + 1)
    with pytest.raises(EnrolmentRefused, match="expired"):
        enrol(hybrid, entry.bootstrap_address)
    assert peer_of(hybrid, entry.vm_id).state == "bootstrap"


def test_unknown_bootstrap_address_is_refused(hybrid: Stage) -> None:
    bootstrapping(hybrid)
    with pytest.raises(EnrolmentRefused, match="no launch"):
        enrol(hybrid, "169.254.127.1")


def test_bootstrap_key_of_a_deleted_vm_is_refused(hybrid: Stage) -> None:
    row, _, entry = bootstrapping(hybrid)
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
    with pytest.raises(EnrolmentRefused):
        enrol(hybrid, entry.bootstrap_address)


def test_key_that_was_seen_before_is_refused(hybrid: Stage) -> None:
    enrolled = hybrid.burst("first")
    _, _, entry = bootstrapping(hybrid, "second")
    for known in (peer_of(hybrid, enrolled.id).public_key, entry.bootstrap_public_key):
        with pytest.raises(EnrolmentRefused, match="seen before"):
            enrol(hybrid, entry.bootstrap_address, known)
    with pytest.raises(EnrolmentRefused):
        enrol(hybrid, entry.bootstrap_address, "not a key")
    enrol(hybrid, entry.bootstrap_address)


def test_gateways_own_key_is_refused(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    with pytest.raises(EnrolmentRefused, match="seen before"):
        enrol(hybrid, entry.bootstrap_address, hybrid.agents[0].key)


def test_bootstrap_address_is_given_to_one_launch_at_a_time(hybrid: Stage) -> None:
    entries = [bootstrapping(hybrid, f"web-{number}")[2] for number in range(3)]
    assert len({entry.bootstrap_address for entry in entries}) == 3
    assert len({entry.bootstrap_public_key for entry in entries}) == 3


def test_bootstrap_key_is_forgotten_once_it_is_used(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    assert entry.sealed_bootstrap_key
    enrol(hybrid, entry.bootstrap_address)
    assert peer_of(hybrid, entry.vm_id).sealed_bootstrap_key == ""


def test_agent_of_another_gateway_enrols_nobody_here(hybrid: Stage) -> None:
    _, _, entry = bootstrapping(hybrid)
    network.create(hybrid.broker, hybrid.admin, name="second", cidr="10.50.0.0/16")
    network.add_subnet(hybrid.broker, hybrid.admin, "second", site_ref="campus", cidr="10.50.1.0/24")
    _, secret = gateway.create(
        hybrid.broker,
        hybrid.admin,
        name="other",
        site_ref="campus",
        network_ref="second",
        endpoint="198.51.100.1:51820",
    )
    other = token.authenticate(hybrid.broker, secret)
    with pytest.raises(EnrolmentRefused):
        peer.enrol(hybrid.broker, other, entry.bootstrap_address, keys.generate()[1])
    assert gateway.document(hybrid.broker, other).peers == ()


def test_launch_waits_until_the_gateway_knows_its_key(hybrid: Stage) -> None:
    hybrid.agents[0].awake = False
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, most_s=30)
    assert hybrid.operation(task.id).phase == "peer"
    assert hybrid.machines(row.id) == []
    hybrid.agents[0].awake = True
    hybrid.finish(task)


def test_bootstrap_key_that_expired_while_the_gateway_was_away_is_replaced(hybrid: Stage) -> None:
    hybrid.agents[0].awake = False
    row, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, most_s=10)
    first = peer_of(hybrid, row.id)
    hybrid.wait(hybrid.settings.timing.enrol_s)
    hybrid.agents[0].awake = True
    hybrid.finish(task)
    assert peer_of(hybrid, row.id).id != first.id
    assert hybrid.holdings(row.id)["peers"] == 1


def test_report_keeps_what_peers_sent(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    entry = peer_of(hybrid, row.id)
    actor = hybrid.agents[0].actor
    told = [
        gateway.PeerReport(hybrid.there(entry.public_key), hybrid.clock.now().timestamp(), 1000, 2**40),
        gateway.PeerReport(keys.generate()[1], 0, 7, 7),
    ]
    gateway.report(hybrid.broker, actor, document(hybrid).generation, told)
    (seen,) = peer.list_peers(hybrid.broker, hybrid.member, gateway_ref="gate")
    assert (seen.rx_bytes, seen.tx_bytes, seen.last_handshake_at) == (1000, 2**40, hybrid.clock.now())
    assert peer.list_peers(hybrid.broker, hybrid.outsider) == []
    assert gateway.peer_counts(hybrid.broker, hybrid.reader) == {entry.gateway_id: 1}


def test_gateway_is_new_then_up_then_unreachable(hybrid: Stage) -> None:
    row = gateway.get(hybrid.broker, hybrid.reader, "gate")
    assert gateway.state(hybrid.broker, row) == "up"
    hybrid.wait(121)
    assert gateway.state(hybrid.broker, row) == "unreachable"
    row.public_key = None
    assert gateway.state(hybrid.broker, row) == "new"


@pytest.mark.parametrize(
    ("reads", "written"), [(None, 1), ([1], 1), ([1, 2], 2), ([2, 1, 2], 2), ([2, 3], 2)], ids=str
)
def test_document_is_of_the_newest_version_that_agent_and_broker_know(
    hybrid: Stage, reads: list[int] | None, written: int
) -> None:
    said: dict[str, Any] = {} if reads is None else {"document_versions": reads}
    gateway.register(hybrid.broker, hybrid.agents[0].actor, hybrid.agents[0].key, **said)
    assert document(hybrid).version == written


def test_agent_that_reads_no_version_of_the_brokers_gets_no_document_and_everybody_is_told(
    hybrid: Stage,
) -> None:
    agent = hybrid.agents[0]
    hybrid.agents[0].awake = False

    def says(versions: list[int]) -> GatewayRow:
        gateway.register(hybrid.broker, agent.actor, agent.key, document_versions=versions, software="9.0")
        return gateway.get(hybrid.broker, hybrid.reader, "gate")

    for _ in range(2):  # it asks again and again, and the event is one
        row = says([7, 8])
    assert gateway.state(hybrid.broker, row) == "incompatible"
    words = (
        "its agent (9.0) reads versions 7, 8 of the document, and this broker writes 1, 2: upgrade the broker"
    )
    assert gateway.status_reason(row) == words
    with pytest.raises(Conflict, match="upgrade the broker"):
        document(hybrid)
    assert hybrid.events(kind="gateway.incompatible") == ["gateway.incompatible"]
    # Its reports are heard all the same, and no VM is sent through it.
    gateway.report(hybrid.broker, agent.actor, row.applied_generation, [])
    made, task = hybrid.request("web", requirements="elastic")
    hybrid.drive(task, most_s=60)
    assert "reads no document that this broker writes" in hybrid.vm(made.id).status_reason
    row = says([1, 2])
    assert (gateway.state(hybrid.broker, row), gateway.status_reason(row)) == ("up", "")
    hybrid.agents[0].awake = True
    hybrid.finish(task)


def test_what_an_agent_can_is_kept_with_its_gateway(hybrid: Stage) -> None:
    agent = hybrid.agents[0]
    gateway.register(
        hybrid.broker,
        agent.actor,
        agent.key,
        document_versions=[2, 1],
        features=["gateway-peers"],
        software="0.2.0",
    )
    row = gateway.get(hybrid.broker, hybrid.reader, "gate")
    assert (row.document_versions, row.features, row.software) == ([1, 2], ["gateway-peers"], "0.2.0")


def test_what_an_agent_could_not_apply_is_shown_until_it_can(hybrid: Stage) -> None:
    actor = hybrid.agents[0].actor
    for _ in range(2):
        gateway.report(hybrid.broker, actor, 1, [], ["no relays here", "no psk here"])
    row = gateway.get(hybrid.broker, hybrid.reader, "gate")
    assert gateway.status_reason(row) == "no relays here; no psk here"
    assert hybrid.events(kind="gateway.incomplete") == ["gateway.incomplete"]
    gateway.report(hybrid.broker, actor, 2, [])
    assert gateway.status_reason(gateway.get(hybrid.broker, hybrid.reader, "gate")) == ""


@pytest.mark.parametrize(
    "endpoint", ["", "203.0.113.7", "203.0.113.7:0", "203.0.113.7:70000", "a b:1", ":51820"]
)
def test_endpoint_that_is_none_is_refused(stage: Stage, endpoint: str) -> None:
    with pytest.raises(InvalidRequest):
        gateway.create(
            stage.broker, stage.admin, name="gate", site_ref="campus", network_ref="net", endpoint=endpoint
        )


def test_network_has_one_gateway_at_a_site_of_its_own(hybrid: Stage) -> None:
    def create(name: str) -> None:
        gateway.create(
            hybrid.broker,
            hybrid.admin,
            name=name,
            site_ref="campus",
            network_ref="net",
            endpoint="198.51.100.1:1",
        )

    with pytest.raises(Exists):
        create("gate")
    with pytest.raises(Conflict, match="has a gateway"):
        create("second")


def test_gateway_with_peers_is_kept_and_goes_with_its_token(hybrid: Stage) -> None:
    row = hybrid.burst("web")
    with pytest.raises(InUse):
        gateway.delete(hybrid.broker, hybrid.admin, "gate")
    hybrid.finish(vm.delete(hybrid.broker, hybrid.member, row.id)[1])
    gateway.delete(hybrid.broker, hybrid.admin, "gate")
    with pytest.raises(Exception, match="gateway"):
        document(hybrid)


def test_renewed_token_works_and_the_one_before_is_dead(hybrid: Stage) -> None:
    broker, admin = hybrid.broker, hybrid.admin
    row, first = gateway.renew_token(broker, admin, "gate")
    _, second = gateway.renew_token(broker, admin, row.id)
    with pytest.raises(Unauthenticated):
        token.authenticate(broker, first)
    assert gateway.document(broker, token.authenticate(broker, second)).gateway_id == row.id


def test_document_is_for_agents_only(hybrid: Stage) -> None:
    for actor in (hybrid.admin, hybrid.member, hybrid.reader):
        with pytest.raises(Forbidden):
            gateway.document(hybrid.broker, actor)
