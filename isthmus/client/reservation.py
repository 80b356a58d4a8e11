"""Advance reservations: room that is kept for a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask, label_texts


class Reservation(Resource, schema.Reservation):
    """Room for some VMs of one flavor; VMs take it that are created with ``reservation=``."""


class Reservations(Resources[Reservation]):
    """``client.reservations``. ``ref`` is a reservation's id, or its name within the project while it is live.

    Deleting one cancels it; VMs that stand in its room run on.
    """

    _path = "/v1/reservations"
    _model = Reservation

    def create(
        self,
        name: str,
        flavor: str,
        end_at: datetime,
        *,
        count: int | None = None,
        start_at: datetime | None = None,
        requirements: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Reservation:
        """Reserve room for ``count`` VMs until ``end_at``; without ``start_at`` from now on.

        Raises Conflict with the code ``no_room`` when there is none that is sure; its hint says from when there is.
        """
        body = ask(
            schema.ReservationCreate,
            name=name,
            flavor=flavor,
            count=count,
            start_at=start_at,
            end_at=end_at,
            requirements=requirements,
            labels=labels,
        )
        return self._http.post(Reservation, self._path, body)

    def list(self, all: bool = False, *, labels: Mapping[str, str] | None = None) -> Iterator[Reservation]:
        """The project's reservations by their start; ``all`` also has those that are over."""
        return self._list({"all": all, "label": label_texts(labels)})
