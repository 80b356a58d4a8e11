"""What a provider is asked to make of a VM, and where."""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from broker import image, keypair, network, peer
from broker.actor import Actor
from broker.broker import Broker
from broker.engine.declaration import Step
from broker.errors import NotFound
from broker.ids import vm_uuid
from broker.states import PeerState, SubnetMode
from broker.store import NICRow, PeerRow, SiteRow, SubnetRow, VMRow
from providers import port
from vpn.userdata import multipart


def placed(row: VMRow) -> tuple[str, SiteRow]:
    """The host's name and the site of a placed VM. Raises LookupError for one that is not."""
    if row.host is None or row.site is None:
        raise LookupError(f"{row.id} is not placed")
    return row.host.name, row.site


def attached(row: VMRow) -> list[tuple[NICRow, SubnetRow]]:
    """Its NICs, each with the subnet that it is in at the VM's site; none while the VM is placed nowhere."""
    return [(nic, nic.subnet) for nic in row.nics if nic.subnet is not None]


def tunnels(row: VMRow) -> list[NICRow]:
    """Its NICs that are ends of tunnels."""
    return [nic for nic, subnet in attached(row) if subnet.mode == SubnetMode.TUNNEL]


def copying(step: Step[VMRow], what: str) -> port.Progress:
    """Says on the operation how far a copy is, once a second at most: nothing of one that is over sooner."""
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if total and time.monotonic() - said >= 1.0:
            said = time.monotonic()
            step.say(f"{what}: {100 * done // total} %")

    return progress


def spec_of(broker: Broker, session: Session, row: VMRow) -> port.VMSpec:
    """What the provider is asked to make. Equal rows give equal specs."""
    host, site = placed(row)
    user_data = broker.sealer.open(row.sealed_user_data) if row.sealed_user_data else ""
    nics: list[port.NICSpec] = []
    ends: list[tuple[PeerRow, int]] = []
    have = peer.tunnels(session, row.id) if tunnels(row) else {}
    for nic, subnet in attached(row):
        if subnet.mode == SubnetMode.TUNNEL:
            entry = have.get(nic.network_id)
            if entry is not None and entry.state == PeerState.BOOTSTRAP:
                ends.append((entry, subnet.mtu))
        else:
            prefix = int(subnet.cidr.rsplit("/", 1)[1])
            address, *secondary = (each.address for each in nic.addresses)
            nics.append(port.NICSpec(network.spec(subnet), nic.mac, address, prefix, tuple(secondary)))
    if ends:
        user_data = multipart(user_data, peer.join_script(broker, ends))
    ssh_keys: tuple[str, ...] = ()
    if row.key_pair:
        try:
            owner = Actor(project_id=row.project_id, role="member", name=row.name)
            ssh_keys = (keypair.find(session, owner, row.key_pair).public_key,)
        except NotFound:
            ssh_keys = ()
    instance_type = row.host.attributes.get("instance_type", "") if row.host is not None else ""
    return port.VMSpec(
        id=row.id,
        uuid=vm_uuid(broker.id, row.id),
        token=f"{row.id}-{row.launch}",
        name=row.name,
        host=host,
        **row.size.as_dict(),
        image=image.spec(row.image, site.id),
        nics=tuple(nics),
        user_data=user_data,
        ssh_keys=ssh_keys,
        hostname=row.name.split(".")[0],
        project=row.project.name,
        instance_type=str(instance_type),
        labels=row.labels,
    )
