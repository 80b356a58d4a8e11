"""The pool that a process keeps is what it would read, whatever has happened; and what it does not read it does not pay for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as database_event

from broker import burst, host, launch, network, power, queue, reconcile, site, vm
from broker.errors import BrokerError
from broker.kept_pool import KeptPool
from broker.store import HostRow, Store

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def contents(kept: KeptPool) -> dict[str, Any]:
    """All that it hands out, in a form that can be compared."""
    return {
        "hosts": [
            (row.id, row.state, row.generation, row.held_vms, row.held_vcpus, row.attributes)
            for row in kept.hosts
        ],
        "table": list(kept.table),
        "groups": kept.groups,
        "suspends": kept.suspends.tolist(),
        "residents": sorted(kept.residents(), key=lambda one: one.id),
        "subnets": sorted((key, row.cidr) for key, row in kept.subnets.items()),
        "full": kept.full,
    }


def assert_as_read_anew(stage: Stage) -> None:
    kept = stage.broker.part(KeptPool)
    kept.refresh(residents=True)
    stage.broker.store.changes.add({"all"})
    anew = KeptPool(stage.broker)
    anew.refresh(residents=True)
    assert contents(kept) == contents(anew)


@pytest.fixture
def whole(hybrid: Stage) -> Stage:
    """All changes come to this process, as in one that has its store for itself."""
    hybrid.broker.store.changes.whole = True
    return hybrid


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from(["small", "large"]), st.sampled_from([None, "elastic"])),
        st.tuples(st.sampled_from(["delete", "stop", "start", "suspend", "resume"]), st.integers(0, 9)),
        st.tuples(st.just("run")),
        st.tuples(st.just("tick")),
        st.tuples(st.just("reconcile")),
        st.tuples(st.just("maintenance"), st.booleans()),
        st.tuples(st.just("subnet")),
        st.tuples(st.just("site")),
    ),
    min_size=3,
    max_size=25,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(actions=ACTIONS)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_kept_pool_is_what_would_be_read(
    tmp_path_factory: pytest.TempPathFactory,
    sqlite_template: Path,
    stage_class: type[Stage],
    database: str,
    actions: list[tuple[Any, ...]],
) -> None:
    import shutil

    folder = tmp_path_factory.mktemp("kept")
    shutil.copyfile(sqlite_template, folder / "isthmus.sqlite3")
    stage = stage_class(folder, f"sqlite:///{folder / 'isthmus.sqlite3'}")
    stage.catalogue()
    stage.add_local(cpus=12)
    stage.add_cloud()
    stage.broker.store.changes.whole = True
    names = iter(range(10_000))
    try:
        for action in actions:
            with contextlib.suppress(BrokerError):
                act(stage, action, names)
            assert_as_read_anew(stage)
    finally:
        stage.close()


def act(stage: Stage, action: tuple[Any, ...], names: Iterator[int]) -> None:
    kind, *rest = action
    rows = vm.list_vms(stage.broker, stage.admin)
    row = rows[rest[0] % len(rows)] if rows and rest and isinstance(rest[0], int) else None
    match kind:
        case "create":
            launch.create(
                stage.broker,
                stage.member,
                name=f"vm-{next(names)}",
                image_ref="tiny",
                flavor_ref=rest[0],
                requirements=rest[1],
            )
        case "delete" if row is not None:
            vm.delete(stage.broker, stage.member, row.id)
        case "stop" | "start" | "suspend" | "resume" if row is not None:
            getattr(power, kind)(stage.broker, stage.member, row.id)
        case "run":
            queue.place_pending(stage.broker)
            for operation_id, _ in stage.driver.due(50):
                stage.driver.step(operation_id, most=5)
            for agent in stage.agents:
                agent.turn()
            stage.wait(20)
            stage.broker.signals.set("place")
        case "tick":
            burst.tick(stage.broker)
        case "reconcile":
            reconcile.reconcile(stage.broker)
        case "maintenance":
            host.set_maintenance(stage.broker, stage.admin, "sim-01", rest[0])
        case "subnet":
            network.create(stage.broker, stage.admin, name=f"net-{next(names)}", cidr="10.99.0.0/16")
        case "site":
            number = next(names)
            site.create(
                stage.broker, stage.admin, name=f"site-{number}", kind="simulated", options={"hosts": 1}
            )


@contextlib.contextmanager
def statements_of(store: Store) -> Iterator[list[str]]:
    said = []

    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if not text.startswith("BEGIN"):
            said.append(text)

    database_event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        database_event.remove(store.engine, "before_cursor_execute", note)


def test_pool_at_rest_is_not_read_again(whole: Stage) -> None:
    whole.create("web")
    kept = whole.broker.part(KeptPool)
    kept.refresh(residents=True)
    with statements_of(whole.broker.store) as said:
        kept.refresh(residents=True)
    assert said == []


def test_change_of_one_vm_has_one_vm_and_its_host_read(whole: Stage) -> None:
    row = whole.create("web")
    kept = whole.broker.part(KeptPool)
    kept.refresh(residents=True)
    whole.finish(vm.delete(whole.broker, whole.member, row.id)[1])
    with statements_of(whole.broker.store) as said:
        kept.refresh(residents=True)
    assert len([text for text in said if "FROM host" in text]) == 1
    assert len([text for text in said if "FROM vm" in text]) == 1
    assert kept.residents() == []


def test_nothing_is_kept_where_others_write_unheard(hybrid: Stage) -> None:
    """Another broker on the same store, of which this process hears nothing."""
    other = hybrid.another()
    kept = hybrid.broker.part(KeptPool)
    kept.refresh()
    host.set_maintenance(other, hybrid.admin, "sim-01", True)
    kept.refresh()
    assert kept.hosts[kept.index[hybrid.host("sim-01").id]].maintenance


def test_statement_in_bulk_that_says_nothing_has_everything_read_anew(whole: Stage) -> None:
    from sqlalchemy import update

    kept = whole.broker.part(KeptPool)
    kept.refresh()
    with whole.broker.store.transaction() as session:
        session.execute(update(HostRow).values(status_reason="touched"))
    kept.refresh()
    assert {row.status_reason for row in kept.hosts} == {"touched"}


def test_change_that_is_not_committed_is_no_change(whole: Stage) -> None:
    kept = whole.broker.part(KeptPool)
    kept.refresh()

    def fail() -> None:
        with whole.broker.store.transaction() as session:
            session.get_one(HostRow, kept.hosts[0].id).status_reason = "touched"
            session.flush()
            raise RuntimeError("not kept")

    with pytest.raises(RuntimeError, match="not kept"):
        fail()
    assert whole.broker.store.changes.take() == set()
