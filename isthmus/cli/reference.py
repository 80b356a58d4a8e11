"""Writes docs/reference/cli.md from the commands themselves: ``python -m isthmus.cli.reference > FILE``.

A test compares the file with what this says, so that the page cannot fall behind.
"""

from __future__ import annotations

from typing import Any

import typer

from isthmus.cli.main import EXTRAS, NOUNS, _load, app

_HEAD = """\
# The `isthmus` command

Written by `python -m isthmus.cli.reference`; edit the commands, not this page.

`isthmus NOUN VERB` asks a broker; `isthmus serve`, `agent`, `init`, `backup`, `restore` and `lab` run on the machine
itself. `--help` works everywhere, `isthmus --install-completion` teaches the shell.

**Which broker.** `--url`, `--token` and `--ca` before the noun; else the environment's `ISTHMUS_URL`, `ISTHMUS_TOKEN`
and `ISTHMUS_CA`; else `~/.config/isthmus/client.toml` with the keys `url`, `token` and `ca`, which `isthmus init`
writes. The file's token is only ever sent to the file's address. A token on the command line is seen by everybody
who may run `ps`: prefer the other two.

**What is printed.** Tables and short sentences for people. With `--json` exactly what the API answers
([schema](api.md)): one object, an array for lists (all pages of it), one object per line for `event follow`.
Progress and hints go to standard error, and only where a terminal is.

**Dry runs.** `--dry-run` checks all that the command would have checked, says what would be, and changes nothing
([how-to](../how-to/try-a-request.md)).

**How it ends.**

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the broker refused, or the operation failed; `policy check` found a mistake |
| 2 | the command is wrong, or no broker is configured |
| 3 | the broker cannot be reached, or something else answers there |
| 4 | `--timeout` is over; the operation goes on in the broker |
| 130 | interrupted |

Errors are `error: ...` and `hint: ...` on standard error; [errors](errors.md) lists their codes. With `ISTHMUS_DEBUG=1` a
mistake of `isthmus` itself shows its traceback.
"""


def write() -> str:
    """The page."""
    root: Any = typer.main.get_command(app)
    parts = [_HEAD, _options("## Root options", root)]
    for noun in NOUNS:
        command = _load(noun)
        verbs = getattr(command, "commands", None)
        parts.append(f"## isthmus {noun}\n\n{NOUNS[noun]}\n")
        if verbs is None:
            parts.append(_options("", command))
        for name, verb in (verbs or {}).items():
            parts.append(_verb(f"isthmus {noun} {name}", verb))
    parts.append("## Commands of the server's side\n")
    rows = "".join(
        f"| `isthmus {name}` | {line} | `{package}` |\n" for name, (line, package) in EXTRAS.items()
    )
    parts.append(f"| command | | what to install |\n|---|---|---|\n{rows}")
    return "\n".join(part for part in parts if part)


def _verb(path: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    usage = " ".join([path, *(_argument(param) for param in arguments)])
    rows = "".join(f"| `{param.display_name_raw}` | {_text(param)} |\n" for param in arguments)
    return f"### `{usage}`\n\n{_sentence(command.help)}\n\n{_options('', command, rows)}"


def _argument(param: Any) -> str:
    name: str = param.display_name_raw
    return name if param.required else f"[{name}]"


def _options(title: str, command: Any, rows: str = "") -> str:
    for param in command.params:
        if param.param_type_name != "option" or param.name in ("install_completion", "show_completion"):
            continue
        names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
        value = "" if param.is_flag else f" `{param.metavar or param.name.upper()}`"
        rows += f"| {names}{value} | {_text(param)} |\n"
    head = f"{title}\n\n" if title else ""
    return f"{head}| | |\n|---|---|\n{rows}" if rows else head


def _text(param: Any) -> str:
    text = _sentence(param.help or "").replace("|", "\\|")
    notes = []
    if param.param_type_name == "option" and param.required:
        notes.append("required")
    default = param.default
    if default not in (None, False, "", ()) and not callable(default):
        shown = "wait" if param.name == "wait" else str(getattr(default, "value", default))
        notes.append(f"default `{shown}`")
    return text + (f" ({', '.join(notes)})" if notes else "")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    typer.echo(write(), nl=False)
