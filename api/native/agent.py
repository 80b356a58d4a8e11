"""``/v1/agent``: what gateways' agents ask, under the token of their gateway."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.native.auth import Caller, TheBroker
from api.native.waiting import Wait, until
from broker import gateway, peer
from isthmus import schema

router = APIRouter(prefix="/v1/agent", tags=["agent"])


@router.post("/register", status_code=204)
def register_agent(broker: TheBroker, caller: Caller, body: schema.AgentRegister) -> None:
    """The agent's own public key, and what the agent can; sent at each start."""
    gateway.register(
        broker,
        caller,
        body.public_key,
        document_versions=body.document_versions,
        features=body.features,
        software=body.software,
    )


@router.get(
    "/document",
    response_class=Response,
    responses={
        200: {
            "description": "A newer document.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        204: {"description": "Nothing newer."},
    },
)
async def get_document(
    broker: TheBroker,
    caller: Caller,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="The generation the agent has.")] = 0,
    wait: Wait = 0,
) -> Response:
    """What the gateway must be, as soon as it is another generation than the agent's; in a version that the agent reads."""
    document = await until(
        broker,
        "gateways",
        lambda: gateway.document(broker, caller),
        # One that went back means another database: the agent must follow it, too.
        lambda document: document.generation != after,
        wait,
    )
    if document.generation == after:
        return Response(status_code=204)
    return Response(document.to_json(), media_type="application/json")


@router.post("/enrol")
def enrol_peer(broker: TheBroker, caller: Caller, body: schema.Enrol) -> schema.Enrolled:
    """Exchange a launch's bootstrap key for the VM's own. Repeating the same post gives the same answer."""
    row, prefixes = peer.enrol(broker, caller, body.address, body.public_key)
    return schema.Enrolled(
        peer_id=row.id, address=row.address, allowed_ips=prefixes, generation=row.generation
    )


@router.post("/status", status_code=204)
def report_status(broker: TheBroker, caller: Caller, body: schema.AgentStatus) -> None:
    """What the agent has applied and what not, and what its peers have sent."""
    gateway.report(
        broker,
        caller,
        body.applied_generation,
        [
            gateway.PeerReport(
                public_key=item.public_key,
                last_handshake=item.last_handshake,
                rx_bytes=item.rx_bytes,
                tx_bytes=item.tx_bytes,
            )
            for item in body.peers
        ],
        body.problems,
    )
