"""The two kinds of model on the wire: answers forgive what a newer server adds, requests forgive nothing."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""1 to 63 of a-z, 0-9, dot and hyphen, with a letter or digit at both ends (RFC 1123)."""

LABELS = "Keys of 1 to 128 characters, values of at most 256; keys that begin with `aws:` are reserved."
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=128)]
LabelValue = Annotated[str, StringConstraints(max_length=256)]
Labels = dict[LabelKey, LabelValue]
"""As long as EC2's tags, which they are in the EC2 face and in a cloud."""
NewLabels = Annotated[Labels, Field(max_length=50, description=LABELS)]
"""The labels of what is to be made."""


class Answer(BaseModel):
    """What the server says. Unknown fields of a newer server are ignored."""

    model_config = ConfigDict(extra="ignore")


class Request(BaseModel):
    """What a client asks. An unknown field is an error: a misspelt one must not be lost silently."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, data: Any) -> Any:
        """Refuse what no database can hold, before it becomes a failure there."""
        _check(data)
        return data


def _check(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("a text may not hold a zero byte")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("a text may not hold half of a surrogate pair") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number must be finite")
    elif isinstance(value, int):
        if abs(value) >= 1 << 63:
            raise ValueError("a number must fit into 64 bits")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
