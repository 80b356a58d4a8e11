"""A site that cannot do what is asked is told from before anything is written or touched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from broker import capability, event, image, launch, migration, power, reconcile, site, vm, why
from broker.errors import WrongState
from broker.store import OperationRow, SiteRow, VMRow
from providers.port import Capability, Provider
from providers.simulated import SimulatedProvider

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


@pytest.fixture
def lacking(bare_stage: Stage) -> Callable[..., tuple[Stage, VMRow]]:
    """Makes a site that lacks capabilities, with a VM on it."""

    def make(*lacks: Capability, **options: Any) -> tuple[Stage, VMRow]:
        bare_stage.catalogue()
        bare_stage.add_local(without=[str(each) for each in lacks], **options)
        return bare_stage, bare_stage.create("web")

    return make


def operations(stage: Stage) -> int:
    with stage.broker.store.reading() as session:
        return session.query(OperationRow).count()


@pytest.mark.parametrize(
    ("lacks", "act", "told"),
    [
        (Capability.STOP, power.stop, "cannot stop web: site campus, of kind simulated, does not do that"),
        (Capability.STOP, power.start, "cannot start web: site campus"),
        (Capability.REBOOT, power.reboot, "cannot reboot web: site campus"),
        (Capability.SUSPEND, power.suspend, "cannot suspend web: site campus"),
        (Capability.SUSPEND, power.resume, "cannot resume web: site campus"),
        (Capability.MIGRATE, lambda broker, _, ref: None, ""),
        (Capability.CONSOLE, vm.console, "cannot show the console of web: site campus"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:12],
)
def test_what_a_site_cannot_do_is_refused_before_an_operation_is_written(
    lacking: Callable[..., tuple[Stage, VMRow]], lacks: Capability, act: Callable[..., object], told: str
) -> None:
    stage, row = lacking(lacks)
    before, calls = operations(stage), stage.worlds["campus"].calls()
    if lacks is Capability.MIGRATE:
        with pytest.raises(WrongState, match="cannot migrate web: site campus, of kind simulated"):
            migration.migrate(stage.broker, stage.admin, row.id)
    else:
        with pytest.raises(WrongState, match=told) as refused:
            act(stage.broker, stage.member, row.id)
        assert refused.value.hint
    assert operations(stage) == before
    assert stage.worlds["campus"].calls() == calls
    assert (stage.vm(row.id).state, stage.vm(row.id).desired) == ("running", "running")


@pytest.mark.parametrize("act", [power.stop, power.start, power.reboot, power.suspend])
def test_what_a_site_can_do_is_not_refused_for_what_it_cannot(
    lacking: Callable[..., tuple[Stage, VMRow]], act: Callable[..., tuple[VMRow, OperationRow]]
) -> None:
    stage, row = lacking(Capability.MIGRATE, Capability.CONSOLE, Capability.EVENTS, Capability.DIRECT_KERNEL)
    stage.finish(act(stage.broker, stage.member, row.id)[1])


def test_vm_that_no_site_has_yet_is_told_its_state(stage: Stage) -> None:
    row, _ = stage.request("web", requirements="cpu_total > 99")
    with pytest.raises(WrongState, match="create is under way"):
        power.stop(stage.broker, stage.member, row.id)


def test_image_with_a_kernel_goes_only_where_kernels_are_booted(bare_stage: Stage) -> None:
    stage = bare_stage
    stage.catalogue()
    stage.add_local(hosts=1, without=["direct-kernel"])
    kernel = stage.folder / "vmlinux"
    kernel.write_bytes(b"\x7fELF")
    image.create(
        stage.broker,
        stage.admin,
        name="own-kernel",
        path=str(stage.folder / "disk.raw"),
        format="raw",
        kernel=str(kernel),
        sites={},
    )
    row, task = launch.create(
        stage.broker, stage.member, name="web", image_ref="own-kernel", flavor_ref="small"
    )
    stage.drive(task, most_s=5)
    assert stage.vm(row.id).state == "pending"
    told = "image own-kernel boots with a kernel of its own, which this site does not do"
    assert told in str(why.why(stage.broker, stage.member, row.id))
    stage.add_local(hosts=1, name="annex", part=2)
    stage.finish(task)
    assert stage.there(stage.vm(row.id).site).name == "annex"


def test_guest_that_cannot_be_asked_is_not_waited_for(lacking: Callable[..., tuple[Stage, VMRow]]) -> None:
    stage, row = lacking(Capability.STOP)
    with stage.broker.store.transaction() as session:
        target = vm.find(session, stage.member, row.id)
        task = vm.begin_delete(stage.broker, session, target, reason="its time is over", graceful=True)
    began = stage.clock.now()
    stage.finish(task)
    assert stage.vm(row.id).state == "terminated"
    assert (stage.clock.now() - began).total_seconds() < stage.settings.timing.stop_grace_s


def test_operation_that_finds_its_site_changed_fails_in_words(
    lacking: Callable[..., tuple[Stage, VMRow]],
) -> None:
    stage, row = lacking(Capability.MIGRATE)
    task = power.stop(stage.broker, stage.member, row.id)[1]
    with stage.broker.store.transaction() as session:
        session.get_one(SiteRow, row.site_id).options = {"hosts": 2, "without": ["stop"]}
    with stage.broker.store.reading() as session:
        stage.broker.providers.of(site.find(session, "campus"))
    ended = stage.drive(task)
    assert ended.state == "failed"
    assert "the site cannot stop VMs: it does not have the capability stop" in stage.vm(row.id).status_reason


def test_second_machine_of_a_vm_is_left_to_its_owner_where_nothing_is_stopped(
    lacking: Callable[..., tuple[Stage, VMRow]],
) -> None:
    stage, row = lacking(Capability.STOP)
    other = next(name for name in ("sim-01", "sim-02") if name != stage.there(row.host).name)
    stage.worlds["campus"].double_vm(row.id, other)
    reconcile.reconcile(stage.broker)
    (told,) = event.list_events(stage.broker, stage.admin, kind="vm.double", limit=10)
    assert "stop that one by hand at once: this site stops no VMs" in told.message
    assert len(stage.machines(row.id)) == 2


def test_site_without_events_is_not_watched(bare_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[frozenset[Capability]] = []
    heard = threading.Event()

    def watch(provider: Provider, notify: Callable[[str, str], None]) -> None:
        watched.append(provider.capabilities)
        heard.set()

    monkeypatch.setattr(SimulatedProvider, "watch", watch)
    bare_stage.add_site("quiet", without=["events"])
    bare_stage.add_site("loud")
    bare_stage.broker.providers.watch()
    assert heard.wait(10)
    assert [Capability.EVENTS in each for each in watched] == [True]


def test_site_whose_provider_cannot_be_made_can_do_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage.broker.store.reading() as session:
        row = session.query(SiteRow).one()
        assert capability.has(stage.broker, row, Capability.STOP)
    stage.broker.providers.drop(row.id)
    monkeypatch.setattr(stage.broker.providers, "kinds", {})
    assert not capability.has(stage.broker, row, Capability.STOP)
