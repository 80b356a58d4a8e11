"""Operations: long-running changes one can wait on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from isthmus import schema
from isthmus.client._errors import ConnectionFailed, OperationFailed, OperationTimeout
from isthmus.client._resource import Bound, Collection

if TYPE_CHECKING:
    from isthmus.client._client import Client

LONG_POLL_S = 30.0
"""The longest that a broker holds an answer back."""
PATIENCE_S = 30.0
"""How long a wait goes on without an answer: a broker that restarts is back by then, and its operations go on."""

T = TypeVar("T")


def patiently(client: Client, call: Callable[[], T], deadline: float | None) -> T:
    """Call, and call again while the broker is away, for ``PATIENCE_S`` seconds or until the deadline."""
    until = client._clock() + PATIENCE_S
    if deadline is not None:
        until = min(until, deadline)
    while True:
        try:
            return call()
        except ConnectionFailed:
            if client._clock() + 1 > until:
                raise
            client._sleep(1.0)


class Operation(Bound, schema.Operation):
    """A long-running change."""

    @property
    def ended(self) -> bool:
        """Whether it is over, well or badly."""
        return self.state is not schema.OperationState.RUNNING

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._client.operations.get(self.id))

    def wait(
        self,
        timeout: float | None = 600.0,
        poll: float = 2.0,
        on_update: Callable[[Operation], None] | None = None,
    ) -> Self:
        """Wait until it is over.

        ``timeout`` in seconds, None for no end. ``poll``: the broker is asked anew after that many seconds,
        and answers at once when the operation ends before. ``on_update`` is called after each answer. A broker
        that restarts meanwhile is waited for.
        Raises OperationFailed, and OperationTimeout (the change then goes on in the broker).
        """
        client = self._client
        deadline = None if timeout is None else client._clock() + timeout
        while not self.ended:
            asked = client._clock()
            step = poll if deadline is None else min(poll, deadline - asked)
            if step <= 0:
                raise OperationTimeout(
                    f"{self.kind} of {self.target} is still going on ({self.phase or self.state})"
                    + (f": {self.message}" if self.message else ""),
                    operation=self,
                    hint=f"it goes on: wait again with `isthmus operation wait {self.id}`",
                )
            hold = min(step, LONG_POLL_S)
            self._take(patiently(client, partial(client.operations.get, self.id, wait=hold), deadline))
            if on_update is not None:
                on_update(self)
            if not self.ended:  # a broker that answered early is not asked more often for that
                client._sleep(max(0.0, step - (client._clock() - asked)))
        if self.state is not schema.OperationState.DONE:
            raise OperationFailed(
                f"{self.kind} of {self.target} {self.state}: {self.error or self.message or 'no reason given'}",
                operation=self,
            )
        return self


class Operations(Collection[Operation]):
    """``client.operations``."""

    _path = "/v1/operations"
    _model = Operation

    def get(self, id: str, wait: float = 0.0) -> Operation:
        """One operation. ``wait``: up to that many seconds (30 at most) until it is over."""
        query = {"wait": round(wait, 3)} if wait > 0 else None
        return self._http.get(Operation, self._url(id), query, wait=wait)

    def list(self, target: str | None = None, state: str | None = None) -> Iterator[Operation]:
        """All operations of the project, newest first; of one target (a VM's id), or in one state."""
        return self._list({"target": target, "state": state})
