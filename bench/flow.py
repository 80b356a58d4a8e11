"""What one VM costs the store, from the request to running: transactions, statements and rows, of a local and of a burst VM.

The broker runs as it serves, with its engine and the placement duty, on SQLite; sites are simulated. The gateway's
agent and the guests behind it work on a store of their own, so that what is counted is the broker's way of the VM
alone. ``--statements`` prints every statement.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import select

from bench._counted import Counted
from broker import (
    flavor,
    gateway,
    image,
    launch,
    network,
    peer,
    policy,
    project,
    queue,
    site,
    token,
)
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Settings
from broker.size import Size
from broker.states import OperationState, PeerState, VMState
from broker.store import PeerRow, Store, VMRow
from providers.simulated import SimulatedProvider
from vpn import keys

POLICY = """\
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.length >= 0']}
  close: {all: ['queue.length < 0']}
"""


@dataclass(frozen=True)
class Goal:
    """The most that one VM may cost."""

    writing: int
    reading: int
    statements: int


GOALS = {"local": Goal(8, 5, 60), "burst": Goal(16, 10, 120)}


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--statements", action="store_true", help="print every statement")
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    met = True
    with tempfile.TemporaryDirectory(prefix="ib-") as folder:
        broker, member = _broker(Path(folder))
        engine = LeaseEngine(broker)
        engine.schedule("place", 3600.0, lambda: queue.place_pending(broker))
        engine.start()
        outside = _Outside(broker, Path(folder))
        outside.start()
        try:
            print(
                f"{'VM':<8}{'write tx':>10}{'goal':>6}{'read tx':>10}{'goal':>6}{'statements':>12}{'goal':>6}{'rows':>7}{'s':>7}"
            )
            for kind, goal in GOALS.items():
                wish = "elastic" if kind == "burst" else "!elastic"
                _one(broker, member, f"warm-{kind}", wish)  # provider, prepared statements
                began = time.monotonic()
                with Counted(broker.store) as counted:
                    _one(broker, member, kind, wish)
                print(
                    f"{kind:<8}{counted.writing:>10}{goal.writing:>6}{counted.reading:>10}{goal.reading:>6}"
                    f"{counted.statements:>12}{goal.statements:>6}{counted.rows:>7}{time.monotonic() - began:>7.2f}"
                )
                if asked.statements:
                    for text in counted.texts:
                        print("   ", " ".join(text.split())[:160])
                met &= (
                    counted.writing <= goal.writing
                    and counted.reading <= goal.reading
                    and counted.statements <= goal.statements
                )
        finally:
            outside.stop()
            engine.stop()
            broker.close()
    print("goals met" if met else "goals missed")
    return 0 if met else 1


def _one(broker: Broker, member: Actor, name: str, requirements: str) -> None:
    _, task = launch.create(
        broker, member, name=name, image_ref="tiny", flavor_ref="small", requirements=requirements
    )
    seen = broker.signals.count(f"{task.id}.over")
    broker.signals.wait(f"{task.id}.over", seen, 30.0)
    # Not counted: the broker itself does not look.
    with Store(broker.settings.database_url).reading() as session:
        row = session.get_one(type(task), task.id)
    if row.state != OperationState.DONE:
        raise RuntimeError(f"{name}: {row.state} in {row.phase}: {row.message}")


def _broker(folder: Path) -> tuple[Broker, Actor]:
    Sealer.create_file(folder / "key")
    settings = Settings.model_validate({"data_dir": folder})
    store = Store(settings.database_url)
    store.own(folder / "lock")
    store.upgrade()
    broker = Broker(settings, store=store, kinds={"simulated": lambda: SimulatedProvider})
    owner = project.create(broker, SYSTEM, name="lab")
    admin = Actor(owner.id, "admin", "ada")
    disk = folder / "disk.raw"
    disk.write_bytes(b"disk")
    image.create(broker, admin, name="tiny", path=str(disk), format="raw")
    flavor.create(broker, admin, name="small", size=Size(vcpus=1, mem_mb=512, disk_gb=1))
    network.create(broker, admin, name="net", cidr="10.20.0.0/16")
    site.create(broker, admin, name="campus", kind="simulated", options={"hosts": 4})
    types = {"t.small": {"vcpus": 1, "mem_mb": 512, "price_hour": 0.1}}
    site.create(broker, admin, name="cloud", kind="simulated", options={"elastic": True, "types": types})
    image.map_sites(broker, admin, "tiny", {"cloud": "ami-1"})
    network.add_subnet(broker, admin, "net", site_ref="campus", cidr="10.20.1.0/24")
    network.add_subnet(broker, admin, "net", site_ref="cloud", cidr="10.20.2.0/24", mode="tunnel")
    _, secret = gateway.create(
        broker, admin, name="gate", site_ref="campus", network_ref="net", endpoint="203.0.113.7:51820"
    )
    (folder / "agent").write_text(secret)
    gateway.register(broker, token.authenticate(broker, secret), keys.generate()[1])
    policy.apply(broker, admin, POLICY)
    return broker, Actor(owner.id, "member", "mel")


class _Outside:
    """The gateway's agent, and the guests behind it that enrol; on a store of their own, woken by the broker's signals."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._broker = Broker(
            broker.settings,
            store=Store(broker.settings.database_url),
            kinds={"simulated": lambda: SimulatedProvider},
        )
        self._broker.signals = broker.signals
        self._agent = token.authenticate(self._broker, (folder / "agent").read_text())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._broker.close()

    def _work(self) -> None:
        broker, applied = self._broker, -1
        while not self._stopping.wait(0.02):
            document = gateway.document(broker, self._agent)
            if document.generation != applied:
                gateway.report(broker, self._agent, document.generation, [])
                applied = document.generation
            with broker.store.reading() as session:
                waiting = session.scalars(
                    select(PeerRow.bootstrap_address)
                    .join(VMRow, VMRow.id == PeerRow.vm_id)
                    .where(PeerRow.state == PeerState.BOOTSTRAP, VMRow.state == VMState.RUNNING)
                ).all()
            for address in waiting:
                peer.enrol(broker, self._agent, address, keys.generate()[1])


if __name__ == "__main__":
    sys.exit(main())
