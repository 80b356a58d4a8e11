"""Enrolments under way on this gateway: from a VM's first post until its bootstrap key is dead.

An admission goes through *asked* (the VM posted a key, the broker was not heard yet), *granted* (the broker
said yes: the VM's peer is up) and *answered* (the VM was told). It is then *spent* as soon as the VM is heard
under its own key, or GRACE_S after the answer; the bootstrap peer is gone from that moment. Until then the same
bootstrap peer may ask again with the same key, since an answer can be lost; any other key is refused.

Admissions are on disk before the broker is asked, so that a gateway that is killed half-way still knows whom it
owes an answer. Pure but for ``save``; the caller holds a lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vpn.address import contains
from vpn.client import Enrolled
from vpn.document import GatewayDocument, PeerEntry, peer_of

GRACE_S = 30.0
"""How long a bootstrap peer outlives the answer, at most: a few tries of a VM that did not get it."""
ASKED_S = 60.0
"""How long a bootstrap peer is kept against a newer document while the broker's answer is awaited."""


class EnrolmentRefused(Exception):
    """The VM may not enrol, in words."""


@dataclass(frozen=True)
class Admission:
    """One enrolment. Times in seconds since the epoch, 0 = not yet."""

    bootstrap: PeerEntry
    public_key: str
    asked_at: float
    granted: Enrolled | None = None
    answered_at: float = 0.0
    spent: bool = False


class Admissions:
    """All of a gateway's enrolments under way. ``save`` is called with the new text after each change."""

    def __init__(self, text: str | None, save: Callable[[str], None]) -> None:
        self._save = save
        self._written = text
        self._by_id: dict[str, Admission] = {}
        if text is not None:
            self._by_id = {each["bootstrap"]["id"]: _from_json(each) for each in json.loads(text)}

    def ask(self, document: GatewayDocument, source: str, public_key: str, now: float) -> Admission:
        """Note that the bootstrap peer at ``source`` wants to go on under this key.

        Raises EnrolmentRefused when there is no such bootstrap peer, when its time is over, or when its key has
        served for another public key.
        """
        cidr = f"{source}/32"
        for peer in self.peers(document, now):
            if peer.kind == "bootstrap" and cidr in peer.allowed_ips:
                break
        else:
            raise EnrolmentRefused("no launch may enrol from this address")
        known = self._by_id.get(peer.id)
        if known is not None and known.public_key != public_key:
            raise EnrolmentRefused("this launch has already enrolled with another key")
        if any(other.public_key == public_key for other in document.peers) and known is None:
            raise EnrolmentRefused("this key is already in use")
        if known is None:
            known = Admission(bootstrap=peer, public_key=public_key, asked_at=now)
            self._put(known)
        return known

    def grant(self, document: GatewayDocument, id: str, granted: Enrolled) -> Admission:
        """Note the broker's yes. Raises ValueError when the address is not one behind this gateway."""
        pool = document.enrolment.pool
        homes = [route for route in document.routes if route != pool]
        if not any(contains(home, granted.address) for home in homes):
            raise ValueError(f"{granted.address} is not behind this gateway")
        known = self._by_id.get(id)
        if known is None:
            raise ValueError("this launch is over")
        admission = replace(known, granted=granted)
        self._put(admission)
        return admission

    def refuse(self, id: str) -> None:
        """Forget an admission that the broker refused."""
        if self._by_id.pop(id, None) is not None:
            self._write()

    def answered(self, id: str, now: float) -> None:
        """Note that the VM was told; the first time counts."""
        admission = self._by_id.get(id)
        if admission is not None and admission.granted is not None and not admission.answered_at:
            self._put(replace(admission, answered_at=now))

    def settle(
        self, document: GatewayDocument, handshakes: Mapping[str, float], now: float
    ) -> list[Admission]:
        """Move on what time, handshakes (by public key) and newer documents decide; answers the newly spent."""
        spent: list[Admission] = []
        for id, admission in list(self._by_id.items()):
            # By key: the broker may give the VM's peer the bootstrap peer's id.
            listed = any(peer.public_key == admission.bootstrap.public_key for peer in document.peers)
            newer = admission.granted is not None and document.generation >= admission.granted.generation
            if admission.spent:
                if newer and not listed:
                    del self._by_id[id]
            elif admission.granted is None:
                if now > max(admission.asked_at + ASKED_S, _expiry(admission.bootstrap) if listed else 0):
                    del self._by_id[id]
            else:
                # A newer document without the VM: the broker has taken it back.
                revoked = newer and not any(
                    peer.public_key == admission.public_key for peer in document.peers
                )
                heard = handshakes.get(admission.public_key, 0) > 0
                late = bool(admission.answered_at) and now > admission.answered_at + GRACE_S
                if revoked or heard or late or now >= _expiry(admission.bootstrap):
                    self._by_id[id] = replace(admission, spent=True)
                    spent.append(admission)
        self._write()
        return spent

    def pending(self) -> bool:
        """Whether an enrolment is under way."""
        return any(not admission.spent for admission in self._by_id.values())

    def peers(self, document: GatewayDocument, now: float) -> tuple[PeerEntry, ...]:
        """The peers that the interface must have now.

        The document's, less bootstrap peers that are expired or spent; plus bootstrap peers that still await
        an answer, and VMs that a document on its way will have.
        """
        wanted = {peer.public_key: peer for peer in document.peers if self._alive(peer, now)}
        for admission in self._by_id.values():
            bootstrap, granted = admission.bootstrap, admission.granted
            if self._alive(bootstrap, now) and (granted or now < admission.asked_at + ASKED_S):
                wanted.setdefault(bootstrap.public_key, bootstrap)
            if granted is not None and document.generation < granted.generation:
                address = granted.address.split("/")[0]
                enrolled = PeerEntry(granted.peer_id, "vm", admission.public_key, (f"{address}/32",))
                # An older key of the same VM gives way: an address has one owner.
                wanted = {
                    key: peer
                    for key, peer in wanted.items()
                    if not set(peer.allowed_ips) & set(enrolled.allowed_ips)
                }
                wanted[enrolled.public_key] = enrolled
        return tuple(wanted.values())

    def _alive(self, peer: PeerEntry, now: float) -> bool:
        if peer.kind != "bootstrap":
            return True
        admission = self._by_id.get(peer.id)
        return now < _expiry(peer) and not (admission is not None and admission.spent)

    def _put(self, admission: Admission) -> None:
        self._by_id[admission.bootstrap.id] = admission
        self._write()

    def _write(self) -> None:
        text = json.dumps([asdict(admission) for admission in self._by_id.values()], sort_keys=True)
        if text != self._written:
            self._save(text)
            self._written = text


def _expiry(peer: PeerEntry) -> float:
    return peer.expires_at or float("inf")


def _from_json(raw: dict[str, Any]) -> Admission:
    granted = raw["granted"]
    if granted is not None:
        granted = Enrolled(
            granted["peer_id"], granted["address"], tuple(granted["allowed_ips"]), granted["generation"]
        )
    return Admission(
        bootstrap=peer_of(raw["bootstrap"]),
        public_key=raw["public_key"],
        asked_at=raw["asked_at"],
        granted=granted,
        answered_at=raw["answered_at"],
        spent=raw["spent"],
    )
