"""The options of a simulated site, read once and checked (docs/reference/sites-kvm.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from providers import port
from providers.port import AttributeValue, Capability, InvalidSpec

METHODS = frozenset(
    {
        "check",
        "inventory",
        "list_vms",
        "ensure_image",
        "ensure_network",
        "list_networks",
        "remove_network",
        "ensure_vm",
        "observe_vm",
        "start_vm",
        "stop_vm",
        "reboot_vm",
        "suspend_vm",
        "migrate_vm",
        "delete_vm",
        "console_log",
    }
)

ERRORS: Mapping[str, type[port.ProviderError]] = {
    kind.__name__: kind
    for kind in (
        port.ProviderError,
        port.Unreachable,
        port.AuthenticationFailed,
        port.OutOfCapacity,
        port.QuotaExceeded,
        port.InvalidSpec,
        port.NotFound,
        port.Conflict,
        port.Unsupported,
    )
}

_KNOWN = frozenset(
    {
        "hosts",
        "attributes",
        "elastic",
        "addresses",
        "zones",
        "types",
        "quota_vcpus",
        "latency_s",
        "boot_s",
        "stop_s",
        "fail",
        "state_file",
        "image_map",
        "without",
    }
)

_DEFAULT_ATTRIBUTES: Mapping[str, AttributeValue] = {
    "arch": "x86_64",
    "hypervisor": "simulated",
    "cpu_total": 16.0,
    "mem_total_mb": 65536.0,
    "disk_total_gb": 1000.0,
    "disk_free_gb": 1000.0,
    "numa_nodes": 1.0,
}


@dataclass(frozen=True)
class InstanceType:
    """A row of a simulated cloud's price list. ``quota`` and ``capacity`` count VMs; None is no limit.

    ``quota`` is the account's limit for the type in the whole site, ``capacity`` what each zone has of it.
    ``spot_price_hour``: what spare capacity costs, None where none is sold.
    """

    name: str
    vcpus: int
    mem_mb: int
    price_hour: float
    quota: int | None = None
    capacity: int | None = None
    spot_price_hour: float | None = None


@dataclass
class Failure:
    """A call that is to fail. ``method`` and ``host`` may be ``*``; ``times`` -1 is for ever.

    ``after``: the call takes effect first and only its answer is lost, as when a connection breaks.
    """

    method: str
    error: str = "Unreachable"
    message: str = "simulated failure"
    times: int = 1
    host: str = "*"
    after: bool = False
    code: str = ""

    def __post_init__(self) -> None:
        if self.method != "*" and self.method not in METHODS:
            raise InvalidSpec(
                f"fail: no such method {self.method!r}; use one of {', '.join(sorted(METHODS))} or *"
            )
        if self.error not in ERRORS:
            raise InvalidSpec(f"fail: no such error {self.error!r}; use one of {', '.join(ERRORS)}")

    def exception(self) -> port.ProviderError:
        """The exception that the call is to end in."""
        return ERRORS[self.error](self.message, code=self.code)


@dataclass(frozen=True)
class Options:
    """What a simulated site is made of. ``latency_s`` maps a method (or ``*``) to seconds per call; ``without`` names
    capabilities that it lacks, as sites of other kinds do."""

    hosts: Mapping[str, Mapping[str, AttributeValue]] = field(default_factory=dict)
    elastic: bool = False
    addresses: bool = True
    zones: tuple[str, ...] = ()
    types: Mapping[str, InstanceType] = field(default_factory=dict)
    quota_vcpus: float | None = None
    latency_s: Mapping[str, float] = field(default_factory=dict)
    boot_s: float = 0.0
    stop_s: float = 0.0
    failures: tuple[Failure, ...] = ()
    state_file: str = ""
    image_map: bool = False
    without: frozenset[Capability] = frozenset()

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Options:
        """Read a site's options. Raises InvalidSpec that names the option and what it should be."""
        unknown = sorted(set(given) - _KNOWN)
        if unknown:
            raise InvalidSpec(
                f"unknown option {unknown[0]!r} of a simulated site; use {', '.join(sorted(_KNOWN))}"
            )
        elastic = bool(given.get("elastic", False))
        types: dict[str, InstanceType] = {}
        zones: tuple[str, ...] = ()
        hosts: dict[str, Mapping[str, AttributeValue]] = {}
        if elastic:
            zones = tuple(str(zone) for zone in _sequence("zones", given.get("zones", ["zone-a"])))
            for name, row in _mapping("types", given.get("types", {})).items():
                types[name] = _instance_type(name, _mapping(f"types.{name}", row))
            if not types or not zones:
                raise InvalidSpec(
                    "an elastic simulated site needs at least one zone and one entry in `types`"
                )
        else:
            common = {**_DEFAULT_ATTRIBUTES, **_attributes(given.get("attributes", {}))}
            hosts = _hosts(given.get("hosts", 1), common)
        latency = given.get("latency_s", {})
        latencies = {"*": latency} if isinstance(latency, int | float) else _mapping("latency_s", latency)
        quota = given.get("quota_vcpus")
        return cls(
            hosts=hosts,
            elastic=elastic,
            addresses=bool(given.get("addresses", not elastic)),
            zones=zones,
            types=types,
            quota_vcpus=None if quota is None else _number("quota_vcpus", quota),
            latency_s={name: _number(f"latency_s.{name}", value) for name, value in latencies.items()},
            boot_s=_number("boot_s", given.get("boot_s", 0.0)),
            stop_s=_number("stop_s", given.get("stop_s", 0.0)),
            failures=tuple(_failure(row) for row in _sequence("fail", given.get("fail", []))),
            state_file=str(given.get("state_file") or ""),
            image_map=bool(given.get("image_map", False)),
            without=frozenset(_capability(name) for name in _sequence("without", given.get("without", []))),
        )

    def latency(self, method: str) -> float:
        """Seconds that a call of ``method`` takes."""
        return self.latency_s.get(method, self.latency_s.get("*", 0.0))

    def host_names(self) -> tuple[str, ...]:
        """All hosts of the site in order; ``zone/type`` for an elastic one, ``zone/type/spot`` where spot is sold."""
        if self.elastic:
            return tuple(
                f"{zone}/{kind.name}{market}"
                for zone in self.zones
                for kind in self.types.values()
                for market in ("", "/spot")
                if not market or kind.spot_price_hour is not None
            )
        return tuple(self.hosts)


def _hosts(given: object, common: Mapping[str, AttributeValue]) -> dict[str, Mapping[str, AttributeValue]]:
    if isinstance(given, int) and not isinstance(given, bool):
        width = max(2, len(str(given)))
        return {f"sim-{number:0{width}d}": common for number in range(1, given + 1)}
    hosts: dict[str, Mapping[str, AttributeValue]] = {}
    for row in _sequence("hosts", given):
        host = {"name": row} if isinstance(row, str) else _mapping("hosts", row)
        name = host.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidSpec("hosts: each host needs a `name`")
        if name in hosts:
            raise InvalidSpec(f"hosts: {name!r} is named twice")
        hosts[name] = {**common, **_attributes(host.get("attributes", {}))}
    return hosts


def _instance_type(name: str, row: Mapping[str, object]) -> InstanceType:
    unknown = sorted(set(row) - {"vcpus", "mem_mb", "price_hour", "quota", "capacity", "spot_price_hour"})
    if unknown:
        raise InvalidSpec(f"types.{name}: unknown key {unknown[0]!r}")
    quota, capacity, spot = row.get("quota"), row.get("capacity"), row.get("spot_price_hour")
    return InstanceType(
        name=name,
        vcpus=int(_number(f"types.{name}.vcpus", row.get("vcpus", 1))),
        mem_mb=int(_number(f"types.{name}.mem_mb", row.get("mem_mb", 1024))),
        price_hour=_number(f"types.{name}.price_hour", row.get("price_hour", 0.0)),
        quota=None if quota is None else int(_number(f"types.{name}.quota", quota)),
        capacity=None if capacity is None else int(_number(f"types.{name}.capacity", capacity)),
        spot_price_hour=None if spot is None else _number(f"types.{name}.spot_price_hour", spot),
    )


def _capability(name: object) -> Capability:
    # The other capabilities follow from what the site is made of.
    choice = sorted(
        {
            Capability.STOP,
            Capability.REBOOT,
            Capability.SUSPEND,
            Capability.MIGRATE,
            Capability.CONSOLE,
            Capability.EVENTS,
            Capability.DIRECT_KERNEL,
            Capability.SUBNETS,
        }
    )
    if name not in choice:
        raise InvalidSpec(f"option without: {name!r} is none of {', '.join(choice)}")
    return Capability(str(name))


def _failure(row: object) -> Failure:
    given = _mapping("fail", row)
    try:
        return Failure(**given)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidSpec(
            "fail: an entry takes method, error, message, times, host, after and code; method is required"
        ) from None


def _attributes(given: object) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for name, value in _mapping("attributes", given).items():
        if isinstance(value, bool | int | float):
            attributes[name] = float(value)
        elif value is None or isinstance(value, str):
            attributes[name] = value
        elif isinstance(value, Sequence):
            attributes[name] = tuple(str(item) for item in value)
        else:
            raise InvalidSpec(f"attributes: {name} must be a number, a text or a list of texts")
    return attributes


def _mapping(what: str, given: object) -> dict[str, object]:
    if not isinstance(given, Mapping):
        raise InvalidSpec(f"option {what} must be a mapping, not {given!r}")
    return {str(name): value for name, value in given.items()}


def _sequence(what: str, given: object) -> Sequence[object]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InvalidSpec(f"option {what} must be a list, not {given!r}")
    return given


def _number(what: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidSpec(f"option {what} must be a number, not {given!r}")
    return float(given)
