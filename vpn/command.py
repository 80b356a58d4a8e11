"""``isthmus agent``: the agent as a command."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import structlog
import typer

from vpn.agent import MACHINE_ERRORS, Agent
from vpn.client import Client, Refused, Unavailable, UrllibTransport
from vpn.firewall import Firewall
from vpn.gateway import Gateway
from vpn.link import Links
from vpn.plan import DEFAULT_INTERFACE
from vpn.state import State, StateError
from vpn.userspace import Userspace
from vpn.wireguard import WireGuard

_log = structlog.get_logger("vpn.command")


def agent(
    broker: Annotated[str, typer.Option(help="The broker's URL, https://HOST:8770.")] = "",
    token_file: Annotated[Path | None, typer.Option(help="File with the gateway's token.")] = None,
    state: Annotated[Path, typer.Option(help="Directory for the key and the last document.")] = Path(
        "/var/lib/isthmus-agent"
    ),
    wan: Annotated[
        str, typer.Option(help="Interface to the internet; only WireGuard's port stays open there.")
    ] = "",
    ca: Annotated[Path | None, typer.Option(help="PEM file to trust instead of the system's.")] = None,
    interface: Annotated[str, typer.Option(help="WireGuard interface, instead of the document's.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Fetch, apply, report, and end.")] = False,
    teardown: Annotated[
        bool, typer.Option("--teardown", help="Remove interface, filter and wireguard-go, and end.")
    ] = False,
) -> None:
    """Run the agent of a site's gateway: pull its document from the broker and apply the differences.

    It makes its own WireGuard key and registers the public one. On SIGTERM it ends and leaves the tunnel up.
    Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 the broker does not answer.
    """
    _configure_logs()
    client = None if teardown else _client(broker, token_file, ca)
    try:
        directory = State(state)
        directory.lock()
        machine = Gateway(
            state=directory,
            wireguard=WireGuard(),
            links=Links(),
            firewall=Firewall(directory.directory / "firewall.json"),
            userspace=Userspace(directory.directory),
            wan=wan,
        )
        if client is None:
            last = directory.document()
            machine.teardown(interface or (last.interface if last else DEFAULT_INTERFACE))
            return
        it = Agent(client=client, gateway=machine, state=directory, interface=interface)
        if not wan:
            _log.warning("no --wan: what comes in from the internet is not filtered")
        elif wan not in [name for _, name in socket.if_nameindex()]:
            _log.warning("there is no such interface (yet); the filter stands by name", wan=wan)
        if once:
            it.once()
            return
    except (StateError, Refused, *MACHINE_ERRORS) as error:
        _fail(1, str(error))
    except Unavailable as error:
        _fail(3, str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        # From a thread: a handler interrupts this one, which may hold the lock that stop() needs.
        signal.signal(number, lambda *_: threading.Thread(target=it.stop).start())
    it.run()


def _client(broker: str, token_file: Path | None, ca: Path | None) -> Client:
    if not broker or token_file is None:
        _fail(2, "--broker and --token-file are needed; the token was shown by `isthmus gateway create`")
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        _fail(2, f"cannot read the token file {token_file}: {error.strerror}")
    if not token or not token.isascii() or any(character.isspace() for character in token):
        _fail(2, f"{token_file} does not hold one token; write what `isthmus gateway create` showed into it")
    try:
        client = Client(broker, token, UrllibTransport(ca), software=_software())
    except (ValueError, OSError) as error:
        _fail(2, f"{error} (--broker, --ca)")
    parts = urlsplit(broker)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        _log.warning("the token goes over the network unencrypted; use https and --ca", broker=broker)
    return client


def _software() -> str:
    try:
        return version("isthmus")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return ""


def _configure_logs() -> None:
    terminal = sys.stderr.isatty()
    last: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _fail(code: int, message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)
