"""``isthmus policy simulate``: its options are in ``isthmus/cli/policy.py``, what it does is here."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from placement.policy import Policy, PolicyError, parse
from placement.simulate import Result, Setting
from placement.simulate import simulate as simulated
from simulate import report, trace


def simulate(
    files: Sequence[str],
    *,
    trace_file: str,
    hosts_file: str | None,
    seed: int,
    boot_s: float,
    cloud_boot_s: float,
    tick_s: float,
    interruptions_hour: float,
    plot: str | None,
    page: str | None,
    as_json: bool,
) -> None:
    """Simulate each policy file on the trace; print a table, and write what was asked for."""
    setting = Setting(
        boot_s=boot_s,
        cloud_boot_s=cloud_boot_s,
        tick_s=tick_s,
        interruptions_hour=interruptions_hour,
        seed=seed,
    )
    policies = {name: _policy(path) for name, path in _named(files).items()}
    try:
        workload = trace.read(Path(trace_file), seed)
        hosts = trace.hosts(Path(hosts_file)) if hosts_file else list(workload.hosts)
    except trace.TraceError as error:
        raise typer.BadParameter(str(error), param_hint="--trace") from None
    if not any(not host.get("elastic") for host in hosts):
        raise typer.BadParameter(f"{trace_file} has no hosts: give them with --hosts", param_hint="--hosts")
    notes = list(workload.notes)
    results: dict[str, Result] = {}
    for name, policy in policies.items():
        there = {str(host.get("site")) for host in hosts if host.get("elastic")}
        sites = [site for site in (policy.burst.to if policy.burst else ()) if site not in there]
        if sites:
            note = (
                "prices of clouds without hosts are made up: 0.048 an hour and core, GPUs extra, spot at 35 %"
            )
            notes += [] if note in notes else [note]
        results[name] = _run(
            name, policy, [*hosts, *trace.clouds(sites, spot=policy.spot.use)], workload, setting
        )
    title = f"{workload.name}: {', '.join(results)}"
    if plot:
        report.plot(results, Path(plot))
    if page:
        texts = {name: policy.text for name, policy in policies.items()}
        Path(page).write_text(report.page(title, notes, results, texts), encoding="utf-8")
    if as_json:
        typer.echo(
            json.dumps({"notes": notes, "policies": {n: r.figures() for n, r in results.items()}}, indent=2)
        )
    else:
        _print(notes, results)


def _run(
    name: str, policy: Policy, hosts: Sequence[Mapping[str, object]], workload: trace.Trace, setting: Setting
) -> Result:
    if not sys.stderr.isatty():
        return simulated(policy, hosts, workload.tasks, setting)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        return simulated(
            policy, hosts, workload.tasks, setting, lambda part: bar.update(task, completed=part)
        )


def _print(notes: Sequence[str], results: Mapping[str, Result]) -> None:
    for note in notes:
        typer.echo(f"# {note}")
    head, rows = report.table(results)
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for row in (head, *rows):
        typer.echo(
            row[0].ljust(widths[0])
            + "".join(f"  {w:>{width}}" for w, width in zip(row[1:], widths[1:], strict=True))
        )


def _policy(path: str) -> Policy:
    try:
        return parse(Path(path).read_text(), Path(path).name)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="FILE") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8 text", param_hint="FILE") from None
    except PolicyError as error:
        raise typer.BadParameter("\n".join(map(str, error.problems)), param_hint="FILE") from None


def _named(files: Sequence[str]) -> dict[str, str]:
    """Short names for files; the whole path where two have the same name."""
    names = [Path(file).name for file in files]
    return {file if names.count(name) > 1 else name: file for name, file in zip(names, files, strict=True)}
