"""Reports of simulations: plots, and a page of HTML that needs nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from placement.simulate import Result

ROWS: Sequence[tuple[str, str, str]] = (
    ("cost", "cost", "{:,.2f}"),
    ("wait p50, s", "wait_p50_s", "{:,.0f}"),
    ("wait p95, s", "wait_p95_s", "{:,.0f}"),
    ("wait p99, s", "wait_p99_s", "{:,.0f}"),
    ("tasks", "tasks", "{:,.0f}"),
    ("never placed", "unplaced", "{:,.0f}"),
    ("burst", "burst", "{:,.0f}"),
    ("burst hours", "burst_hours", "{:,.1f}"),
    ("drained before done", "drained", "{:,.0f}"),
    ("suspended for others", "suspended", "{:,.0f}"),
    ("deadlines missed", "deadlines_missed", "{:,.0f}"),
)
"""Label, figure and format of what is told of all tasks and of each project's."""

WHOLE: Sequence[tuple[str, str, str]] = (
    ("flips a day", "flips_per_day", "{:.2f}"),
    ("most flips in a day", "most_flips_a_day", "{:,.0f}"),
    ("peak queue", "peak_queue", "{:,.0f}"),
)


def table(results: Mapping[str, Result]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one column per policy, projects below."""
    figures = {name: result.figures() for name, result in results.items()}
    rows = [
        [label, *(form.format(each[key]) for each in figures.values())]
        for label, key, form in (*ROWS, *WHOLE)
    ]
    projects = sorted({project for each in figures.values() for project in each["projects"]})
    for project in projects if len(projects) > 1 else ():
        for label, key, form in ROWS:
            rows.append(
                [
                    f"{project}: {label}",
                    *(form.format(each["projects"][project][key]) for each in figures.values()),
                ]
            )
    return ["", *figures], rows


def plot(results: Mapping[str, Result], path: Path | None = None) -> str:
    """Draw queue, use of the local hosts, burst VMs and cost over time, one line per policy.

    Written to ``path`` (its suffix says how: .png, .svg, .pdf) when there is one; answers SVG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    panels: Any = figure.subplots(4, 1, sharex=True)
    series: Sequence[tuple[str, Any]] = (
        ("VMs waiting", lambda sample: sample.queue),
        ("local cores used, %", lambda sample: 100 * sample.local_used),
        ("VMs in clouds", lambda sample: sample.burst_vms),
        ("cost so far", lambda sample: sample.cost),
    )
    for panel, (title, value) in zip(panels, series, strict=True):
        for name, result in results.items():
            days = [sample.time / 86400 for sample in result.samples]
            panel.step(days, [value(sample) for sample in result.samples], where="post", label=name, lw=1.2)
        panel.set_ylabel(title)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="upper left", frameon=False)
    panels[-1].set_xlabel("days")
    if path is not None:
        figure.savefig(path, dpi=120)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    text = drawn.getvalue()
    return text[text.index("<svg") :]


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto }
pre { background: #f6f6f6; padding: 1rem; overflow: auto }
"""


def page(title: str, notes: Sequence[str], results: Mapping[str, Result], texts: Mapping[str, str]) -> str:
    """A report as one page of HTML, with the plot in it and the policies' texts below."""
    head, rows = table(results)

    def cells(tag: str, words: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(word)}</{tag}>" for word in words) + "</tr>"

    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><ul>",
        *(f"<li>{html.escape(note)}</li>" for note in notes),
        "</ul><table>",
        cells("th", head),
        *(cells("td", row) for row in rows),
        "</table>",
        plot(results),
        *(f"<h2>{html.escape(name)}</h2><pre>{html.escape(text)}</pre>" for name, text in texts.items()),
        "</html>",
    ]
    return "\n".join(parts)
