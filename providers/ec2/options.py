"""The options and credentials of an EC2 site, read once and checked in words."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from providers.port import InvalidSpec, SiteContext

DEFAULT_INSTANCE_TYPES = (
    "t3.small",
    "t3.medium",
    "t3.large",
    "m7i.large",
    "m7i.xlarge",
    "m7i.2xlarge",
    "c7i.large",
    "c7i.xlarge",
    "r7i.large",
    "r7i.xlarge",
)
"""What a site offers when it names no instance types: burstable, general, compute and memory, x86-64."""

KNOWN = frozenset(
    {
        "allow_plain_http",
        "endpoint",
        "region",
        "ca_file",
        "ca_pem",
        "instance_types",
        "zones",
        "subnet_id",
        "subnets",
        "security_group_ids",
        "quota_vcpus",
        "price_region",
        "prices",
        "spot",
    }
)


@dataclass(frozen=True)
class Options:
    """An EC2 site's settings; docs/reference/sites-ec2.md says what each one means.

    ``instance_types`` is empty when the site names none: then the defaults that are offered count, or, where
    none of these is offered, all types. ``quota_vcpus`` is the most vCPUs this broker may run here.
    """

    region: str
    endpoint: str = ""
    ca_file: str = ""
    instance_types: tuple[str, ...] = ()
    zones: frozenset[str] = frozenset()
    subnet_id: str = ""
    subnets: Mapping[str, str] | None = None
    security_group_ids: tuple[str, ...] = ()
    quota_vcpus: float | None = None
    price_region: str = ""
    prices: Mapping[str, float] | None = None
    spot: bool = False

    def subnet(self, zone: str) -> str:
        """The subnet for a VM in that zone; empty leaves the choice to the cloud."""
        return (self.subnets or {}).get(zone, self.subnet_id)


@dataclass(frozen=True)
class Credentials:
    """An access key. Never logged: its representation hides the secrets."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(access_key_id={self.access_key_id!r})"


def read_options(context: SiteContext) -> Options:
    """The site's options. Raises InvalidSpec that names the option, what is wrong and the mend."""
    given = context.options
    if unknown := sorted(set(given) - KNOWN):
        raise InvalidSpec(f"unknown option {unknown[0]!r}; an ec2 site knows {', '.join(sorted(KNOWN))}")
    endpoint = _text(given, "endpoint")
    plain = urlsplit(endpoint)
    if (
        plain.scheme == "http"
        and not _is_loopback(plain.hostname or "")
        and given.get("allow_plain_http") is not True
    ):
        raise InvalidSpec(
            f"option endpoint is {endpoint!r}: launches carry keys in their user data, which others could read on the "
            "way. Use https://, or set allow_plain_http to true if nobody else is on that network"
        )
    if endpoint and (urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname):
        raise InvalidSpec(
            f"option endpoint is {endpoint!r}, but must be a URL such as https://ec2.example.org:8773"
        )
    region = _text(given, "region")
    if not region:
        raise InvalidSpec("option region is missing: name the cloud's region, such as eu-central-1")
    subnets = _mapping(given, "subnets")
    for zone, subnet in subnets.items():
        if not isinstance(subnet, str) or not subnet:
            raise InvalidSpec(f"option subnets: the value of zone {zone!r} must be a subnet's id")
    return Options(
        region=region,
        endpoint=endpoint,
        ca_file=_ca_file(context),
        instance_types=_texts(given, "instance_types"),
        zones=frozenset(_texts(given, "zones")),
        subnet_id=_text(given, "subnet_id"),
        subnets={zone: str(subnet) for zone, subnet in subnets.items()},
        security_group_ids=_texts(given, "security_group_ids"),
        quota_vcpus=_number("quota_vcpus", given["quota_vcpus"]) if "quota_vcpus" in given else None,
        price_region=_text(given, "price_region") or region,
        prices={name: _number(f"prices.{name}", value) for name, value in _mapping(given, "prices").items()},
        spot=_truth(given, "spot"),
    )


def read_credentials(context: SiteContext) -> Credentials:
    """The site's access key. Raises InvalidSpec when a part is missing."""
    for name in ("access_key_id", "secret_access_key"):
        if not context.credentials.get(name):
            raise InvalidSpec(f"credential {name} is missing; give it when the site is added")
    return Credentials(
        context.credentials["access_key_id"],
        context.credentials["secret_access_key"],
        context.credentials.get("session_token", ""),
    )


def _ca_file(context: SiteContext) -> str:
    """The file of certificates to trust: ``ca_file`` as it is, or ``ca_pem`` written to the cache directory."""
    path, pem = _text(context.options, "ca_file"), _text(context.options, "ca_pem")
    if path and pem:
        raise InvalidSpec("options ca_file and ca_pem are both given: keep one")
    if path:
        if not Path(path).is_file():
            raise InvalidSpec(f"option ca_file: there is no file {path!r}")
        return path
    if not pem:
        return ""
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise InvalidSpec(
            "option ca_pem holds no certificate: it must start with -----BEGIN CERTIFICATE-----"
        )
    # Named by its content, so that a changed certificate is never mixed up with a cached old one.
    target = Path(context.cache_dir or ".") / f"ca-{hashlib.sha256(pem.encode()).hexdigest()[:16]}.pem"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.part")
        partial.write_text(pem)
        partial.replace(target)
    return str(target)


def _text(given: Mapping[str, object], name: str) -> str:
    value = given.get(name, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidSpec(f"option {name} must be a text, not {value!r}")
    return value.strip()


def _texts(given: Mapping[str, object], name: str) -> tuple[str, ...]:
    """A list of texts; one text may hold several, parted by commas (as the command line gives them)."""
    value = given.get(name) or ()
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InvalidSpec(f"option {name} must be a list of texts, not {value!r}")
    return tuple(item.strip() for item in value if item.strip())


def _mapping(given: Mapping[str, object], name: str) -> Mapping[str, Any]:
    value = given.get(name) or {}
    if not isinstance(value, Mapping):
        raise InvalidSpec(f"option {name} must be a mapping, not {value!r}")
    return value


def _number(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise InvalidSpec(f"option {name} must be a number that is not negative, not {value!r}")
    return number


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _truth(given: Mapping[str, object], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise InvalidSpec(f"option {name} is {value!r}, but must be true or false")
    return value
