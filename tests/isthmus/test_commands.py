"""How the command finds its nouns, the commands of other packages, and the shell's completions."""

from __future__ import annotations

import importlib.metadata
import os
import pty
import select
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import pytest
import typer

from isthmus.cli import main as cli
from isthmus.cli._session import Session


class Point:
    """An entry point of another package."""

    def __init__(self, load: Any) -> None:
        self.load = load


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(**commands: Any) -> None:
        def entry_points(group: str, name: str) -> list[Point]:
            assert group == "isthmus.commands"
            return [Point(commands[name])] if name in commands else []

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return install


def run(*argv: str) -> int:
    return cli.main(argv, Session(environ={}))


def test_a_function_of_another_package_is_a_command(plug: Any, capsys: Any) -> None:
    def hello(name: Annotated[str, typer.Option()] = "you") -> None:
        """Say hello."""
        typer.echo(f"hello {name}")

    plug(hello=lambda: hello)
    assert run("hello", "--name", "world") == 0
    assert capsys.readouterr().out == "hello world\n"
    assert run("hello", "--help") == 0
    assert "Usage: isthmus hello" in capsys.readouterr().out


def test_an_app_of_another_package_is_a_group_of_commands(plug: Any, capsys: Any) -> None:
    app = typer.Typer()

    @app.command()
    def up() -> None:
        typer.echo("up")

    @app.command()
    def down() -> None:
        raise typer.Exit(7)

    plug(lab=lambda: app)
    assert run("lab", "up") == 0
    assert run("lab", "down") == 7
    assert capsys.readouterr().out == "up\n"


def test_a_command_may_return_its_exit_code(plug: Any) -> None:
    plug(serve=lambda: lambda: 5)
    assert run("serve") == 5


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("serve", "isthmus-server"),
        ("agent", "isthmus-server[vpn]"),
        ("lab", "isthmus-server[lab]"),
        ("init", "isthmus-server"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    plug: Any, capsys: Any, name: str, package: str
) -> None:
    def load() -> None:
        raise ModuleNotFoundError("No module named 'sqlalchemy'")

    plug(**{name: load})
    assert run(name) == 2
    printed = capsys.readouterr().err
    assert "No module named 'sqlalchemy'" in printed
    assert f"hint: pip install '{package}'" in printed


def test_a_command_that_is_not_installed_at_all_is_named(plug: Any, capsys: Any) -> None:
    plug()
    assert run("serve") == 2
    assert "pip install 'isthmus-server'" in capsys.readouterr().err


def test_the_list_of_commands_has_all_of_them_with_a_line_of_help(capsys: Any) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for name in (*cli.NOUNS, *cli.EXTRAS):
        assert f"\n  {name} " in printed


@pytest.mark.parametrize("noun", cli.NOUNS)
def test_every_noun_loads_and_every_verb_has_help_and_json(noun: str) -> None:
    command = cli._load(noun)
    verbs = getattr(command, "commands", {"": command})
    for name, verb in verbs.items():
        assert verb.help, (noun, name)
        assert verb.help.splitlines()[0].endswith((".", ")")), (noun, name)
        names = {option for param in verb.params for option in param.opts}
        quiet = name in ("delete", "remove", "remove-subnet") and noun != "vm"  # these answer nothing
        assert quiet or "--json" in names, (noun, name)


def complete(*words: str) -> list[str]:
    environ = os.environ | {
        "_ISTHMUS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["isthmus", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = "import sys; from isthmus.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_nouns_verbs_and_options() -> None:
    assert complete("ne") == ["network"]
    assert {"create", "list", "why", "console"} <= set(complete("vm", ""))
    assert complete("vm", "create", "--req") == ["--requirements"]
    assert complete("vm", "stop", "--dry") == ["--dry-run"]


def test_an_unknown_command_is_no_plug_in() -> None:
    assert cli._load("nonsense") is None


class Slow(BaseHTTPRequestHandler):
    """A broker that takes its time for one operation."""

    def do_GET(self) -> None:
        time.sleep(0.6)
        Slow.asked += 1
        over = Slow.asked > 2
        state = "done" if over else "running"
        body = (
            '{"id": "op-1", "kind": "vm.create", "target": "vm-1", "phase": "boot", "message": "guest boots",'
            f'"state": "{state}", "created_at": "2026-11-20T12:00:00Z"}}'
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    asked = 0


@pytest.fixture
def slow() -> Any:
    Slow.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


WAIT = [sys.executable, "-m", "isthmus.cli.main", "operation", "wait", "op-1"]


def test_what_takes_long_shows_its_phase_on_a_terminal(slow: str) -> None:
    ours, theirs = pty.openpty()
    environ = os.environ | {"ISTHMUS_URL": slow, "ISTHMUS_TOKEN": "t", "TERM": "xterm", "NO_PROXY": "*"}
    process = subprocess.Popen(WAIT, env=environ, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ready, _, _ = select.select([ours], [], [], 0.2)
        if ready:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(ours)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert b"waiting for op-1 (boot: guest boots)" in seen
    assert out == b"vm.create of vm-1 is done\n"


def test_what_takes_long_is_silent_in_a_pipe(slow: str) -> None:
    environ = os.environ | {"ISTHMUS_URL": slow, "ISTHMUS_TOKEN": "t", "NO_PROXY": "*"}
    done = subprocess.run(WAIT, env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"vm.create of vm-1 is done\n")
