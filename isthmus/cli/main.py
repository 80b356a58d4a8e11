"""The ``isthmus`` command.

Exit codes: 0 done; 1 the broker refused, or the operation failed; 2 the command or its configuration is wrong;
3 the broker cannot be reached; 4 the time is over and it still goes on; 130 interrupted.

Nothing is imported before it is needed: the list of commands is a table, and the module of a noun is loaded
when the noun is typed. Commands of other packages (``serve``, ``agent``, ``lab``) come in through the entry-point
group ``isthmus.commands``; a value of it is a ``typer.Typer`` or a function.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from isthmus import nouns
from isthmus.cli._session import Session
from isthmus.client._errors import (
    APIError,
    ConfigurationError,
    ConnectionFailed,
    IsthmusError,
    OperationTimeout,
    UnexpectedAnswer,
)

REFUSED, USAGE, UNREACHABLE, TIMEOUT = 1, 2, 3, 4

NOUNS = {
    "status": "The broker: version, counts, whether bursts are open.",
    **{row.command: row.line for row in nouns.NOUNS},
}
"""What asks a broker: itself, and each noun of the table, each in the module of its name."""

EXTRAS = {
    "init": ("Make a broker's data directory, its first admin and token.", "isthmus-server"),
    "serve": ("Run the broker.", "isthmus-server"),
    "backup": ("Write all that a broker knows into one file.", "isthmus-server"),
    "restore": ("Put a backup in place, where no broker runs.", "isthmus-server"),
    "agent": ("Run a gateway's agent.", "isthmus-server[vpn]"),
    "lab": ("A whole hybrid cloud on this machine, to try and to test.", "isthmus-server[lab]"),
}
"""Commands that need more than the SDK: one line of help, and what to install."""


class Commands(TyperGroup):
    """The root: lists commands from the tables, and loads one when it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, line in {**NOUNS, **{name: line for name, (line, _) in EXTRAS.items()}}.items():
            self.commands[name] = TyperCommand(name, help=line, rich_markup_mode=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the one-line stub by the command itself."""
        try:
            command = _load(args[0])
        except ConfigurationError:
            if not ctx.resilient_parsing:  # the shell asks for completions: say nothing
                raise
            command = None
        if command is not None:
            self.commands[args[0]] = command
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    if name in NOUNS:
        value = import_module(f"isthmus.cli.{name}").app
    else:
        from importlib.metadata import entry_points

        points = entry_points(group="isthmus.commands", name=name)
        if not points:
            if name in EXTRAS:
                raise _missing(name, "this installation does not offer it")
            return None
        try:
            value = next(iter(points)).load()
        except ImportError as error:
            raise _missing(name, str(error)) from error
    if not isinstance(value, typer.Typer):
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(name)(value)
        value = app
    command = typer.main.get_command(value)
    command.name = name
    return command


def _missing(name: str, reason: str) -> ConfigurationError:
    package = EXTRAS.get(name, ("", ""))[1]
    return ConfigurationError(
        f"`isthmus {name}` cannot be loaded: {reason}",
        code="missing_extra",
        hint=f"pip install '{package}'" if package else "",
    )


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong command or configuration, 3 broker not reached, "
    "4 time over.",
)


def _version(asked: bool) -> None:
    if asked:
        from isthmus import __version__

        typer.echo(f"isthmus {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option("--url", help="The broker. Default: ISTHMUS_URL, or client.toml.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help="Default: ISTHMUS_TOKEN, or client.toml; others can see it in `ps` when given here.",
        ),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option("--ca", metavar="FILE", help="CA of the broker's certificate. Default: ISTHMUS_CA."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One API for VMs, networks and storage over your own hosts and the clouds you rent."""
    session = ctx.find_object(Session)
    assert session is not None, "main() gives the root its session"  # noqa: S101
    session.url, session.token, session.ca = url or session.url, token or session.token, ca or session.ca


def main(argv: Sequence[str] | None = None, session: Session | None = None) -> int:
    """Run one command; the exit code. Prints errors in words, never a traceback unless ISTHMUS_DEBUG is set."""
    session = session or Session()
    try:
        result = typer.main.get_command(app).main(
            args=None if argv is None else list(argv), prog_name="isthmus", standalone_mode=False, obj=session
        )
    except typer.TyperException as error:
        return _usage(error)
    except typer.Abort:
        _say("error: aborted")
        return REFUSED
    except IsthmusError as error:
        _explain(error)
        return _exit_code(error)
    except Exception as error:
        if session.environ.get("ISTHMUS_DEBUG"):
            raise
        _say(f"error: {type(error).__name__}: {error}")
        _say("hint: this is a mistake of isthmus itself; ISTHMUS_DEBUG=1 shows where")
        return REFUSED
    return result if isinstance(result, int) else 0


def _usage(error: typer.TyperException) -> int:
    ctx = getattr(error, "ctx", None)
    message = error.format_message()
    if message.startswith("Usage:"):  # no arguments: the help itself
        _say(message)
    else:
        _say(f"error: {message[:1].lower()}{message[1:]}")
        if ctx is not None:
            _say(f"hint: `{ctx.command_path} --help` shows how")
    return error.exit_code


def _exit_code(error: IsthmusError) -> int:
    if isinstance(error, ConnectionFailed | UnexpectedAnswer):
        return UNREACHABLE
    if isinstance(error, OperationTimeout):
        return TIMEOUT
    return USAGE if isinstance(error, ConfigurationError) else REFUSED


def _explain(error: IsthmusError) -> None:
    _say(f"error: {error.message}")
    positions = _positions(error.details) if isinstance(error, APIError) else []
    for line in positions:
        _say(f"  {line}")
    if error.hint and not any(error.hint in line for line in positions):
        _say(f"hint: {error.hint}")


def _positions(details: Mapping[str, Any]) -> list[str]:
    """Where a mistake is: of a policy's problems, or of an expression (with a mark below the column)."""
    lines: list[str] = []
    for problem in details.get("problems") or []:
        mend = f" ({problem['mend']})" if problem.get("mend") else ""
        lines.append(f"{problem['file']}:{problem['line']}:{problem['column']}: {problem['message']}{mend}")
    text, column = details.get("text"), details.get("column")
    if isinstance(text, str) and isinstance(column, int):
        number = details.get("line")
        rows = text.splitlines() or [""]
        row = rows[number - 1] if isinstance(number, int) and 0 < number <= len(rows) else rows[0]
        lines += [row, " " * (column - 1) + "^"]
        if details.get("mend"):
            lines.append(str(details["mend"]))
    return lines


def _say(text: str) -> None:
    safe = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    typer.echo(safe, err=True)


if __name__ == "__main__":
    sys.exit(main())
