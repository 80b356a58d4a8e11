"""Every kind of operation. A new one is a declaration in a file of this folder and a line here."""

from __future__ import annotations

from broker.engine.declaration import Declaration
from broker.engine.vm_create import CREATE
from broker.engine.vm_delete import DELETE
from broker.engine.vm_migrate import MIGRATE
from broker.engine.vm_power import REBOOT, START, STOP
from broker.engine.vm_return import RELAUNCH, RETURN
from broker.engine.vm_suspend import PREEMPT, RESUME, SUSPEND

OPERATIONS: dict[str, Declaration] = {
    one.kind: one
    for one in (
        CREATE,
        START,
        STOP,
        REBOOT,
        SUSPEND,
        RESUME,
        PREEMPT,
        MIGRATE,
        DELETE,
        RETURN,
        RELAUNCH,
    )
}
