"""An enrolment's way, step by step, with a clock in hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vpn import keys
from vpn.admission import ASKED_S, GRACE_S, Admissions, EnrolmentRefused
from vpn.client import Enrolled
from vpn.document import GatewayDocument
from vpn.plan import GatewaySpec, PeerSpec, plan

EXPIRES = 900.0
SOURCE = "169.254.64.5"
_, BOOT = keys.generate()
_, OWN = keys.generate()
_, OTHER = keys.generate()
GRANTED = Enrolled("b1", "10.10.2.5", ("10.10.0.0/16",), generation=3)
BOOTSTRAP = PeerSpec("b1", "bootstrap", BOOT, SOURCE, expires_at=EXPIRES)
# The broker keeps one row, and so one id, from bootstrap to node.
NODE = PeerSpec("b1", "vm", OWN, "10.10.2.5")


def _document(generation: int, *peers: PeerSpec) -> GatewayDocument:
    return plan(GatewaySpec("gw", generation, ("10.10.2.0/24",)), peers)


BEFORE, AFTER = _document(2, BOOTSTRAP), _document(3, NODE)


class Book:
    """Admissions, with what was saved last."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.admissions = self.reload()

    def reload(self) -> Admissions:
        self.admissions = Admissions(self.text, self._keep)
        return self.admissions

    def _keep(self, text: str) -> None:
        self.text = text

    def keys(self, document: GatewayDocument, now: float) -> set[str]:
        return {peer.public_key for peer in self.admissions.peers(document, now)}


@pytest.fixture
def book() -> Book:
    return Book()


def _asked(book: Book, now: float = 10.0) -> None:
    book.admissions.ask(BEFORE, SOURCE, OWN, now)


def _granted(book: Book, now: float = 10.0) -> None:
    _asked(book, now)
    book.admissions.grant(BEFORE, "b1", GRANTED)


def test_the_node_is_up_at_once_and_the_bootstrap_peer_until_it_is_heard(book: Book) -> None:
    _granted(book)
    assert book.keys(BEFORE, 11) == {BOOT, OWN}
    book.admissions.answered("b1", 11)
    assert book.admissions.settle(BEFORE, {}, 12) == []
    assert book.admissions.pending()
    assert [each.bootstrap.id for each in book.admissions.settle(BEFORE, {OWN: 12.0}, 12)] == ["b1"]
    assert book.keys(BEFORE, 12) == {OWN}
    assert not book.admissions.pending()


def test_a_newer_document_does_not_cut_off_the_answer(book: Book) -> None:
    _granted(book)
    assert book.keys(AFTER, 11) == {BOOT, OWN}


def test_a_newer_document_does_not_cut_off_who_awaits_the_brokers_word(book: Book) -> None:
    _asked(book, now=10)
    assert book.keys(AFTER, 11) == {BOOT, OWN}
    book.admissions.settle(AFTER, {}, 11 + ASKED_S)
    assert book.keys(AFTER, 11 + ASKED_S) == {OWN}


def test_silence_after_the_answer_ends_the_bootstrap_key_all_the_same(book: Book) -> None:
    _granted(book)
    book.admissions.answered("b1", 11)
    assert book.admissions.settle(AFTER, {}, 11 + GRACE_S) == []
    assert len(book.admissions.settle(AFTER, {}, 12 + GRACE_S)) == 1
    assert book.keys(AFTER, 12 + GRACE_S) == {OWN}


def test_a_spent_key_stays_dead_while_an_old_document_lists_it(book: Book) -> None:
    _granted(book)
    book.admissions.settle(BEFORE, {OWN: 11.0}, 11)
    for _ in range(3):
        book.admissions.settle(BEFORE, {}, 12)
        assert book.keys(BEFORE, 12) == {OWN}
        with pytest.raises(EnrolmentRefused, match="no launch"):
            book.admissions.ask(BEFORE, SOURCE, OTHER, 12)
    book.admissions.settle(AFTER, {}, 13)
    assert book.text == "[]"


def test_a_bootstrap_key_dies_at_its_time(book: Book) -> None:
    assert book.keys(BEFORE, EXPIRES - 1) == {BOOT}
    assert book.keys(BEFORE, EXPIRES) == set()
    with pytest.raises(EnrolmentRefused):
        book.admissions.ask(BEFORE, SOURCE, OWN, EXPIRES)


def test_a_bootstrap_key_dies_at_its_time_also_while_it_enrols(book: Book) -> None:
    _granted(book, now=EXPIRES - 5)
    book.admissions.answered("b1", EXPIRES - 4)
    assert book.keys(BEFORE, EXPIRES) == {OWN}
    assert len(book.admissions.settle(BEFORE, {}, EXPIRES)) == 1


def test_the_same_key_may_ask_again_and_another_may_not(book: Book) -> None:
    _asked(book)
    _asked(book, now=12)
    with pytest.raises(EnrolmentRefused, match="already enrolled"):
        book.admissions.ask(BEFORE, SOURCE, OTHER, 12)
    book.admissions.grant(BEFORE, "b1", GRANTED)
    assert book.admissions.ask(BEFORE, SOURCE, OWN, 13).granted == GRANTED
    with pytest.raises(EnrolmentRefused, match="already enrolled"):
        book.admissions.ask(BEFORE, SOURCE, OTHER, 13)


def test_a_refused_launch_may_try_another_key(book: Book) -> None:
    _asked(book)
    book.admissions.refuse("b1")
    assert book.admissions.ask(BEFORE, SOURCE, OTHER, 12).public_key == OTHER


@pytest.mark.parametrize("source", ["169.254.64.6", "10.10.2.5", "::1", ""])
def test_only_a_bootstrap_peers_own_address_may_ask(book: Book, source: str) -> None:
    with pytest.raises(EnrolmentRefused, match="no launch"):
        book.admissions.ask(_document(4, BOOTSTRAP, replace(NODE, id="n9", public_key=OTHER)), source, OWN, 1)


def test_a_key_that_is_in_use_is_refused(book: Book) -> None:
    with pytest.raises(EnrolmentRefused, match="in use"):
        book.admissions.ask(_document(4, BOOTSTRAP, replace(NODE, id="n9")), SOURCE, OWN, 1)
    with pytest.raises(EnrolmentRefused, match="in use"):
        book.admissions.ask(BEFORE, SOURCE, BOOT, 1)


def test_an_address_that_is_not_behind_the_gateway_is_not_granted(book: Book) -> None:
    _asked(book)
    for address in ("10.99.0.1", "169.254.64.9", "0.0.0.0/0"):
        with pytest.raises(ValueError):
            book.admissions.grant(BEFORE, "b1", replace(GRANTED, address=address))
    assert book.keys(BEFORE, 11) == {BOOT}


def test_a_vm_that_the_broker_takes_back_loses_both_keys(book: Book) -> None:
    _granted(book)
    gone = _document(4)
    assert len(book.admissions.settle(gone, {}, 12)) == 1
    assert book.keys(gone, 12) == set()


def test_an_older_key_of_the_same_address_gives_way(book: Book) -> None:
    older = _document(2, BOOTSTRAP, PeerSpec("n0", "vm", OTHER, "10.10.2.5"))
    book.admissions.ask(older, SOURCE, OWN, 10)
    book.admissions.grant(older, "b1", GRANTED)
    assert book.keys(older, 11) == {BOOT, OWN}


def test_a_restart_forgets_nothing(book: Book) -> None:
    _asked(book)
    book.reload()
    with pytest.raises(EnrolmentRefused, match="already enrolled"):
        book.admissions.ask(BEFORE, SOURCE, OTHER, 12)
    book.admissions.grant(BEFORE, "b1", GRANTED)
    book.reload()
    assert book.keys(AFTER, 13) == {BOOT, OWN}
    book.admissions.answered("b1", 13)
    book.reload()
    assert len(book.admissions.settle(AFTER, {}, 14 + GRACE_S)) == 1
    book.reload()
    assert book.keys(BEFORE, 15 + GRACE_S) == {OWN}


def test_a_launch_that_never_hears_is_forgotten(book: Book) -> None:
    _asked(book)
    book.admissions.settle(AFTER, {}, EXPIRES + ASKED_S + 1)
    assert book.text == "[]"


def test_an_enrolment_that_an_agent_of_0_1_0_had_under_way_goes_on(book: Book) -> None:
    bootstrap = {
        "allowed_ips": [f"{SOURCE}/32"],
        "expires_at": EXPIRES,
        "id": "b1",
        "keepalive": 0,
        "kind": "bootstrap",
        "public_key": BOOT,
    }
    granted = {"address": "10.10.2.5", "allowed_ips": ["10.10.0.0/16"], "generation": 3, "peer_id": "b1"}
    entry = {"answered_at": 0.0, "asked_at": 10.0, "public_key": OWN, "spent": False}
    # And what a newer one would write besides is no reason to forget it.
    more = {"bootstrap": {**bootstrap, "psk": "x"}, "granted": {**granted, "dns": []}, "since": 1}
    for text in ({**entry, "bootstrap": bootstrap, "granted": granted}, {**entry, **more}):
        book.text = json.dumps([text])
        book.reload()
        assert book.keys(BEFORE, 11) == {BOOT, OWN}
        assert book.admissions.ask(BEFORE, SOURCE, OWN, 12).granted == GRANTED
