"""``/v1/labels``: of anything that its users make."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.native.auth import Caller, TheBroker
from api.native.paging import Ref
from broker import label, labelled
from broker.errors import InvalidRequest
from isthmus import schema
from isthmus.nouns import LABELLED

router = APIRouter(prefix="/v1/labels", tags=["label"])

Noun = Annotated[str, Path(pattern=f"^({'|'.join(LABELLED)})$", description="What it is.")]
Label = Annotated[list[str], Query(max_length=50, description="`key=value`; again for more: all must match.")]


@router.get("/{noun}/{ref}")
def get_labels(broker: TheBroker, caller: Caller, noun: Noun, ref: Ref) -> schema.LabelSet:
    """The labels of one thing."""
    return schema.LabelSet(labels=labelled.get(broker, caller, noun, ref))


@router.patch("/{noun}/{ref}")
def update_labels(
    broker: TheBroker, caller: Caller, noun: Noun, ref: Ref, body: schema.LabelUpdate
) -> schema.LabelSet:
    """Set labels, and take away those that are null; what is not named stays."""
    (labels,) = labelled.change(broker, caller, [(noun, ref)], label.merged(body.labels))
    return schema.LabelSet(labels=labels)


def wanted(texts: list[str]) -> dict[str, str]:
    """The labels that a list is asked for. Raises InvalidRequest."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or "\x00" in text:
            raise InvalidRequest(f"label {text!r} is not key=value")
        labels[key] = value
    return labels
