"""A database as it is after long use: a site of thousands of hosts, a cloud, and the VMs on them, written as rows."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

from sqlalchemy import delete, insert, select, text

from broker import claim, flavor, image, launch, network, policy, site
from broker.actor import Actor
from broker.broker import Broker
from broker.ids import mac_of, vm_uuid
from broker.size import Size
from broker.states import VMState
from broker.store import AddressRow, HostRow, LabelRow, NICRow, OperationRow, VMRow
from providers import port
from providers.simulated import SimulatedProvider, SimulatedVM

HOSTS = 3200
CPUS = 128.0

POLICY = """\
version: 1
placement:
  rank: '(elastic ? -1000 * price_hour : 100) + 10 * cpu_free / cpu_total'
burst:
  to: [cloud]
  open: {any: ['queue.wait_p95 > 60', 'local.cpu_used > 0.90']}
  close: {all: ['local.cpu_used < 0.60'], for: 15m}
"""

_FIRST = IPv4Address("10.16.0.10")

# As long as the list that a server's CPU reports.
_FLAGS = [f"flag{number:02d}" for number in range(90)] + ["avx2", "vmx"]


def sites(broker: Broker, admin: Actor) -> None:
    common = {"cpu_total": CPUS, "mem_total_mb": 1048576.0, "cpu_model": "EPYC", "cpu_flags": _FLAGS}
    # What a site of machines is given: a line for each of them.
    hosts = [
        {
            "name": f"host-{n:04d}",
            "attributes": {"rack": f"r{n // 40}", "uri": f"qemu+ssh://root@host-{n:04d}/"},
        }
        for n in range(HOSTS)
    ]
    options: dict[str, Any] = {"hosts": hosts, "attributes": common}
    site.create(broker, admin, name="campus", kind="simulated", options=options)
    types = {
        f"t{vcpus}": {"vcpus": vcpus, "mem_mb": 2048 * vcpus, "price_hour": 0.05 * vcpus}
        for vcpus in (2, 4, 8, 16, 32)
    }
    options = {"elastic": True, "zones": ["a", "b", "c"], "types": types}
    site.create(broker, admin, name="cloud", kind="simulated", options=options)


def catalogue(broker: Broker, admin: Actor) -> None:
    disk = broker.settings.data_dir / "disk.raw"
    disk.write_bytes(b"a disk\n" * 100)
    image.create(broker, admin, name="tiny", path=str(disk), format="raw", sites={"cloud": "ami-1"})
    flavor.create(broker, admin, name="small", size=Size(vcpus=2, mem_mb=1024, disk_gb=10))
    network.create(broker, admin, name="net", cidr="10.0.0.0/8")
    network.add_subnet(broker, admin, "net", site_ref="campus", cidr="10.16.0.0/13", mode="nat")
    policy.apply(broker, admin, POLICY)


def fill(broker: Broker, admin: Actor, count: int) -> None:
    """VMs that have long been running, written as rows: making each through the API is measured elsewhere."""
    made, _ = launch.create(broker, admin, name="model", image_ref="tiny", flavor_ref="small")
    with broker.store.transaction() as session:
        model = session.get_one(VMRow, made.id)
        task = session.scalars(select(OperationRow).where(OperationRow.target == made.id)).one()
        hosts = session.scalars(
            select(HostRow).where(HostRow.elastic.is_(False)).order_by(HostRow.name)
        ).all()
        net = network.find(session, admin, "net")
        subnet = network.subnet_at(session, net.id, hosts[0].site_id)
        assert subnet is not None
        vms, tasks = [], []
        nics: list[dict[str, Any]] = []
        leased: list[dict[str, Any]] = []
        now = datetime.now(UTC)
        for number in range(count):
            vm_id, task_id, at = broker.new_id("vm"), broker.new_id("op"), hosts[number % len(hosts)]
            address = str(_FIRST + number)
            vms.append(
                values(model)
                | {
                    "id": vm_id,
                    "name": f"rest-{number:04d}",
                    "state": VMState.RUNNING,
                    "operation_id": task_id,
                }
                | {
                    "site_id": at.site_id,
                    "host_id": at.id,
                    "launch": 1,
                    "launched_at": now,
                    "created_at": now,
                }
                | {"provider_ref": vm_uuid(broker.id, vm_id)}
            )
            tasks.append(
                values(task)
                | {"id": task_id, "target": vm_id, "state": "done", "ended_at": now, "phase": "boot"}
            )
            nic_id = broker.new_id("nic")
            nics.append(
                {"id": nic_id, "vm_id": vm_id, "position": 0, "network_id": net.id, "subnet_id": subnet.id}
                | {"mac": mac_of(nic_id), "wanted_address": None}
            )
            leased.append(
                {"id": broker.new_id("addr"), "subnet_id": subnet.id, "address": address}
                | {"nic_id": nic_id, "position": 0, "rests_until": None}
            )
        session.execute(insert(VMRow), vms)
        session.execute(insert(OperationRow), tasks)
        session.execute(insert(NICRow), nics)
        session.execute(insert(AddressRow), leased)
        labels = [
            {"noun": "vm", "resource": row["id"], "key": "shard", "value": f"s{number % 1000}"}
            for number, row in enumerate(vms)
        ]
        session.execute(insert(LabelRow), labels)
    forget(broker, [made.id])
    claim.mend(broker)
    if not broker.store.is_sqlite:
        with broker.store.transaction() as session:
            session.execute(text("ANALYZE"))  # as the server itself does now and then


def values(row: VMRow | OperationRow) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in type(row).__table__.columns}


def forget(broker: Broker, ids: list[str]) -> None:
    with broker.store.transaction() as session:
        of_these = select(NICRow.id).where(NICRow.vm_id.in_(ids))
        session.execute(delete(AddressRow).where(AddressRow.nic_id.in_(of_these)))
        for owner in (NICRow.vm_id, OperationRow.target, VMRow.id):
            session.execute(delete(owner.class_).where(owner.in_(ids)))
    claim.mend(broker)


def populate_world(broker: Broker) -> None:
    """Have the simulated sites run what the rows say. Of each row only what they ask for is read: the process that serves
    does this first, and its memory is measured."""
    leases: dict[str, list[list[str]]] = {}
    with broker.store.transaction() as session:  # a cursor on the server needs one
        on_nics = select(NICRow.vm_id, AddressRow.subnet_id, AddressRow.address).join(
            AddressRow, AddressRow.nic_id == NICRow.id
        )
        for vm_id, subnet_id, address in session.execute(on_nics.order_by(NICRow.position)).yield_per(1000):
            leases.setdefault(vm_id, []).append([subnet_id, address])
        placed = select(
            VMRow.site_id, VMRow.provider_ref, HostRow.name, VMRow.name, VMRow.id, VMRow.vcpus, VMRow.mem_mb
        ).join(HostRow, HostRow.id == VMRow.host_id)
        placed = placed.where(VMRow.provider_ref.is_not(None))
        for site_id, ref, at, name, vm_id, vcpus, mem_mb in session.execute(placed).yield_per(1000):
            if site_id is None or ref is None:
                continue
            with SimulatedProvider.world(site_id).transaction() as state:
                state.add(
                    SimulatedVM(
                        ref=ref,
                        host=at,
                        state=port.VMState.RUNNING,
                        name=name,
                        vm_id=vm_id,
                        broker_id=broker.id,
                        vcpus=vcpus,
                        mem_mb=mem_mb,
                        leases=leases.get(vm_id, []),
                    )
                )
