"""The door for bootstrap peers: plain HTTP on the link address, inside the tunnel only.

WireGuard has already encrypted the request and vouched for its source address.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

_log = structlog.get_logger("vpn.enrol")

BODY_LIMIT = 4096
TIMEOUT_S = 10.0
_IP_FREEBIND = getattr(socket, "IP_FREEBIND", 15)
"""ip(7): bind to an address that is not there (yet), so that the order of start does not matter."""


@dataclass(frozen=True)
class Answer:
    """What the VM is told. ``sent`` is called once the answer is on its way."""

    status: int
    body: dict[str, str]
    sent: Callable[[], None] = lambda: None


Enrol = Callable[[str, str], Answer]
"""Called with (source address, public key)."""


class EnrolServer:
    """Listens on one address and port from ``start`` to ``stop``, a thread for each connection."""

    def __init__(self, address: str, port: int, enrol: Enrol) -> None:
        self.address, self.port = address, port
        self._server = _Server((address, port), enrol)
        self._thread = threading.Thread(target=self._server.serve_forever, name="enrol", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Answers under way are finished by their own threads."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, where: tuple[str, int], enrol: Enrol) -> None:
        self.enrol = enrol
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        # Not HTTPServer's own: it looks its host name up, which waits where there is no DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        _log.warning("enrolment connection failed", source=str(client_address), exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S
    server_version = "isthmus"
    sys_version = ""

    def do_POST(self) -> None:
        if self.path != "/v1/enrol":
            return self._answer(Answer(404, {"error": "POST /v1/enrol is all there is"}))
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._answer(Answer(411, {"error": "Content-Length is missing"}))
        if not 0 <= length <= BODY_LIMIT:
            return self._answer(Answer(413, {"error": f"more than {BODY_LIMIT} bytes"}))
        try:
            public_key = json.loads(self.rfile.read(length))["public_key"]
        except (ValueError, KeyError, TypeError):
            return self._answer(Answer(400, {"error": 'expected {"public_key": "..."}'}))
        return self._answer(self.server.enrol(self.client_address[0], str(public_key)))

    def _answer(self, answer: Answer) -> None:
        body = json.dumps(answer.body, separators=(",", ":")).encode()
        self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        answer.sent()

    def log_message(self, format: str, *args: object) -> None:
        _log.debug("request", source=self.client_address[0], line=format % args)
