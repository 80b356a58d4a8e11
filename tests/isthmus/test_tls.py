"""The broker's certificate is checked against the CA that the client names."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import isthmus
from isthmus.cli._session import Session
from isthmus.cli.main import main


def make_ca(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, secret


class Broker(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"items": [], "next": null}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A refused handshake is what these tests want."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address with TLS, and the CA that signed its certificate."""
    pem, key = make_ca(tmp_path, "broker")
    server = Server(("127.0.0.1", 0), Broker)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", pem
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_named_ca_is_trusted(served: tuple[str, Path]) -> None:
    url, ca = served
    assert list(isthmus.Client(url, "t", str(ca), environ={}).vms.list()) == []


@pytest.mark.parametrize("other", [True, False])
def test_a_certificate_of_another_ca_is_refused_with_a_hint(
    served: tuple[str, Path], tmp_path: Path, other: bool
) -> None:
    ca = str(make_ca(tmp_path, "other")[0]) if other else None
    with pytest.raises(isthmus.ConnectionFailed) as caught:
        list(isthmus.Client(served[0], "t", ca, environ={"HOME": str(tmp_path)}).vms.list())
    assert "--ca" in caught.value.hint


def test_a_certificate_for_another_name_is_refused(served: tuple[str, Path]) -> None:
    url, ca = served
    with pytest.raises(isthmus.ConnectionFailed, match="certificate"):
        list(isthmus.Client(url.replace("127.0.0.1", "localhost"), "t", str(ca), environ={}).vms.list())


def test_a_broker_with_tls_asked_without_it_is_not_understood(served: tuple[str, Path]) -> None:
    session = Session(environ={"ISTHMUS_URL": served[0].replace("https", "http"), "HOME": "/nowhere"})
    assert main(["vm", "list"], session) == 3


def test_the_command_takes_the_ca_from_the_environment(served: tuple[str, Path]) -> None:
    environ = {"ISTHMUS_URL": served[0], "ISTHMUS_CA": str(served[1]), "HOME": "/nowhere"}
    assert main(["vm", "list", "--json"], Session(environ=environ)) == 0


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    url, ca = served
    assert list(isthmus.Client(url, "t", str(ca), environ={}).vms.list()) == []
