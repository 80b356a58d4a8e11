"""The rigs of the kinds that come with Isthmus."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

from providers.ec2 import Ec2Provider
from providers.kvm import KvmProvider
from providers.kvm.domain import DomainFiles, Machine, domain_xml
from providers.kvm.vm import find
from providers.port import Capability, ImageSpec, Provider, SiteContext, VMReport, VMSpec
from providers.simulated import SimulatedProvider
from tests.providers.contract.rig import Rig


class SimulatedRig(Rig):
    """Two hosts in memory."""

    capabilities = frozenset(Capability) - {Capability.ELASTIC, Capability.SPOT}
    host = "sim-01"
    other_host = "sim-02"
    image = ImageSpec(id="img-1", name="tiny", kernel="/images/vmlinux", initrd="/images/initrd")
    missing_image = ImageSpec(id="img-9", name="gone", path="/nonexistent/disk.qcow2")
    kind: ClassVar[type[SimulatedProvider]] = SimulatedProvider
    options: ClassVar[dict[str, object]] = {"hosts": 2, "boot_s": 0.02, "stop_s": 0.02}

    def open(self, broker_id: str) -> Provider:
        return self.kind(SiteContext(broker_id, "site-contract", "sim", options=self.options))

    def close(self) -> None:
        super().close()
        SimulatedProvider.forget_worlds()

    @property
    def world(self) -> Any:
        return SimulatedProvider.world("site-contract")

    def stranger(self) -> str:
        return str(self.world.add_stranger(self.host))

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        self.world.set_unreachable(self.host, "power failure")
        yield
        self.world.set_reachable(self.host)

    def footprint(self, provider: Provider) -> object:
        with self.world.transaction() as state:
            vms = sorted((vm.ref, vm.host, vm.vm_id, vm.boots) for vm in state.vms.values() if vm.live)
            return vms, sorted(state.images), sorted(state.networks), sorted(state.leases)


class SimulatedCloudRig(SimulatedRig):
    """A cloud in memory, with spare capacity."""

    capabilities = frozenset(
        {
            Capability.STOP,
            Capability.REBOOT,
            Capability.CONSOLE,
            Capability.EVENTS,
            Capability.ELASTIC,
            Capability.SPOT,
        }
    )
    host = "z1/small"
    other_host = ""
    spot_host = "z1/small/spot"
    unknown_ref = "i-00000000000000000"
    image = ImageSpec(id="img-1", name="tiny", remote_id="ami-1")
    missing_image = ImageSpec(id="img-9", name="unmapped")
    options: ClassVar[dict[str, object]] = {
        "elastic": True,
        "zones": ["z1"],
        "types": {"small": {"vcpus": 1, "mem_mb": 128, "price_hour": 0.02, "spot_price_hour": 0.01}},
        "image_map": True,
        "boot_s": 0.02,
        "stop_s": 0.02,
    }

    def spec(self, **changes: object) -> VMSpec:
        return super().spec(**{"instance_type": "small", "nics": (), **changes})


class LibvirtTestRig(Rig):
    """The kvm provider on libvirt's test driver: no volumes to upload to, no guests, no console, no migration."""

    capabilities = frozenset(Capability) - {Capability.ELASTIC, Capability.SPOT}
    beyond = frozenset({Capability.MIGRATE, Capability.CONSOLE, Capability.DIRECT_KERNEL})
    host = "a"
    guests = False
    missing_image = ImageSpec(id="img-9", name="gone", path="/nonexistent/disk.qcow2")

    def open(self, broker_id: str) -> Provider:
        hosts = [{"uri": "test:///default", "name": "a"}]
        return KvmProvider(SiteContext(broker_id, "site-1", "campus", {"hosts": hosts}))

    def prepare(self, provider: Provider, spec: VMSpec) -> None:
        for nic in spec.nics:
            provider.ensure_network(spec.host, nic.network)

    def assist(self, provider: Provider, spec: VMSpec) -> None:
        """Define the domain, as a call that broke off just before it started it."""
        files = DomainFiles("/pool/d.qcow2", "/pool/s.iso", "/pool/c.log")

        def define(session: Any) -> None:
            if find(session.connection, spec.id, spec.uuid) is None:
                text = domain_xml(spec, Machine("test", "i686", "q35"), files, provider._context.broker_id)  # type: ignore[attr-defined]
                session.connection.defineXML(text)

        provider._host("a").call(define)  # type: ignore[attr-defined]

    def stranger(self) -> str:
        (vm,) = [vm for vm in self.make().list_vms().vms if vm.name == "test"]
        return vm.ref

    def footprint(self, provider: Provider) -> object:
        def names(session: Any) -> object:
            networks = sorted(network.name() for network in session.connection.listAllNetworks())
            return networks, sorted(domain.UUIDString() for domain in session.connection.listAllDomains())

        return provider._host("a").call(names)  # type: ignore[attr-defined]


class LabRig(Rig):
    """Two hosts of the lab on one wire: real libvirt, real guests."""

    capabilities = frozenset(Capability) - {Capability.ELASTIC, Capability.SPOT}
    host = "a"
    other_host = "b"
    patience_s = 60.0

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self.pair = request.getfixturevalue("lab_pair")
        self.image = self.pair.image
        self.missing_image = replace(self.image, id="img-9", path="/nonexistent/disk.qcow2")
        self._strangers: list[Any] = []

    def open(self, broker_id: str) -> Provider:
        hosts = [{"uri": node.uri, "name": name} for name, node in self.pair.nodes.items()]
        options = {"hosts": hosts, "acceleration": "tcg", "migration": "plain"}
        return KvmProvider(SiteContext(broker_id, "site-1", "campus", options))

    def close(self) -> None:
        for domain in self._strangers:
            domain.destroy()
        for broker in ("brk-1", "brk-2"):
            provider = self.make(broker)
            for vm in provider.list_vms().vms:
                if vm.broker_id == broker:
                    provider.delete_vm(vm.host, vm.vm_id, vm.ref)
        super().close()

    def heeds(self, provider: Provider, report: VMReport) -> bool:
        return b"isthmus-guest ready" in provider.console_log(report.host, report.ref)  # type: ignore[attr-defined]

    def stranger(self) -> str:
        xml = """<domain type='qemu'><name>legacy</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
          <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""
        make = lambda session: session.connection.createXML(xml, 0)  # noqa: E731
        self._strangers.append(self.make()._host("a").call(make))  # type: ignore[attr-defined]
        return str(self._strangers[-1].UUIDString())

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        node = self.pair.nodes["a"]
        os.kill(node.daemon_pid("libvirtd"), signal.SIGKILL)
        self.until(lambda: not node.daemon_pid("libvirtd"), "the end of libvirtd")
        yield
        node.start_libvirtd()

    def footprint(self, provider: Provider) -> object:
        files = {
            name: sorted(os.listdir(pool)) if pool.exists() else [] for name, pool in self.pair.pools.items()
        }
        networks = {
            name: provider._host(name).call(lambda session: sorted(session.connection.listNetworks()))  # type: ignore[attr-defined]
            for name in self.pair.nodes
        }
        return files, networks, super().footprint(provider)


class MotoRig(Rig):
    """EC2 as moto plays it, over loopback HTTP, with spare capacity."""

    capabilities = frozenset(
        {Capability.STOP, Capability.REBOOT, Capability.CONSOLE, Capability.ELASTIC, Capability.SPOT}
    )
    host = "eu-central-1a/t3.small"
    spot_host = "eu-central-1a/t3.small/spot"
    unknown_ref = "i-00000000000000000"
    missing_image = ImageSpec(id="img-9", name="gone", remote_id="ami-00000000000000000")

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self.wire = request.getfixturevalue("wire")
        self.wire.launched = {}
        self.ec2 = request.getfixturevalue("ec2")
        self.image = ImageSpec(id="img-1", name="debian", remote_id=request.getfixturevalue("ami"))

    def open(self, broker_id: str) -> Provider:
        make = self.request.getfixturevalue("make")
        return make(broker_id=broker_id, spot=True)  # type: ignore[no-any-return]

    def spec(self, **changes: object) -> VMSpec:
        return super().spec(**{"instance_type": "t3.small", "disk_gb": 10, "nics": (), **changes})

    def stranger(self) -> str:
        asked = {"ImageId": self.image.remote_id, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1}
        zone = {"AvailabilityZone": "eu-central-1a"}
        return str(self.ec2.run_instances(Placement=zone, **asked)["Instances"][0]["InstanceId"])

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        for action in ("DescribeInstances", "DescribeAvailabilityZones"):
            self.wire.plan[action] = ["refuse"] * 100
        yield
        self.wire.plan.clear()


class IsthmusRig(Rig):
    """A second Isthmus as the cloud: its EC2 face on the loopback, simulated hosts behind it."""

    capabilities = frozenset({Capability.STOP, Capability.REBOOT, Capability.CONSOLE, Capability.ELASTIC})
    host = "campus/t3.nano"
    unknown_ref = "i-00000000000000000"
    missing_image = ImageSpec(id="img-9", name="gone", remote_id="ami-00000000000000000")
    patience_s = 30.0

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self.face = request.getfixturevalue("face")
        self.image = ImageSpec(id="img-1", name="tiny", remote_id=self.face.ami)

    def open(self, broker_id: str) -> Provider:
        options = {
            "endpoint": self.face.endpoint,
            "region": "lab-1",
            "price_region": "us-east-1",
            "instance_types": "t3.nano",
        }
        credentials = {"access_key_id": self.face.key, "secret_access_key": self.face.secret}
        cache = str(self.request.getfixturevalue("tmp_path"))
        return Ec2Provider(SiteContext(broker_id, "site-1", "cloud", options, credentials, cache, 20))

    def close(self) -> None:
        client = self.face.client()
        asked = {"Filters": [{"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}]}
        reservations = client.describe_instances(**asked)["Reservations"]
        refs = [instance["InstanceId"] for each in reservations for instance in each["Instances"]]
        if refs:
            client.terminate_instances(InstanceIds=refs)
        super().close()

    def spec(self, **changes: object) -> VMSpec:
        return super().spec(**{"instance_type": "t3.nano", "disk_gb": 20, "nics": (), **changes})

    def rests(self, report: VMReport) -> bool:
        from broker import vm

        with self.face.broker.store.reading() as session:
            row = vm.find(session, self.face.actor, report.ref.replace("i-", "vm-"))
            return vm.busy(session, row) is None

    def stranger(self) -> str:
        asked = {"ImageId": self.face.ami, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1}
        zone = {"AvailabilityZone": "campus"}
        instances = self.face.client().run_instances(Placement=zone, **asked)["Instances"]
        return str(instances[0]["InstanceId"])

    def cut(self) -> AbstractContextManager[None] | None:
        return None


RIGS: dict[str, type[Rig]] = {
    "simulated": SimulatedRig,
    "simulated-cloud": SimulatedCloudRig,
    "kvm-test": LibvirtTestRig,
    "kvm-lab": LabRig,
    "ec2-moto": MotoRig,
    "ec2-isthmus": IsthmusRig,
}
