"""``isthmus vm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from isthmus.cli._options import (
    DryRun,
    Json,
    Labelled,
    Name,
    NewName,
    Timeout,
    Wait,
    moment,
    noun,
    pairs,
    read_text,
    seconds,
)
from isthmus.cli._output import age, cell, put, put_json, put_list, put_record, put_table
from isthmus.cli._progress import Progress
from isthmus.cli._session import client_of

if TYPE_CHECKING:
    from isthmus import schema
    from isthmus.client.operation import Operation
    from isthmus.client.vm import VM

app = noun("vm")

T = TypeVar("T")

_RULE = "GROUP[:SCOPE][:soft]"

_COLUMNS: dict[str, Any] = {
    "NAME": lambda vm: vm.name,
    "STATE": lambda vm: vm.state,
    "FLAVOR": lambda vm: vm.flavor,
    "SITE": lambda vm: vm.site,
    "HOST": lambda vm: vm.host,
    "ADDRESS": lambda vm: vm.address,
    "AGE": lambda vm: age(vm.created_at),
    "REASON": lambda vm: vm.status_reason,
}


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    image: Annotated[str, typer.Option("--image", help="The image to clone.")],
    flavor: Annotated[str, typer.Option("--flavor", help="The size.")],
    network: Annotated[
        list[str] | None,
        typer.Option("--network", help="A network to join; again for more. Default: the only one there is."),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="A free address of the first network to ask for.")
    ] = None,
    key_pair: Annotated[str | None, typer.Option("--key-pair", help="The key pair that may log in.")] = None,
    user_data: Annotated[
        str | None,
        typer.Option("--user-data", metavar="FILE", help="A file for cloud-init; - for standard input."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Again for more.")
    ] = None,
    requirements: Annotated[
        str | None,
        typer.Option("--requirements", metavar="EXPR", help="What a host must be, e.g. 'cpu_free > 4'."),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option("--rank", metavar="EXPR", help="Which host is best: the highest, e.g. '-price_hour'."),
    ] = None,
    affinity: Annotated[
        list[str] | None,
        typer.Option("--affinity", metavar=_RULE, help="Near the others of a group; again for more."),
    ] = None,
    anti_affinity: Annotated[
        list[str] | None,
        typer.Option("--anti-affinity", metavar=_RULE, help="Apart from the others of a group."),
    ] = None,
    spread: Annotated[
        list[str] | None,
        typer.Option("--spread", metavar=_RULE, help="Evenly with the others of a group."),
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="Higher ones are placed first.")
    ] = 0,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", metavar="DURATION", help="How long it will run, e.g. 90m or 2h."),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline",
            metavar="TIME",
            help="When it must have run: 2026-12-24T18:00+01:00, or 3h from now.",
        ),
    ] = None,
    preemptible: Annotated[
        bool, typer.Option("--preemptible", help="It may be suspended to make room for others.")
    ] = False,
    immediate: Annotated[
        bool, typer.Option("--immediate", help="Start now or not at all: do not wait for room.")
    ] = False,
    reservation: Annotated[
        str | None, typer.Option("--reservation", help="The reservation in whose room it stands.")
    ] = None,
    site: Annotated[str | None, typer.Option("--site", help="The only site where it may be.")] = None,
    wait: Wait = True,
    timeout: Timeout = 600,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Create a VM, and wait until it runs."""
    rules = [
        *_rules("affinity", affinity),
        *_rules("anti-affinity", anti_affinity),
        *_rules("spread", spread),
    ]
    runtime_s = seconds(runtime, "--runtime") if runtime else None
    by = moment(deadline, "--deadline") if deadline else None
    client = client_of(ctx)
    text = read_text(user_data, "--user-data") if user_data else None
    with Progress(f"creating {name}") as progress:
        made = client.vms.create(
            name,
            image,
            flavor,
            networks=network or None,
            address=address,
            key_pair=key_pair,
            user_data=text,
            labels=pairs(label, "--label") if label else None,
            site=site,
            requirements=requirements,
            rank=rank,
            priority=priority or None,
            runtime_s=runtime_s,
            deadline=by,
            affinity=rules or None,
            preemptible=preemptible or None,
            immediate=immediate or None,
            reservation=reservation,
            dry_run=dry_run,
        )
        vm = _real(made, json)
        if vm is None:
            return
        if wait:
            vm.wait_until("running", timeout, on_update=progress.update)
    if json:
        put_json(vm)
    elif wait:
        put(f"{vm.name} is running on {vm.host or '?'} at {vm.site or '?'}: {vm.address or 'no address'}")
    else:
        put(f"{vm.name} is {vm.state} ({vm.id})")


@app.command("list")
def list_vms(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="Only of that name.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only in that state.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Only on that site.")] = None,
    label: Labelled = None,
    all: Annotated[bool, typer.Option("--all", help="Terminated ones too.")] = False,
    json: Json = False,
) -> None:
    """List VMs."""
    labels = pairs(label or [], "--label")
    vms = client_of(ctx).vms.list(name=name, state=state, site=site, labels=labels, all=all)
    put_list(vms, _COLUMNS, json, "no VMs; `isthmus vm create` makes one")


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one VM."""
    vm = client_of(ctx).vms.get(name)
    if json:
        put_json(vm)
    else:
        put_record(_record(vm))


@app.command()
def why(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Say why a VM is where it is, or why it is nowhere."""
    answer = client_of(ctx).vms.why(name)
    if json:
        put_json(answer)
    else:
        _put_why(answer)


@app.command()
def start(
    ctx: typer.Context,
    name: Name,
    wait: Wait = True,
    timeout: Timeout = 300,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Start a stopped VM."""
    operation = client_of(ctx).vms.start(name, dry_run=dry_run)
    _finish(operation, f"starting {name}", f"{name} is started", wait, timeout, json)


@app.command()
def stop(
    ctx: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Pull the plug instead of asking the guest.")
    ] = False,
    wait: Wait = True,
    timeout: Timeout = 300,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Stop a running VM; it keeps its disk and addresses."""
    operation = client_of(ctx).vms.stop(name, force=force, dry_run=dry_run)
    _finish(operation, f"stopping {name}", f"{name} is stopped", wait, timeout, json)


@app.command()
def reboot(
    ctx: typer.Context,
    name: Name,
    wait: Wait = True,
    timeout: Timeout = 300,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Reboot a running VM."""
    operation = client_of(ctx).vms.reboot(name, dry_run=dry_run)
    _finish(operation, f"rebooting {name}", f"{name} is rebooted", wait, timeout, json)


@app.command()
def suspend(
    ctx: typer.Context,
    name: Name,
    wait: Wait = True,
    timeout: Timeout = 300,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Save a running VM's memory on its host's disk; its cores and memory are free for others."""
    operation = client_of(ctx).vms.suspend(name, dry_run=dry_run)
    _finish(operation, f"suspending {name}", f"{name} is suspended", wait, timeout, json)


@app.command()
def resume(
    ctx: typer.Context,
    name: Name,
    wait: Wait = True,
    timeout: Timeout = 300,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Let a suspended VM go on where it was, as soon as its host has room."""
    operation = client_of(ctx).vms.resume(name, dry_run=dry_run)
    _finish(operation, f"resuming {name}", f"{name} goes on", wait, timeout, json)


@app.command()
def migrate(
    ctx: typer.Context,
    name: Name,
    to: Annotated[
        str | None, typer.Option("--to", metavar="HOST", help="A host of its site. Default: the best for it.")
    ] = None,
    wait: Wait = True,
    timeout: Timeout = 3600,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Move a VM to another host of its site while it runs."""
    operation = client_of(ctx).vms.migrate(name, host=to, dry_run=dry_run)
    _finish(operation, f"migrating {name}", f"{name} has moved", wait, timeout, json)


@app.command()
def delete(
    ctx: typer.Context,
    name: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or ids.")],
    wait: Wait = True,
    timeout: Timeout = 300,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Terminate VMs: their disks and addresses are given up."""
    client = client_of(ctx)
    operations = [(one, client.vms.delete(one, dry_run=dry_run)) for one in name]
    for one, operation in operations:
        _finish(operation, f"deleting {one}", f"{one} is deleted", wait, timeout, json)


@app.command()
def console(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Print the newest part of a VM's serial console."""
    from isthmus.schema import Console

    text = client_of(ctx).vms.console(name)
    if json:
        put_json(Console(text=text))
    else:
        typer.echo(text, nl=not text.endswith("\n"))


def _finish(
    operation: Operation | schema.DryRun, doing: str, done: str, wait: bool, timeout: float, json: bool
) -> None:
    begun = _real(operation, json)
    if begun is None:
        return
    if wait:
        with Progress(doing) as progress:
            begun.wait(timeout, on_update=progress.update)
    if json:
        put_json(begun)
    else:
        put(done if wait else f"{doing} (operation {begun.id})")


def _real(answer: T | schema.DryRun, json: bool) -> T | None:
    """An answer of the real thing; that of a dry run is printed, and None."""
    from isthmus import schema

    if not isinstance(answer, schema.DryRun):
        return answer
    if json:
        put_json(answer)
    else:
        put(f"{cell(answer.message)}; nothing was changed")
    return None


def _record(vm: VM) -> dict[str, Any]:
    return {
        "name": vm.name,
        "id": vm.id,
        "project": vm.project,
        "state": vm.state,
        "reason": vm.status_reason,
        "image": vm.image,
        "flavor": f"{vm.flavor} ({vm.vcpus} vCPUs, {vm.mem_mb} MiB, {vm.disk_gb} GiB disk)",
        "site": vm.site,
        "host": f"{vm.host} (a cloud's)" if vm.host and vm.elastic else vm.host,
        "networks": [
            f"{nic.network}: {', '.join(nic.addresses) or nic.address or 'no address yet'} ({nic.mac})"
            for nic in vm.nics
        ],
        "public": vm.public_address,
        "key pair": vm.key_pair,
        "labels": vm.labels,
        "requirements": vm.requirements,
        "affinity": [_rule_words(rule) for rule in vm.affinity] or None,
        "priority": vm.priority or None,
        "runtime": f"{vm.runtime_s:g} s" if vm.runtime_s else None,
        "deadline": vm.deadline,
        "rank": vm.rank,
        "preemptible": "yes" if vm.preemptible else None,
        "interruptions": vm.interruptions or None,
        "site wanted": vm.site_wanted,
        "reservation": vm.reservation,
        "provider ref": vm.provider_ref,
        "operation": vm.operation,
        "created": vm.created_at,
        "launched": vm.launched_at,
        "enrolled": vm.enrolled_at,
        "terminated": vm.terminated_at,
    }


def _put_why(why: schema.Why) -> None:
    put(cell(why.summary))
    if why.placed:
        runner_up = f"; next best: {why.runner_up}{_rank(why.runner_up_rank)}" if why.runner_up else ""
        if why.gap is not None:
            runner_up += f", {cell(why.gap)} behind"
        put(cell(f"  on {why.host}{_rank(why.rank)}{runner_up}"))
    if why.sites:
        put()
        put_table(
            ["SITE", "HOSTS", "FEASIBLE", "VERDICT"],
            [[cell(s.site), str(s.hosts), str(s.feasible), cell(s.verdict)] for s in why.sites],
        )
    for site in why.sites:
        refusing = [term for term in site.terms if term.refused or term.undefined]
        if not refusing and site.nearest is None:
            continue
        put()
        put(f"{cell(site.site)}:")
        for term in refusing:
            undefined = f" ({term.undefined} of them for want of an attribute)" if term.undefined else ""
            put(f"  refused {term.refused} of {site.hosts}: {cell(term.text)}{undefined}")
        if site.nearest is not None:
            put(f"  nearest: {cell(site.nearest.host)}, refused: {cell(site.nearest.lacks)}")
    if why.policy:
        put()
        put("burst policy:")
        for clause in why.policy:
            put(f"  {cell(clause)}")
    if why.admit:
        put()
        put(f"would admit it: {cell(why.admit)}")


def _rank(rank: float | None) -> str:
    return "" if rank is None else f" (rank {cell(rank)})"


def _rules(kind: str, texts: list[str] | None) -> list[schema.AffinityRule]:
    """``GROUP[:SCOPE][:soft]`` as rules."""
    from isthmus import schema

    found = []
    for text in texts or []:
        group, *rest = text.split(":")
        hard = "soft" not in rest
        scopes = [part for part in rest if part != "soft"]
        if not group or len(scopes) > 1 or "" in scopes:
            raise typer.BadParameter(f"{text!r} is not {_RULE}, as in web:rack:soft", param_hint=f"--{kind}")
        found.append(
            schema.AffinityRule.model_validate(
                {"kind": kind, "group": group, "scope": scopes[0] if scopes else "host", "hard": hard}
            )
        )
    return found


def _rule_words(rule: schema.AffinityRule) -> str:
    return f"{rule.kind} {rule.group}:{rule.scope}{'' if rule.hard else ':soft'}"
