"""The only module that imports libvirt (it has no type stubs): its event loop, its errors, opening a connection.

libvirt's objects are passed on as ``Any``; constants are reached as ``driver.api.VIR_...``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import libvirt

from providers.port import (
    AuthenticationFailed,
    Conflict,
    InvalidSpec,
    NotFound,
    OutOfCapacity,
    ProviderError,
    Unreachable,
    Unsupported,
)

api: Any = libvirt
if TYPE_CHECKING:  # libvirt has no types

    class LibvirtError(Exception):
        def get_error_code(self) -> int | None: ...

else:
    LibvirtError = libvirt.libvirtError

KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""A connection whose daemon is silent for that many intervals is closed, and with it every call waiting on it."""

_BY_CODE: dict[int, type[ProviderError]] = {
    api.VIR_ERR_NO_DOMAIN: NotFound,
    api.VIR_ERR_NO_NETWORK: NotFound,
    api.VIR_ERR_NO_STORAGE_POOL: NotFound,
    api.VIR_ERR_NO_STORAGE_VOL: NotFound,
    api.VIR_ERR_AUTH_FAILED: AuthenticationFailed,
    api.VIR_ERR_AUTH_CANCELLED: AuthenticationFailed,
    api.VIR_ERR_AUTH_UNAVAILABLE: AuthenticationFailed,
    api.VIR_ERR_ACCESS_DENIED: AuthenticationFailed,
    api.VIR_ERR_OPERATION_DENIED: AuthenticationFailed,
    api.VIR_ERR_INVALID_CONN: Unreachable,
    api.VIR_ERR_RPC: Unreachable,
    api.VIR_ERR_GNUTLS_ERROR: Unreachable,
    api.VIR_ERR_LIBSSH: Unreachable,
    api.VIR_ERR_SSH: Unreachable,
    api.VIR_ERR_NO_MEMORY: OutOfCapacity,
    api.VIR_ERR_DOM_EXIST: Conflict,
    api.VIR_ERR_NETWORK_EXIST: Conflict,
    api.VIR_ERR_STORAGE_VOL_EXIST: Conflict,
    api.VIR_ERR_NO_SUPPORT: Unsupported,
    api.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
    api.VIR_ERR_CONFIG_UNSUPPORTED: InvalidSpec,
    api.VIR_ERR_XML_ERROR: InvalidSpec,
    api.VIR_ERR_XML_DETAIL: InvalidSpec,
    api.VIR_ERR_INVALID_ARG: InvalidSpec,
    api.VIR_ERR_NO_CONNECT: InvalidSpec,
}

# libvirt reports much as "internal error" or "system error"; its words are all there is to tell them apart.
_BY_WORDS: tuple[tuple[str, type[ProviderError], str], ...] = (
    ("host key verification failed", AuthenticationFailed, "add the host's key to known_hosts"),
    ("permission denied", AuthenticationFailed, "check the user, the key and the group of libvirt's socket"),
    ("authentication failed", AuthenticationFailed, ""),
    ("failed to connect socket", Unreachable, "does libvirtd run there?"),
    # libvirt keeps an error's words per thread, and sometimes loses them while several connections open at once.
    ("virconnectopen() failed", Unreachable, "does libvirtd run there?"),
    ("cannot recv data", Unreachable, ""),
    ("cannot write data", Unreachable, ""),
    ("end of file while reading", Unreachable, ""),
    ("client socket is closed", Unreachable, ""),
    ("connection closed due to keepalive", Unreachable, ""),
    ("unable to connect to server", Unreachable, ""),
    ("no route to host", Unreachable, ""),
    ("connection refused", Unreachable, ""),
    ("connection timed out", Unreachable, ""),
    ("could not resolve", Unreachable, "check the host name in the URI"),
    ("cannot allocate memory", OutOfCapacity, ""),
    ("cannot set up guest memory", OutOfCapacity, ""),
    ("no space left", OutOfCapacity, "free some space in the pool's directory"),
    ("cannot get interface mtu on", InvalidSpec, "make the bridge on the host, or correct the subnet's"),
    ("already exists with uuid", Conflict, ""),
    ("already defined with uuid", Conflict, ""),
    ("is already in use by", Conflict, ""),
)

_loop_lock = threading.Lock()
_loop_runs = False


def error_code(error: Exception) -> int:
    """libvirt's code (VIR_ERR_...); 0 for another error."""
    return int(error.get_error_code() or 0) if isinstance(error, libvirt.libvirtError) else 0


def is_code(error: Exception, *codes: int) -> bool:
    """Whether this is a libvirt error with one of these codes."""
    return error_code(error) in codes


@contextlib.contextmanager
def ignoring(*codes: int) -> Iterator[None]:
    """Swallow libvirt errors with these codes: for calls whose aim may be reached already."""
    try:
        yield
    except LibvirtError as error:
        if not is_code(error, *codes):
            raise


def translate(error: Exception, host: str) -> ProviderError:
    """The port's exception for a libvirt error, in libvirt's words."""
    code = error_code(error)
    text = str(error).strip() or type(error).__name__
    kind, hint = _BY_CODE.get(code, ProviderError), ""
    lowered = text.lower()
    for words, other, advice in _BY_WORDS:
        if words in lowered:
            kind, hint = other, advice
            break
    message = f"host {host}: {text}" + (f" ({hint})" if hint else "")
    return kind(message, code=f"libvirt-{code}" if code else "")


def start_event_loop() -> None:
    """Run libvirt's event loop in a thread; once in a process, before the first connection is opened.

    Keepalive and domain events need it.
    """
    global _loop_runs
    with _loop_lock:
        if _loop_runs:
            return
        api.virEventRegisterDefaultImpl()
        # libvirt prints every error to stderr unless it is given a handler; they are raised anyway.
        api.registerErrorHandler(lambda _context, _error: None, None)
        threading.Thread(target=_run_loop, name="libvirt-events", daemon=True).start()
        _loop_runs = True


def _run_loop() -> None:
    while True:
        api.virEventRunDefaultImpl()


def open_connection(uri: str) -> Any:
    """A libvirt connection with keepalive. Raises LibvirtError."""
    start_event_loop()
    connection = api.open(uri)
    with contextlib.suppress(LibvirtError):  # test:/// and old daemons have no keepalive
        connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
    return connection
