"""The agent's side of the broker's API: four calls, JSON over HTTPS, the gateway's token as bearer.

Exceptions::

    ClientError
    +-- Unavailable   no answer, or a server that cannot answer now; try again
    |   +-- Unreadable  an answer that is not what was asked for
    +-- Refused       the broker said no; the same call will not succeed
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vpn.document import FEATURES, READS, GatewayDocument
from vpn.wireguard import LivePeer

TIMEOUT_S = 10.0
BODY_LIMIT = 16 * 1024 * 1024
_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 300
"""What the broker's API takes of a report."""


class ClientError(Exception):
    """A call that did not succeed."""


class Unavailable(ClientError):
    """No answer from the broker, or one that says: not now."""


class Unreadable(Unavailable):
    """An answer that is not what was asked for, such as a document that cannot be read here."""


class Refused(ClientError):
    """The broker said no. ``status`` is the HTTP status, ``code`` the broker's own word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({status} {code})")
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Enrolled:
    """An accepted enrolment: the VM's private address, what it may reach, and the generation that has its peer."""

    peer_id: str
    address: str
    allowed_ips: tuple[str, ...]
    generation: int


class Transport(Protocol):
    """Sends one request. Answers (status, body) for every HTTP answer; raises Unavailable when there is none."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]: ...


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A broker never redirects, and urllib would send the token along to wherever it is told to go."""

    def redirect_request(self, *_: object) -> None:
        return None


class UrllibTransport:
    """The real one. ``ca`` is a PEM file that is trusted instead of the system's; proxies are never used."""

    def __init__(self, ca: Path | None = None) -> None:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirects()
        )

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        request = urllib.request.Request(url, data=body, headers=dict(headers), method=method)  # noqa: S310 the scheme is checked by Client
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                return answer.status, answer.read(BODY_LIMIT)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(BODY_LIMIT)
        except urllib.error.URLError as error:
            raise Unavailable(f"cannot reach {url.split('?')[0]}: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"no answer from {url.split('?')[0]}: {error}") from error


class Client:
    """The broker, as a gateway's agent sees it. ``software`` is the agent's own version."""

    def __init__(self, url: str, token: str, transport: Transport, *, software: str = "") -> None:
        if not url.startswith(("https://", "http://")):
            raise ValueError(f"broker URL {url!r} must begin with https:// or http://")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._transport = transport
        self._software = software
        self._broker_is_old = False

    def register(self, public_key: str) -> None:
        """Tell the broker the gateway's own public key, and what this agent can."""
        abilities = {
            "document_versions": list(READS),
            "features": list(FEATURES),
            "software": self._software,
        }
        try:
            self._call("POST", "/v1/agent/register", {"public_key": public_key, **abilities})
            self._broker_is_old = False
        except Refused as error:
            if error.code != "invalid_request":
                raise
            # That of 0.1.0 refuses what it has not heard of, here and in reports.
            self._call("POST", "/v1/agent/register", {"public_key": public_key})
            self._broker_is_old = True

    def document(self, after: int, wait_s: int) -> GatewayDocument | None:
        """The newest document if its generation is above ``after``; waits up to ``wait_s`` seconds for one."""
        path = f"/v1/agent/document?after={after}&wait={wait_s}"
        raw = self._call("GET", path, None, timeout_s=wait_s + TIMEOUT_S)
        if raw is None:
            return None
        try:
            return GatewayDocument.from_json(json.dumps(raw))
        except ValueError as error:
            raise Unreadable(str(error)) from error

    def enrol(self, address: str, public_key: str) -> Enrolled:
        """Ask whether the bootstrap peer at this address may go on under this key. The same key may ask again."""
        raw = self._call("POST", "/v1/agent/enrol", {"address": address, "public_key": public_key})
        try:
            return Enrolled(
                peer_id=str(raw["peer_id"]),
                address=str(raw["address"]),
                allowed_ips=tuple(str(cidr) for cidr in raw["allowed_ips"]),
                generation=int(raw["generation"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"the broker's enrolment answer makes no sense: {error!r}") from error

    def status(
        self, applied_generation: int, peers: Sequence[LivePeer], problems: Sequence[str] = ()
    ) -> None:
        """Report what is applied, each peer's last handshake and bytes, and what of the newest document could not be."""
        report = [
            {
                "public_key": peer.public_key,
                "last_handshake": peer.handshake_at,
                "rx_bytes": peer.rx_bytes,
                "tx_bytes": peer.tx_bytes,
            }
            for peer in peers
        ]
        body: dict[str, object] = {"applied_generation": applied_generation, "peers": report}
        if not self._broker_is_old:
            body["problems"] = [words[:_LONGEST_PROBLEM] for words in problems[:_MOST_PROBLEMS]]
        self._call("POST", "/v1/agent/status", body)

    def _call(self, method: str, path: str, body: object, timeout_s: float = TIMEOUT_S) -> Any:
        headers, data = self._headers, None
        if body is not None:
            headers, data = {**headers, "Content-Type": "application/json"}, json.dumps(body).encode()
        status, text = self._transport(method, self._url + path, headers, data, timeout_s)
        if status == 204:
            return None
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if 200 <= status < 300:
            return answer
        fault = answer.get("error") if isinstance(answer, dict) else None
        fault = fault if isinstance(fault, dict) else {}
        code, message = str(fault.get("code", "")), str(fault.get("message", "the broker gave no reason"))
        if status >= 500 or status in (408, 425, 429):
            raise Unavailable(f"{message} ({status} {code})")
        raise Refused(status, code, message)
