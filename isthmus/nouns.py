"""The table of nouns: one row for each, and a file of its name in every layer.

From it are made the client's collections, the names that ``isthmus`` exports, the commands, the routes of the native
API, and the tests and pages that go through all of them. What is peculiar to a noun is in its own files:
``isthmus/schema``, ``isthmus/client``, ``isthmus/cli``, ``api/native``, ``broker`` and ``broker/store``.

The imports below are for type checkers alone; at run time a noun's file is loaded when the noun is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from isthmus.client._client import Client
    from isthmus.client.access import Access
    from isthmus.client.accesskey import AccessKey as AccessKey
    from isthmus.client.accesskey import AccessKeyCreated as AccessKeyCreated
    from isthmus.client.accesskey import AccessKeys
    from isthmus.client.event import Events
    from isthmus.client.expression import Expressions
    from isthmus.client.flavor import Flavor as Flavor
    from isthmus.client.flavor import Flavors
    from isthmus.client.gateway import Gateway as Gateway
    from isthmus.client.gateway import GatewayCreated as GatewayCreated
    from isthmus.client.gateway import Gateways
    from isthmus.client.host import Host as Host
    from isthmus.client.host import Hosts
    from isthmus.client.image import Image as Image
    from isthmus.client.image import Images
    from isthmus.client.keypair import KeyPair as KeyPair
    from isthmus.client.keypair import KeyPairs
    from isthmus.client.label import Labels
    from isthmus.client.migration import Migrations
    from isthmus.client.network import Network as Network
    from isthmus.client.network import Networks
    from isthmus.client.operation import Operation as Operation
    from isthmus.client.operation import Operations
    from isthmus.client.peer import Peers
    from isthmus.client.policy import Policies
    from isthmus.client.project import Project as Project
    from isthmus.client.project import Projects
    from isthmus.client.reservation import Reservation as Reservation
    from isthmus.client.reservation import Reservations
    from isthmus.client.site import Site as Site
    from isthmus.client.site import Sites
    from isthmus.client.token import Token as Token
    from isthmus.client.token import TokenCreated as TokenCreated
    from isthmus.client.token import Tokens
    from isthmus.client.usage import Usages
    from isthmus.client.vm import VM as VM
    from isthmus.client.vm import VMs
    from isthmus.schema import Can as Can
    from isthmus.schema import DryRun as DryRun
    from isthmus.schema import Event as Event
    from isthmus.schema import OperationState as OperationState
    from isthmus.schema import Peer as Peer
    from isthmus.schema import Permission as Permission
    from isthmus.schema import Policy as Policy
    from isthmus.schema import PolicyCheck as PolicyCheck
    from isthmus.schema import Role as Role
    from isthmus.schema import Subnet as Subnet
    from isthmus.schema import VMState as VMState
    from isthmus.schema import Why as Why

Calls = TypeVar("Calls", covariant=True)


class Noun(Generic[Calls]):
    """A row of the table, and at the same time the client's attribute of that noun.

    ``name`` is the noun's file in every layer. ``calls`` is the class of its collection in the client's file. ``line``
    says what it is. ``exports`` are the names that ``isthmus`` offers of it, each from the client's file or else the
    schema's. ``labelled``: each of them may carry labels. ``command`` is its word in the shell, and its file there,
    where that is not ``name``. The attribute's own name, ``plural``, is also its place below ``/v1``.
    """

    def __init__(
        self,
        name: str,
        calls: str,
        line: str,
        exports: tuple[str, ...] = (),
        command: str = "",
        labelled: bool = False,
    ) -> None:
        self.name = name
        self.calls = calls
        self.line = self.__doc__ = line
        self.exports = exports
        self.command = command or name
        self.labelled = labelled

    def __set_name__(self, owner: type, plural: str) -> None:
        self.plural = plural

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Client, owner: type) -> Calls: ...
    def __get__(self, client: Client | None, owner: type) -> Any:
        if client is None:
            return self
        calls = getattr(import_module(f"isthmus.client.{self.name}"), self.calls)(client)
        client.__dict__[self.plural] = calls  # found before this descriptor from now on
        return calls


class Nouns:
    """The table. ``Client`` inherits it; the order is that of the help and of the reference pages."""

    vms: Noun[VMs] = Noun(
        "vm", "VMs", "Virtual machines.", exports=("VM", "DryRun", "VMState", "Why"), labelled=True
    )
    sites: Noun[Sites] = Noun(
        "site", "Sites", "Sites: KVM hosts, or a cloud's region.", exports=("Site",), labelled=True
    )
    hosts: Noun[Hosts] = Noun("host", "Hosts", "Hosts of the sites.", exports=("Host",))
    reservations: Noun[Reservations] = Noun(
        "reservation",
        "Reservations",
        "Reservations: room on your own hosts, kept for a time.",
        exports=("Reservation",),
        labelled=True,
    )
    migrations: Noun[Migrations] = Noun(
        "migration",
        "Migrations",
        "Plan live migrations that pack or balance the hosts.",
        command="rebalance",
    )
    flavors: Noun[Flavors] = Noun("flavor", "Flavors", "Sizes of VMs.", exports=("Flavor",), labelled=True)
    images: Noun[Images] = Noun(
        "image", "Images", "Disk images, in versions.", exports=("Image",), labelled=True
    )
    keypairs: Noun[KeyPairs] = Noun(
        "keypair", "KeyPairs", "SSH public keys that VMs let in.", exports=("KeyPair",), labelled=True
    )
    networks: Noun[Networks] = Noun(
        "network",
        "Networks",
        "Private networks and their subnets.",
        exports=("Network", "Subnet"),
        labelled=True,
    )
    gateways: Noun[Gateways] = Noun(
        "gateway",
        "Gateways",
        "Gateways: where sites meet the tunnels.",
        exports=("Gateway", "GatewayCreated"),
        labelled=True,
    )
    peers: Noun[Peers] = Noun("peer", "Peers", "Burst VMs' ends of the tunnels.", exports=("Peer",))
    labels: Noun[Labels] = Noun("label", "Labels", "Labels of anything.")
    policy: Noun[Policies] = Noun(
        "policy", "Policies", "The burst policy.", exports=("Policy", "PolicyCheck")
    )
    expressions: Noun[Expressions] = Noun(
        "expression", "Expressions", "Requirements and ranks, looked at before they are used."
    )
    operations: Noun[Operations] = Noun(
        "operation", "Operations", "Long-running changes.", exports=("Operation", "OperationState")
    )
    events: Noun[Events] = Noun(
        "event", "Events", "What happened, and what the broker decided.", exports=("Event",)
    )
    projects: Noun[Projects] = Noun(
        "project", "Projects", "Projects and their quotas.", exports=("Project",), labelled=True
    )
    usage: Noun[Usages] = Noun("usage", "Usages", "What projects used, and what it cost.")
    tokens: Noun[Tokens] = Noun(
        "token", "Tokens", "Tokens of the native API.", exports=("Token", "TokenCreated", "Role")
    )
    accesskeys: Noun[AccessKeys] = Noun(
        "accesskey",
        "AccessKeys",
        "Access keys of the EC2 face.",
        exports=("AccessKey", "AccessKeyCreated"),
    )
    auth: Noun[Access] = Noun(
        "access", "Access", "Who may do what, and why.", exports=("Can", "Permission"), command="auth"
    )


NOUNS: tuple[Noun[Any], ...] = tuple(row for row in vars(Nouns).values() if isinstance(row, Noun))
"""The rows, in order."""

EXPORTS = {name: row for row in NOUNS for name in row.exports}
"""Each exported name, with the noun that it belongs to."""


LABELLED: dict[str, str] = {row.name: row.plural for row in NOUNS if row.labelled} | {"subnet": "subnets"}
"""What may carry labels, and its plural. A subnet, which is part of a network, is one of them."""


def load(name: str) -> Any:
    """What ``isthmus`` exports under a name of ``EXPORTS``."""
    noun = EXPORTS[name].name
    client = import_module(f"isthmus.client.{noun}")
    return (
        vars(client)[name] if name in vars(client) else getattr(import_module(f"isthmus.schema.{noun}"), name)
    )
