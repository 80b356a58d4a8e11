"""Labels of anything: keys and values of its users' own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from isthmus.schema._base import LABELS, Answer, LabelKey, LabelValue, Request


class LabelSet(Answer):
    """The labels of one thing."""

    labels: dict[str, str] = Field(default_factory=dict)


class LabelUpdate(Request):
    """A merge patch (RFC 7396): a value sets a label, null takes it away, what is not named stays."""

    labels: Annotated[dict[LabelKey, LabelValue | None], Field(max_length=100, description=LABELS)]
