"""``/v1/peers``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.paging import Limit, Text, Token, cut
from broker import peer
from broker import vm as vms
from broker.store import PeerRow
from isthmus import schema

router = APIRouter(prefix="/v1/peers", tags=["peer"])


@router.get("")
def list_peers(
    broker: TheBroker,
    caller: Caller,
    gateway: Text = None,
    vm: Text = None,
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Peer]:
    """Burst VMs' ends of the tunnels, newest first; of one gateway, or of one VM (names or ids)."""
    rows, following = cut(
        peer.list_peers(
            broker, caller, gateway_ref=gateway, vm_id=vms.get(broker, caller, vm).id if vm else None
        ),
        lambda row: (-row.created_at.timestamp(), row.id),
        limit,
        page,
    )
    names = peer.vm_names(broker, rows)
    return schema.Page(items=[_answer(row, names.get(row.vm_id, "")) for row in rows], next=following)


def _answer(row: PeerRow, vm_name: str) -> schema.Peer:
    return schema.Peer(
        id=row.id,
        gateway=row.gateway.name,
        network=row.gateway.network.name,
        vm=row.vm_id,
        vm_name=vm_name,
        state=row.state,
        address=row.address,
        public_key=row.public_key,
        expires_at=row.expires_at,
        enrolled_at=row.enrolled_at,
        last_handshake_at=row.last_handshake_at,
        rx_bytes=row.rx_bytes,
        tx_bytes=row.tx_bytes,
    )
