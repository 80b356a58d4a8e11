"""Advance reservations: room that is kept for a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Self

from isthmus import schema
from isthmus.client._resource import Bound, Collection, ask


class Reservation(Bound, schema.Reservation):
    """Room for some VMs of one flavor; VMs take it that are created with ``reservation=``."""

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._client.reservations.get(self.id))

    def delete(self) -> None:
        """Cancel it. VMs that stand in its room run on."""
        self._client.reservations.delete(self.id)


class Reservations(Collection[Reservation]):
    """``client.reservations``. ``ref`` is a reservation's id, or its name within the project while it is live."""

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
        )
        return self._http.post(Reservation, self._path, body)

    def get(self, ref: str) -> Reservation:
        """One reservation."""
        return self._get(ref)

    def list(self, all: bool = False) -> Iterator[Reservation]:
        """The project's reservations by their start; ``all`` also has those that are over."""
        return self._list({"all": all})

    def delete(self, ref: str) -> None:
        """Cancel a reservation. VMs that stand in its room run on."""
        self._http.delete(self._url(ref))
