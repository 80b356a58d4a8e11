"""NICs and addresses as rows of their own, in place of leases and of the networks in a VM's row"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from broker.store.base import UtcDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_BATCH = 1000


def _table(name: str, *columns: str) -> sa.TableClause:
    kinds: dict[str, Any] = {"networks": sa.JSON(), "rests_until": UtcDateTime(), "position": sa.Integer()}
    return sa.table(name, *(sa.column(column, kinds.get(column, sa.String())) for column in columns))


_VM = _table("vm", "id", "state", "networks", "wanted_address")
_SUBNET = _table("subnet", "id", "network_id")
_NETWORK = _table("network", "id")
_LEASE = _table("lease", "id", "subnet_id", "address", "mac", "vm_id", "position", "rests_until")
_NIC = _table("nic", "id", "vm_id", "position", "network_id", "subnet_id", "mac", "wanted_address")
_ADDRESS = _table("address", "id", "subnet_id", "address", "nic_id", "position", "rests_until")


def upgrade() -> None:
    op.create_table(
        "nic",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("vm_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("network_id", sa.String(), nullable=False),
        sa.Column("subnet_id", sa.String(), nullable=True),
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("wanted_address", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["network_id"], ["network.id"], name=op.f("fk_nic_network_id")),
        sa.ForeignKeyConstraint(["subnet_id"], ["subnet.id"], name=op.f("fk_nic_subnet_id")),
        sa.ForeignKeyConstraint(["vm_id"], ["vm.id"], name=op.f("fk_nic_vm_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nic")),
        sa.UniqueConstraint("mac", name=op.f("uq_nic_mac")),
        sa.UniqueConstraint("network_id", "vm_id", name=op.f("uq_nic_network_id")),
        sa.UniqueConstraint("vm_id", "position", name=op.f("uq_nic_vm_id")),
    )
    op.create_table(
        "address",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("subnet_id", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("nic_id", sa.String(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("rests_until", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["nic_id"], ["nic.id"], name=op.f("fk_address_nic_id")),
        sa.ForeignKeyConstraint(["subnet_id"], ["subnet.id"], name=op.f("fk_address_subnet_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_address")),
        sa.UniqueConstraint("nic_id", "position", name=op.f("uq_address_nic_id")),
        sa.UniqueConstraint("subnet_id", "address", name=op.f("uq_address_subnet_id")),
    )
    _leased()
    _resting()
    op.drop_table("lease")
    # Column by column, as in 0002.
    op.drop_column("vm", "networks")
    op.drop_column("vm", "wanted_address")


def _leased() -> None:
    """The NICs of VMs, and their addresses. What was a lease keeps its digits, by which EC2 knows it, and its MAC."""
    connection = op.get_bind()
    subnets = connection.execute(sa.select(_SUBNET.c.id, _SUBNET.c.network_id))
    network_of = {subnet_id: network_id for subnet_id, network_id in subnets}  # noqa: C416 - a Row is no pair to the type checker
    networks = set(connection.execute(sa.select(_NETWORK.c.id)).scalars())
    for vms in _in_batches(_VM):
        leases: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        of_these = sa.select(_LEASE).where(_LEASE.c.vm_id.in_([vm["id"] for vm in vms]))
        for found in connection.execute(of_these):
            leases[found.vm_id][network_of[found.subnet_id]] = found._asdict()
        nics: list[dict[str, Any]] = []
        addresses: list[dict[str, Any]] = []
        for vm in vms:
            have = leases[vm["id"]]
            wanted = _list(vm["networks"])
            # One that is terminated is on no network any more. A network that is gone cannot be waited for.
            asked = [] if vm["state"] == "terminated" else [each for each in wanted if each in networks]
            for network_id in dict.fromkeys((*asked, *have)):
                lease = have.get(network_id)
                position = lease["position"] if lease else wanted.index(network_id)
                nic_id = _renamed("nic", lease["id"]) if lease else _new_id(vm["id"], position)
                nics.append(
                    {
                        "id": nic_id,
                        "vm_id": vm["id"],
                        "position": position,
                        "network_id": network_id,
                        "subnet_id": lease["subnet_id"] if lease else None,
                        "mac": lease["mac"] if lease else _mac_of(nic_id),
                        "wanted_address": vm["wanted_address"] if position == 0 else None,
                    }
                )
                if lease:
                    addresses.append(_address(lease, nic_id))
        _insert(_NIC, nics)
        _insert(_ADDRESS, addresses)


def _resting() -> None:
    for leases in _in_batches(_LEASE, _LEASE.c.vm_id.is_(None)):
        _insert(_ADDRESS, [_address(lease, None) for lease in leases])


def _address(lease: Mapping[str, Any], nic_id: str | None) -> dict[str, Any]:
    return {
        "id": _renamed("addr", lease["id"]),
        "subnet_id": lease["subnet_id"],
        "address": lease["address"],
        "nic_id": nic_id,
        "position": 0,
        "rests_until": lease["rests_until"],
    }


def _in_batches(
    table: sa.TableClause, *only: sa.ColumnElement[bool]
) -> Iterator[Sequence[Mapping[str, Any]]]:
    last = ""
    query = sa.select(table).order_by(table.c.id).limit(_BATCH)
    while rows := op.get_bind().execute(query.where(table.c.id > last, *only)).all():
        yield [row._asdict() for row in rows]
        last = rows[-1].id


def _insert(table: sa.TableClause, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        op.get_bind().execute(sa.insert(table), rows)


def _list(given: object) -> list[str]:
    found = json.loads(given) if isinstance(given, str) else given
    return [str(each) for each in found] if isinstance(found, Iterable) else []


def _renamed(prefix: str, lease_id: str) -> str:
    return f"{prefix}-{lease_id.partition('-')[2]}"


def _new_id(vm_id: str, position: int) -> str:
    return f"nic-{hashlib.sha256(f'nic/{vm_id}/{position}'.encode()).hexdigest()[:17]}"


def _mac_of(nic_id: str) -> str:
    """As ``broker.ids`` does now; written out, because a migration does not change with the code."""
    first, *others = bytes.fromhex(nic_id[-12:])
    return ":".join(f"{octet:02x}" for octet in (first & 0x7C | 0x02, *others))
