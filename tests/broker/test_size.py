"""Sizes: their arithmetic, and that whatever counts by size counts every dimension."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect, select

from api.native.vm import answer
from broker import flavor, network, project, reservation, usage
from broker.actor import SYSTEM, Actor
from broker.errors import QuotaExceeded
from broker.size import AMOUNTS, DIMENSIONS, HOURS, SIZE, WORDS, Amounts, Size, over_quota
from broker.store import (
    FlavorRow,
    ProjectRow,
    ReservationRow,
    Row,
    UsageMonthRow,
    UsageRow,
    VMRow,
)
from isthmus import schema

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

EACH = Size(vcpus=2, mem_mb=1024, disk_gb=10, gpus=1)


def test_amounts_are_added_and_taken_away_and_come_back() -> None:
    many = EACH * 3
    assert many == Amounts(vms=3, vcpus=6, mem_mb=3072, disk_gb=30, gpus=3)
    assert many - EACH * 2 == EACH * 1
    assert many - many == Amounts()
    assert Amounts.of_hours(type("Month", (), many.as_hours())) == many


@pytest.mark.parametrize("name", DIMENSIONS)
def test_size_that_is_larger_in_one_dimension_does_not_fit(name: str) -> None:
    larger = replace(EACH, **{name: getattr(EACH, name) + 1})
    assert EACH.fits(larger)
    assert EACH.fits(EACH)
    assert not larger.fits(EACH)
    assert larger.exceeds(EACH.as_dict()) == [name]


def test_quota_that_is_exceeded_already_refuses_more_of_that_alone() -> None:
    full = {"gpus": 1, "vcpus": None}
    have = Amounts(vms=3, gpus=2)
    assert over_quota(full, have, replace(EACH, gpus=0) * 1) is None
    assert over_quota(full, have, EACH * 1) == "gpus"
    assert over_quota({"vms": 3, "gpus": 0}, have, EACH * 1) == "vms"


@pytest.mark.parametrize("row", [FlavorRow, VMRow, ReservationRow])
def test_what_has_a_size_has_a_column_for_all_of_it(
    row: type[Row],
) -> None:
    assert SIZE.keys() <= set(inspect(row).columns.keys())


def test_what_counts_sizes_has_a_column_for_every_amount() -> None:
    columns = inspect(ProjectRow).columns.keys()
    assert {f"{what}_{name}" for what in ("quota", "used") for name in AMOUNTS} <= set(columns)
    assert set(DIMENSIONS) <= set(inspect(UsageRow).columns.keys())
    assert {name for name, _ in HOURS.values()} <= set(inspect(UsageMonthRow).columns.keys())


def test_wire_says_every_dimension() -> None:
    for model in (schema.Flavor, schema.FlavorCreate, schema.VM, schema.Reservation):
        assert SIZE.keys() <= model.model_fields.keys(), model
    for amounts in (schema.Quota, schema.QuotaUsed, schema.QuotaSet):
        assert set(AMOUNTS) == amounts.model_fields.keys(), amounts
    assert {name for name, _ in HOURS.values()} <= schema.Usage.model_fields.keys()


@pytest.mark.parametrize("name", AMOUNTS)
def test_quota_holds_in_every_dimension_for_vms_and_for_reservations(stage: Stage, name: str) -> None:
    flavor.create(stage.broker, SYSTEM, name="each", size=EACH)
    limit = getattr(EACH * 1, name)
    tight = project.create(stage.broker, SYSTEM, name="tight", quota={name: limit})
    actor = Actor(tight.id, "member", "tim")
    stage.request("one", actor=actor, flavor_ref="each")
    words = f"may have {limit} {WORDS[name]}, has {limit} and asks for {limit} more"
    with pytest.raises(QuotaExceeded, match=words):
        stage.request("two", actor=actor, flavor_ref="each")
    with pytest.raises(QuotaExceeded, match=f"may have {limit} {WORDS[name]}, has reserved 0 and asks for"):
        reservation.create(
            stage.broker,
            actor,
            name="later",
            flavor_ref="each",
            count=2,
            start_at=None,
            end_at=stage.clock.now().replace(year=2031),
        )


def test_vm_is_counted_in_every_dimension_wherever_sizes_are_counted(bare_stage: Stage) -> None:
    stage = bare_stage
    stage.catalogue()
    stage.add_site("campus", hosts=1, attributes={"cpu_total": 16.0, "gpu_total": 4.0})
    network.add_subnet(stage.broker, stage.admin, "net", site_ref="campus", cidr="10.20.1.0/24", mode="nat")
    flavor.create(stage.broker, SYSTEM, name="each", size=EACH)
    row = stage.create("web", flavor_ref="each")
    assert row.size == EACH
    shown = answer(row)
    assert {name: getattr(shown, name) for name in SIZE} == EACH.as_dict()
    assert project.get(stage.broker, stage.admin, "lab").used == EACH * 1
    with stage.broker.store.reading() as session:
        assert session.scalars(select(UsageRow)).one().held == EACH * 1
    stage.wait(7200)
    (view,) = usage.report(stage.broker, stage.member)
    for field in fields(Amounts):
        assert getattr(view.held, field.name) == pytest.approx(
            getattr(EACH * 1, field.name) * view.held.vms, abs=1e-6
        )
    assert view.held.vms >= 2
