"""One process, all faces, each on a port of its own, over one broker."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import structlog
import uvicorn

from broker import serving
from broker.broker import Broker
from broker.providers import Kinds
from broker.settings import Settings

log = structlog.get_logger()

FACES = ("native", "ec2")
"""Each is the package ``api.NAME`` with its ``create_app(broker)``, and listens at the setting ``listen.NAME_port``."""
_DRAIN_S = 5
"""How long requests under way may take when the process is asked to stop."""
_FIRST_PASSED_FD = 3
"""Where passed sockets begin (sd_listen_fds(3))."""


class ListenError(Exception):
    """A face cannot listen where it should; says what to do."""


class _Server(uvicorn.Server):
    """A server that leaves the signals to us: there are two of them in the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    settings: Settings,
    ready: Callable[[Mapping[str, str]], None] | None = None,
    kinds: Kinds | None = None,
) -> None:
    """Run a broker until SIGTERM or SIGINT. ``ready`` is called with face -> URL when all faces answer; ``kinds`` of sites
    are those that are installed.

    Raises ListenError, broker.store.StoreError, broker.sealing.SealError.
    """
    from broker.engine import choice
    from broker.store import Store

    configure_logging(settings.log.level, settings.log.format)
    sockets = _sockets(settings)
    store = Store(settings.database_url)
    try:
        store.own(settings.data_dir / "lock")
        store.upgrade()
        broker = Broker(settings, store=store, kinds=kinds)
        engine = choice.engine_for(broker)
        serving.start(broker, engine)
    except BaseException:
        store.close()
        for listening in sockets.values():
            for one in listening:
                one.close()
        raise
    try:
        asyncio.run(_serve(settings, broker, sockets, ready))
    finally:
        serving.stop(broker, engine)
        log.info("broker.stopped")


async def _serve(
    settings: Settings,
    broker: Broker,
    sockets: Mapping[str, list[socket.socket]],
    ready: Callable[[Mapping[str, str]], None] | None,
) -> None:
    apps = {face: import_module(f"api.{face}").create_app(broker) for face in FACES}
    tls: dict[str, Any] = {}
    if settings.listen.tls_cert:
        tls = {"ssl_certfile": settings.listen.tls_cert, "ssl_keyfile": settings.listen.tls_key}
    servers = {
        face: _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_DRAIN_S,
                timeout_keep_alive=30,
                **tls,
            )
        )
        for face, app in apps.items()
    }

    def stop() -> None:
        for server in servers.values():
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    running = [asyncio.create_task(server.serve(sockets=sockets[face])) for face, server in servers.items()]
    while not all(  # noqa: ASYNC110 - uvicorn offers no event for this
        server.started or task.done() for server, task in zip(servers.values(), running, strict=True)
    ):
        await asyncio.sleep(0.01)
    serving.freeze()
    urls = {face: _url(settings, sockets[face][0]) for face in servers}
    log.info("broker.ready", **urls)
    if ready is not None and not any(task.done() for task in running):
        ready(urls)
    await asyncio.gather(*running)


def configure_logging(level: str, style: str) -> None:
    """Structured logs on stderr: JSON in a service, text with colours on a terminal."""
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def _sockets(settings: Settings) -> dict[str, list[socket.socket]]:
    listen = settings.listen
    if bool(listen.tls_cert) != bool(listen.tls_key):
        raise ListenError("listen.tls_cert and listen.tls_key go together: set both, or neither")
    for file in (listen.tls_cert, listen.tls_key):
        if file and not os.path.isfile(file):
            raise ListenError(f"{file} does not exist: `isthmus init --tls-name NAME` makes certificates")
    if not listen.tls_cert and not _is_loopback(listen.host):
        raise ListenError(
            f"listen.host is {listen.host}, which others can reach, and TLS is off: set listen.tls_cert and "
            "listen.tls_key (`isthmus init --tls-name NAME` makes them), or listen on 127.0.0.1"
        )
    sockets = {face: [_bind(listen.host, getattr(listen, f"{face}_port"))] for face in FACES}
    for face, passed in _passed_sockets().items():
        address = passed.getsockname()
        if not listen.tls_cert and not (isinstance(address, str) or _is_loopback(address[0])):
            raise ListenError(
                f"the socket passed for {face} listens on {address[0]}, which others can reach, and TLS is off"
            )
        sockets.setdefault(face, []).append(passed)
    unknown = set(sockets) - set(FACES)
    if unknown:
        raise ListenError(
            f"sockets were passed for {', '.join(sorted(unknown))}; faces are {' and '.join(FACES)}"
        )
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: without, each answer
    # waits 40 ms for the client's delayed acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ListenError(
            f"cannot listen on {host}:{port}: {error.strerror}. Stop what listens there, or change [listen] in the "
            "config file"
        ) from None
    bound.listen(1024)
    return bound


def _passed_sockets() -> dict[str, socket.socket]:
    """Sockets that the parent opened, by name (systemd's socket activation, sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") not in (str(os.getpid()), "any"):
        return {}
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "native").split(":")
    return {
        names[index] if index < len(names) else f"unnamed-{index}": socket.socket(
            fileno=_FIRST_PASSED_FD + index
        )
        for index in range(count)
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(settings: Settings, listening: socket.socket) -> str:
    scheme = "https" if settings.listen.tls_cert else "http"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
