"""Writes docs/reference/operations.md from the declarations themselves: ``python -m broker.engine.reference > FILE``.

A test compares the file with what this says, so that the page cannot fall behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.engine.declaration import Declaration, Phase
from broker.engine.registry import OPERATIONS

_HEAD = """\
# Operations

Written by `python -m broker.engine.reference`; edit the declarations in `broker/engine/`, not this page.

Everything that takes longer than an answer is an operation: a row with a kind, a target and a phase, which any broker
on the same database can move on. [Operations and durability](../explanation/operations-and-durability.md) says how;
this page lists every kind, what each phase may ask of a provider, and what takes its effects back when the operation is given up.

An operation begins when no earlier one on its target can be in the middle of a call any more, except where its kind
says otherwise. From each phase one that cannot succeed goes to `abandon`, where there is one; without it the
operation is tried again until it succeeds.
"""


def write() -> str:
    """The page."""
    return "\n".join([_HEAD, *(line for one in OPERATIONS.values() for line in _kind(one))])


def _kind(one: Declaration) -> Iterator[str]:
    yield f"## `{one.kind}`"
    yield ""
    begins = "Waits for earlier ones to settle." if one.settles else "Begins at once."
    yield f"Target: `{one.target.__tablename__}`. {begins}"
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {one.phases[0].word}"
    for phase in one.phases:
        for run in phase.to:
            yield f"    {phase.word} --> {one.after(phase.word, run).word}"
    for phase in one.phases:
        if phase.ends or not phase.to:
            yield f"    {phase.word} --> [*]"
    yield "```"
    yield ""
    yield "| phase | what it does | asks the provider | undo |"
    yield "|---|---|---|---|"
    for phase in one.every:
        yield f"| `{phase.word}` | {_what(phase)} | {_calls(phase)} | {_undo(phase)} |"
    yield ""


def _what(phase: Phase) -> str:
    text = (phase.run.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split())


def _calls(phase: Phase) -> str:
    return ", ".join(f"`{call}`" for call in phase.calls) or "nothing"


def _undo(phase: Phase) -> str:
    if isinstance(phase.undo, str):
        return f"none: {phase.undo}"
    return (phase.undo.__doc__ or "").strip().split("\n")[0]


if __name__ == "__main__":
    print(write())
