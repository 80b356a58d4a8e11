"""Operations as declarations: what one works on, its phases, where each may go, and what takes its effects back.

Everything that there is to know of a kind of operation stands in one ``Declaration``, which is checked when it is
made: a phase that nobody reaches, a successor that is no phase of the operation, or an effect that nobody takes back
is refused at import. The engine, the documentation's table and the proof of every kind (``tests/broker/engine``) read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import Session

from broker.broker import Broker
from broker.operation import SETTLE as SETTLE
from broker.states import OperationState
from broker.store import OperationRow, Row

T = TypeVar("T", bound=Row)

Write = Callable[[Session, Any], None]
"""What is written with an outcome, in one transaction: called with the session and the target, locked."""


class Superseded(Exception):
    """The operation was cancelled, or another driver has it: write nothing more."""


@dataclass(frozen=True)
class Next:
    """Go on at once: to the phase's first successor, or to another of its successors. ``params`` join the operation's."""

    to: Run | None = None
    message: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    write: Write | None = None


@dataclass(frozen=True)
class Wait:
    """Stay in this phase; look again after ``seconds``, or as soon as one of ``signals`` is set.

    None: nobody's clock moves it; whoever it waits for submits it again.
    """

    seconds: float | None
    message: str = ""
    signals: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    write: Write | None = None
    retry: bool = False
    """It is the answer to a failure: counted as an attempt, and told on the target."""


@dataclass(frozen=True)
class Done:
    """The operation is over and did what it should."""

    message: str = ""
    write: Write | None = None


@dataclass(frozen=True)
class Fail:
    """The operation is over and did not. The phase has left things as they should be."""

    error: str
    write: Write | None = None


@dataclass(frozen=True)
class GiveUp:
    """The operation cannot succeed: on to the phase that puts things right, where there is one."""

    why: str


Settled = Next | Wait | Done | Fail
"""What can be written."""
Outcome = Settled | GiveUp
"""What a phase may say."""


@dataclass
class Step(Generic[T]):
    """What a phase works with. ``operation`` and ``target`` are as they were when the step began."""

    broker: Broker
    declaration: Declaration
    operation: OperationRow
    target: T

    @property
    def age_s(self) -> float:
        """Seconds since this phase began."""
        return (self.broker.clock.now() - self.operation.phase_at).total_seconds()

    @property
    def goes_on(self) -> bool:
        """Whether another phase follows this one."""
        return bool(self.declaration.phase(self.operation.phase).to)

    @property
    def why(self) -> str:
        """Why the operation is given up, in its phase that puts things right."""
        return str(self.operation.params.get("why", "given up"))

    @contextmanager
    def transaction(self) -> Iterator[tuple[Session, T]]:
        """A transaction in the middle of a phase, with the target locked. Raises Superseded when it is not ours to change."""
        with self.broker.store.transaction() as session:
            yield session, self.own(session)

    def own(self, session: Session) -> T:
        """The target, locked, while this operation is still the one in charge. Raises Superseded."""
        task = session.get_one(OperationRow, self.operation.id, populate_existing=True)
        if task.state != OperationState.RUNNING or task.claim_token != self.operation.claim_token:
            raise Superseded
        kind = type(self.target)
        row = session.get(kind, self.operation.target, with_for_update={"of": kind}, populate_existing=True)
        if row is None or getattr(row, "operation_id", task.id) != task.id:
            raise Superseded
        return row

    def say(self, message: str) -> None:
        """Let watchers of the operation read where a long action stands."""
        with self.broker.store.transaction() as session:
            task = session.get_one(OperationRow, self.operation.id)
            if task.claim_token == self.operation.claim_token:
                task.message = message

    def unwind(self) -> list[Write]:
        """Take back what this and the phases before it did, the last first; what is to be written with it."""
        return [
            written
            for undo in self.declaration.undone(self.operation.phase)
            if (written := undo(self)) is not None
        ]


Run = Callable[[Step[Any]], Outcome]
Undo = Callable[[Step[Any]], Write | None]
"""Takes a phase's effects back; what is left to be written with the operation's next phase, or None."""


@dataclass(frozen=True)
class Phase:
    """One phase of an operation. Its action can run any number of times: it looks first, and does one thing.

    ``to``: the phases that it may go to, the usual one first; none in the last. ``undo``: what takes its effects back, or
    the reason why there is nothing to take back. ``calls``: the methods of a provider that it may call; others
    work meanwhile, but not beside a phase without any, which must not wait (``slots``). ``name``: how it is stored and told,
    by default the name of its function.
    """

    run: Run
    to: Sequence[Run] = ()
    undo: Undo | str = ""
    calls: Sequence[str] = ()
    name: str = ""
    ends: bool = False
    """Whether the operation may be over here although other phases could follow; it always may in one without."""

    @property
    def word(self) -> str:
        """How it is stored and told."""
        return self.name or self.run.__name__


@dataclass(frozen=True)
class Declaration:
    """A kind of operation. ``abandon``: the phase that puts things right after an error that no repetition mends, and
    ends it as failed; without one it is never given up. ``settles``: see ``SETTLE``.

    Raises ValueError for phases that do not fit together.
    """

    kind: str
    target: type[Row]
    phases: Sequence[Phase]
    abandon: Phase | None = None
    settles: bool = True

    def __post_init__(self) -> None:
        every = self.every
        words = [phase.word for phase in every]
        runs = [phase.run for phase in every]
        if len(set(words)) != len(words) or SETTLE in words:
            raise ValueError(f"{self.kind}: phases need names of their own: {', '.join(words)}")
        for phase in every:
            if not phase.undo:
                raise ValueError(
                    f"{self.kind}: {phase.word} has neither an undo nor a reason why it needs none"
                )
            for run in phase.to:
                if run not in runs:
                    raise ValueError(
                        f"{self.kind}: {phase.word} goes to {run.__name__}, which is no phase of it"
                    )
        reached = {self.phases[0].run}
        for _ in every:
            reached |= {run for phase in self.phases if phase.run in reached for run in phase.to}
        for phase in self.phases:
            if phase.run not in reached:
                raise ValueError(f"{self.kind}: no phase goes to {phase.word}")

    @property
    def every(self) -> list[Phase]:
        """All phases, the one that puts things right last."""
        return [*self.phases, *([self.abandon] if self.abandon is not None else [])]

    @property
    def begins(self) -> str:
        """The phase that a new operation is written with."""
        return SETTLE if self.settles else self.phases[0].word

    def phase(self, word: str) -> Phase:
        """The phase of that name. Raises LookupError."""
        for phase in self.every:
            if phase.word == word:
                return phase
        raise LookupError(f"{self.kind} has no phase {word}")

    def after(self, word: str, to: Run | None) -> Phase:
        """Where a phase goes. Raises LookupError when that was not declared."""
        phase = self.phase(word)
        if to is None and phase.to:
            to = phase.to[0]
        for other in self.every:
            if other.run == to and (to in phase.to or other is self.abandon):
                return other
        raise LookupError(f"{self.kind}: {word} may not go to {getattr(to, '__name__', 'another phase')}")

    def undone(self, word: str) -> list[Undo]:
        """The undos of a phase and of those before it, the last first."""
        words = [phase.word for phase in self.phases]
        last = words.index(word) if word in words else len(words) - 1
        return [phase.undo for phase in reversed(self.phases[: last + 1]) if not isinstance(phase.undo, str)]


def writes(every: Sequence[Write], then: Write | None = None) -> Write:
    """Several things that are written together, as one."""

    def write(session: Session, target: Any) -> None:
        for one in (*every, *([then] if then is not None else [])):
            one(session, target)

    return write
