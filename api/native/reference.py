"""Writes docs/reference/api.md from the OpenAPI document: ``python -m api.native.reference > FILE``.

A test compares the file with what this says, so that the page cannot fall behind.
"""

from __future__ import annotations

import sys
from typing import Any

from api.native.app import create_app

_HEAD = """\
# The native API

Written by `python -m api.native.reference`; edit the routes and models, not this page.

JSON over HTTP on port 8770, below `/v1`. The OpenAPI document is at `/v1/openapi.json`. [`isthmus`](cli.md) and the
[SDK](sdk.md) speak it and nothing else.

- **Who asks.** `Authorization: Bearer ist_...`, on every route but `/healthz` and the document. Roles: `admin` does
  everything; `member` has its project's own VMs, keys and tokens, and reads the rest; `reader` reads; a gateway's token
  opens `/v1/agent/` and nothing else. [Permissions](permissions.md) has every verb; `GET /v1/auth/can` explains one.
- **References.** `{ref}` is a name or an id; a VM's name is looked up among the living VMs of the caller's project. A host
  may be named `site/name`, and a cloud's host is named `zone/type`: the slash may stand as it is or as `%2F`.
- **Errors** have one shape and a stable code: [errors](errors.md). A field that is not known is an error, so that a
  misspelt one is not lost.
- **Lists** answer `{"items": [...], "next": TOKEN}`; `?limit=1..1000` (100 by default) and `?page=TOKEN`. A token names the
  last item before its page: what comes or goes meanwhile neither repeats nor hides others.
- **What takes long** answers 202 with an operation. `GET /v1/operations/{id}?wait=30` holds its answer back until it is over;
  `GET /v1/events?after=SEQ&wait=30` until there is an event.
- **Twice is once.** Any `POST` may carry an `Idempotency-Key` (1 to 255 printable characters). The same request under the same
  key is carried out once and answered as before, for seven days; another request, or another caller's, is refused
  (`idempotency_mismatch`). A refusal is not remembered: the key may be used again. While the first is still being carried out
  the second is answered 503, `under_way`. A broker that dies after the change and before its answer says so for ever after
  (`answer_lost`), and changes nothing. Deleting a VM again changes nothing.
- **Dry runs.** What begins an operation on a VM, and `POST /v1/migrations`, take `?dry_run=true`: everything is checked as
  otherwise, with the same refusals, nothing changes, and the answer is 200 with what would be. The key is not used up.
- **Times** are RFC 3339 in UTC, memory is in MiB, disks are in GiB. Bodies are at most 1 MiB.

"""

_METRICS = """\
## Metrics

`GET /metrics` is Prometheus text; it needs a token with the role `reader` or better, and shows what that token may see.

| metric | labels | |
|---|---|---|
| `isthmus_http_requests_total` | `method`, `route`, `status` | requests, under the route's template |
| `isthmus_http_request_seconds` | `method`, `route` | histogram from request to answer; long polls include their waiting |
| `isthmus_sites` | | sites |
| `isthmus_hosts` | | hosts, elastic ones included |
| `isthmus_vms` | | VMs that are not terminated |
| `isthmus_vms_waiting` | | VMs that wait for a host |
| `isthmus_burst_open` | | 1 while the policy lets VMs burst |
| `isthmus_pruned_total` | `kind` | rows that were kept as long as the settings say, and went |
"""


def write() -> str:
    """The page."""
    document = create_app(None).openapi()  # type: ignore[arg-type]  # the document needs no broker
    parts = [_HEAD, "## Routes\n\n"]
    noun = ""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation["tags"][0]
            if tag != noun:
                noun = tag
                parts.append(f"\n### {noun}\n\n| route | asks | answers | |\n|---|---|---|---|\n")
            parts.append(_route(path, method, operation))
    parts.append("\n" + _METRICS + "\n## Models\n")
    for name, model in sorted(document["components"]["schemas"].items()):
        if not name.startswith("Page_"):
            parts.append(_model(name, model))
    return "".join(parts)


def _route(path: str, method: str, operation: dict[str, Any]) -> str:
    queries = [f"`{p['name']}`" for p in operation.get("parameters", []) if p["in"] == "query"]
    headers = [f"`{p['name']}:`" for p in operation.get("parameters", []) if p["in"] == "header"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    asks = ([_type(body)] if body else []) + headers + queries
    answers = []
    for status, answer in sorted(operation["responses"].items()):
        if status[0] == "2":
            contents: dict[str, Any] = answer.get("content", {})
            content = next((kind.get("schema") for kind in contents.values()), None)
            answers.append(f"{status} {_type(content)}" if content and content != {} else status)
    text = " ".join(operation["description"].split()).replace("|", "\\|")
    return f"| `{method.upper()} {path}` | {', '.join(asks)} | {', '.join(answers)} | {text} |\n"


def _model(name: str, model: dict[str, Any]) -> str:
    lines = [f"\n### {name}\n\n"]
    if model.get("description"):
        lines.append(" ".join(model["description"].replace("``", "`").split()) + "\n\n")
    if "enum" in model:
        return "".join([*lines, "One of ", ", ".join(f"`{value}`" for value in model["enum"]), ".\n"])
    required = set(model.get("required", ()))
    lines.append("| field | type | |\n|---|---|---|\n")
    for field, shape in model.get("properties", {}).items():
        notes = []
        if shape.get("description"):
            notes.append(shape["description"])
        if name.endswith(("Create", "Update", "Text", "Set", "Stop", "Register", "Status", "Enrol")):
            default = shape.get("default")
            if field in required:
                notes.append("Required.")
            elif default not in (None, "", [], {}):
                notes.append(f"Default `{str(default).lower() if isinstance(default, bool) else default}`.")
        notes += _bounds(shape)
        lines.append(f"| `{field}` | {_type(shape)} | {' '.join(notes)} |\n".replace("|  |", "| |"))
    return "".join(lines)


def _type(shape: dict[str, Any]) -> str:
    if "$ref" in shape:
        name = shape["$ref"].rsplit("/", 1)[1]
        if name.startswith("Page_"):
            item = name.removeprefix("Page_").strip("_")
            return f"page of [{item}](#{item.lower()})"
        return f"[{name}](#{name.lower()})"
    if "anyOf" in shape:
        kinds = [_type(kind) for kind in shape["anyOf"] if kind.get("type") != "null"]
        return " or ".join(kinds) + (" or null" if len(kinds) < len(shape["anyOf"]) else "")
    kind = shape.get("type", "any")
    if kind == "array":
        return f"list of {_type(shape['items'])}"
    if kind == "object":
        values = shape.get("additionalProperties")
        return f"map to {_type(values)}" if isinstance(values, dict) else "object"
    return (
        {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}.get(kind, kind)
        if (shape.get("format") != "date-time")
        else "time"
    )


def _bounds(shape: dict[str, Any]) -> list[str]:
    shapes = [shape, *shape.get("anyOf", [])]
    found = []
    for key, text in (
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "less than"),
        ("maxLength", "at most so many characters:"),
        ("maxItems", "at most so many:"),
        ("maxProperties", "at most so many:"),
    ):
        for one in shapes:
            if key in one:
                found.append(f"{text} {int(one[key])}")
    patterns = [one["pattern"] for one in shapes if "pattern" in one]
    found += [f"matches `{pattern}`".replace("|", "\\|") for pattern in patterns]
    return [(", ".join(found)[:1].upper() + ", ".join(found)[1:] + ".")] if found else []


if __name__ == "__main__":
    sys.stdout.write(write())
