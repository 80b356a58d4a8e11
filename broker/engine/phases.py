"""Every kind of operation and its phases."""

from __future__ import annotations

from collections.abc import Mapping

from broker.engine import vm_create, vm_delete, vm_migrate, vm_power, vm_return, vm_suspend
from broker.engine.advance import Phase

PHASES: Mapping[str, Mapping[str, Phase]] = {
    "vm.create": vm_create.PHASES,
    "vm.start": vm_power.START,
    "vm.stop": vm_power.STOP,
    "vm.reboot": vm_power.REBOOT,
    "vm.suspend": vm_suspend.PHASES,
    "vm.resume": vm_suspend.PHASES,
    "vm.preempt": vm_suspend.PHASES,
    "vm.migrate": vm_migrate.PHASES,
    "vm.delete": vm_delete.PHASES,
    "vm.return": vm_return.PHASES,
    "vm.relaunch": vm_return.PHASES,
}
