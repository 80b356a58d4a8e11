"""One broker as the cloud of another: a VM bursts over EC2 Query, and nothing of it stays behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    burst,
    flavor,
    gateway,
    image,
    launch,
    network,
    peer,
    policy,
    power,
    project,
    reconcile,
    site,
    token,
    vm,
)
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.engine.lease import LeaseEngine
from broker.sealing import Sealer
from broker.settings import Settings
from broker.size import Size
from broker.store import PeerRow, Store, VMRow
from providers.ec2 import Ec2Provider
from providers.simulated import SimulatedProvider
from vpn import keys

if TYPE_CHECKING:
    from tests.api.ec2.conftest import Face

POLICY = """
version: 1
burst:
  to: [cloud]
  open: {any: ['queue.wait_p95 >= 0']}
  close: {all: ['queue.wait_p95 < 0']}
"""


@pytest.fixture
def campus(
    face: Face, tmp_path: Path, engine_of: Callable[[Broker], LeaseEngine]
) -> Iterator[tuple[Broker, Actor]]:
    """A broker whose own hosts have no room, and the face's broker as its cloud."""
    Sealer.create_file(tmp_path / "key")
    settings = Settings(data_dir=tmp_path)
    store = Store(settings.database_url)
    store.upgrade()
    kinds = {"ec2": lambda: Ec2Provider, "simulated": lambda: SimulatedProvider}
    broker = Broker(settings, store=store, kinds=kinds)
    owner = project.create(broker, SYSTEM, name="default")
    site.create(
        broker,
        SYSTEM,
        name="cloud",
        kind="ec2",
        options={
            "endpoint": face.endpoint,
            "region": "lab-1",
            "price_region": "us-east-1",
            "instance_types": "t3.*",
        },
        credentials={"access_key_id": face.key, "secret_access_key": face.secret},
    )
    net = network.create(broker, SYSTEM, name="lan", cidr="10.20.0.0/16")
    site.create(
        broker, SYSTEM, name="home", kind="simulated", options={"hosts": 1}, attributes={"cpu_total": 0}
    )
    network.add_subnet(broker, SYSTEM, net.id, site_ref="home", cidr="10.20.2.0/24")
    network.add_subnet(broker, SYSTEM, net.id, site_ref="cloud", cidr="10.20.1.0/24")
    agent = agent_of(broker, owner.id)
    disk = tmp_path / "tiny.raw"
    disk.write_bytes(b"\0" * 1024)
    image.create(broker, SYSTEM, name="tiny", path=str(disk), format="raw", sites={"cloud": face.ami})
    flavor.create(broker, SYSTEM, name="one", size=Size(vcpus=1, mem_mb=512, disk_gb=5))
    policy.apply(broker, SYSTEM, POLICY)
    engine = engine_of(broker)
    yield broker, Actor(project_id=owner.id, role="member", name="me")
    agent.set()
    engine.stop()
    broker.close()


def test_a_vm_bursts_into_the_other_broker_and_leaves_it(
    face: Face, ec2: Any, campus: tuple[Broker, Actor], until: Callable[..., Any]
) -> None:
    broker, me = campus
    made, _ = launch.create(
        broker, me, name="web", image_ref="tiny", flavor_ref="one", labels={"tier": "web"}
    )
    burst.tick(broker)
    until(lambda: vm.get(broker, me, made.id).enrolled_at is not None)
    until(lambda: not busy(broker, me, made.id))
    row = vm.get(broker, me, made.id)
    assert row.state == "running"
    assert row.elastic
    assert row.host is not None
    assert row.host.name in ("campus/t3.nano", "annex/t3.nano", "campus/t3.small")

    (reservation,) = ec2.describe_instances(InstanceIds=[row.provider_ref])["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["State"]["Name"] == "running"
    assert {tag["Key"]: tag["Value"] for tag in instance["Tags"]} == {
        "isthmus:broker": broker.id,
        "isthmus:vm": made.id,
        "Name": "web",
        "tier": "web",
    }
    assert instance["Placement"]["AvailabilityZone"] == row.host.name.split("/")[0]

    power.stop(broker, me, made.id)
    until(lambda: vm.get(broker, me, made.id).state == "stopped")
    power.start(broker, me, made.id)
    until(lambda: vm.get(broker, me, made.id).state == "running")
    vm.delete(broker, me, made.id)
    until(lambda: vm.get(broker, me, made.id).state == "terminated")
    answer = ec2.describe_instances(InstanceIds=[row.provider_ref])["Reservations"][0]["Instances"][0]
    assert answer["State"]["Name"] in ("shutting-down", "terminated")


def test_an_instance_that_its_cloud_ends_is_recorded(
    face: Face, ec2: Any, campus: tuple[Broker, Actor], until: Callable[..., Any]
) -> None:
    broker, me = campus
    made, _ = launch.create(broker, me, name="web", image_ref="tiny", flavor_ref="one")
    burst.tick(broker)
    until(lambda: vm.get(broker, me, made.id).state == "running")
    ref = vm.get(broker, me, made.id).provider_ref
    until(lambda: not busy(broker, me, made.id))
    ec2.terminate_instances(InstanceIds=[ref])

    def noticed() -> bool:
        reconcile.reconcile(broker)
        return vm.get(broker, me, made.id).state in ("terminated", "error")

    until(noticed)


def agent_of(broker: Broker, project_id: str) -> threading.Event:
    """Play the gateway's agent and the guests behind it, until the event that it returns is set."""
    row, secret = gateway.create(
        broker,
        Actor(project_id=project_id, role="admin", name="test"),
        name="gate",
        site_ref="home",
        network_ref="lan",
        endpoint="192.0.2.1:51820",
    )
    actor = token.authenticate(broker, secret)
    gateway.register(broker, actor, keys.generate()[1])
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.05):
            document = gateway.document(broker, actor)
            gateway.report(broker, actor, document.generation, [])
            for entry in document.peers:
                if entry.kind == "bootstrap" and launched(broker, row.id):
                    peer.enrol(broker, actor, entry.allowed_ips[0].split("/")[0], keys.generate()[1])

    threading.Thread(target=run, daemon=True).start()
    return ended


def launched(broker: Broker, gateway_id: str) -> bool:
    """Whether the VM behind the gateway runs: only then can it enrol."""
    with broker.store.reading() as session:
        return any(
            session.get_one(VMRow, row.vm_id).state == "running"
            for row in session.query(PeerRow).filter_by(gateway_id=gateway_id, state="bootstrap")
        )


def busy(broker: Broker, me: Actor, vm_id: str) -> bool:
    with broker.store.reading() as session:
        return vm.busy(session, vm.find(session, me, vm_id)) is not None
