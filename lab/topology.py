"""The lab's map: who is there, at which address, and how they are wired.

::

    campus 10.10.1.0/24                    the internet                cloud
    a .11 --+                    203.0.113.0/24   198.51.100.0/24
    b .12 --+-- gw .1 ---------- .2 -- inet .1 ------- .1 --+-- api .10
    broker .5 --+                                           +-- cloud-a .20 -- guests 172.20.0.0/24 (NAT)

``inet`` routes the two public networks to each other and nothing else: no private address crosses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import network, process
from lab.host import Host
from lab.node import Node, remove_tree, require_root

CAMPUS = "10.10.1.0/24"
CAMPUS_PUBLIC = "203.0.113.0/24"
CLOUD_PUBLIC = "198.51.100.0/24"
CLOUD_GUESTS = "172.20.0.0/24"

GW_WAN = "203.0.113.2"
GW_LAN = "10.10.1.1"
BROKER = "10.10.1.5"
HOSTS = {"a": "10.10.1.11", "b": "10.10.1.12"}
API = "198.51.100.10"
CLOUD_HOST = "198.51.100.20"

DEFAULT_DIRECTORY = Path("/var/lib/isthmus/lab")
"""Short, for the sockets below it, and on a disk, for the guests' images."""

Progress = Callable[[str], None]


class Topology:
    """The nodes of one lab. Attaches to what already runs below ``directory``."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self.directory = directory.resolve()
        self.inet = self._node("inet")
        self.gw = self._node("gw")
        self.broker = self._node("broker")
        self.a = self._host("a")
        self.b = self._host("b")
        self.api = self._node("api")
        self.cloud_a = self._host("cloud-a")

    @property
    def nodes(self) -> dict[str, Node]:
        """All nodes by name."""
        every = (self.inet, self.gw, self.broker, self.a, self.b, self.api, self.cloud_a)
        return {node.name: node for node in every}

    def up(self, progress: Progress | None = None) -> None:
        """Start and wire all nodes. Raises NodeError; what was started is taken down again then."""
        tell = progress or (lambda text: None)
        require_root()
        try:
            tell("starting 7 machines, 3 of them KVM hosts")
            _all(node.up for node in self.nodes.values())
            tell("wiring campus, internet and cloud")
            self._wire()
        except BaseException:
            self.down()
            raise

    def down(self) -> list[str]:
        """End everything and remove all files, however the lab was left; returns what is still there."""
        for node in self.nodes.values():
            node.down()
        process.kill_all(self.directory)
        if not process.marked(self.directory):
            remove_tree(self.directory)
            if self.directory.parent == DEFAULT_DIRECTORY.parent:
                with contextlib.suppress(OSError):  # a broker's data may be there, or another lab
                    self.directory.parent.rmdir()
        return leftovers(self.directory)

    def _wire(self) -> None:
        inet, gw, broker, api, cloud = self.inet, self.gw, self.broker, self.api, self.cloud_a
        network.connect(gw, "wan", inet, "campus")
        inet.ip("addr add 203.0.113.1/24 dev campus")
        gw.ip(f"addr add {GW_WAN}/24 dev wan", "route add default via 203.0.113.1")

        for node in (api, cloud):
            network.connect(node, "eth0", inet, f"to-{node.name}")
        network.bridge(inet, "cloud", [f"to-{node.name}" for node in (api, cloud)], "198.51.100.1/24")
        api.ip(f"addr add {API}/24 dev eth0", "route add default via 198.51.100.1")
        cloud.ip(f"addr add {CLOUD_HOST}/24 dev eth0", "route add default via 198.51.100.1")

        lan = (broker, self.a, self.b)
        for node in lan:
            network.connect(node, "eth0", gw, f"to-{node.name}")
        network.bridge(gw, "lan", [f"to-{node.name}" for node in lan], f"{GW_LAN}/24")
        broker.ip(f"addr add {BROKER}/24 dev eth0", f"route add default via {GW_LAN}")
        for node in (self.a, self.b):
            network.bridge(node, "br0", ["eth0"], f"{HOSTS[node.name]}/24")
            node.ip(f"route add default via {GW_LAN}")

        for node in (inet, gw):
            network.forward(node)
        network.route_only(inet, [CAMPUS_PUBLIC, CLOUD_PUBLIC])
        network.masquerade(gw, "wan", CAMPUS)

    def _node(self, name: str) -> Node:
        return Node(name, self.directory / name, lab=self.directory)

    def _host(self, name: str) -> Host:
        return Host(name, self.directory / name, lab=self.directory, address=HOSTS.get(name, ""))


def leftovers(directory: Path) -> list[str]:
    """What is left of the lab in ``directory``: processes, mounts and files, one line each.

    Network devices and name spaces need no look of their own: the kernel removes them with the last process.
    """
    found = [f"process {process.describe(pid)}" for pid in process.marked(directory)]
    # mountinfo escapes blanks: proc(5)
    below = str(directory).replace(" ", "\\040")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if below in line.split(" - ")[0]:
            found.append(f"mount {line.split()[4]}")
    if directory.exists():
        found.append(f"directory {directory}")
    return found


def _all(calls: Iterable[Callable[[], None]]) -> None:
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()
