"""``isthmus agent`` as it is typed."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import structlog
import typer
from typer.testing import CliRunner

from vpn import plan
from vpn.admission import GRACE_S
from vpn.bootstrap import KEEPALIVE_S
from vpn.command import agent
from vpn.state import State


@pytest.fixture
def app() -> Iterator[typer.Typer]:
    made = typer.Typer(add_completion=False)
    made.command()(agent)
    yield made
    # The command sends logs to its own standard error, which ends with it here.
    structlog.reset_defaults()


def _run(app: typer.Typer, *argv: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(argv))
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


def test_what_is_missing_is_named(app: typer.Typer, tmp_path: Path) -> None:
    code, said = _run(app, "--state", str(tmp_path))
    assert code == 2
    assert "--broker and --token-file are needed" in said


@pytest.mark.parametrize("text", ["", "two words", "tökén"])
def test_a_token_file_without_one_token_is_named(app: typer.Typer, tmp_path: Path, text: str) -> None:
    token = tmp_path / "token"
    token.write_text(text)
    code, said = _run(
        app, "--state", str(tmp_path / "s"), "--broker", "https://h:1", "--token-file", str(token)
    )
    assert code == 2
    assert "does not hold one token" in said
    assert not text or text not in said


def test_a_missing_token_file_is_named(app: typer.Typer, tmp_path: Path) -> None:
    code, said = _run(app, "--state", str(tmp_path), "--broker", "https://h:1", "--token-file", "/none")
    assert (code, "cannot read the token file /none" in said) == (2, True)


def test_a_bad_url_or_ca_is_named(app: typer.Typer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("ist_x")
    common = ["--state", str(tmp_path / "s"), "--token-file", str(token)]
    assert _run(app, *common, "--broker", "h:1")[0] == 2
    assert _run(app, *common, "--broker", "https://h:1", "--ca", "/none.pem")[0] == 2


def test_a_second_agent_of_the_same_state_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    held = State(tmp_path)
    held.lock()
    code, said = _run(app, "--state", str(tmp_path), "--teardown")
    assert (code, "another agent" in said) == (1, True)


def test_every_option_is_explained_in_the_docs(app: typer.Typer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "tunnels.md").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    options = {name for each in command.params for name in each.opts if name.startswith("--")}
    assert {"--broker", "--wan"} <= options
    assert [name for name in sorted(options - {"--help"}) if f"| `{name}` |" not in page] == []


def test_the_numbers_in_the_docs_are_those_in_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "tunnels.md").read_text(encoding="utf-8")
    room = ip_network(plan.ENROLMENT_POOL).num_addresses - 3
    for text in (
        plan.ENROLMENT_POOL,
        f"http://{plan.LINK_ADDRESS}:{plan.ENROLMENT_PORT}/v1/enrol",
        f"MTU is {plan.DEFAULT_MTU} bytes",
        f"room for {room:,} launches",
        f"{GRACE_S:.0f} seconds after the answer",
        f"each {KEEPALIVE_S} seconds",
    ):
        assert text in page
