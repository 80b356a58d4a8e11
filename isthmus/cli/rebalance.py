"""``isthmus rebalance``, and how a plan of migrations is shown."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli._options import Json, seconds
from isthmus.cli._output import cell, put, put_json, put_table
from isthmus.cli._session import client_of

if TYPE_CHECKING:
    from isthmus import schema


class Goal(StrEnum):
    """What a plan is for."""

    PACK = "pack"
    BALANCE = "balance"


def app(
    ctx: typer.Context,
    goal: Annotated[
        Goal, typer.Option("--goal", help="pack: use fewer hosts; balance: load them evenly.")
    ] = Goal.BALANCE,
    apply: Annotated[
        bool, typer.Option("--apply/--plan", help="Begin the moves, or only show them (default).")
    ] = False,
    max_moves: Annotated[int, typer.Option("--max-moves", min=1, help="No more moves than that.")] = 20,
    max_cost: Annotated[
        str, typer.Option("--max-cost", metavar="DURATION", help="No more copying than that in all.")
    ] = "1h",
    rest: Annotated[
        str,
        typer.Option("--rest", metavar="DURATION", help="Leave VMs that were placed or moved less long ago."),
    ] = "10m",
    json: Json = False,
) -> None:
    """Plan live migrations that pack or balance the hosts, and carry them out with --apply."""
    plan = client_of(ctx).migrations.rebalance(
        goal.value,
        apply=apply,
        max_moves=max_moves,
        max_cost_s=seconds(max_cost, "--max-cost"),
        rest_s=seconds(rest, "--rest"),
    )
    if json:
        put_json(plan)
        return
    put_plan(plan)
    if plan.moves and not apply:
        put("nothing was moved; --apply does it")


def put_plan(plan: schema.MigrationPlan) -> None:
    """The moves as a table, then who stays, then what it is good for."""
    if plan.moves:
        put_table(
            ["VM", "FROM", "TO", "COST", "OPERATION"],
            [
                [
                    cell(move.vm),
                    cell(move.source),
                    cell(move.target),
                    f"{move.cost_s:.0f} s",
                    move.operation or "-",
                ]
                for move in plan.moves
            ],
        )
    else:
        put("there is nothing to move")
    if plan.resting:
        them = (
            "1 VM stays because it was" if plan.resting == 1 else f"{plan.resting} VMs stay because they were"
        )
        put(f"{them} placed or moved only just now (--rest)")
    for stuck in plan.stuck:
        put(f"{cell(stuck.vm)} stays: {cell(stuck.reason)}")
    put(
        f"hosts in use {plan.hosts_before} -> {plan.hosts_after}, "
        f"spread of their loads {plan.spread_before:.2f} -> {plan.spread_after:.2f}"
    )
