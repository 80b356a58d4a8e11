"""``/v1/expressions``."""

from __future__ import annotations

import math

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from broker import expression
from isthmus import schema

router = APIRouter(prefix="/v1/expressions", tags=["expression"])


@router.post("")
def check_expression(broker: TheBroker, caller: Caller, body: schema.ExpressionCheck) -> schema.Expression:
    """Read a requirement or a rank, translate it from OpenNebula, and say what it is worth on each host now."""
    view = expression.check(broker, caller, body.text, kind=body.kind, dialect=body.dialect)
    return schema.Expression(
        text=view.text,
        warnings=list(view.warnings),
        hosts=[
            # JSON has no infinity; it comes first, or last, as it does here.
            schema.HostWorth(
                host=host,
                value=value if value is None or math.isfinite(value) else math.copysign(1e308, value),
            )
            for host, value in view.hosts
        ],
    )
