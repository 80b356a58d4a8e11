"""``isthmus policy simulate`` on the real trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isthmus.cli.main import main
from simulate.trace import openb

ROOT = Path(__file__).parents[2]
OPENB = str(ROOT / "examples/traces/openb-gpu-2023.tar.gz")
EXAMPLE = str(ROOT / "examples/policy.yaml")
SWF = "; MaxProcs: 4\n; MaxNodes: 1\n" + "".join(
    f"{n} {n * 60} -1 600 2 -1 -1 2 -1 -1 1 {n % 2} 1 1 1 -1 -1 -1\n" for n in range(1, 30)
)


@pytest.mark.slow
@pytest.mark.parametrize(("every", "bursts"), [(1, False), (16, True)])
def test_example_policy_flips_at_most_twice_a_day_on_the_stored_trace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, every: int, bursts: bool
) -> None:
    """Ten seconds for the main promise of the burst policy: no flapping on a real workload of 149 days. On all of its
    hosts there is room at all times, and nothing bursts; on a sixteenth of them there is not."""
    words = ["policy", "simulate", EXAMPLE, "--trace", OPENB, "--json"]
    if every > 1:
        few = tmp_path / "hosts.json"
        few.write_text(json.dumps([{"attributes": host} for host in openb(Path(OPENB)).hosts[::every]]))
        words += ["--hosts", str(few)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["policies"]["policy.yaml"]
    assert found["days"] == pytest.approx(149.3, abs=1)
    assert found["tasks"] == 8151
    assert found["most_flips_a_day"] <= 2
    assert (found["burst"] > 100) is bursts
    assert (found["cost"] > 0) is bursts


def test_policies_are_compared_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.swf").write_text(SWF)
    for name, extra in (("free.yaml", ""), ("tight.yaml", "budget: {monthly: 0.1}\n")):
        (tmp_path / name).write_text(
            "version: 1\nplacement: {rank: 'elastic ? -1000 * price_hour : 100'}\n"
            "burst: {to: [aws], open: {any: ['queue.oldest > 60']}, close: {all: ['queue.length < 1'], for: 5m}}\n"
            + extra
        )
    page, plot = tmp_path / "report.html", tmp_path / "plot.png"
    words = ["policy", "simulate", str(tmp_path / "free.yaml"), str(tmp_path / "tight.yaml")]
    code = main([*words, "--trace", str(tmp_path / "jobs.swf"), "--report", str(page), "--plot", str(plot)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "free.yaml" in printed
    assert "user-1: wait p95, s" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "<svg" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    costs = next(line for line in printed.splitlines() if line.startswith("cost")).split()[1:]
    assert float(costs[0]) > float(costs[1])


def test_bad_input_is_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "simulate", EXAMPLE, "--trace", str(tmp_path / "none.swf")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nbursts: {}\n")
    assert main(["policy", "simulate", str(bad), "--trace", OPENB]) == 2
    assert 'bad.yaml:2:1: unknown key "bursts"' in capsys.readouterr().err
