"""The options of a kvm site, read once and checked (docs/reference/sites-kvm.md)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from providers.kvm.hardware import cpus_of
from providers.port import AttributeValue, InvalidSpec, SiteContext

POOL_PATH = "/var/lib/libvirt/images/isthmus"

_KNOWN = frozenset({"hosts", "pool_path", "machine", "emulator", "acceleration", "cpu_mode", "migration"})
_HOST_KEYS = frozenset({"uri", "name", "attributes", "dedicated_cpus"})
_PARAMETERS = frozenset(
    {
        "keyfile",
        "known_hosts",
        "known_hosts_verify",
        "mode",
        "no_sanity",
        "no_tty",
        "no_verify",
        "pkipath",
        "proxy",
        "socket",
        "sshauth",
        "tls_priority",
    }
)
"""Of https://libvirt.org/uri.html#remote-uris all but those that name a program to run (``command``, ``netcat``)."""

_URI = re.compile(r"^(qemu|test)(\+(unix|ssh|libssh|libssh2|tls|tcp))?://")


@dataclass(frozen=True)
class HostOption:
    """A host as the user named it. Without ``name`` it is called as its libvirt calls it. ``dedicated_cpus``: those of its
    CPUs that are given to single guests."""

    uri: str
    name: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    dedicated_cpus: frozenset[int] = frozenset()

    @property
    def label(self) -> str:
        """What to call the host before it told its name: the host in the URI, else the URI."""
        return self.name or urlsplit(self.uri).hostname or self.uri


@dataclass(frozen=True)
class Options:
    """What drives a kvm site."""

    hosts: tuple[HostOption, ...]
    pool_path: str = POOL_PATH
    machine: str = ""
    emulator: str = ""
    acceleration: str = "auto"
    cpu_mode: str = "host-model"
    migration: str = "tls"

    @classmethod
    def parse(cls, context: SiteContext) -> Options:
        """Read a site's options. Raises InvalidSpec that names the option and what it should be."""
        given = context.options
        if unknown := sorted(set(given) - _KNOWN):
            raise InvalidSpec(f"unknown option {unknown[0]!r} of a kvm site; use {', '.join(sorted(_KNOWN))}")
        pool_path = str(given.get("pool_path") or POOL_PATH)
        if not pool_path.startswith("/"):
            raise InvalidSpec(f"option pool_path must be an absolute path on the hosts, not {pool_path!r}")
        return cls(
            hosts=_hosts(given.get("hosts"), _key_file(context)),
            pool_path=pool_path.rstrip("/"),
            machine=str(given.get("machine") or ""),
            emulator=str(given.get("emulator") or ""),
            acceleration=_choice(given, "acceleration", ("auto", "kvm", "tcg")),
            cpu_mode=_choice(given, "cpu_mode", ("host-model", "host-passthrough")),
            migration=_choice(given, "migration", ("tls", "plain")),
        )


def _choice(given: Mapping[str, object], name: str, choices: Sequence[str]) -> str:
    value = given.get(name) or choices[0]
    if value not in choices:
        raise InvalidSpec(f"option {name} must be one of {', '.join(choices)}, not {value!r}")
    return str(value)


def _hosts(given: object, key_file: str) -> tuple[HostOption, ...]:
    rows = [given] if isinstance(given, str) else given
    if not isinstance(rows, Sequence) or not rows:
        raise InvalidSpec(
            "a kvm site needs option `hosts`: a list of libvirt URIs such as qemu+ssh://root@node1/system"
        )
    hosts = []
    for row in rows:
        host = {"uri": row} if isinstance(row, str) else row
        if not isinstance(host, Mapping) or set(host) - _HOST_KEYS or not isinstance(host.get("uri"), str):
            raise InvalidSpec(
                f"hosts: {row!r} must be a libvirt URI, or a mapping of uri, name, attributes and dedicated_cpus"
            )
        uri = str(host["uri"])
        if not _URI.match(uri):
            raise InvalidSpec(
                f"hosts: {uri!r} is no URI of libvirt's QEMU driver; use qemu:///system, "
                "qemu+ssh://USER@HOST/system or qemu+unix:///system?socket=PATH"
            )
        _check_uri(uri)
        attributes = host.get("attributes") or {}
        if not isinstance(attributes, Mapping):
            raise InvalidSpec(f"hosts: the attributes of {uri} must be a mapping")
        try:
            dedicated = cpus_of(str(host["dedicated_cpus"])) if host.get("dedicated_cpus") else frozenset()
        except ValueError as error:
            raise InvalidSpec(f"hosts: dedicated_cpus of {uri}: {error}") from None
        name = str(host.get("name") or "")
        hosts.append(HostOption(_ssh_uri(uri, key_file), name, _attributes(attributes), dedicated))
    for what in ("uri", "name"):
        values = [getattr(host, what) for host in hosts if getattr(host, what)]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise InvalidSpec(f"hosts: {what} {twice[0]!r} is given twice")
    return tuple(hosts)


def _check_uri(uri: str) -> None:
    """Raises InvalidSpec for a URI by which libvirt would run a program of somebody's choice on the broker's machine."""
    try:
        parts = urlsplit(uri)
        names = [name for name, _ in parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True)]
        login, host = parts.username or "", parts.hostname or ""
    except ValueError as error:
        raise InvalidSpec(f"hosts: {uri!r} is no URI: {error}") from None
    if unknown := sorted(set(names) - _PARAMETERS):
        raise InvalidSpec(
            f"hosts: {uri} has the parameter {unknown[0]!r}; those that may stand there are "
            f"{', '.join(sorted(_PARAMETERS))}"
        )
    if login.startswith("-") or host.startswith("-"):
        raise InvalidSpec(f"hosts: {uri} has a user or a host that begins with a hyphen, an option to ssh")


def _attributes(given: Mapping[str, object]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for name, value in given.items():
        if isinstance(value, bool | int | float):
            attributes[name] = float(value)
        elif value is None or isinstance(value, str):
            attributes[name] = value
        elif isinstance(value, Sequence):
            attributes[name] = tuple(str(item) for item in value)
        else:
            raise InvalidSpec(f"hosts: attribute {name} must be a number, a text or a list of texts")
    return attributes


def _ssh_uri(uri: str, key_file: str) -> str:
    """An ssh URI that never asks a question on a terminal, with the site's key."""
    if not uri.startswith("qemu+ssh://"):
        return uri
    for name, value in (("no_tty", "1"), ("keyfile", key_file)):
        if value and not re.search(rf"[?&]{name}=", uri):
            uri += f"{'&' if '?' in uri else '?'}{name}={quote(value)}"
    return uri


def _key_file(context: SiteContext) -> str:
    """The credential ``ssh_key`` as the file that ssh wants, readable by this user only."""
    key = context.credentials.get("ssh_key", "")
    if not key:
        return ""
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = Path(context.cache_dir) / f"ssh-{digest}.key"
    if not path.exists():
        scratch = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key if key.endswith("\n") else f"{key}\n")
        os.replace(scratch, path)
    return str(path)
