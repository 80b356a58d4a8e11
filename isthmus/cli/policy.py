"""``isthmus policy``."""

from __future__ import annotations

from json import dumps
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli._extra import extra
from isthmus.cli._options import Json, noun, read_text, seconds
from isthmus.cli._output import age, cell, note, put, put_json, put_list, put_record
from isthmus.cli._session import client_of

if TYPE_CHECKING:
    from isthmus import schema

app = noun("policy")

File = Annotated[str, typer.Argument(metavar="FILE", help="A policy file; - for standard input.")]

_STEPS: dict[str, Any] = {
    "VM": lambda step: step.vm,
    "WOULD": lambda step: step.action,
    "HOST": lambda step: step.host,
    "WHY": lambda step: step.reason,
}
_COLUMNS: dict[str, Any] = {
    "VERSION": lambda policy: policy.version,
    "APPLIED BY": lambda policy: policy.applied_by,
    "APPLIED": lambda policy: policy.applied_at,
}


@app.command()
def check(ctx: typer.Context, file: File, json: Json = False) -> None:
    """Check a policy file: each mistake with file, line, column and mend. Exit 1 when there is one."""
    answer = client_of(ctx).policy.check(read_text(file, "FILE"), _name(file))
    if json:
        put_json(answer)
    elif answer.ok:
        put(f"{file} is good")
    for problem in [] if json else answer.problems:
        note(cell(f"{problem.file}:{problem.line}:{problem.column}: {problem.message}"))
        if problem.mend:
            note(cell(f"  mend: {problem.mend}"))
    if not answer.ok:
        raise typer.Exit(1)


@app.command()
def apply(ctx: typer.Context, file: File, json: Json = False) -> None:
    """Put a policy file in force."""
    policy = client_of(ctx).policy.apply(read_text(file, "FILE"), _name(file))
    if json:
        put_json(policy)
    else:
        put(f"version {policy.version} is in force, bursts are {policy.burst}")


@app.command()
def diff(ctx: typer.Context, file: File, json: Json = False) -> None:
    """Show what a file would change in the policy in force. Exit 1 when it differs, as diff does."""
    import difflib

    from isthmus.client._errors import NotFound

    text = read_text(file, "FILE")
    try:
        policy = client_of(ctx).policy.get()
        old, label = policy.text, f"version {policy.version}"
    except NotFound:
        old, label = "", "nothing in force"
    lines = list(difflib.unified_diff(old.splitlines(), text.splitlines(), label, _name(file), lineterm=""))
    if json:
        typer.echo(dumps({"differs": bool(lines), "diff": lines}))
    elif not lines:
        put(f"{file} is what is in force")
    for line in [] if json else lines:
        put(cell(line))
    if lines:
        raise typer.Exit(1)


@app.command()
def rehearse(ctx: typer.Context, file: File, json: Json = False) -> None:
    """Say what a policy file would do now, on the live pool: who is placed where, waits, or leaves. Changes nothing."""
    found = client_of(ctx).policy.rehearse(read_text(file, "FILE"), _name(file))
    if json:
        put_json(found)
        return
    put_record(
        {
            "burst": found.burst,
            "reason": found.reason,
            "opens on": [_clause(clause) for clause in found.open],
            "closes on": [_clause(clause) for clause in found.close],
        }
    )
    put_list(found.steps, _STEPS, False, "no VM waits, and none would leave")


@app.command()
def show(
    ctx: typer.Context,
    text: Annotated[bool, typer.Option("--text", help="Print the file's text only.")] = False,
    json: Json = False,
) -> None:
    """Show what is in force, and each condition with its value now."""
    policy = client_of(ctx).policy.get()
    if json:
        put_json(policy)
    elif text:
        typer.echo(policy.text, nl=not policy.text.endswith("\n"))
    else:
        put_record(
            {
                "version": policy.version,
                "applied by": policy.applied_by,
                "applied": policy.applied_at,
                "burst": f"{policy.burst} for {age(policy.burst_since)}"
                if policy.burst_since
                else policy.burst,
                "reason": policy.reason,
                "burst vms": policy.burst_vms,
                **({"budget": policy.budget} if policy.budget else {}),
                "opens on": [_clause(clause) for clause in policy.open],
                "closes on": [_clause(clause) for clause in policy.close],
            }
        )


@app.command()
def versions(ctx: typer.Context, json: Json = False) -> None:
    """List all that were ever in force, newest first."""
    put_list(
        client_of(ctx).policy.versions(), _COLUMNS, json, "no policy; `isthmus policy apply FILE` sets one"
    )


@app.command()
def simulate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Policy files; several are compared side by side.")
    ],
    trace: Annotated[
        str,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="The workload: a .swf[.gz] file, the openb archive (.tar.gz), or `isthmus event list --json`.",
        ),
    ],
    hosts: Annotated[
        str | None,
        typer.Option(
            "--hosts",
            metavar="FILE",
            help="What `isthmus host list --json` prints, or YAML or CSV. Default: the trace's own.",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw queue, use, bursts and cost: .png or .svg."),
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Write a page of HTML with all of it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="For what a trace does not say.")] = 1,
    boot: Annotated[
        str, typer.Option("--boot", metavar="DURATION", help="How long a local VM boots.")
    ] = "10s",
    cloud_boot: Annotated[
        str, typer.Option("--cloud-boot", metavar="DURATION", help="How long a VM in a cloud boots.")
    ] = "90s",
    tick: Annotated[
        str, typer.Option("--tick", metavar="DURATION", help="How often the policy is looked at.")
    ] = "60s",
    interruptions: Annotated[
        float,
        typer.Option("--interruptions", min=0, metavar="PER_HOUR", help="How often a spot VM is taken back."),
    ] = 0.05,
    json: Json = False,
) -> None:
    """Try policies on a recorded workload, here, without a broker: what they cost, how long VMs wait, how often they flip."""
    extra("policy.simulate", "isthmus-server[simulate]")(
        files,
        trace_file=trace,
        hosts_file=hosts,
        seed=seed,
        boot_s=seconds(boot, "--boot"),
        cloud_boot_s=seconds(cloud_boot, "--cloud-boot"),
        tick_s=max(1.0, seconds(tick, "--tick")),
        interruptions_hour=interruptions,
        plot=plot,
        page=report,
        as_json=json,
    )


def _name(file: str) -> str:
    return "standard input" if file == "-" else PurePath(file).name


def _clause(clause: schema.Clause) -> str:
    holds = {True: "yes", False: "no", None: "undefined"}[clause.holds]
    value = f", now {cell(clause.value)}" if clause.value is not None else ""
    return f"{clause.text}: {holds}{value}"
