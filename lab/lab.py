"""The lab as a whole: a campus of two KVM hosts, a cloud that is another Isthmus, and the tunnel between them.

All of it is set up through the SDK and the commands that a user has. What is particular to a lab is small: the two
campus hosts count as machines of two processors, so that four small guests fill them, and the brokers look more often.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import isthmus
from lab import image, topology
from lab.broker import ISTHMUS, Broker
from lab.image import TinyImage
from lab.node import NodeError, require_root
from lab.topology import DEFAULT_DIRECTORY, Topology, leftovers
from lab.wait import TimeOver, until
from vpn.plan import DEFAULT_INTERFACE, DEFAULT_PORT

CAMPUS_SITE = "campus"
CLOUD_SITE = "cloud"
REGION = "lab"
ZONE = "lab-1"
NETWORK = "private"
GATEWAY = "campus-gw"
IMAGE = "tiny"
FLAVOR = "tiny"
KEY_PAIR = "lab"
HOST_VCPUS = 2
CLOUD_VCPUS = 8
INSTANCE_TYPES = {"t3.nano": 128, "t3.small": 256, "t3.medium": 512}
"""Instance types of the cloud and their memory in MiB. The names are Amazon's, for their prices; the sizes a lab's."""
PRICE_REGION = "eu-central-1"

POLICY = f"""\
# The lab's burst policy: own hosts first, the cloud when they are full. Minutes became seconds here.
version: 1
placement:
  rank: 'elastic ? -1000 * price_hour : 100 + 10 * cpu_free / cpu_total'
burst:
  to: [{CLOUD_SITE}]
  open: {{any: ['local.cpu_used > 0.90']}}
  close: {{all: ['local.cpu_used < 0.60'], for: 3s}}
  never: 'vm.labels["data"] == "restricted"'
  dwell: 5s
  return: drain
  limits: {{vms: 3, vcpus: 3}}
"""

Progress = Callable[[str], None]


class LabError(Exception):
    """The lab cannot do what was asked; the text says why and what to do."""


ERRORS = (LabError, NodeError, TimeOver, image.ImageError, isthmus.IsthmusError)
"""All that can go wrong with a lab, for who has to tell it."""


@dataclass(frozen=True)
class PeerCounters:
    """A peer of the gateway's tunnel, as WireGuard shows it: bytes since it is there."""

    public_key: str
    allowed_ips: str
    received: int
    sent: int


@dataclass(frozen=True)
class BrokerStatus:
    """One of the lab's brokers; ``env`` is a file for the shell's ``.`` that points isthmus and aws at it."""

    url: str
    ec2_url: str
    env: str
    answers: bool
    vms: int = 0
    waiting: int = 0
    burst: str = "off"


@dataclass(frozen=True)
class Status:
    """The lab as it is. ``state``: ``up``, ``down``, or ``broken`` (not whole: take it down)."""

    directory: str
    state: str
    nodes: dict[str, bool]
    brokers: dict[str, BrokerStatus]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Lab:
    """A lab in ``directory``. Attaches to the one that runs there."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self.topology = Topology(directory)
        self.directory = self.topology.directory
        self.campus = Broker(self.topology.broker, topology.BROKER, CAMPUS_SITE)
        self.cloud = Broker(self.topology.api, topology.API, REGION)

    @property
    def brokers(self) -> dict[str, Broker]:
        """Both, by the side they are on."""
        return {"campus": self.campus, "cloud": self.cloud}

    # -- up and down -------------------------------------------------------------------------------------------

    def up(self, progress: Progress | None = None) -> None:
        """Bring all of it up; nothing when it is.

        Raises one of ERRORS. Then the ends of all logs were given to ``progress``, and everything is down again.
        """
        tell = progress or (lambda text: None)
        require_root()
        state = self.status().state
        if state == "up":
            return
        if state == "broken":
            raise LabError(
                f"the lab in {self.directory} is not whole: `isthmus lab down` removes what is left of it"
            )
        try:
            with ThreadPoolExecutor(2) as pool:
                guest = pool.submit(image.build, progress=tell)
                pool.submit(self.topology.up, tell).result()
                tiny = guest.result()
                tell("starting a broker on the campus, and one in the cloud")
                cloud = pool.submit(self._set_up_cloud, tiny)
                self._set_up_campus(tiny)
                access_key, ami = cloud.result()
                tell(
                    f"the cloud answers as EC2 at {self._ec2_endpoint} and offers {', '.join(INSTANCE_TYPES)}"
                )
            self._join(access_key, ami)
            tell("the campus has 2 hosts, the cloud as a burst site, and a gateway whose agent runs")
            for name, broker in self.brokers.items():
                broker.make_access_key()
                self._write_env(name, broker)
            self._whole.touch()
        except BaseException as error:
            if isinstance(error, ERRORS):
                for title, text in self.logs().items():
                    tell(f"--- {title}\n{text}")
            self.down()
            raise

    def down(self) -> list[str]:
        """End everything and remove all files, however the lab was left; returns what is still there."""
        return self.topology.down()

    def status(self) -> Status:
        """The lab as it is."""
        nodes = {name: bool(node.pid) for name, node in self.topology.nodes.items()}
        if not any(nodes.values()):
            return Status(str(self.directory), "broken" if leftovers(self.directory) else "down", nodes, {})
        brokers = {name: self._broker_status(name, broker) for name, broker in self.brokers.items()}
        whole = (
            self._whole.exists() and all(nodes.values()) and all(each.answers for each in brokers.values())
        )
        return Status(str(self.directory), "up" if whole else "broken", nodes, brokers)

    def env_file(self, name: str) -> Path:
        """What ``. FILE`` needs to point a shell at the broker ``name`` (``campus`` or ``cloud``)."""
        return self.directory / f"{name}.env"

    @property
    def _whole(self) -> Path:
        return self.directory / "whole"

    def _broker_status(self, name: str, broker: Broker) -> BrokerStatus:
        known = BrokerStatus(broker.url, broker.ec2_url, str(self.env_file(name)), answers=False)
        if not broker.answers():
            return known
        seen = broker.client.status()
        return BrokerStatus(
            known.url, known.ec2_url, known.env, True, vms=seen.vms, waiting=seen.queue, burst=seen.burst
        )

    def _write_env(self, name: str, broker: Broker) -> None:
        handle = os.open(self.env_file(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.writelines(f"export {key}='{value}'\n" for key, value in broker.environment().items())

    # -- setting up --------------------------------------------------------------------------------------------

    @property
    def _ec2_endpoint(self) -> str:
        return f"https://{topology.API}:8773"

    def _set_up_cloud(self, tiny: TinyImage) -> tuple[isthmus.AccessKeyCreated, str]:
        """(an access key for the campus, the id of the guest's image there)"""
        self.cloud.init()
        self.cloud.start()
        client = self.cloud.client
        host = self.topology.cloud_a
        client.sites.create(
            ZONE,
            "kvm",
            options={"hosts": [{"uri": host.uri, "name": host.name}]},
            host_attributes={host.name: {"cpu_total": CLOUD_VCPUS}},
        )
        for name, mem_mb in INSTANCE_TYPES.items():
            client.flavors.create(name, vcpus=1, mem_mb=mem_mb, disk_gb=1)
        public = client.networks.create("guests", topology.CLOUD_GUESTS)
        # 1500, so that a tunnel's packets of 1480 bytes need not be cut in pieces.
        public.add_subnet(ZONE, topology.CLOUD_GUESTS, mode="nat", mtu=1500)
        made = _import_image(client, tiny)
        # The same image in the words of the EC2 face.
        return client.accesskeys.create(role="member"), made.id.replace("img-", "ami-", 1)

    def _set_up_campus(self, tiny: TinyImage) -> None:
        self.campus.init()
        self.campus.start()
        client = self.campus.client
        hosts = (self.topology.a, self.topology.b)
        client.sites.create(
            CAMPUS_SITE,
            "kvm",
            # The hosts of a lab have no certificates of their own.
            options={
                "hosts": [{"uri": host.uri, "name": host.name} for host in hosts],
                "migration": "plain",
            },
            host_attributes={host.name: {"cpu_total": HOST_VCPUS} for host in hosts},
        )
        client.flavors.create(FLAVOR, vcpus=1, mem_mb=128, disk_gb=1)
        _import_image(client, tiny)
        client.keypairs.create(KEY_PAIR, self._make_key())
        network = client.networks.create(NETWORK, "10.10.0.0/16")
        network.add_subnet(
            CAMPUS_SITE,
            topology.CAMPUS,
            mode="bridge",
            bridge="br0",
            gateway=topology.GW_LAN,
            reserved=["10.10.1.2-10.10.1.49"],  # the broker and the hosts live there
            mtu=1420,
        )

    def _join(self, access_key: isthmus.AccessKeyCreated, ami: str) -> None:
        """Make the cloud a burst site of the campus, with a gateway that its VMs dial."""
        client = self.campus.client
        client.sites.create(
            CLOUD_SITE,
            "ec2",
            options={
                "endpoint": self._ec2_endpoint,
                "region": REGION,
                "ca_pem": self.cloud.ca.read_text(),
                "instance_types": list(INSTANCE_TYPES),
                "price_region": PRICE_REGION,
                "quota_vcpus": CLOUD_VCPUS,
            },
            credentials={
                "access_key_id": access_key.access_key.id,
                "secret_access_key": access_key.secret,
            },
        )
        client.images.map(IMAGE, {CLOUD_SITE: ami})
        client.networks.add_subnet(NETWORK, CLOUD_SITE, "10.10.2.0/24", mode="tunnel", mtu=1420)
        made = client.gateways.create(
            GATEWAY, site=CAMPUS_SITE, network=NETWORK, endpoint=f"{topology.GW_WAN}:{DEFAULT_PORT}"
        )
        self._start_agent(made.token)
        client.policy.apply(POLICY, "policy.yaml")
        until(lambda: client.gateways.get(GATEWAY).state == "up", 60, f"the agent of {GATEWAY}")

    def _start_agent(self, token: str) -> None:
        gateway = self.topology.gw
        file = gateway.directory / "agent.token"
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as out:
            out.write(f"{token}\n")
        self._run_agent()

    def _run_agent(self) -> None:
        gateway = self.topology.gw
        gateway.start(
            "agent",
            [
                *ISTHMUS,
                "agent",
                f"--broker=https://{topology.BROKER}:8770",
                f"--ca={self.campus.ca}",
                f"--token-file={gateway.directory / 'agent.token'}",
                f"--state={gateway.directory / 'agent'}",
                "--wan=wan",
            ],
        )

    def _make_key(self) -> str:
        """An SSH key pair for the guests; the public half."""
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(self._key)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return self._key.with_suffix(".pub").read_text().strip()

    @property
    def _key(self) -> Path:
        return self.directory / "ssh-key"

    # -- looking in --------------------------------------------------------------------------------------------

    def ssh(self, address: str) -> list[str]:
        """The command that logs in to a campus guest; to be run in a node of the campus."""
        options = (
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        )
        # A guest that has just booted may answer at its address before its sshd does: a try a second (ssh_config(5)).
        waiting = ("ConnectTimeout=5", "ConnectionAttempts=15")
        flags = [word for option in (*options, *waiting) for word in ("-o", option)]
        return ["ssh", "-i", str(self._key), *flags, f"root@{address}"]

    def in_guest(self, address: str, script: str, timeout_s: float = 30.0) -> str:
        """Run a shell script in a campus guest, by ssh from the campus; its output. Raises NodeError."""
        return self.topology.broker.run([*self.ssh(address), script], timeout_s=timeout_s).stdout

    def page(self, address: str) -> str:
        """The web page of a campus guest, as its LAN sees it; empty while it does not answer."""
        done = self.topology.broker.run(["curl", "-s", "-m", "2", f"http://{address}/"], check=False)
        return done.stdout if done.returncode == 0 else ""

    def tunnel(self) -> list[PeerCounters]:
        """The peers of the campus gateway's tunnel, and their bytes."""
        dump = self.topology.gw.run(["wg", "show", DEFAULT_INTERFACE, "dump"]).stdout
        # wg(8), "show dump": the interface itself comes first.
        rows = [line.split("\t") for line in dump.splitlines()[1:]]
        return [PeerCounters(row[0], row[3], int(row[5]), int(row[6])) for row in rows]

    def logs(self, lines: int = 15) -> dict[str, str]:
        """The ends of the logs that tell what went wrong, by title."""
        tails = {
            "campus broker": self.topology.broker.log_tail("broker", lines),
            "cloud broker": self.topology.api.log_tail("broker", lines),
            "gateway's agent": self.topology.gw.log_tail("agent", lines),
        }
        for host in (self.topology.a, self.topology.b, self.topology.cloud_a):
            tails[f"libvirtd of {host.name}"] = host.log_tail("libvirtd", lines)
        for name, broker in self.brokers.items():
            with contextlib.suppress(*ERRORS, OSError):
                for vm in broker.client.vms.list():
                    if vm.state == "running":
                        text = re.sub(r"[^\x20-\x7e\n]", "", vm.console())
                        tails[f"console of {vm.name} ({name})"] = "\n".join(text.splitlines()[-lines:])
        return {title: text for title, text in tails.items() if text}


def _import_image(client: isthmus.Client, tiny: TinyImage) -> Any:
    return client.images.create(
        IMAGE, str(tiny.disk), kernel=str(tiny.kernel), initrd=str(tiny.initrd), cmdline=tiny.cmdline
    )
