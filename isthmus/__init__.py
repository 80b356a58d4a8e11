"""Isthmus: one API for VMs, networks and storage over your own hosts and the clouds you rent.

::

    import isthmus

    client = isthmus.Client()
    vm = client.vms.create(name="web", image="debian", flavor="small", networks=["lan"])
    vm.wait_until("running")
    print(vm.address, vm.why().summary)
    vm.delete().wait()

The names below are the public ones; each is loaded when it is first used (PEP 562), so that importing the
package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus._version import __version__
    from isthmus.client._client import Client
    from isthmus.client._errors import (
        APIError,
        ConfigurationError,
        Conflict,
        ConnectionFailed,
        Forbidden,
        InternalError,
        InvalidRequest,
        IsthmusError,
        NotFound,
        OperationFailed,
        OperationTimeout,
        Unauthenticated,
        Unavailable,
        UnexpectedAnswer,
    )
    from isthmus.client.accesskey import AccessKey, AccessKeyCreated
    from isthmus.client.flavor import Flavor
    from isthmus.client.gateway import Gateway, GatewayCreated
    from isthmus.client.host import Host
    from isthmus.client.image import Image
    from isthmus.client.keypair import KeyPair
    from isthmus.client.network import Network
    from isthmus.client.operation import Operation
    from isthmus.client.project import Project
    from isthmus.client.reservation import Reservation
    from isthmus.client.site import Site
    from isthmus.client.token import Token, TokenCreated
    from isthmus.client.vm import VM
    from isthmus.schema import (
        Event,
        OperationState,
        Peer,
        Policy,
        PolicyCheck,
        Role,
        Status,
        Subnet,
        VMState,
        Why,
    )

_HOME = {
    "__version__": "_version",
    "Client": "client._client",
    "APIError": "client._errors",
    "ConfigurationError": "client._errors",
    "Conflict": "client._errors",
    "ConnectionFailed": "client._errors",
    "Forbidden": "client._errors",
    "InternalError": "client._errors",
    "InvalidRequest": "client._errors",
    "IsthmusError": "client._errors",
    "NotFound": "client._errors",
    "OperationFailed": "client._errors",
    "OperationTimeout": "client._errors",
    "Unauthenticated": "client._errors",
    "Unavailable": "client._errors",
    "UnexpectedAnswer": "client._errors",
    "AccessKey": "client.accesskey",
    "AccessKeyCreated": "client.accesskey",
    "Flavor": "client.flavor",
    "Gateway": "client.gateway",
    "GatewayCreated": "client.gateway",
    "Host": "client.host",
    "Image": "client.image",
    "KeyPair": "client.keypair",
    "Network": "client.network",
    "Operation": "client.operation",
    "Project": "client.project",
    "Reservation": "client.reservation",
    "Site": "client.site",
    "Token": "client.token",
    "TokenCreated": "client.token",
    "VM": "client.vm",
    "Event": "schema",
    "OperationState": "schema",
    "Peer": "schema",
    "Policy": "schema",
    "PolicyCheck": "schema",
    "Role": "schema",
    "Status": "schema",
    "Subnet": "schema",
    "VMState": "schema",
    "Why": "schema",
}

__all__ = [
    "VM",
    "APIError",
    "AccessKey",
    "AccessKeyCreated",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "Flavor",
    "Forbidden",
    "Gateway",
    "GatewayCreated",
    "Host",
    "Image",
    "InternalError",
    "InvalidRequest",
    "IsthmusError",
    "KeyPair",
    "Network",
    "NotFound",
    "Operation",
    "OperationFailed",
    "OperationState",
    "OperationTimeout",
    "Peer",
    "Policy",
    "PolicyCheck",
    "Project",
    "Reservation",
    "Role",
    "Site",
    "Status",
    "Subnet",
    "Token",
    "TokenCreated",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "VMState",
    "Why",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"isthmus.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
