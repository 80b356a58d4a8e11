"""Hosts: the machines of a site, or a cloud's zones and instance types; and what is free on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from broker import access, event
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import InvalidRequest, NotFound
from broker.states import HostState, Visibility
from broker.store import HostRow, ImageRow, SiteRow, VMRow, image_name
from providers.port import HostReport

_RATIOS = ("cpu_overcommit", "mem_overcommit")
_RESERVES = ("cpu_reserved", "mem_reserved_mb")
_ATTRIBUTE = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


@dataclass(frozen=True)
class Claims:
    """What VMs of ours hold on one host."""

    vms: int = 0
    vcpus: float = 0
    mem_mb: float = 0
    gpus: float = 0
    dedicated_cpus: float = 0
    hugepages_mb: float = 0

    @classmethod
    def of(cls, row: HostRow) -> Claims:
        """What they hold now."""
        return cls(
            row.held_vms,
            float(row.held_vcpus),
            float(row.held_mem_mb),
            float(row.held_gpus),
            float(row.held_dedicated_cpus),
            float(row.held_hugepages_mb),
        )

    def without(self, row: VMRow) -> Claims:
        """What is left of them when a VM that is counted is gone."""
        room = row.size.room
        return Claims(
            self.vms - 1,
            self.vcpus - room["cpu"],
            self.mem_mb - room["mem_mb"],
            self.gpus - room["gpus"],
            self.dedicated_cpus - room["dedicated_cpus"],
            self.hugepages_mb - room["hugepages_mb"],
        )


@dataclass(frozen=True)
class HostView:
    """A host and what the broker's own claims and strangers' VMs leave free on it."""

    row: HostRow
    held: Claims
    vcpus_free: float
    mem_free_mb: float

    @property
    def vms(self) -> int:
        """How many VMs of ours hold room there."""
        return self.held.vms

    @property
    def attributes(self) -> dict[str, Any]:
        """What requirements and ranks may name: as reported and configured, and what is free now."""
        values = {**self.row.attributes, "cpu_free": self.vcpus_free, "mem_free_mb": self.mem_free_mb}
        if self.row.elastic:
            # Room in a cloud is the account's quota, over all its types; one VM fits the type or does not.
            values["running_vms"] = float(self.vms)
            values["vm_cpu_max"], values["vm_mem_max_mb"] = (
                values.get("cpu_total"),
                values.get("mem_total_mb"),
            )
            values.setdefault("disk_free_gb", 1e9)
            if gpus := _number(values, "gpu_total", 0.0):
                values["gpu_free"], values["vm_gpus_max"] = 1e9, gpus
        else:
            values.setdefault("running_vms", 0.0)
            for total, free, taken in (
                ("gpu_total", "gpu_free", self.held.gpus),
                ("dedicated_cpu_total", "dedicated_cpu_free", self.held.dedicated_cpus),
                ("hugepages_mb", "hugepages_free_mb", self.held.hugepages_mb),
            ):
                if total in values:
                    values[free] = max(0.0, _number(values, total, 0.0) - taken)
        return values


def checked_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as they may be stored. Raises InvalidRequest for a name or value of a wrong form."""
    for name, value in attributes.items():
        if not _ATTRIBUTE.match(name):
            raise InvalidRequest(
                f"attribute name {name!r} is not of the form a-z, 0-9, _",
                hint="such as rack, gpu_model, price_hour",
            )
        if name in _RATIOS and not (_is_number(value) and 0 < float(value) <= 100):
            raise InvalidRequest(
                f"{name} must be a number above 0, not {value!r}",
                hint="such as 4, for four vCPUs on each core",
            )
        if name in _RESERVES and not (_is_number(value) and float(value) >= 0):
            raise InvalidRequest(f"{name} must be a number, 0 or more, not {value!r}")
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not (isinstance(value, int | float | str) or texts):
            raise InvalidRequest(
                f"attribute {name} must be a number, a text or a list of texts, not {value!r}"
            )
    return dict(attributes)


def view(row: HostRow, held: Claims | None = None) -> HostView:
    """The host with what is free on it, while VMs hold ``held`` of it, by default what they hold now. An elastic host's room
    is its quota."""
    held = held or Claims.of(row)
    return HostView(
        row=row,
        held=held,
        vcpus_free=max(0.0, row.vcpus_total - row.reserved_vcpus - held.vcpus),
        mem_free_mb=max(0.0, row.mem_total_mb - row.reserved_mem_mb - held.mem_mb),
    )


def list_hosts(
    broker: Broker,
    actor: Actor,
    *,
    site_ref: str | None = None,
    after: tuple[str, str] | None = None,
    limit: int | None = None,
) -> Sequence[HostView]:
    """Hosts by site and name; ``after`` names the site and host of the last one of the page before."""
    access.require(actor, "host.list")
    query = select(HostRow).join(SiteRow, HostRow.site_id == SiteRow.id).order_by(SiteRow.name, HostRow.name)
    if site_ref:
        query = query.where((SiteRow.id == site_ref) | (SiteRow.name == site_ref))
    if after is not None:
        query = query.where(tuple_(SiteRow.name, HostRow.name) > tuple_(*after))
    if limit is not None:
        query = query.limit(limit)
    with broker.store.reading() as session:
        if (
            site_ref
            and session.scalar(
                select(SiteRow.id).where((SiteRow.id == site_ref) | (SiteRow.name == site_ref))
            )
            is None
        ):
            raise NotFound("site", site_ref)
        return [view(row) for row in session.scalars(query)]


def architectures(broker: Broker, actor: Actor) -> Sequence[str]:
    """The values of ``arch`` that hosts of ours report, each once; no cloud counts."""
    access.require(actor, "host.list")
    arch = HostRow.attributes["arch"].as_string()
    with broker.store.reading() as session:
        return [
            each
            for each in session.scalars(select(arch).where(HostRow.elastic.is_(False)).distinct())
            if each
        ]


def find(session: Session, ref: str) -> HostRow:
    """A host by id, by ``site/name``, or by a name that is the only one of its kind. Raises NotFound, InvalidRequest."""
    rows = list(session.scalars(select(HostRow).where((HostRow.id == ref) | (HostRow.name == ref)).limit(2)))
    if not rows and "/" in ref:
        site_name, name = ref.split("/", 1)
        rows = list(
            session.scalars(
                select(HostRow).join(SiteRow).where(SiteRow.name == site_name, HostRow.name == name)
            )
        )
    if not rows:
        raise NotFound("host", ref)
    if len(rows) > 1:
        raise InvalidRequest(f"several hosts are named {ref!r}", hint="write it as SITE/HOST")
    return rows[0]


def get(broker: Broker, actor: Actor, ref: str) -> HostView:
    """One host. Raises NotFound."""
    access.require(actor, "host.get")
    with broker.store.reading() as session:
        row = find(session, ref)
        return view(row)


def set_maintenance(broker: Broker, actor: Actor, ref: str, maintenance: bool) -> HostView:
    """In maintenance a host takes no new VM; what runs there goes on. Raises NotFound."""
    access.require(actor, "host.maintenance")
    with broker.store.transaction() as session:
        row = find(session, ref)
        if row.maintenance != maintenance:
            row.maintenance = maintenance
            row.generation += 1
            verb = "entered" if maintenance else "left"
            event.record(
                broker,
                session,
                "host.maintenance",
                row.id,
                f"host {row.name} {verb} maintenance by {actor.name}",
            )
        session.flush()
        result = view(row)
    broker.signals.set("place")
    return result


def take_unchanged(session: Session, generations: Mapping[str, int]) -> set[str]:
    """Those of some hosts that take VMs and are as they were when their generations were read: locked, and a generation on.

    Whoever claims room on hosts that he read in another transaction begins his claim with this: of two at once, one finds
    that a generation has changed. They are locked in one order, so that nobody waits for one who waits for him.
    """
    now = session.execute(
        select(HostRow.id, HostRow.generation)
        .where(HostRow.id.in_(generations), HostRow.takes_vms)
        .order_by(HostRow.id)
        .with_for_update()
    )
    fresh = {host_id for host_id, generation in now if generation == generations[host_id]}
    session.execute(
        update(HostRow).where(HostRow.id.in_(fresh)).values(generation=HostRow.generation + 1),
        execution_options={
            "synchronize_session": False,
            "changes": [f"host:{host_id}" for host_id in fresh],
        },
    )
    return fresh


def write_reports(broker: Broker, session: Session, site: SiteRow, reports: Sequence[HostReport]) -> None:
    """Write what a site's provider reported, in the caller's transaction. Signal ``place`` after the commit."""
    known = {row.name: row for row in session.scalars(select(HostRow).where(HostRow.site_id == site.id))}
    # Everybody sees what a host has, so it names none that only some may know of.
    shared = select(ImageRow.id, ImageRow.family, ImageRow.version).where(
        ImageRow.visibility == Visibility.SHARED
    )
    names = {image_id: image_name(family, version) for image_id, family, version in session.execute(shared)}
    site.elastic = bool(reports) and all(report.elastic for report in reports)
    seen: list[str] = []
    for report in reports:
        row = known.pop(report.name, None)
        if row is None:
            row = HostRow(
                id=broker.new_id("host"),
                site_id=site.id,
                name=report.name,
                elastic=report.elastic,
                attributes={},
                state=HostState.UP,
                held_vms=0,
                held_vcpus=0,
                held_mem_mb=0,
                held_gpus=0,
                held_dedicated_cpus=0,
                held_hugepages_mb=0,
            )
            row.status_reason, row.maintenance, row.generation = "", False, 0
            session.add(row)
        _write_report(broker, session, site, row, _with_images(report, names))
        if report.reachable:
            seen.append(row.id)
    session.flush()
    # In one statement: it is all that there is to write of thousands of hosts at rest.
    session.execute(
        update(HostRow).where(HostRow.id.in_(seen)).values(seen_at=broker.clock.now()),
        execution_options={"synchronize_session": False, "changes": ()},
    )
    for row in known.values():
        if row.held_vms:
            _set_state(broker, session, row, HostState.UNREACHABLE, "the site no longer lists this host")
        else:
            _forget(session, row)


def _forget(session: Session, row: HostRow) -> None:
    for past in session.scalars(select(VMRow).where(VMRow.host_id == row.id)):
        past.host_id = None
    session.flush()
    session.delete(row)


def up_hosts(session: Session, site: SiteRow) -> set[str]:
    """Ids of the site's hosts that may take VMs."""
    return set(session.scalars(select(HostRow.id).where(HostRow.site_id == site.id, HostRow.takes_vms)))


def mark_unreachable(broker: Broker, session: Session, site: SiteRow, reason: str) -> None:
    """Mark all hosts of a site that does not answer."""
    for row in session.scalars(select(HostRow).where(HostRow.site_id == site.id)):
        _set_state(broker, session, row, HostState.UNREACHABLE, reason)


def _with_images(report: HostReport, names: Mapping[str, str]) -> HostReport:
    """The report with the images that are on the host by their names: providers know their ids. Private ones are left out."""
    ids = report.attributes.get("images")
    if not isinstance(ids, tuple):
        return report
    found = tuple(sorted(names[image_id] for image_id in ids if image_id in names))
    return replace(report, attributes={**report.attributes, "images": found})


def _write_report(broker: Broker, session: Session, site: SiteRow, row: HostRow, report: HostReport) -> None:
    if not report.reachable:
        _set_state(broker, session, row, HostState.UNREACHABLE, report.reason)
        if not row.attributes:
            row.attributes = _merged(site, row.name, report)
        return
    attributes = _merged(site, row.name, report)
    row.attributes = attributes
    row.elastic = report.elastic
    row.vcpus_total = _number(
        attributes, "quota_vcpus" if report.elastic else "cpu_total", 1e9 if report.elastic else 0.0
    )
    row.mem_total_mb = 1e12 if report.elastic else _number(attributes, "mem_total_mb", 0.0)
    row.reserved_vcpus = report.reserved_vcpus
    row.reserved_mem_mb = report.reserved_mem_mb
    _set_state(broker, session, row, HostState.UP, "")


def _merged(site: SiteRow, name: str, report: HostReport) -> dict[str, Any]:
    merged: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in report.attributes.items()
        if value is not None
    }
    merged.update(site.attributes)
    merged.update(site.host_attributes.get(name, {}))
    if not report.elastic:
        _lend(merged, "cpu_total", "cpu_reserved", "cpu_overcommit", "vm_cpu_max")
        _lend(merged, "mem_total_mb", "mem_reserved_mb", "mem_overcommit", "vm_mem_max_mb")
    merged.update(site=site.name, provider=site.kind, name=name, elastic=report.elastic)
    return merged


def _lend(attributes: dict[str, Any], total: str, reserved: str, ratio: str, most: str) -> None:
    """What VMs may have of a host: what is not reserved for the host itself, times the ratio by which it is given away
    over again. No single VM gets more than there really is."""
    if total not in attributes or not (ratio in attributes or reserved in attributes):
        return
    there = max(0.0, _number(attributes, total, 0.0) - _number(attributes, reserved, 0.0))
    attributes[total] = there * _number(attributes, ratio, 1.0)
    if _number(attributes, ratio, 1.0) > 1:
        attributes.setdefault(most, there)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(attributes: Mapping[str, Any], name: str, default: float) -> float:
    value = attributes.get(name, default)
    return float(value) if isinstance(value, int | float) else default


def _set_state(broker: Broker, session: Session, row: HostRow, state: HostState, reason: str) -> None:
    if row.state != state:
        event.record(
            broker,
            session,
            f"host.{state}",
            row.id,
            f"host {row.name} is {state}. {reason}".strip(),
            host=row.name,
        )
    row.state, row.status_reason = state, reason
