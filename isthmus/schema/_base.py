"""The two kinds of model on the wire: answers forgive what a newer server adds, requests forgive nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""1 to 63 of a-z, 0-9, dot and hyphen, with a letter or digit at both ends (RFC 1123)."""


class Answer(BaseModel):
    """What the server says. Unknown fields of a newer server are ignored."""

    model_config = ConfigDict(extra="ignore")


class Request(BaseModel):
    """What a client asks. An unknown field is an error: a misspelt one must not be lost silently."""

    model_config = ConfigDict(extra="forbid")
