"""Sites and their hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker import gateway, host, network, site, status, vm
from broker.errors import Exists, InUse, InvalidRequest, NotFound, Unavailable
from broker.store import SiteRow
from providers.port import SiteContext
from providers.simulated import SimulatedProvider

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def create(stage: Stage, **asked: Any) -> SiteRow:
    return site.create(stage.broker, stage.admin, **{"name": "annex", "kind": "simulated", **asked})


def test_site_is_added_with_its_hosts(bare_stage: Stage) -> None:
    row = create(
        bare_stage,
        options={"hosts": 2},
        attributes={"carbon_g_kwh": 30},
        host_attributes={"sim-02": {"rack": "r7"}},
    )
    assert row.state == "up"
    views = host.list_hosts(bare_stage.broker, bare_stage.reader, site_ref="annex")
    assert [view.row.name for view in views] == ["sim-01", "sim-02"]
    shown = views[1].row.attributes
    assert (shown["site"], shown["provider"], shown["carbon_g_kwh"], shown["rack"]) == (
        "annex",
        "simulated",
        30,
        "r7",
    )
    assert site.host_counts(bare_stage.broker, bare_stage.reader) == {row.id: 2}


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "mainframe"},
        {"options": {"hots": 2}},
        {"attributes": {"Rack": "r1"}},
        {"attributes": {"rack": {"a": 1}}},
    ],
    ids=str,
)
def test_site_with_a_mistake_is_refused(
    bare_stage: Stage,
    asked: dict[str, Any],
) -> None:
    with pytest.raises(InvalidRequest):
        create(bare_stage, **asked)
    assert site.list_sites(bare_stage.broker, bare_stage.reader) == []


def test_site_that_does_not_answer_is_not_added(bare_stage: Stage) -> None:
    SimulatedProvider.world("site-00000000000000001").set_unreachable(reason="no route")
    with pytest.raises(Unavailable, match="no route"):
        create(bare_stage)
    assert site.list_sites(bare_stage.broker, bare_stage.reader) == []


def test_name_of_a_site_is_taken_once(stage: Stage) -> None:
    with pytest.raises(Exists):
        create(stage, name="campus")


def test_site_that_holds_something_of_ours_is_kept(hybrid: Stage) -> None:
    broker, admin = hybrid.broker, hybrid.admin
    row = hybrid.create("web")
    with pytest.raises(InUse, match="web"):
        site.delete(broker, admin, "campus")
    hybrid.finish(vm.delete(broker, admin, row.id)[1])
    with pytest.raises(InUse, match="subnet"):
        site.delete(broker, admin, "campus")
    network.remove_subnet(broker, admin, "net", "campus")
    with pytest.raises(InUse, match="gateway"):
        site.delete(broker, admin, "campus")
    gateway.delete(broker, admin, "gate")
    site.delete(broker, admin, "campus")
    assert [left.name for left in site.list_sites(broker, admin)] == ["cloud"]
    assert hybrid.vm(row.id).state == "terminated"
    with pytest.raises(NotFound):
        site.get(broker, admin, "campus")


def test_refresh_of_a_site_that_is_away_says_so(stage: Stage) -> None:
    stage.worlds["campus"].set_unreachable(reason="no route")
    with pytest.raises(Unavailable, match="campus"):
        site.refresh(stage.broker, stage.admin, "campus")
    stage.worlds["campus"].set_reachable()
    assert site.refresh(stage.broker, stage.admin, "campus").state == "up"


def test_host_is_found_by_id_by_name_and_by_site_and_name(stage: Stage) -> None:
    row = host.get(stage.broker, stage.reader, "sim-01").row
    assert host.get(stage.broker, stage.reader, row.id).row.id == row.id
    assert host.get(stage.broker, stage.reader, "campus/sim-01").row.id == row.id
    stage.add_local(name="annex", part=2)
    with pytest.raises(InvalidRequest, match="several hosts"):
        host.get(stage.broker, stage.reader, "sim-01")
    with pytest.raises(NotFound):
        host.get(stage.broker, stage.reader, "sim-77")


def test_host_in_maintenance_stays_so_over_an_inventory(stage: Stage) -> None:
    host.set_maintenance(stage.broker, stage.admin, "sim-01", True)
    site.refresh(stage.broker, stage.admin, "campus")
    assert stage.host("sim-01").condition == "maintenance"
    stage.worlds["campus"].set_unreachable("sim-01")
    site.refresh(stage.broker, stage.admin, "campus")
    stage.worlds["campus"].set_reachable("sim-01")
    site.refresh(stage.broker, stage.admin, "campus")
    assert stage.host("sim-01").condition == "maintenance"


def test_status_counts_what_the_caller_may_see(stage: Stage) -> None:
    stage.create("web")
    stage.request("theirs", actor=stage.outsider, requirements="cpu_total > 99")
    mine = status.status(stage.broker, stage.member)
    assert (mine.sites, mine.hosts, mine.vms, mine.queue, mine.burst) == (1, 2, 1, 0, "off")
    every = status.status(stage.broker, stage.admin)
    assert (every.vms, every.queue) == (2, 1)


def test_credentials_that_a_provider_wrote_to_a_file_go_with_the_site(
    bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, admin = bare_stage.broker, bare_stage.admin
    made = SimulatedProvider.__init__

    def making(provider: SimulatedProvider, context: SiteContext, **more: Any) -> None:
        Path(context.cache_dir, "ssh.key").write_text("as ssh wants it")
        made(provider, context, **more)

    monkeypatch.setattr(SimulatedProvider, "__init__", making)
    row = create(bare_stage)
    kept = broker.settings.data_dir / "sites"
    assert [path.name for path in kept.rglob("*.key")] == ["ssh.key"]
    assert (kept / row.id).stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidRequest):
        create(bare_stage, name="more", options={"hots": 2})
    site.delete(broker, admin, row.id)
    assert list(kept.rglob("*.key")) == []
