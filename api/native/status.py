"""``/v1/status``, and ``/healthz`` for load balancers."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from broker import status
from isthmus import __version__, schema

router = APIRouter(tags=["status"])


@router.get("/v1/status")
def get_status(broker: TheBroker, caller: Caller) -> schema.Status:
    """The broker in numbers, and who the caller is."""
    view = status.status(broker, caller)
    return schema.Status(
        version=__version__,
        broker_id=view.broker_id,
        project=view.project,
        role=view.role,
        sites=view.sites,
        hosts=view.hosts,
        vms=view.vms,
        queue=view.queue,
        burst=view.burst,
    )


@router.get("/healthz")
async def check_health() -> dict[str, bool]:
    """Whether this process answers. Needs no token and touches no database."""
    return {"ok": True}
