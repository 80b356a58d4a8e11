"""A broker with the real engine that kills itself where it is told to. A program that ``test_dbos.py`` runs.

It reads a plan (JSON, first argument), starts, waits until nothing is under way, prints what there is as one
line of JSON, and then asks for the operations of the plan. Each of these stops at its own phase and point;
when all have arrived there, the process kills itself with SIGKILL. Without any it stops in order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select

from broker import (
    flavor,
    gateway,
    image,
    launch,
    migration,
    network,
    operation,
    peer,
    policy,
    power,
    project,
    serving,
    site,
    token,
    vm,
)
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.engine.choice import engine_for
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Database, Settings, Timing
from broker.size import Size
from broker.states import LIVE_PEER, PeerState, VMState
from broker.store import AddressRow, NICRow, OperationRow, PeerRow, ProjectRow, Store, VMRow
from providers.simulated import SimulatedProvider
from vpn import keys

POLICY = """\
version: 1
burst:
  to: [cloud, keeping]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
"""

FAILING = {
    "broken": ("ensure_vm",),
    "frail": ("start_vm", "reboot_vm", "migrate_vm"),
    "stiff": ("stop_vm", "suspend_vm"),
    "keeping": ("delete_vm",),
}
"""Sites beside ``campus`` and ``cloud``, and what they always refuse."""


class Mortal:
    """One life of a broker."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.folder = Path(plan["folder"])
        self.holds = {tuple(hold) for hold in plan.get("holds", [])}
        self._arrived: set[tuple[str, ...]] = set()
        self._names: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()
        Sealer.create_file(self.folder / "key")
        settings = Settings(
            data_dir=self.folder,
            database=Database(url=plan.get("url", "")),
            timing=Timing(sweep_s=1, reconcile_s=2, policy_s=1, gateway_s=20, quarantine_s=5),
        )
        store = Store(settings.database_url)
        if plan.get("setup"):
            store.upgrade()
        store.own(self.folder / "lock")
        self.broker = Broker(
            settings, store=store, kinds={"simulated": lambda: SimulatedProvider}, trace=self.trace
        )
        if plan.get("setup"):
            self.set_up()
        with self.broker.store.reading() as session:
            owner = session.scalars(select(ProjectRow)).one()
        self.admin = Actor(owner.id, "admin", "ada")
        self.agent = token.authenticate(self.broker, (self.folder / "agent").read_text())
        engine = engine_for(self.broker)
        assert isinstance(engine, LeaseEngine)
        self.engine = engine

    # What there is

    def set_up(self) -> None:
        owner = project.create(self.broker, SYSTEM, name="lab")
        admin = Actor(owner.id, "admin", "ada")
        disk = self.folder / "disk.raw"
        disk.write_bytes(b"disk")
        image.create(self.broker, admin, name="tiny", path=str(disk), format="raw")
        flavor.create(self.broker, admin, name="small", size=Size(vcpus=1, mem_mb=512, disk_gb=1))
        network.create(self.broker, admin, name="net", cidr="10.20.0.0/16")
        moves = {"boot_s": 0.3, "stop_s": 0.3}
        local = {
            "hosts": 4,
            "attributes": {"cpu_total": 64.0},
            "state_file": str(self.folder / "campus.json"),
            **moves,
        }
        types = {"t.small": {"vcpus": 1, "mem_mb": 512, "price_hour": 0.1}}
        cloud = {"elastic": True, "types": types, "state_file": str(self.folder / "cloud.json"), **moves}
        site.create(self.broker, admin, name="campus", kind="simulated", options=local)
        site.create(self.broker, admin, name="cloud", kind="simulated", options=cloud)
        for name, methods in FAILING.items():
            options = cloud if name == "keeping" else local
            fail = [
                {"method": method, "error": "AuthenticationFailed", "times": -1, "message": "as ordered"}
                for method in methods
            ]
            own = {"state_file": str(self.folder / f"{name}.json"), "fail": fail}
            site.create(self.broker, admin, name=name, kind="simulated", options=options | own)
        image.map_sites(self.broker, admin, "tiny", {"cloud": "ami-1", "keeping": "ami-1"})
        for number, name in enumerate(("campus", "cloud", *FAILING), 1):
            mode = "tunnel" if name in ("cloud", "keeping") else "nat"
            network.add_subnet(
                self.broker, admin, "net", site_ref=name, cidr=f"10.20.{number}.0/24", mode=mode
            )
        _, secret = gateway.create(
            self.broker,
            admin,
            name="gate",
            site_ref="campus",
            network_ref="net",
            endpoint="203.0.113.7:51820",
        )
        (self.folder / "agent").write_text(secret)
        gateway.register(self.broker, token.authenticate(self.broker, secret), keys.generate()[1])
        policy.apply(self.broker, admin, POLICY)

    def facts(self) -> dict[str, Any]:
        """By the name of a VM: its state, its operation's, and what it holds."""
        machines: list[str] = []
        for place in site.list_sites(self.broker, self.admin):
            reports = self.broker.providers.of(place).list_vms().vms
            machines += [
                report.vm_id for report in reports if report.state not in ("terminated", "terminating")
            ]
        found: dict[str, Any] = {}
        with self.broker.store.reading() as session:
            for row in session.scalars(select(VMRow)):
                task = session.get_one(OperationRow, row.operation_id)
                leases = (
                    select(func.count(AddressRow.id))
                    .join(NICRow, NICRow.id == AddressRow.nic_id)
                    .where(NICRow.vm_id == row.id)
                )
                peers = select(func.count()).select_from(PeerRow).where(PeerRow.vm_id == row.id)
                found[row.name] = {
                    "state": row.state,
                    "operation": task.state,
                    "kind": task.kind,
                    "launches": row.launch,
                    "machines": machines.count(row.id),
                    "leases": session.scalar(leases),
                    "peers": session.scalar(peers.where(PeerRow.state.in_(LIVE_PEER))),
                    "claims": int(row.host_id is not None and row.state != VMState.TERMINATED),
                }
        return found

    # What happens

    def live(self) -> None:
        """The whole plan."""
        threading.Thread(target=self.be_the_gateway, daemon=True).start()
        serving.start(self.broker, self.engine)
        if watched := self.plan.get("finishes"):
            self.until(lambda: self.over(watched), 60)
        self.until_idle()
        print(json.dumps(self.facts()), flush=True)
        for name in self.plan.get("bursts", []):
            self.create(name)
        for name in self.plan.get("locals", []):
            self.create(name)
        self.until_idle()
        for name in self.plan.get("stopped", []):
            power.stop(self.broker, self.admin, name)
        for name in self.plan.get("suspended", []):
            power.suspend(self.broker, self.admin, name)
        self.until_idle()
        self.ask()
        if self.holds:
            time.sleep(60)
            sys.exit(f"only {sorted(self._arrived)} of {sorted(self.holds)} were reached")
        serving.stop(self.broker, self.engine)

    def ask(self) -> None:
        for name, kind, phase, _point in sorted(self.holds):
            if kind == "vm.create":
                self.create(name)
                continue
            if kind == "vm.migrate":
                migration.migrate(self.broker, self.admin, name)
                continue
            if kind.removeprefix("vm.") in ("start", "stop", "reboot", "suspend", "resume"):
                getattr(power, kind.removeprefix("vm."))(self.broker, self.admin, name)
                continue
            with self.broker.store.transaction() as session:
                row = vm.find(session, self.admin, name, lock=True)
                if kind == "vm.preempt":
                    task = vm.begin_preempt(self.broker, session, row, for_id="another", reason="for another")
                    self.broker.submit(task)
                    continue
                if kind == "vm.relaunch":
                    task = vm.begin_relaunch(self.broker, session, row, reason="taken back")
                elif kind == "vm.return":
                    row.site_wanted_id = site.find(session, "campus").id
                    task = vm.begin_return(self.broker, session, row, reason="home")
                else:
                    task = vm.begin_delete(
                        self.broker, session, row, reason="go", graceful=phase == "shutdown"
                    )
            self.broker.submit(task)

    def create(self, name: str) -> None:
        launch.create(
            self.broker,
            self.admin,
            name=name,
            image_ref="tiny",
            flavor_ref="small",
            wishes=launch.Wishes(site=self.plan["places"][name]),
        )

    def trace(self, operation_id: str, phase: str, point: str) -> None:
        if operation_id not in self._names:
            with self.broker.store.reading() as session:
                task = session.get_one(OperationRow, operation_id)
                self._names[operation_id] = (session.get_one(VMRow, task.target).name, task.kind)
        here = (*self._names[operation_id], phase, point)
        if here not in self.holds:
            return
        with self._lock:
            self._arrived.add(here)
            if self._arrived == self.holds:
                os.kill(os.getpid(), signal.SIGKILL)
        # The others get to where they are held, too.
        with self.engine.claims.slots.lent():
            threading.Event().wait()

    def be_the_gateway(self) -> None:
        """Its agent, and the guests behind it that run: each posts a key of its own."""
        while True:
            document = gateway.document(self.broker, self.agent)
            gateway.report(self.broker, self.agent, document.generation, [])
            with self.broker.store.reading() as session:
                waiting = [
                    row.bootstrap_address
                    for row in session.scalars(select(PeerRow).where(PeerRow.state == PeerState.BOOTSTRAP))
                    if session.get_one(VMRow, row.vm_id).state == VMState.RUNNING
                ]
            for address in waiting:
                peer.enrol(self.broker, self.agent, address, keys.generate()[1])
            time.sleep(0.1)

    # Waiting

    def over(self, name: str) -> bool:
        with self.broker.store.reading() as session:
            row = session.scalar(select(VMRow).where(VMRow.name == name))
            return row is not None and session.get_one(OperationRow, row.operation_id).state != "running"

    def until_idle(self) -> None:
        self.until(lambda: not operation.list_operations(self.broker, self.admin, state="running"), 60)

    def until(self, holds: Any, most_s: float) -> None:
        deadline = time.monotonic() + most_s
        while not holds():
            if time.monotonic() > deadline:
                tasks = operation.list_operations(self.broker, self.admin, state="running")
                sys.exit("still under way: " + ", ".join(f"{t.kind} {t.phase}: {t.message}" for t in tasks))
            time.sleep(0.05)


if __name__ == "__main__":
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    Mortal(json.loads(sys.argv[1])).live()
