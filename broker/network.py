"""Networks: one private prefix, one subnet per site. Each is by itself: two may have the same prefix, where
``overlap`` lets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any, TypeVar, Unpack

from sqlalchemy import Select, func, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, contains_eager, joinedload, lazyload, subqueryload

from broker import access, event, label, listing, overlap, project, site, sweep
from broker.actor import Actor
from broker.broker import Broker
from broker.errors import Exists, InUse, InvalidRequest, NotFound, Overlap
from broker.states import SubnetMode, Visibility
from broker.store import LABELS, AddressRow, GatewayRow, NetworkRow, NICRow, SiteRow, SubnetRow, VMRow
from providers.port import Capability, NetworkSpec, supports
from vpn import address as addresses
from vpn.plan import ENROLMENT_POOL

Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")

_LARGEST_RANGE = 65536

_SHOWN = (LABELS, joinedload(NetworkRow.project), subqueryload(NetworkRow.subnets).undefer_group("labels"))
"""For a query of networks that are shown: their owners, their labels, and those of their subnets."""


def create(
    broker: Broker,
    actor: Actor,
    *,
    name: str,
    cidr: str,
    project_ref: str | None = None,
    visibility: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> NetworkRow:
    """A new network. Admins only: it takes part of what sites have.

    With ``project_ref`` it is that project's, and private unless ``visibility`` says otherwise; without, it is the broker's
    own, and shared. Raises Exists, InvalidRequest (private and nobody's, too), NotFound (project), Overlap (the
    tunnels' own pool).
    """
    access.require(actor, "network.create")
    _check_prefix(cidr)
    if visibility is None:
        visibility = Visibility.SHARED if project_ref is None else Visibility.PRIVATE
    if project_ref is None and visibility == Visibility.PRIVATE:
        raise InvalidRequest(
            "a private network needs the project that it is for", hint="say which: --project"
        )
    if addresses.overlapping(cidr, [ENROLMENT_POOL]):
        raise Overlap(f"{cidr} overlaps {ENROLMENT_POOL}, which tunnels use", hint="choose another prefix")
    try:
        with broker.store.transaction() as session:
            owner = project.find(session, actor, project_ref) if project_ref is not None else None
            project_id = owner.id if owner is not None else None
            if session.scalar(
                select(NetworkRow.id).where(NetworkRow.name == name, NetworkRow.project_id == project_id)
            ):
                raise Exists("network", name)
            row = NetworkRow(
                id=broker.new_id("net"),
                name=name,
                project_id=project_id,
                visibility=visibility,
                cidr=cidr,
                created_at=broker.clock.now(),
                subnets=[],
            )
            row.project = owner
            session.add(row)
            label.give(session, row, labels)
            event.record(
                broker,
                session,
                "network.created",
                row.id,
                f"network {name} ({cidr}) created by {actor.name}",
                project_id=project_id,
            )
    except IntegrityError as error:
        raise Exists("network", name) from error  # two at the same moment
    return row


def find(session: Session, actor: Actor, ref: str, *, here: bool = False) -> NetworkRow:
    """A network by id or name. Raises NotFound.

    Of networks of one name the caller's project's comes before the broker's own. ``here`` keeps to what the caller's
    current project may use: what others see of other projects is no network for its VMs.
    """
    seen = access.offered(select(NetworkRow), actor, NetworkRow, "network.get", here=here)
    query = seen.where((NetworkRow.id == ref) | (NetworkRow.name == ref)).options(*_SHOWN)
    row = session.scalar(query.order_by(*access.nearest(actor, NetworkRow, ref)).limit(1))
    if row is None:
        raise NotFound("network", ref)
    return row


def get(broker: Broker, actor: Actor, ref: str) -> NetworkRow:
    """One network; ``ref`` as in ``find``. Raises NotFound."""
    access.require(actor, "network.get")
    with broker.store.reading() as session:
        return find(session, actor, ref)


def list_networks(
    broker: Broker,
    actor: Actor,
    *,
    here: bool = False,
    elastic: bool | None = None,
    **which: Unpack[listing.Which],
) -> Sequence[NetworkRow]:
    """The networks that the caller sees, in ``order``, or so many by their ids; ``here`` as in ``find``.

    ``elastic``: those that have a subnet at a site that is a cloud (True), or that is none (False).
    """
    access.require(actor, "network.list")
    query = access.offered(select(NetworkRow), actor, NetworkRow, "network.list", here=here)
    if elastic is not None:
        there = SubnetRow.site.has(SiteRow.elastic.is_(elastic))
        query = query.where(NetworkRow.subnets.any(there))
    with broker.store.reading() as session:
        found = session.scalars(listing.narrowed(query.options(*_SHOWN), NetworkRow, which)).all()
    return found if which.get("limit") else sorted(found, key=order)


def order(row: NetworkRow) -> tuple[str, str]:
    """What whole lists are ordered by: the name, then the owner (the broker first)."""
    return row.name, row.project_id or ""


def list_subnets(
    broker: Broker, actor: Actor, *, here: bool = False, **which: Unpack[listing.Which]
) -> Sequence[SubnetRow]:
    """The subnets of networks that the caller sees, by their ids; ``here`` as in ``find``.

    A subnet's name is its network's and its site's, with a hyphen between them, and its owner its network's. ``only`` also
    knows ``site`` (its name) and ``elastic`` (whether that is a cloud).
    """
    access.require(actor, "network.list")
    at_sites = select(SubnetRow).join(SiteRow, SiteRow.id == SubnetRow.site_id).order_by(SubnetRow.id)
    # The networks that are joined, without all of their subnets.
    of_network = contains_eager(SubnetRow.network)
    shown = (
        of_network.options(lazyload(NetworkRow.subnets), joinedload(NetworkRow.project)),
        contains_eager(SubnetRow.site),
        LABELS,
    )
    query = listing.narrowed(
        offered_subnets(at_sites, actor, "network.list", here=here).options(*shown),
        SubnetRow,
        which,
        name=NetworkRow.name + "-" + SiteRow.name,
        owned=NetworkRow,
        beside={"site": SiteRow.name, "elastic": SiteRow.elastic},
    )
    with broker.store.reading() as session:
        return session.scalars(query).all()


def only(session: Session, actor: Actor) -> NetworkRow:
    """The network of VMs that name none: the only one that the caller's current project may use. Raises InvalidRequest."""
    query = access.offered(select(NetworkRow), actor, NetworkRow, "network.get", here=True)
    every = session.scalars(query.order_by(NetworkRow.name).limit(2)).all()
    if not every:
        raise InvalidRequest(
            "there is no network yet", hint="an admin makes one with `isthmus network create`"
        )
    if len(every) > 1:
        raise InvalidRequest("there are several networks", hint="say which with --network")
    return every[0]


def leased(broker: Broker, actor: Actor, *, ids: Sequence[str] | None = None) -> dict[str, int]:
    """Subnet id -> number of its leased addresses, of the networks that the caller sees; ``ids``: of these subnets."""
    access.require(actor, "network.list")
    with broker.store.reading() as session:
        counted = (
            select(AddressRow.subnet_id, func.count())
            .join(SubnetRow, SubnetRow.id == AddressRow.subnet_id)
            .where(AddressRow.nic_id.is_not(None))
            .group_by(AddressRow.subnet_id)
        )
        if ids is not None:
            counted = counted.where(AddressRow.subnet_id.in_(ids))
        rows = session.execute(offered_subnets(counted, actor, "network.list")).all()
    return dict(rows)


def delete(broker: Broker, actor: Actor, ref: str) -> None:
    """Remove a network without VMs and gateways. Raises InUse, NotFound."""
    access.require(actor, "network.delete")
    with broker.store.transaction() as session:
        row = find(session, actor, ref)
        if session.scalar(select(GatewayRow.id).where(GatewayRow.network_id == row.id)):
            raise InUse(f"network {row.name} has a gateway", hint="`isthmus gateway delete` it first")
        on_it = select(VMRow.name).join(NICRow, NICRow.vm_id == VMRow.id).where(NICRow.network_id == row.id)
        if name := session.scalar(on_it.limit(1)):
            raise InUse(f"VM {name} is on network {row.name}", hint="delete this VM first")
        for subnet in row.subnets:
            _drop_addresses(session, subnet)
        event.record(
            broker,
            session,
            "network.deleted",
            row.id,
            f"network {row.name} deleted by {actor.name}",
            project_id=row.project_id,
        )
        session.delete(row)
    _have_swept(broker)


def add_subnet(
    broker: Broker,
    actor: Actor,
    ref: str,
    *,
    site_ref: str,
    cidr: str,
    mode: str | None = None,
    gateway: str | None = None,
    bridge: str = "",
    dns: Sequence[str] = (),
    reserved: Sequence[str] = (),
    mtu: int = 1420,
    labels: Mapping[str, str] | None = None,
) -> SubnetRow:
    """Give a network a subnet at a site. Admins only. Raises Exists, InvalidRequest, NotFound, Overlap.

    ``mode`` is by default ``nat`` on hosts of ours, and ``tunnel`` in a cloud: there it is the only one.
    """
    access.require(actor, "network.add_subnet")
    _check_prefix(cidr)
    mode = _mode_at(broker, actor, site_ref, mode)
    subnet_prefix = addresses.network_of(cidr)
    if subnet_prefix.num_addresses < 4:
        raise InvalidRequest(
            f"{cidr} has no room for a gateway and a VM", hint="use a prefix of /30 or shorter"
        )
    router = gateway or str(subnet_prefix[1])
    _check_address(router, cidr, "gateway")
    for text in dns:
        _parse_address(text, "dns")
    for text in reserved:
        for item in expand(text):
            _check_address(item, cidr, "reserved")
    if mode == SubnetMode.BRIDGE and not bridge:
        raise InvalidRequest("mode bridge needs the name of a bridge of the hosts", hint="--bridge br0")
    if mode != SubnetMode.BRIDGE and bridge:
        raise InvalidRequest(
            f"mode {mode} takes no bridge", hint="use --mode bridge, or leave the bridge out"
        )
    with broker.store.transaction() as session:
        network = _held(session, find(session, actor, ref))
        at = site.find(session, site_ref)
        if not addresses.contains(network.cidr, cidr):
            raise InvalidRequest(
                f"{cidr} is not inside network {network.name} ({network.cidr})", hint="choose one that is"
            )
        if any(subnet.site_id == at.id for subnet in network.subnets):
            raise Exists("subnet", f"{network.name} at {at.name}")
        for other in network.subnets:
            if addresses.overlapping(cidr, [other.cidr]):
                raise Overlap(
                    f"{cidr} overlaps the subnet {other.cidr} of site {other.site.name}",
                    hint=f"choose another part of {network.cidr}",
                )
        row = SubnetRow(
            id=broker.new_id("sub"),
            network_id=network.id,
            site_id=at.id,
            cidr=cidr,
            mode=SubnetMode(mode),
            gateway=router,
            bridge=bridge,
            dns=list(dns),
            reserved=list(reserved),
            mtu=mtu,
        )
        with session.no_autoflush:
            row.network, row.site = network, at
            overlap.check_subnet(session, row)
        session.add(row)
        label.give(session, row, labels)
        if mode == SubnetMode.TUNNEL:
            _bump_gateway(session, network.id)
        event.record(
            broker,
            session,
            "subnet.created",
            row.id,
            f"network {network.name} has {cidr} at {at.name}, by {actor.name}",
            project_id=network.project_id,
        )
    broker.signals.set("place")
    broker.signals.set("gateways")
    return row


def remove_subnet(broker: Broker, actor: Actor, ref: str, site_ref: str) -> None:
    """Take a network's subnet from a site. Raises InUse, NotFound."""
    access.require(actor, "network.remove_subnet")
    with broker.store.transaction() as session:
        network = _held(session, find(session, actor, ref))
        at = site.find(session, site_ref)
        subnet = next((one for one in network.subnets if one.site_id == at.id), None)
        if subnet is None:
            raise NotFound(
                "subnet", f"{ref} at {site_ref}", hint=f"`isthmus network show {ref}` lists its subnets"
            )
        _drop_addresses(session, subnet)
        event.record(
            broker,
            session,
            "subnet.deleted",
            subnet.id,
            f"network {network.name} left {at.name}",
            project_id=network.project_id,
        )
        network.subnets.remove(subnet)
        if subnet.mode == SubnetMode.TUNNEL:
            _bump_gateway(session, network.id)
    _have_swept(broker)


def _have_swept(broker: Broker) -> None:
    """Have hosts give up what they made for subnets that are no more."""
    broker.signals.set(sweep.NEWS)
    broker.signals.set("reconcile")


def expand(text: str) -> Iterator[str]:
    """The addresses of ``10.0.0.2`` or ``10.0.0.2-10.0.0.20``. Raises InvalidRequest."""
    first, _, last = text.partition("-")
    low = _parse_address(first.strip(), "reserved")
    high = _parse_address(last.strip(), "reserved") if last else low
    if low.version != high.version or int(high) < int(low) or int(high) - int(low) >= _LARGEST_RANGE:
        raise InvalidRequest(f"{text!r} is not a range of addresses", hint="write it as 10.0.0.2-10.0.0.20")
    for value in range(int(low), int(high) + 1):
        yield str(ip_address(value))


def offered_subnets(query: Q, actor: Actor, permission: str, *, here: bool = False) -> Q:
    """A query of those subnets only whose networks are offered to the actor: see ``access.offered``."""
    of_network = query.join(NetworkRow, NetworkRow.id == SubnetRow.network_id)
    return access.offered(of_network, actor, NetworkRow, permission, here=here)


def find_subnet(session: Session, actor: Actor, subnet_id: str, *, here: bool = False) -> SubnetRow:
    """A subnet by its id. Raises NotFound, also when its network is another project's own; ``here`` as in ``find``."""
    query = offered_subnets(select(SubnetRow), actor, "network.get", here=here)
    row = session.scalar(query.where(SubnetRow.id == subnet_id).options(LABELS))
    if row is None:
        raise NotFound("subnet", subnet_id, hint="`isthmus network show NETWORK` lists its subnets")
    return row


def get_subnet(broker: Broker, actor: Actor, subnet_id: str, *, here: bool = False) -> SubnetRow:
    """One subnet, as ``find_subnet``. Raises NotFound."""
    access.require(actor, "network.get")
    with broker.store.reading() as session:
        return find_subnet(session, actor, subnet_id, here=here)


def subnet_at(session: Session, network_id: str, site_id: str) -> SubnetRow | None:
    """A network's subnet at a site, or None."""
    return session.scalar(
        select(SubnetRow).where(SubnetRow.network_id == network_id, SubnetRow.site_id == site_id)
    )


def spec(subnet: SubnetRow) -> NetworkSpec:
    """What a provider needs to offer the subnet on a host. Its name there is like no other's, also where projects use
    one name."""
    network = subnet.network
    return NetworkSpec(
        id=subnet.id,
        name=network.name if network.project_id is None else f"{network.name}.{network.id}",
        mode=subnet.mode,
        cidr=subnet.cidr,
        gateway=subnet.gateway,
        bridge=subnet.bridge,
        mtu=subnet.mtu,
        dns=tuple(subnet.dns),
    )


def _held(session: Session, row: NetworkRow) -> NetworkRow:
    """Locked, and its subnets read again: of two that change them at once, the second sees what the first did."""
    session.execute(
        select(NetworkRow.id).where(NetworkRow.id == row.id).with_for_update(key_share=True)
    ).all()
    session.refresh(row, ["subnets"])
    return row


def _check_prefix(cidr: str) -> None:
    try:
        prefix = addresses.network_of(cidr)
    except addresses.AddressError as error:
        raise InvalidRequest(str(error), hint="such as 10.20.0.0/16") from None
    if prefix.version != 4:
        raise InvalidRequest(f"{cidr} is IPv6, which networks do not have yet", hint="use an IPv4 prefix")


def _parse_address(text: str, noun: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise InvalidRequest(f"{noun}: {text!r} is not an IPv4 address", hint="such as 10.20.1.1") from None


def _mode_at(broker: Broker, actor: Actor, site_ref: str, mode: str | None) -> str:
    at = site.get(broker, actor, site_ref)
    ours = supports(broker.providers.of(at), Capability.ADDRESSES)
    if mode is None:
        return SubnetMode.NAT if ours else SubnetMode.TUNNEL
    if ours and mode == SubnetMode.TUNNEL:
        raise InvalidRequest(
            f"site {at.name} has hosts of ours, which need no tunnel", hint="use --mode nat, route or bridge"
        )
    if not ours and mode != SubnetMode.TUNNEL:
        raise InvalidRequest(
            f"VMs at site {at.name} join a network through a tunnel only",
            hint="use --mode tunnel, or leave it out",
        )
    return mode


def _check_address(text: str, cidr: str, noun: str) -> None:
    _parse_address(text, noun)
    if not addresses.contains(cidr, f"{text}/32"):
        raise InvalidRequest(f"{noun} {text} is not in {cidr}", hint=f"choose an address of {cidr}")


def _drop_addresses(session: Session, subnet: SubnetRow) -> None:
    """Forget a subnet's addresses that rest. Raises InUse when others are leased."""
    here = AddressRow.subnet_id == subnet.id
    leased = select(func.count(AddressRow.nic_id.distinct())).where(here)
    if live := session.scalar(leased):
        raise InUse(
            f"{live} VMs have addresses of {subnet.cidr} at {subnet.site.name}", hint="delete these VMs first"
        )
    # That the subnet goes is news enough.
    session.execute(sql_delete(AddressRow).where(here), execution_options={"changes": ()})


def _bump_gateway(session: Session, network_id: str) -> None:
    row = session.scalar(
        select(GatewayRow).where(GatewayRow.network_id == network_id).with_for_update(of=GatewayRow)
    )
    if row is not None:
        row.generation += 1
