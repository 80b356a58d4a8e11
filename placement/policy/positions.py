"""Where in a policy file the characters of its values stand."""

from __future__ import annotations

from ruamel.yaml.nodes import Node, ScalarNode


def place(text: str, node: Node, offset: int) -> tuple[int, int]:
    """The line and column in the file of a place inside a scalar, both from 1."""
    assert isinstance(node, ScalarNode)  # noqa: S101 - an expression was read from it
    index = _index(text, node, offset)
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _index(text: str, node: ScalarNode, offset: int) -> int:
    """Where in the file the character at ``offset`` of a scalar's value stands; its end for the value's end.

    YAML changes a scalar on its way to the value: quotes and escapes go, folded lines join, indents vanish.
    What is not white space stays in order, so it is found again by walking both side by side.
    """
    start, end, style = node.start_mark.index, node.end_mark.index, node.style
    position: int = start
    if style in ("'", '"'):
        position += 1
        end -= 1
    elif style in ("|", ">"):
        position = text.index("\n", start) + 1
    value = scalar(node)
    for character in value[:offset]:
        if not character.isspace():
            position = _next(text, character, position, end, style)
    if offset >= len(value) or value[offset].isspace():
        return position
    return _next(text, value[offset], position, end, style) - (2 if _doubled(style, value[offset]) else 1)


def _next(text: str, character: str, position: int, end: int, style: str | None) -> int:
    """Right behind the next place of a character. An escape such as ``\\x41`` is not found: stay before it."""
    found = text.find(character, position, end)
    return position if found < 0 else found + (2 if _doubled(style, character) else 1)


def _doubled(style: str | None, character: str) -> bool:
    """Whether YAML writes the character twice."""
    return style == "'" and character == "'"


def scalar(node: ScalarNode) -> str:
    """The text of a scalar. The round-trip reader marks where a folded one (``>``) was folded with a BEL."""
    value = str(node.value)
    return value.replace("\a", "") if node.style == ">" else value
