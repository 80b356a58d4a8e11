"""``isthmus lab``: bring a hybrid cloud up on this machine, look at it, and take it down."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from lab.demo import BURST, Burst, Demo
from lab.lab import ERRORS, Lab, LabError, Status
from lab.lock import Busy, only_one
from lab.node import require_root
from lab.timeline import Timeline
from lab.topology import DEFAULT_DIRECTORY, leftovers

DEMO_DIRECTORY = DEFAULT_DIRECTORY.with_name("demo")
"""Not the lab's own: a demonstration must not take away what somebody works in."""

lab = typer.Typer(
    help="A whole hybrid cloud on this machine, to try and to test. Needs root.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Directory = Annotated[
    Path, typer.Option("--dir", help="Where the lab keeps its files; one lab per directory. Keep it short.")
]


@lab.command()
def up(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Bring the lab up: a campus of two KVM hosts, a cloud, and the internet between them."""
    timeline = Timeline()
    with _told():
        it = Lab(directory)
        with only_one(it.directory):
            it.up(timeline.say)
    timeline.step(f"lab up in {it.directory}")
    _look_around(it.directory)


@lab.command()
def status(
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What of the lab runs. Exit code 0 when it is up, 1 otherwise."""
    with _told():
        require_root()
        seen = Lab(directory).status()
    if as_json:
        typer.echo(json.dumps(seen.as_dict(), indent=2))
    else:
        _show(seen)
    if seen.state != "up":
        raise typer.Exit(1)


@lab.command()
def down(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """End the lab and remove all of it, in whatever state it is."""
    with _told():
        require_root()
        it = Lab(directory)
        with only_one(it.directory):
            _take_down(it, typer.echo)


@lab.command()
def shell(
    side: Annotated[
        str, typer.Argument(help="The broker that `isthmus` speaks to: campus or cloud.")
    ] = "campus",
    command: Annotated[
        str | None, typer.Option("--command", "-c", help="Run this and return, instead of a shell.")
    ] = None,
    node: Annotated[
        str | None, typer.Option(help="Be on this machine of the lab: gw, broker, a, b, api, cloud-a, inet.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Open a shell in which `isthmus` and `aws ec2` speak to one of the lab's brokers."""
    with _told():
        require_root()
        it = Lab(directory)
        if side not in it.brokers:
            raise LabError(f"there is no broker {side!r}: say campus or cloud")
        broker = it.brokers[side]
        if not broker.answers():
            raise LabError(f"no lab is up in {it.directory}: `isthmus lab up` brings one up")
        here = Path(sys.executable).parent
        environment = {
            **os.environ,
            **broker.environment(inside=node is not None),
            "PATH": f"{here}:{os.environ.get('PATH', os.defpath)}",
        }
        program = os.environ.get("SHELL") or "/bin/sh"
        words = [program, "-c", command] if command else [program]
        if node:
            machine = it.topology.nodes.get(node)
            if machine is None:
                raise LabError(f"there is no machine {node!r}: say one of {', '.join(it.topology.nodes)}")
            words = machine.inside(words)
        elif not command:
            typer.echo(f"isthmus and `aws ec2` speak to the {side}'s broker here; `exit` leaves.", err=True)
    sys.stdout.flush()
    os.execvpe(words[0], words, environment)  # noqa: S606


@lab.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab running, to look around.")] = False,
    directory: Directory = DEMO_DIRECTORY,
) -> None:
    """Show it: a full private pool bursts into a cloud, and the burst VM answers over the private network."""
    it = Lab(directory)
    timeline = Timeline(_put)
    signal.signal(signal.SIGTERM, _stop)
    with _told(), only_one(it.directory):
        require_root()
        if leftovers(it.directory):
            timeline.say("removing what an earlier run left")
            _take_down(it, timeline.say)
        burst = None
        try:
            it.up(timeline.say)
            timeline.step("lab up")
            show = Demo(it, timeline)
            burst = _shown(it, show, whole=not keep)
            show.events.silence()
        finally:
            if burst is None or not keep:
                timeline.say("teardown")
                _take_down(it, timeline.step)
        if keep:
            _look_around(it.directory)
        _put(
            f"demo ok: {burst.name} on {burst.site} at {burst.address} answered over the private network "
            f"{burst.seconds:.1f} s after the request"
        )


def _shown(it: Lab, show: Demo, *, whole: bool) -> Burst:
    """Run the demonstration, up to the burst or the whole of it. When it fails the logs are printed."""
    try:
        if whole:
            return show.run()
        show.fill_the_pool()
        return show.burst()
    except ERRORS as error:
        show.timeline.say(f"failed: {error}", "!")
        show.events.silence()
        for title, text in it.logs().items():
            _put(f"--- {title}\n{text}")
        raise


def _put(line: str) -> None:
    print(line, flush=True)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the demonstration as ctrl-C does: it cleans up."""
    raise KeyboardInterrupt


def _take_down(it: Lab, say: Callable[[str], object]) -> None:
    left = it.down()
    say(f"leftovers: {len(left)}")
    if left:
        raise LabError("left behind:\n" + "\n".join(f"  {line}" for line in left))


def _show(seen: Status) -> None:
    typer.echo(f"lab       {seen.state}, in {seen.directory}")
    typer.echo(
        "machines  " + ", ".join(f"{name}{'' if runs else ' (down)'}" for name, runs in seen.nodes.items())
    )
    for name, broker in seen.brokers.items():
        how = f"{broker.vms} VMs, {broker.waiting} waiting, bursts {broker.burst}"
        typer.echo(f"{name:8}  {broker.url}  {how if broker.answers else 'does not answer'}")


def _isthmus() -> str:
    """How the person who runs this can type the command: its path, when it is not on theirs."""
    own = Path(sys.executable).with_name("isthmus")
    if (found := shutil.which("isthmus")) and Path(found).resolve() == own.resolve():
        return "isthmus"
    return shlex.quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))


def _look_around(directory: Path) -> None:
    isthmus = _isthmus()
    option = "" if directory == DEFAULT_DIRECTORY.resolve() else f" --dir {shlex.quote(str(directory))}"
    here = "" if directory == DEFAULT_DIRECTORY.resolve() else f"  ({BURST} is the burst VM)"
    lines = (
        ("a shell that speaks to the campus", f"{isthmus} lab shell{option}"),
        ("the same for the cloud", f"{isthmus} lab shell cloud{option}"),
        ("in there", f"isthmus vm list; isthmus vm why NAME; isthmus event follow{here}"),
        ("a shell on the gateway", f"{isthmus} lab shell --node gw{option}"),
        ("take it down", f"{isthmus} lab down{option}"),
        ("more", "docs/how-to/lab.md"),
    )
    for what, how in lines:
        _put(f"  {what + ':':36}{how}")


@contextmanager
def _told() -> Iterator[None]:
    """Turns what can go wrong with a lab into two lines and exit code 1."""
    try:
        yield
    except (*ERRORS, Busy) as error:
        typer.echo(f"error: {error}", err=True)
        if hint := getattr(error, "hint", ""):
            typer.echo(f"hint: {hint}", err=True)
        raise typer.Exit(1) from None
