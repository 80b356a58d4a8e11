"""``/v1/reservations``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import reservation
from broker.broker import Broker
from broker.store import ReservationRow
from isthmus import schema

router = APIRouter(prefix="/v1/reservations", tags=["reservation"])


@router.post("", status_code=201)
def create_reservation(
    broker: TheBroker, caller: Caller, body: schema.ReservationCreate
) -> schema.Reservation:
    """Reserve room for VMs on hosts of your own, from one time to another."""
    row = reservation.create(
        broker,
        caller,
        name=body.name,
        flavor_ref=body.flavor,
        count=body.count,
        start_at=body.start_at,
        end_at=body.end_at,
        requirements=body.requirements,
        labels=body.labels,
    )
    return _answers(broker, [row])[0]


@router.get("")
def list_reservations(
    broker: TheBroker,
    caller: Caller,
    all: Annotated[bool, Query(description="Those that are over too.")] = False,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Reservation]:
    """The project's reservations, by their start."""
    found = reservation.list_reservations(broker, caller, include_over=all, labels=wanted(label))
    rows, following = cut(found, lambda row: (row.start_at.isoformat(), row.id), limit, page)
    return schema.Page(items=_answers(broker, rows), next=following)


@router.get("/{ref}")
def get_reservation(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Reservation:
    """One reservation."""
    return _answers(broker, [reservation.get(broker, caller, ref)])[0]


@router.delete("/{ref}", status_code=204)
def delete_reservation(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Cancel a reservation. VMs that stand in its room run on."""
    reservation.delete(broker, caller, ref)


def _answers(broker: Broker, rows: Sequence[ReservationRow]) -> list[schema.Reservation]:
    counts, hosts = reservation.vms(broker, rows), reservation.host_names_of(broker, rows)
    return [
        schema.Reservation(
            id=row.id,
            name=row.name,
            project=row.project.name,
            state=schema.ReservationState(row.state),
            flavor=row.flavor,
            **row.size.as_dict(),
            count=row.count,
            requirements=row.requirements,
            start_at=row.start_at,
            end_at=row.end_at,
            hosts=hosts[row.id],
            vms=counts.get(row.id, 0),
            labels=row.labels,
            created_at=row.created_at,
        )
        for row in rows
    ]
