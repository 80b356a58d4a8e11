"""What the agent decides, on a machine in memory and with a clock in hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vpn import keys
from vpn.agent import Agent
from vpn.client import Enrolled, Refused, Unavailable, Unreadable
from vpn.document import Enrolment, GatewayDocument, PeerEntry
from vpn.plan import GatewaySpec, PeerSpec, plan
from vpn.run import CommandError
from vpn.state import State
from vpn.wireguard import LiveInterface, LivePeer

_, BOOT = keys.generate()
_, OWN = keys.generate()
BOOTSTRAP = PeerSpec("b1", "bootstrap", BOOT, "169.254.64.5", expires_at=900.0)
NODE = PeerSpec("n1", "vm", OWN, "10.10.2.5")


def _document(generation: int, *peers: PeerSpec) -> GatewayDocument:
    return plan(GatewaySpec("gw", generation, ("10.10.2.0/24",)), peers)


class Machine:
    """A gateway in memory: holds the peers it was told, and fails to order."""

    def __init__(self) -> None:
        self.peers: dict[str, PeerEntry] = {}
        self.handshakes: dict[str, int] = {}
        self.removed: list[str] = []
        self.failing = False

    def apply(self, document: GatewayDocument, peers: Sequence[PeerEntry]) -> bool:
        if self.failing:
            raise CommandError("wg: out of order")
        wanted = {peer.public_key: peer for peer in peers}
        changed, self.peers = wanted != self.peers, wanted
        return changed

    def observe(self, interface: str) -> LiveInterface:
        return LiveInterface(
            "",
            1,
            {
                key: LivePeer(key, "", frozenset(peer.allowed_ips), self.handshakes.get(key, 0), 1, 2, 0)
                for key, peer in self.peers.items()
            },
        )

    def remove(self, interface: str) -> None:
        self.removed.append(interface)


class Broker:
    """The client's four calls, in memory. ``error`` is raised by each while it is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.current: GatewayDocument | None = None
        self.registered: list[str] = []
        self.reports: list[tuple[int, list[LivePeer]]] = []
        self.problems: list[tuple[str, ...]] = []
        self.enrolments: list[tuple[str, str]] = []
        self.on_enrol: Callable[[], None] = lambda: None

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error

    def register(self, public_key: str) -> None:
        self._answer()
        self.registered.append(public_key)

    def document(self, after: int, wait_s: int) -> GatewayDocument | None:
        self._answer()
        deadline = time.monotonic() + min(wait_s, 0.2)
        while self.current is None or self.current.generation <= after:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)
        return self.current

    def enrol(self, address: str, public_key: str) -> Enrolled:
        self.enrolments.append((address, public_key))
        self.on_enrol()
        self._answer()
        return Enrolled("n1", "10.10.2.5", ("10.10.0.0/16", "169.254.64.1/32"), 3)

    def status(self, applied_generation: int, peers: list[LivePeer], problems: Sequence[str] = ()) -> None:
        self._answer()
        self.problems.append(tuple(problems))
        self.reports.append((applied_generation, peers))


class World:
    """An agent with its machine, broker and clock. ``agent`` is made anew by ``restart``."""

    def __init__(self, directory: Path) -> None:
        self.now = 10.0
        self.machine, self.broker = Machine(), Broker()
        self.directory = directory
        self.agent = self.restart()

    def restart(self, **more: Any) -> Agent:
        self.agent = Agent(
            client=self.broker,  # type: ignore[arg-type]
            gateway=self.machine,  # type: ignore[arg-type]
            state=State(self.directory),
            clock=lambda: self.now,
            jitter=lambda: 0.5,
            **more,
        )
        return self.agent

    def hold(self, document: GatewayDocument) -> None:
        assert self.agent.accept(document)
        self.agent.reconcile()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_expired_bootstrap_peer_is_dropped_by_the_agents_own_clock(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP, NODE))
    assert set(world.machine.peers) == {BOOT, OWN}
    world.broker.error = Unavailable("away")
    world.now = 900.0
    assert world.agent.reconcile()
    assert set(world.machine.peers) == {OWN}


def test_a_restart_without_a_broker_goes_on_with_the_last_document(world: World) -> None:
    world.hold(_document(2, NODE))
    world.machine.peers = {}
    world.broker.error = Unavailable("away")
    assert world.restart().reconcile()
    assert set(world.machine.peers) == {OWN}


def test_nothing_is_done_without_a_document(world: World) -> None:
    assert not world.agent.reconcile()
    assert world.agent.enrol("169.254.64.5", OWN).status == 503


def test_a_document_that_reaches_beyond_the_gateway_is_refused_and_the_old_one_stays(world: World) -> None:
    good = _document(2, NODE)
    world.hold(good)
    greedy = replace(good.peers[0], allowed_ips=("0.0.0.0/0",))
    escaped = PeerEntry("b", "bootstrap", BOOT, ("10.10.2.9/32",), expires_at=900.0)
    for bad in (
        replace(good, generation=3, peers=(greedy,)),
        replace(good, generation=3, peers=(escaped,)),
        replace(good, generation=3, interface="--help"),
        replace(good, generation=3, listen_port=0),
        replace(good, generation=3, routes=("10.10.2.0/33",)),
        replace(good, generation=3, peers=(replace(good.peers[0], public_key="--help"),)),
    ):
        assert not world.agent.accept(bad)
    assert not world.agent.reconcile()
    assert set(world.machine.peers) == {OWN}


def test_of_a_newer_document_what_is_known_is_applied_and_the_broker_is_told_the_rest(world: World) -> None:
    raw = json.loads(_document(2, NODE).to_json())
    raw["peers"].append({"id": "r", "kind": "relay"})
    world.hold(GatewayDocument.from_json(json.dumps({**raw, "version": 9})))
    assert set(world.machine.peers) == {OWN}
    world.agent.report()
    assert world.broker.reports[-1][0] == 2
    assert world.broker.problems[-1] == (
        "not known to this agent: the document is of version 9, and 2 is the newest known here",
        "not known to this agent: 1 of the kind 'relay' among its peers",
    )
    world.hold(_document(3, NODE))
    world.agent.report()
    assert not world.broker.problems[-1]


def test_the_broker_is_told_why_a_document_was_refused(world: World) -> None:
    world.hold(_document(2, NODE))
    assert not world.agent.accept(replace(_document(3), listen_port=0))
    world.agent.report()
    assert world.broker.reports[-1][0] == 2
    assert world.broker.problems[-1] == ("generation 3 is refused: listen port 0 is not between 1 and 65535",)


def test_a_document_of_the_same_generation_with_more_in_it_is_kept_for_the_next_start(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    world.hold(_document(2, BOOTSTRAP, NODE))
    world.machine.peers = {}
    assert world.restart().reconcile()
    assert set(world.machine.peers) == {BOOT, OWN}


def test_an_enrolment_goes_from_bootstrap_to_node(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    answer = world.agent.enrol("169.254.64.5", OWN)
    assert (answer.status, answer.body) == (
        200,
        {"address": "10.10.2.5", "allowed_ips": "10.10.0.0/16,169.254.64.1/32"},
    )
    assert set(world.machine.peers) == {BOOT, OWN}
    answer.sent()
    world.machine.handshakes[OWN] = 11
    world.agent.reconcile()
    assert set(world.machine.peers) == {OWN}
    assert world.agent.enrol("169.254.64.5", OWN).status == 403


def test_a_lost_answer_is_given_again_without_asking_the_broker(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    first = world.agent.enrol("169.254.64.5", OWN)
    world.restart()
    world.agent.reconcile()
    assert world.agent.enrol("169.254.64.5", OWN).body == first.body
    assert len(world.broker.enrolments) == 1


def test_of_two_keys_posted_at_once_one_wins(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    _, other = keys.generate()
    both_in = threading.Barrier(2, timeout=10)
    answers: dict[str, int] = {}
    refused = threading.Event()

    def post(key: str) -> None:
        both_in.wait()
        answers[key] = world.agent.enrol("169.254.64.5", key).status
        if answers[key] == 403:
            refused.set()

    # The winner's call to the broker ends only after the loser was answered.
    world.broker.on_enrol = lambda: assert_(refused.wait(10))
    threads = [threading.Thread(target=post, args=(key,)) for key in (OWN, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers.values()) == [200, 403]
    assert len(world.broker.enrolments) == 1


def assert_(truth: bool) -> None:
    assert truth


def test_a_document_that_comes_during_the_brokers_answer_does_not_cut_the_vm_off(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    world.broker.on_enrol = lambda: world.hold(_document(3, NODE))
    assert world.agent.enrol("169.254.64.5", OWN).status == 200
    assert set(world.machine.peers) == {BOOT, OWN}


def test_the_brokers_no_is_final_and_its_silence_is_not(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    world.broker.error = Refused(403, "enrolment_refused", "no")
    assert world.agent.enrol("169.254.64.5", OWN).status == 403
    for error in (Unavailable("away"), Refused(401, "unauthenticated", "token")):
        world.broker.error = error
        assert world.agent.enrol("169.254.64.5", OWN).status == 503
    world.broker.error = None
    assert world.agent.enrol("169.254.64.5", OWN).status == 200


def test_a_machine_that_fails_is_tried_again(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    world.machine.failing = True
    assert world.agent.enrol("169.254.64.5", OWN).status == 503
    assert set(world.machine.peers) == {BOOT}
    world.machine.failing = False
    assert world.agent.enrol("169.254.64.5", OWN).status == 200
    assert set(world.machine.peers) == {BOOT, OWN}
    assert len(world.broker.enrolments) == 1


def test_what_is_no_key_is_refused_before_anybody_is_asked(world: World) -> None:
    world.hold(_document(2, BOOTSTRAP))
    assert world.agent.enrol("169.254.64.5", "x").status == 400
    assert world.broker.enrolments == []


def test_an_interface_that_is_renamed_does_not_stay_behind(world: World) -> None:
    world.hold(_document(2, NODE))
    world.hold(replace(_document(3, NODE), interface="wg-new"))
    assert world.machine.removed == ["wg-isthmus"]
    world.restart(interface="wg-mine").accept(_document(4, NODE))
    world.agent.reconcile()
    assert world.machine.removed == ["wg-isthmus", "wg-new"]


def test_a_running_agent_registers_applies_reports_and_survives_the_brokers_absence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpn.agent.BACKOFF_S", (0.01, 0.05))
    # 127.0.0.0/8 in place of the pool, so that the enrolment port can be opened here.
    enrolment = Enrolment(address="127.0.0.1", port=_free_port(), pool="127.0.0.0/8")
    here = replace(_document(2, NODE), enrolment=enrolment)
    world.broker.error = Unavailable("away")
    thread = threading.Thread(target=world.agent.run)
    thread.start()
    try:
        time.sleep(0.05)
        assert world.machine.peers == {}
        world.broker.current, world.broker.error = here, None
        _eventually(lambda: OWN in world.machine.peers)
        _eventually(lambda: world.broker.reports)
        assert world.broker.reports[-1][0] == 2
        assert len(world.broker.registered) == 1
        world.broker.error = Unavailable("away again")
        time.sleep(0.05)
        assert OWN in world.machine.peers
        world.broker.current, world.broker.error = replace(here, generation=3, peers=()), None
        _eventually(lambda: world.machine.peers == {})
        _eventually(lambda: world.broker.reports[-1][0] == 3)
    finally:
        world.agent.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_a_running_agent_tells_of_a_document_that_it_cannot_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpn.agent.BACKOFF_S", (0.01, 0.05))
    refusing = world.broker.document

    def unreadable(after: int, wait_s: int) -> GatewayDocument | None:
        raise Unreadable("not a gateway document: KeyError('peers')")

    world.broker.document = unreadable  # type: ignore[method-assign]
    thread = threading.Thread(target=world.agent.run)
    thread.start()
    try:
        _eventually(lambda: world.broker.problems)
        assert world.broker.problems[-1] == (
            "its document cannot be read: not a gateway document: KeyError('peers')",
        )
        assert world.broker.reports[-1][0] == 0
    finally:
        world.broker.document = refusing  # type: ignore[method-assign]
        world.agent.stop()
        thread.join(10)
    assert not thread.is_alive()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)
