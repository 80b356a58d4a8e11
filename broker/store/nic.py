"""Rows of NICs and of the addresses of subnets."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, UniqueConstraint, select, text
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from broker.store.base import Row
from broker.store.network import NetworkRow, SubnetRow


class AddressRow(Row):
    """An address of a subnet that is leased to a NIC, or rests: then ``nic_id`` is None, and ``rests_until`` says until when.

    ``position`` is its place among the NIC's addresses; 0 is the primary one.
    """

    __tablename__ = "address"
    __table_args__ = (
        UniqueConstraint("subnet_id", "address"),
        UniqueConstraint("nic_id", "position"),
        Index(
            "ix_address_rests",
            "subnet_id",
            "rests_until",
            sqlite_where=text("rests_until IS NOT NULL"),
            postgresql_where=text("rests_until IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnet.id"))
    address: Mapped[str]
    nic_id: Mapped[str | None] = mapped_column(ForeignKey("nic.id"))
    position: Mapped[int] = mapped_column(default=0)
    rests_until: Mapped[datetime | None]


class NICRow(Row):
    """A VM's interface on a network, from the VM's creation to its end; ``position`` is its place among the VM's NICs.

    ``subnet_id`` is None while the VM is placed nowhere. ``wanted_address`` is what was asked for at creation.
    """

    __tablename__ = "nic"
    __table_args__ = (UniqueConstraint("vm_id", "position"), UniqueConstraint("network_id", "vm_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    vm_id: Mapped[str] = mapped_column(ForeignKey("vm.id"))
    position: Mapped[int]
    network_id: Mapped[str] = mapped_column(ForeignKey("network.id"))
    # The name alone: with a network come all of its subnets, in a statement more for each look at a VM.
    network_name: Mapped[str] = column_property(
        select(NetworkRow.name)
        .where(NetworkRow.id == network_id)
        .correlate_except(NetworkRow)
        .scalar_subquery(),
        expire_on_flush=False,
    )
    subnet_id: Mapped[str | None] = mapped_column(ForeignKey("subnet.id"))
    subnet: Mapped[SubnetRow | None] = relationship(lazy="joined")
    mac: Mapped[str] = mapped_column(unique=True)
    wanted_address: Mapped[str | None]
    # Joined: they come with the NICs, without a statement of their own.
    addresses: Mapped[list[AddressRow]] = relationship(lazy="joined", order_by=AddressRow.position)

    @property
    def address(self) -> str | None:
        """The primary address; None while the VM is placed nowhere."""
        return self.addresses[0].address if self.addresses else None
