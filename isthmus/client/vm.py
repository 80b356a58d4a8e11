"""Virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, Self, overload

from isthmus import schema
from isthmus.client._errors import OperationFailed, OperationTimeout
from isthmus.client._resource import Bound, Collection, ask, label_texts
from isthmus.client.operation import Operation, patiently
from isthmus.schema._base import Request

_ENDS = (schema.VMState.ERROR, schema.VMState.TERMINATED)
_DRY = {"dry_run": True}


class VM(Bound, schema.VM):
    """A virtual machine. Its attributes are what the broker last said; ``refresh()`` asks again.

    What begins an operation takes ``dry_run=True``: everything is checked, nothing changes, and the answer is what would be.
    """

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._client.vms.get(self.id))

    def wait_until(
        self,
        state: schema.VMState | str,
        timeout: float | None = 600.0,
        poll: float = 2.0,
        on_update: Callable[[Operation], None] | None = None,
    ) -> Self:
        """Wait until the VM is in that state (``"running"``). A burst VM runs when it has also joined its network.

        ``timeout`` and ``poll`` in seconds, as in ``Operation.wait``; ``on_update`` is called with the operation
        that is going on. Raises OperationFailed when the VM ends in ``error`` or ``terminated`` instead, and
        OperationTimeout.
        """
        client = self._client
        wanted = schema.VMState(state)
        deadline = None if timeout is None else client._clock() + timeout
        operation: Operation | None = None
        over = ""
        while True:
            patiently(client, self.refresh, deadline)
            joining = self.state is schema.VMState.RUNNING and self.elastic and self.enrolled_at is None
            if self.state is wanted and not joining:
                return self
            if self.state in _ENDS:
                raise OperationFailed(
                    f"{self.name} is {self.state}: {self.status_reason or 'no reason given'}",
                    operation=operation,
                )
            left = None if deadline is None else deadline - client._clock()
            if left is not None and left <= 0:
                raise OperationTimeout(
                    f"{self.name} is still {self.state}"
                    + (f": {self.status_reason}" if self.status_reason else ""),
                    operation=operation,
                    hint=f"it goes on: `isthmus vm why {self.name}` says what it waits for",
                )
            if operation is None or operation.id != self.operation:
                ongoing = self.operation
                operation = (
                    patiently(client, partial(client.operations.get, ongoing), deadline) if ongoing else None
                )
            if self.state is wanted and (operation is None or operation.ended):
                return self
            if operation is not None and operation.ended and over != operation.id:
                over = operation.id  # it ended after the VM was read: read it again at once
                continue
            if operation is None or operation.ended:
                client._sleep(poll if left is None else min(poll, left))
                continue
            if on_update is not None:
                on_update(operation)
            try:
                operation.wait(poll if left is None else min(poll, left), poll, on_update)
            except OperationTimeout:
                continue

    def update(self, labels: Mapping[str, str]) -> Self:
        """Replace its labels."""
        return self._take(self._client.vms.update(self.id, labels=labels))

    def why(self) -> schema.Why:
        """Why it is where it is, or why it is nowhere."""
        return self._client.vms.why(self.id)

    @overload
    def start(self, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def start(self, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def start(self, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def start(self, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Start it when it is stopped."""
        return self._client.vms.start(self.id, dry_run=dry_run)

    @overload
    def stop(self, force: bool = False, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def stop(self, force: bool = False, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def stop(self, force: bool = False, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def stop(self, force: bool = False, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Ask the guest to shut down; ``force`` pulls the plug."""
        return self._client.vms.stop(self.id, force=force, dry_run=dry_run)

    @overload
    def reboot(self, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def reboot(self, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def reboot(self, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def reboot(self, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Reboot it when it is running."""
        return self._client.vms.reboot(self.id, dry_run=dry_run)

    @overload
    def suspend(self, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def suspend(self, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def suspend(self, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def suspend(self, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Save its memory on its host's disk and give its cores and memory back."""
        return self._client.vms.suspend(self.id, dry_run=dry_run)

    @overload
    def resume(self, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def resume(self, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def resume(self, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def resume(self, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Let it go on where it was, as soon as its host has room."""
        return self._client.vms.resume(self.id, dry_run=dry_run)

    @overload
    def migrate(self, host: str | None = None, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def migrate(self, host: str | None = None, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def migrate(self, host: str | None = None, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def migrate(self, host: str | None = None, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Move it, while it runs, to a host of its site: the best one for it, or ``host``."""
        return self._client.vms.migrate(self.id, host=host, dry_run=dry_run)

    @overload
    def delete(self, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def delete(self, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def delete(self, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def delete(self, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Terminate it: its disk and addresses are given up."""
        return self._client.vms.delete(self.id, dry_run=dry_run)

    def console(self) -> str:
        """The newest part of its serial console."""
        return self._client.vms.console(self.id)


class VMOperation(schema.VMOperation):
    """A VM, and the operation that was started on it."""

    vm: VM
    operation: Operation


class VMs(Collection[VM]):
    """``client.vms``. ``ref`` is a VM's id, or its name within the project. What begins an operation takes ``dry_run=True``:
    everything is checked as otherwise, nothing is changed, and the answer is what would be."""

    _path = "/v1/vms"
    _model = VM

    @overload
    def create(
        self,
        name: str,
        image: str,
        flavor: str,
        *,
        networks: Sequence[str] | None = None,
        address: str | None = None,
        key_pair: str | None = None,
        user_data: str | None = None,
        labels: Mapping[str, str] | None = None,
        site: str | None = None,
        requirements: str | None = None,
        rank: str | None = None,
        priority: int | None = None,
        runtime_s: float | None = None,
        deadline: datetime | None = None,
        affinity: Sequence[schema.AffinityRule] | None = None,
        preemptible: bool | None = None,
        immediate: bool | None = None,
        reservation: str | None = None,
        idempotency_key: str | None = None,
        dry_run: Literal[False] = False,
    ) -> VM: ...
    @overload
    def create(
        self,
        name: str,
        image: str,
        flavor: str,
        *,
        networks: Sequence[str] | None = None,
        address: str | None = None,
        key_pair: str | None = None,
        user_data: str | None = None,
        labels: Mapping[str, str] | None = None,
        site: str | None = None,
        requirements: str | None = None,
        rank: str | None = None,
        priority: int | None = None,
        runtime_s: float | None = None,
        deadline: datetime | None = None,
        affinity: Sequence[schema.AffinityRule] | None = None,
        preemptible: bool | None = None,
        immediate: bool | None = None,
        reservation: str | None = None,
        idempotency_key: str | None = None,
        dry_run: Literal[True],
    ) -> schema.DryRun: ...
    @overload
    def create(
        self,
        name: str,
        image: str,
        flavor: str,
        *,
        networks: Sequence[str] | None = None,
        address: str | None = None,
        key_pair: str | None = None,
        user_data: str | None = None,
        labels: Mapping[str, str] | None = None,
        site: str | None = None,
        requirements: str | None = None,
        rank: str | None = None,
        priority: int | None = None,
        runtime_s: float | None = None,
        deadline: datetime | None = None,
        affinity: Sequence[schema.AffinityRule] | None = None,
        preemptible: bool | None = None,
        immediate: bool | None = None,
        reservation: str | None = None,
        idempotency_key: str | None = None,
        dry_run: bool,
    ) -> VM | schema.DryRun: ...
    def create(
        self,
        name: str,
        image: str,
        flavor: str,
        *,
        networks: Sequence[str] | None = None,
        address: str | None = None,
        key_pair: str | None = None,
        user_data: str | None = None,
        labels: Mapping[str, str] | None = None,
        site: str | None = None,
        requirements: str | None = None,
        rank: str | None = None,
        priority: int | None = None,
        runtime_s: float | None = None,
        deadline: datetime | None = None,
        affinity: Sequence[schema.AffinityRule] | None = None,
        preemptible: bool | None = None,
        immediate: bool | None = None,
        reservation: str | None = None,
        idempotency_key: str | None = None,
        dry_run: bool = False,
    ) -> VM | schema.DryRun:
        """Ask for a VM. Returns at once with a ``pending`` one: ``vm.wait_until("running")``.

        ``site``: the only one where it may be. ``requirements`` and ``rank`` are expressions over host attributes
        (docs/reference/expressions.md).
        ``affinity``: rules about the VMs of its group (docs/how-to/place-vms-apart.md). A ``deadline`` needs ``runtime_s``.
        ``preemptible``: it may be suspended to make room for others; ``immediate``: it starts now or ends in ``error``;
        ``reservation``: it stands in that one's room.
        ``idempotency_key``: two calls with the same one make one VM; a fresh one is used otherwise. ``dry_run``: check
        everything, change nothing, and answer with where the VM would be placed now.
        """
        body = ask(
            schema.VMCreate,
            name=name,
            image=image,
            flavor=flavor,
            networks=networks,
            address=address,
            key_pair=key_pair,
            user_data=user_data,
            labels=labels,
            site=site,
            requirements=requirements,
            rank=rank,
            priority=priority,
            runtime_s=runtime_s,
            deadline=deadline,
            affinity=affinity,
            preemptible=preemptible,
            immediate=immediate,
            reservation=reservation,
        )
        if dry_run:
            return self._http.post(schema.DryRun, self._path, body, key=idempotency_key, query=_DRY)
        return self._http.post(VMOperation, self._path, body, key=idempotency_key).vm

    def get(self, ref: str) -> VM:
        """One VM."""
        return self._get(ref)

    def list(
        self,
        name: str | None = None,
        state: str | None = None,
        site: str | None = None,
        labels: Mapping[str, str] | None = None,
        all: bool = False,
    ) -> Iterator[VM]:
        """The project's VMs; ``all`` also has the terminated ones. With ``labels``, those that carry all of them."""
        label = label_texts(labels)
        return self._list({"name": name, "state": state, "site": site, "label": label, "all": all})

    def update(self, ref: str, labels: Mapping[str, str]) -> VM:
        """Replace a VM's labels."""
        return self._http.patch(VM, self._url(ref), ask(schema.VMUpdate, labels=labels))

    def why(self, ref: str) -> schema.Why:
        """Why a VM is where it is, or why it is nowhere."""
        return self._http.get(schema.Why, self._url(ref, "why"))

    @overload
    def start(self, ref: str, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def start(self, ref: str, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def start(self, ref: str, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def start(self, ref: str, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Start a stopped VM."""
        return self._begin(ref, "start", None, dry_run)

    @overload
    def stop(self, ref: str, force: bool = False, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def stop(self, ref: str, force: bool = False, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def stop(self, ref: str, force: bool = False, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def stop(self, ref: str, force: bool = False, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Ask a VM's guest to shut down; ``force`` pulls the plug."""
        return self._begin(ref, "stop", schema.VMStop(force=force), dry_run)

    @overload
    def reboot(self, ref: str, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def reboot(self, ref: str, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def reboot(self, ref: str, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def reboot(self, ref: str, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Reboot a running VM."""
        return self._begin(ref, "reboot", None, dry_run)

    @overload
    def suspend(self, ref: str, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def suspend(self, ref: str, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def suspend(self, ref: str, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def suspend(self, ref: str, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Save a running VM's memory on its host's disk and give its cores and memory back."""
        return self._begin(ref, "suspend", None, dry_run)

    @overload
    def resume(self, ref: str, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def resume(self, ref: str, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def resume(self, ref: str, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def resume(self, ref: str, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Let a suspended VM go on where it was, as soon as its host has room."""
        return self._begin(ref, "resume", None, dry_run)

    @overload
    def migrate(self, ref: str, host: str | None = None, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def migrate(self, ref: str, host: str | None = None, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def migrate(self, ref: str, host: str | None = None, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def migrate(
        self, ref: str, host: str | None = None, *, dry_run: bool = False
    ) -> Operation | schema.DryRun:
        """Move a running VM to a host of its site: the best one for it, or ``host``. Admins only."""
        return self._begin(ref, "migrate", ask(schema.VMMigrate, host=host), dry_run)

    @overload
    def delete(self, ref: str, *, dry_run: Literal[False] = False) -> Operation: ...
    @overload
    def delete(self, ref: str, *, dry_run: Literal[True]) -> schema.DryRun: ...
    @overload
    def delete(self, ref: str, *, dry_run: bool) -> Operation | schema.DryRun: ...
    def delete(self, ref: str, *, dry_run: bool = False) -> Operation | schema.DryRun:
        """Terminate a VM: its disk and addresses are given up."""
        if dry_run:
            return self._http.delete_for(schema.DryRun, self._url(ref), query=_DRY)
        return self._http.delete_for(VMOperation, self._url(ref)).operation

    def console(self, ref: str) -> str:
        """The newest part of a VM's serial console."""
        return self._http.get(schema.Console, self._url(ref, "console")).text

    def _begin(self, ref: str, verb: str, body: Request | None, dry_run: bool) -> Operation | schema.DryRun:
        path = self._url(ref, verb)
        if dry_run:
            return self._http.post(schema.DryRun, path, body, query=_DRY)
        return self._http.post(VMOperation, path, body).operation
