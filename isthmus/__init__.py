"""Isthmus: one API for VMs, networks and storage over your own hosts and the clouds you rent.

::

    import isthmus

    client = isthmus.Client()
    vm = client.vms.create(name="web", image="debian", flavor="small", networks=["lan"])
    vm.wait_until("running")
    print(vm.address, vm.why().summary)
    vm.delete().wait()

The names below and those that nouns export (``isthmus.nouns``) are the public ones; each is loaded when it is first
used (PEP 562), so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import nouns

if TYPE_CHECKING:
    from isthmus._version import __version__ as __version__
    from isthmus.client._client import Client as Client
    from isthmus.client._errors import APIError as APIError
    from isthmus.client._errors import ConfigurationError as ConfigurationError
    from isthmus.client._errors import Conflict as Conflict
    from isthmus.client._errors import ConnectionFailed as ConnectionFailed
    from isthmus.client._errors import Forbidden as Forbidden
    from isthmus.client._errors import InternalError as InternalError
    from isthmus.client._errors import InvalidRequest as InvalidRequest
    from isthmus.client._errors import IsthmusError as IsthmusError
    from isthmus.client._errors import NotFound as NotFound
    from isthmus.client._errors import OperationFailed as OperationFailed
    from isthmus.client._errors import OperationTimeout as OperationTimeout
    from isthmus.client._errors import Unauthenticated as Unauthenticated
    from isthmus.client._errors import Unavailable as Unavailable
    from isthmus.client._errors import UnexpectedAnswer as UnexpectedAnswer
    from isthmus.nouns import *  # noqa: F403 - what nouns export; a test holds it to the table
    from isthmus.schema import Status as Status

_HOME = {
    "__version__": "_version",
    "Client": "client._client",
    "Status": "schema",
}
_ERRORS = (
    "APIError",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "Forbidden",
    "InternalError",
    "InvalidRequest",
    "IsthmusError",
    "NotFound",
    "OperationFailed",
    "OperationTimeout",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
)
_HOME |= dict.fromkeys(_ERRORS, "client._errors")

if not TYPE_CHECKING:  # type checkers cannot read the table: they have the imports above
    __all__ = sorted({*_HOME, *nouns.EXPORTS})


def __getattr__(name: str) -> object:
    if name in nouns.EXPORTS:
        value = nouns.load(name)
    elif name in _HOME:
        from importlib import import_module

        value = getattr(import_module(f"isthmus.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *nouns.EXPORTS})
