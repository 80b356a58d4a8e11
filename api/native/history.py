"""What /v1 was in a release, and what has become of it: ``python -m api.native.history record >
docs/reference/releases/VERSION.json`` when a version is released, ``python -m api.native.history since VERSION`` for
the lines of docs/reference/api-history.md.

A test holds every recorded release to the present: what was there is still there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.native.app import create_app

RELEASES = Path(__file__).resolve().parents[2] / "docs" / "reference" / "releases"

Shape = Mapping[str, Any]
"""``routes``: "METHOD /path" -> names of its parameters; ``models``: name -> field -> kind of value; ``required``:
name of what is asked with -> the fields that it must have."""


@dataclass(frozen=True)
class Differences:
    """Between a release and a later one: lines of words, each naming a route, a parameter, a model or a field."""

    gone: tuple[str, ...]
    """What clients of the earlier one may still send or read, and must not lose."""
    changed: tuple[str, ...]
    new: tuple[str, ...]


def shape() -> Shape:
    """What /v1 is now, as far as clients depend on it."""
    document = create_app(None).openapi()  # type: ignore[arg-type]  # the document needs no broker
    routes: dict[str, list[str]] = {}
    bodies: set[str] = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = sorted(one["name"] for one in operation.get("parameters", ()) if one["in"] != "path")
            routes[f"{method.upper()} {path}"] = named
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies.update(_kind(body.get("schema", {})).split(" or "))
    schemas = document["components"]["schemas"].items()
    models = {
        name: {field: _kind(one) for field, one in model["properties"].items()}
        if "properties" in model
        else {"": _kind(model)}
        for name, model in schemas
    }
    required = {name: sorted(model.get("required", ())) for name, model in schemas if name in bodies}
    return {"routes": routes, "models": models, "required": required}


def differences(before: Shape, now: Shape) -> Differences:
    """What has gone, changed and come."""
    gone, changed, new = list[str](), list[str](), list[str]()
    for lost, found, part in ((gone, now, before), (new, before, now)):
        lost.extend(_names(part, found))
    for model, fields in before["models"].items():
        for field, kind in fields.items():
            is_now = now["models"].get(model, {}).get(field, kind)
            if is_now != kind:
                changed.append(f"`{model}.{field}`: {kind}, now {is_now}")
    for model, fields in now["required"].items():
        if model in before["models"]:
            more = sorted(set(fields) - set(before["required"].get(model, ())))
            changed.extend(f"`{model}.{field}`: now required" for field in more)
    return Differences(tuple(gone), tuple(changed), tuple(new))


def recorded(version: str) -> Shape:
    """A release as it was recorded. Raises OSError for one that was not."""
    found: Shape = json.loads((RELEASES / f"{version}.json").read_text())
    return found


def _names(part: Shape, other: Shape) -> Iterator[str]:
    """What the one has and the other has not; of what is missing as a whole, only that."""
    for route, parameters in part["routes"].items():
        if route not in other["routes"]:
            yield f"`{route}`"
            continue
        yield from (f"`{route}?{name}=`" for name in parameters if name not in other["routes"][route])
    for model, fields in part["models"].items():
        if model not in other["models"]:
            if not model.startswith("Page_"):
                yield f"`{model}`"
            continue
        missing = [field for field in fields if field not in other["models"][model]]
        yield from (f"`{model}.{field}`" for field in missing)


def _kind(one: Mapping[str, Any]) -> str:
    if "$ref" in one:
        return str(one["$ref"].rsplit("/", 1)[1])
    if "anyOf" in one:
        return " or ".join(sorted(_kind(each) for each in one["anyOf"]))
    if "enum" in one or "const" in one:
        return "one of " + ", ".join(map(str, one.get("enum", [one.get("const")])))
    kind = str(one.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(one['items'])}"
    more = one.get("additionalProperties")
    return f"map to {_kind(more)}" if kind == "object" and isinstance(more, dict) else kind


def main(words: list[str]) -> int:
    """The command."""
    match words:
        case ["record"]:
            print(json.dumps(shape(), indent=1, sort_keys=True))
        case ["since", version]:
            found = differences(recorded(version), shape())
            for title, lines in (("Gone", found.gone), ("Changed", found.changed), ("New", found.new)):
                print("\n".join([f"{title}:", *(f"- {line}" for line in lines), ""]))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
