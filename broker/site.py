"""Sites: what the broker drives, through one provider each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from broker import access, event, host, label, listing
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InUse, InvalidRequest, NotFound, Unavailable
from broker.states import SiteState
from broker.store import LABELS, SITE_SETTINGS, GatewayRow, HostRow, SiteRow, SubnetRow, VMRow
from providers.port import AuthenticationFailed, HostReport, InvalidSpec, ProviderError

log = structlog.get_logger()


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    kind: str,
    options: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    host_attributes: Mapping[str, Mapping[str, Any]] | None = None,
    credentials: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> SiteRow:
    """Add a site: reach it, take its hosts, seal its credentials. Admins only.

    Raises Exists, InvalidRequest (kind, options, credentials), Unavailable (no host of it answers).
    """
    access.require(actor, "site.create")
    label.check(labels or {})
    with broker.store.reading() as session:
        if session.scalar(select(SiteRow).where(SiteRow.name == name)):
            raise Exists("site", name)
    row = SiteRow(
        id=broker.new_id("site"),
        name=name,
        kind=kind,
        elastic=False,
        state=SiteState.NEW,
        status_reason="",
        options=dict(options or {}),
        attributes=host.checked_attributes(attributes or {}),
        host_attributes={
            key: host.checked_attributes(value) for key, value in (host_attributes or {}).items()
        },
        sealed_credentials=broker.sealer.seal(json.dumps(dict(credentials or {}))),
        created_at=broker.clock.now(),
    )
    try:
        reports = _reached(broker, row)
        row.state = SiteState.UP
        with broker.store.transaction() as session:
            if session.scalar(select(SiteRow).where(SiteRow.name == name)):
                raise Exists("site", name)
            session.add(row)
            session.flush()
            label.give(session, row, labels)
            host.write_reports(broker, session, row, reports)
            event.record(
                broker,
                session,
                "site.created",
                row.id,
                f"site {name} added by {actor.name}",
                hosts=len(reports),
            )
    except BaseException:
        broker.providers.drop(row.id)
        raise
    broker.providers.of(row)
    broker.signals.set("reconcile")
    broker.signals.set("place")
    return row


def _reached(broker: Broker, row: SiteRow) -> Sequence[HostReport]:
    """The hosts of a site that is to be added. Raises InvalidRequest, Unavailable."""
    name, kind = row.name, row.kind
    try:
        provider = broker.providers.make(row)
        try:
            provider.check()
            reports = provider.inventory()
        finally:
            provider.close()
    except (InvalidSpec, AuthenticationFailed) as error:
        raise InvalidRequest(
            f"site {name}: {error}",
            hint=f"`isthmus site add --help`, and docs/reference/sites-{kind}.md for the options",
        ) from error
    except ProviderError as error:
        raise Unavailable(
            f"site {name}: {error}", hint="check the address and that the service runs"
        ) from error
    if reports and not any(report.reachable for report in reports):
        reasons = "; ".join(f"{report.name}: {report.reason}" for report in reports[:5])
        raise Unavailable(f"site {name}: no host answers ({reasons})", hint="check the addresses and logins")
    return reports


def find(session: Session, ref: str) -> SiteRow:
    """A site by id or name. Raises NotFound."""
    query = select(SiteRow).where((SiteRow.id == ref) | (SiteRow.name == ref))
    row = session.scalar(query.options(SITE_SETTINGS, LABELS))
    if row is None:
        raise NotFound("site", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> SiteRow:
    """One site. Raises NotFound."""
    access.require(actor, "site.get")
    with broker.store.reading() as session:
        return find(session, ref)


def list_sites(broker: Broker, actor: Actor, **which: Unpack[listing.Which]) -> Sequence[SiteRow]:
    """The sites, by name."""
    access.require(actor, "site.list")
    with broker.store.reading() as session:
        query = select(SiteRow).order_by(SiteRow.name).options(SITE_SETTINGS, LABELS)
        return session.scalars(listing.narrowed(query, SiteRow, which, by=SiteRow.name)).all()


def host_counts(broker: Broker, actor: Actor) -> dict[str, int]:
    """Site id -> number of its hosts."""
    access.require(actor, "site.list")
    with broker.store.reading() as session:
        rows = session.execute(select(HostRow.site_id, func.count()).group_by(HostRow.site_id)).all()
    return dict(rows)


def refresh(broker: Broker, actor: Actor, ref: str) -> SiteRow:
    """Take the site's inventory now, and have it reconciled. Raises NotFound, Unavailable."""
    access.require(actor, "site.refresh")
    row = get(broker, actor, ref)
    row = take_inventory(broker, row)
    broker.signals.set("reconcile")
    if row.state == SiteState.UNREACHABLE:
        raise Unavailable(
            f"site {row.name} does not answer: {row.status_reason}", hint="check its hosts and the network"
        )
    return row


def take_inventory(broker: Broker, row: SiteRow) -> SiteRow:
    """Ask the site for its hosts and write what it says; a site that does not answer is marked unreachable."""
    with broker.store.reading() as session:
        row = session.get(SiteRow, row.id, options=[SITE_SETTINGS, LABELS]) or row
    try:
        reports = broker.providers.of(row).inventory()
        state, reason = SiteState.UP, ""
        if reports and not any(report.reachable for report in reports):
            state, reason = SiteState.UNREACHABLE, "no host answers"
    except ProviderError as error:
        reports, state, reason = None, SiteState.UNREACHABLE, str(error)
    with broker.store.transaction() as session:
        fresh = session.get(SiteRow, row.id, options=[SITE_SETTINGS, LABELS])
        if fresh is None:
            return row
        before = host.up_hosts(session, fresh)
        if (fresh.state, fresh.status_reason) != (state, reason):
            event.record(
                broker, session, f"site.{state}", fresh.id, f"site {fresh.name} is {state} {reason}".strip()
            )
            fresh.state, fresh.status_reason = state, reason
        if reports is None:
            host.mark_unreachable(broker, session, fresh, reason)
        else:
            host.write_reports(broker, session, fresh, reports)
        session.flush()
        grown = bool(host.up_hosts(session, fresh) - before)
    if grown:
        broker.signals.set("place")
    return fresh


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove a site that holds nothing of ours. Raises InUse, NotFound."""
    access.require(actor, "site.delete")
    with broker.store.transaction() as session:
        row = find(session, ref)
        there = (VMRow.site_id == row.id) | (VMRow.site_wanted_id == row.id)
        live = session.scalars(select(VMRow.name).where(there, VMRow.state != "terminated").limit(5)).all()
        if live:
            raise InUse(f"site {row.name} still runs {', '.join(live)}", hint="delete these VMs first")
        subnet = session.scalar(select(SubnetRow).where(SubnetRow.site_id == row.id))
        if subnet is not None:
            raise InUse(
                f"site {row.name} has the subnet {subnet.cidr} of network {subnet.network.name}",
                hint=f"`isthmus network remove-subnet {subnet.network_id} {row.name}` first",
            )
        gate = session.scalar(select(GatewayRow).where(GatewayRow.site_id == row.id))
        if gate is not None:
            raise InUse(
                f"site {row.name} has the gateway {gate.name}",
                hint=f"`isthmus gateway delete {gate.name}` first",
            )
        for past in session.scalars(select(VMRow).where(there)):
            past.site_id = past.host_id = past.site_wanted_id = None
        session.flush()
        event.record(broker, session, "site.deleted", row.id, f"site {row.name} removed by {actor.name}")
        session.delete(row)
    broker.providers.drop(row.id)
