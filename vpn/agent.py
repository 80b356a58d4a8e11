"""The agent of a gateway: pulls its document from the broker and keeps the machine like it.

Threads: ``poll`` waits for newer documents, ``report`` tells the broker what is applied, the enrolment server has
one for each VM that enrols, and the caller's thread repairs drift and drops what has expired. One lock guards
document, admissions and machine. While the broker is away the last document stays in force; nothing is ever torn
down because somebody did not answer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from vpn.admission import Admissions, EnrolmentRefused
from vpn.client import Client, ClientError, Enrolled, Refused, Unavailable, Unreadable
from vpn.document import GatewayDocument
from vpn.enrol import Answer, EnrolServer
from vpn.gateway import Gateway
from vpn.keys import is_key
from vpn.link import LinkError
from vpn.run import CommandError
from vpn.state import State
from vpn.userspace import UserspaceError

_log = structlog.get_logger("vpn.agent")

POLL_WAIT_S = 25
REPAIR_S = 5.0
"""Between two looks at the machine; LIVELY_S while a launch may enrol."""
LIVELY_S = 1.0
REPORT_S = 60.0
LIVELY_REPORT_S = 2.0
SETTLE_S = 5.0
"""How long the next poll waits for a document to be applied."""
BACKOFF_S = (1.0, 30.0)

MACHINE_ERRORS = (CommandError, LinkError, UserspaceError, OSError)


@dataclass
class Agent:
    """One gateway's agent. ``clock`` in seconds since the epoch; ``jitter`` in [0, 1) spreads a fleet's retries.

    ``interface`` overrides the document's, where several gateways share a machine.
    """

    client: Client
    gateway: Gateway
    state: State
    clock: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    interface: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _wake: threading.Event = field(default_factory=threading.Event)
    _news: threading.Event = field(default_factory=threading.Event)
    _settled: threading.Event = field(default_factory=threading.Event)
    _document: GatewayDocument | None = None
    _kept: GatewayDocument | None = None
    _applied: int = 0
    _problems: tuple[str, ...] = ()
    _stale: str = ""
    _server: EnrolServer | None = None

    def __post_init__(self) -> None:
        self._admissions = Admissions(
            self.state.read("enrolments.json"), lambda text: self.state.write("enrolments.json", text)
        )
        self._document = self.state.document()
        if self._document is not None:
            self._stale = self._document.interface

    def run(self) -> None:
        """Work until ``stop()``. The tunnel stays up afterwards, so that a restart costs no packet."""
        threads = [
            threading.Thread(target=self._poll_loop, name="poll", daemon=True),
            threading.Thread(target=self._report_loop, name="report", daemon=True),
        ]
        if self._document is not None:
            _log.info("going on with the last document", generation=self._document.generation)
        failures = 0
        self._try_reconcile()
        for thread in threads:
            thread.start()
        while not self._stop.is_set():
            self._wake.wait(
                self._backoff(failures) if failures else (LIVELY_S if self._lively() else REPAIR_S)
            )
            self._wake.clear()
            if not self._stop.is_set():
                failures = 0 if self._try_reconcile() else failures + 1
        if self._server is not None:
            self._server.stop()

    def stop(self) -> None:
        """Let ``run`` return. May be called from a signal handler."""
        self._stop.set()
        self._wake.set()
        self._news.set()
        self._settled.set()

    def once(self) -> int:
        """Register, fetch, apply and report once; answers the generation applied. No VM can enrol meanwhile.

        Raises ClientError or one of MACHINE_ERRORS. When the broker does not answer, what is on disk is
        applied before the error is raised.
        """
        try:
            self.client.register(self.state.public_key())
            fetched = self.client.document(0, 0)
            if fetched is not None:
                self.accept(fetched)
        finally:
            self.reconcile()
        self.report()
        return self._applied

    def accept(self, document: GatewayDocument) -> bool:
        """Take a document as the wanted state; False when it may not be applied. ``reconcile`` applies it.

        Of one that is newer than this agent, what is known here is taken. Either way the broker is told what is not.
        """
        if self.interface:
            document = replace(document, interface=self.interface)
        problems = document.problems()
        if problems:
            _log.error("document refused", generation=document.generation, problems=problems)
            self._note([f"generation {document.generation} is refused: {words}" for words in problems])
            return False
        if document.left_out:
            _log.warning("left out what is not known here", what=document.left_out)
        self._note([f"not known to this agent: {words}" for words in document.left_out])
        with self._lock:
            self._document = document
        return True

    def reconcile(self) -> bool:
        """Make the machine as the document says, now; True when something had to change. Without one, nothing."""
        with self._lock:
            document = self._document
            if document is None:
                return False
            if self._stale and self._stale != document.interface:
                self.gateway.remove(self._stale)
            self._stale = document.interface
            live = self.gateway.observe(document.interface)
            handshakes = {key: float(peer.handshake_at) for key, peer in live.peers.items()} if live else {}
            for admission in self._admissions.settle(document, handshakes, self.clock()):
                _log.info("bootstrap key is dead", peer=admission.bootstrap.id)
            changed = self.gateway.apply(document, self._admissions.peers(document, self.clock()))
            if (
                self._kept is not document
            ):  # also one of the same generation: this agent may read more than the last
                changed = True
                self._kept = document
                self._applied = document.generation
                self.state.save_document(document)
        if changed:
            self._news.set()
        return changed

    def report(self) -> None:
        """Tell the broker what is applied. Raises ClientError."""
        with self._lock:
            document, applied, problems = self._document, self._applied, self._problems
            live = self.gateway.observe(document.interface) if document is not None else None
        self.client.status(applied, list(live.peers.values()) if live else [], problems)

    def enrol(self, source: str, public_key: str) -> Answer:
        """A bootstrap peer's post of its own key: ask the broker, add the VM, answer. Called by the server."""
        log = _log.bind(source=source)
        if not is_key(public_key):
            return Answer(400, {"error": "public_key is not a WireGuard key"})
        try:
            id, granted = self._admit(source, public_key)
        except EnrolmentRefused as error:
            log.warning("enrolment refused", reason=str(error))
            return Answer(403, {"error": str(error)})
        except (ClientError, ValueError, *MACHINE_ERRORS) as error:
            log.error("enrolment failed; the VM will try again", error=str(error))
            return Answer(503, {"error": "not now; try again"})
        log.info("enrolled", peer=granted.peer_id, address=granted.address)
        return Answer(200, _guest_answer(granted), lambda: self._answered(id))

    def _admit(self, source: str, public_key: str) -> tuple[str, Enrolled]:
        with self._lock:
            if self._document is None:
                raise Unavailable("the gateway has no document yet")
            admission = self._admissions.ask(self._document, source, public_key, self.clock())
        id, granted = admission.bootstrap.id, admission.granted
        if granted is None:
            # Without the lock: a broker that hangs must not stop repairs and other enrolments.
            try:
                granted = self.client.enrol(source, public_key)
            except Refused as error:
                if error.status not in (403, 409):
                    raise
                with self._lock:
                    self._admissions.refuse(id)
                raise EnrolmentRefused(f"the broker refuses: {error}") from error
        with self._lock:
            self._admissions.grant(self._document, id, granted)
            self.reconcile()
        return id, granted

    def _answered(self, id: str) -> None:
        with self._lock:
            self._admissions.answered(id, self.clock())
        self._wake.set()

    def _note(self, problems: Sequence[str]) -> None:
        with self._lock:
            news = self._problems != tuple(problems)
            self._problems = tuple(problems)
        if news:
            self._news.set()

    def _lively(self) -> bool:
        with self._lock:
            document = self._document
            if document is None:
                return False
            now = self.clock()
            peers = self._admissions.peers(document, now)
            return self._admissions.pending() or any(peer.kind == "bootstrap" for peer in peers)

    def _try_reconcile(self) -> bool:
        try:
            self.reconcile()
            self._serve()
        except MACHINE_ERRORS as error:
            _log.error("cannot make the gateway as its document says", error=str(error))
            return False
        finally:
            self._settled.set()
        return True

    def _serve(self) -> None:
        document = self._document
        if document is None:
            return
        where = (document.enrolment.address, document.enrolment.port)
        if self._server is not None and (self._server.address, self._server.port) == where:
            return
        if self._server is not None:
            self._server.stop()
            self._server = None
        self._server = EnrolServer(*where, self.enrol)
        self._server.start()
        _log.info("enrolment is open", address=where[0], port=where[1])

    def _poll_loop(self) -> None:
        registered, after, failures = False, 0, 0
        while not self._stop.is_set():
            try:
                if not registered:
                    self.client.register(self.state.public_key())
                    registered = True
                    _log.info("registered", public_key=self.state.public_key())
                document = self.client.document(after, POLL_WAIT_S if after else 0)
                if document is not None:
                    after = document.generation
                    if self.accept(document):
                        # The first packet filter begins to track connections: a poll begun before that would
                        # not get its answer through.
                        self._settled.clear()
                        self._wake.set()
                        self._settled.wait(SETTLE_S)
                elif not after:
                    self._stop.wait(LIVELY_S)
                failures = 0
            except ClientError as error:
                failures += 1
                # Whatever its generation, the next document counts: the broker may come back from a backup.
                after = 0
                registered = registered and not isinstance(error, Refused)
                if isinstance(error, Unreadable):
                    self._note([f"its document cannot be read: {error}"])
                pause = self._backoff(failures)
                _log.warning(
                    "broker does not serve us; going on as we are", error=str(error), retry_s=round(pause, 1)
                )
                self._stop.wait(pause)

    def _report_loop(self) -> None:
        failures = 0
        while not self._stop.is_set():
            pause = LIVELY_REPORT_S if self._lively() else REPORT_S
            self._news.wait(self._backoff(failures) if failures else pause)
            self._news.clear()
            if self._stop.is_set() or not (self._applied or self._problems):
                continue
            try:
                self.report()
                failures = 0
            except (ClientError, *MACHINE_ERRORS) as error:
                failures += 1
                _log.warning("cannot report to the broker", error=str(error))
                self._stop.wait(self._backoff(failures))

    def _backoff(self, failures: int) -> float:
        low, high = BACKOFF_S
        return float(min(high, low * 2 ** min(failures - 1, 10)) * (0.5 + self.jitter()))


def _guest_answer(granted: Enrolled) -> dict[str, str]:
    """Flat, since a shell script reads it (``vpn/bootstrap.py``)."""
    return {"address": granted.address.split("/")[0], "allowed_ips": ",".join(granted.allowed_ips)}
