"""One authenticated call of an action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from api.ec2.fault import Fault
from broker.actor import Actor
from broker.broker import Broker


@dataclass(frozen=True)
class Call:
    """Who asks what. ``params`` have the names and types of the model; ``endpoint`` is the host the client spoke to."""

    broker: Broker
    actor: Actor
    account: str
    region: str
    endpoint: str
    params: Mapping[str, Any]
    now: datetime

    def refuse(self, names: Iterable[str]) -> None:
        """Raise Fault for a parameter that is not served: doing less than was asked must not look like success."""
        for name in names:
            if self.params.get(name) not in (None, False, "", [], {}):
                raise Fault(
                    "UnsupportedOperation", f"The parameter {name} is not supported by this endpoint."
                )


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as answers have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def boolean(value: object) -> Sequence[str]:
    """A boolean as filters compare it."""
    return ("true",) if value else ("false",)
