"""The simulator: time, money and waits of small worlds that can be counted by hand."""

from __future__ import annotations

import pytest

from placement.policy import parse
from placement.simulate import Result, Setting, Task, simulate

BURST = """\
version: 1
placement: {rank: 'elastic ? -1000 * price_hour : 100'}
burst:
  to: [cloud]
  open: {any: ['queue.oldest >= 60']}
  close: {all: ['queue.length < 1'], for: 5m}
  dwell: 10m
"""
STAYS = BURST + "  return: never\n"
HOME = {
    "name": "h",
    "site": "home",
    "cpu_total": 4.0,
    "cpu_free": 4.0,
    "mem_total_mb": 9e3,
    "mem_free_mb": 9e3,
}
CLOUD = {
    "name": "cloud/a", "site": "cloud", "elastic": 1.0, "instance_type": "a", "cpu_free": 1e9,
    "mem_free_mb": 1e12, "vm_cpu_max": 4.0, "vm_mem_max_mb": 8192.0, "price_hour": 1.0,
}  # fmt: skip
AT_ONCE = Setting(boot_s=0, cloud_boot_s=30)


def task(name: str, at: float, runtime_s: float, cpu: float = 4, **more: object) -> Task:
    return Task(name, str(more.pop("project", "web")), at, runtime_s, cpu, 1024, **more)  # type: ignore[arg-type]


def run(tasks: list[Task], text: str = BURST, setting: Setting = AT_ONCE) -> Result:
    return simulate(parse(text), [HOME, CLOUD], tasks, setting)


def test_vm_waits_until_its_neighbour_is_done() -> None:
    result = run([task("a", 0, 50), task("b", 10, 50)])
    assert (result.total.placed, result.total.burst, sorted(result.total.waits)) == (2, 0, [0, 40])
    assert result.total.cost == 0
    assert result.peak_queue == 1


def test_full_pool_bursts_when_the_policy_opens_and_is_paid_for() -> None:
    result = run([task("a", 0, 90_000), task("b", 10, 3570)], STAYS)
    assert result.total.burst == 1
    assert sorted(result.total.waits)[1] == pytest.approx(90, abs=60)  # it opens after 60 s, and 30 s to boot
    assert result.total.cost == pytest.approx(1.0)
    assert result.total.burst_hours == pytest.approx(1.0)
    assert len(result.flips) == 2


def test_vm_is_sent_away_when_the_burst_closed_and_its_dwell_is_over() -> None:
    result = run([task("a", 0, 5000), task("b", 10, 90_000)])
    assert result.total.drained == 1
    assert 600 / 3600 <= result.total.burst_hours < 900 / 3600


def test_budget_of_a_month_is_kept() -> None:
    tasks = [task("a", 0, 9e6), *[task(f"b{i}", 100.0 * i, 40_000) for i in range(1, 12)]]
    free = run(tasks, STAYS)
    tight = run(tasks, STAYS + "budget: {monthly: 5}\n")
    assert free.total.cost > 10
    assert 0 < tight.total.cost <= 5


def test_near_deadline_opens_a_closed_burst() -> None:
    text = BURST.replace("queue.oldest >= 60", "queue.length > 99").replace(
        "queue.length < 1", "queue.length < 50"
    )
    tasks = [task("a", 0, 50_000), task("b", 0, 600, deadline=7200)]
    assert run(tasks, text).total.missed == 1
    saved = run(tasks, text + "deadline: {slack: 10m}\n")
    assert (saved.total.missed, saved.total.burst) == (0, 1)


def test_figures_of_projects_add_up() -> None:
    result = run([task("a", 0, 9000), task("b", 10, 600, project="db"), task("c", 20, 600, project="db")])
    assert set(result.projects) == {"web", "db"}
    for key in ("tasks", "placed", "burst", "cost"):
        assert sum(each.figures()[key] for each in result.projects.values()) == pytest.approx(
            result.total.figures()[key]
        )


def test_equal_input_gives_equal_output() -> None:
    tasks = [task(f"t{i}", 37.0 * i, 500 + 91 * i % 700, cpu=1 + i % 4) for i in range(60)]
    assert run(tasks).figures() == run(tasks).figures()


SPOT = {**CLOUD, "name": "cloud/a/spot", "spot": 1.0, "price_hour": 0.3}
BUYS = BURST + "spot: {use: true, on_interruption: HOW}\n"


def on_spot(how: str, rate: float, seed: int = 1) -> Result:
    setting = Setting(boot_s=0, cloud_boot_s=30, interruptions_hour=rate, seed=seed)
    tasks = [task("stays", 0, 1e6), *(task(f"t{number}", 0, 3600) for number in range(20))]
    return simulate(parse(BUYS.replace("HOW", how)), [HOME, CLOUD, SPOT], tasks, setting)


def test_spot_is_cheaper_until_it_is_taken_back() -> None:
    never, often = on_spot("relaunch", 0.0), on_spot("relaunch", 1.0)
    assert never.total.interrupted == 0
    assert never.total.cost < 20 * 1.1 * 0.3
    assert often.total.interrupted > 5
    assert often.total.placed == never.total.placed == 21, "a task that comes again is one task"
    assert often.total.cost > never.total.cost


def test_interruptions_are_drawn_from_the_seed() -> None:
    assert on_spot("relaunch", 1.0).figures() == on_spot("relaunch", 1.0).figures()
    assert on_spot("relaunch", 1.0).figures() != on_spot("relaunch", 1.0, seed=2).figures()


def test_fallback_is_interrupted_once_at_most() -> None:
    assert on_spot("fallback", 2.0).total.interrupted <= 20
    assert on_spot("relaunch", 2.0).total.interrupted > on_spot("fallback", 2.0).total.interrupted


PREEMPT = STAYS + "queue: {preempt: true}\n"


def test_vm_of_higher_priority_has_a_preemptible_one_suspended_which_goes_on_later() -> None:
    result = run([task("low", 0, 100, preemptible=True), task("high", 40, 50, priority=10)], PREEMPT)
    # low runs 40 s, makes way for 50 s, and has 60 s left: nobody waits longer, nobody goes to a cloud.
    assert (result.total.suspended, result.total.burst, result.total.waits) == (1, 0, [0.0, 0.0])
    assert result.total.placed == 2
    assert result.samples[-1].time == 150


def test_nobody_is_suspended_without_leave_of_the_policy() -> None:
    low, high = task("low", 0, 100, preemptible=True), task("high", 40, 50, priority=10)
    result = run([low, high], STAYS)
    assert (result.total.suspended, max(result.total.waits)) == (0, 90)


def test_deadline_is_missed_by_who_is_suspended_too_long() -> None:
    low = task("low", 0, 100, preemptible=True, deadline=120)
    assert run([low], PREEMPT).total.missed == 0
    assert run([low, task("high", 40, 50, priority=10)], PREEMPT).total.missed == 1


def test_project_that_used_less_goes_first() -> None:
    asked = (("greedy-1", 0, "greedy"), ("greedy-2", 10, "greedy"), ("modest", 20, "modest"))
    tasks = [task(name, at, 100, project=whose, requirement='site == "home"') for name, at, whose in asked]
    result = run(tasks)
    assert result.projects["modest"].waits == [80.0]


def test_vm_that_no_host_could_take_is_no_reason_to_burst() -> None:
    result = run([task("huge", 0, 50, cpu=1000), task("a", 10, 50)], STAYS)
    assert (result.flips, result.total.burst, result.total.placed) == ([], 0, 1)
