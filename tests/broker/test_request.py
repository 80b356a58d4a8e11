"""Requests are remembered in the transaction of their change, on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from broker import keypair, request
from broker.actor import Actor
from broker.errors import AnswerLost, Exists, TokenMismatch, UnderWay
from broker.request import Answer, Remembering
from broker.store import RequestRow

if TYPE_CHECKING:
    from tests.broker.conftest import Stage

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDMmqOD3D8j3yqXBEVAhcYSg4+sZaMS8uQd+pZ0Q0F0g me@example"


def asked(stage: Stage, body: str = "a", token: str = "t", actor: Actor | None = None) -> Remembering:  # noqa: S107
    return Remembering(stage.broker, actor or stage.member, token, "POST /x", body)


def work(stage: Stage, name: str = "me") -> None:
    keypair.create(stage.broker, stage.member, name=name, public_key=KEY)


def test_an_answer_is_known_once_it_is_kept_and_lies_sealed(bare_stage: Stage) -> None:
    one = asked(bare_stage)
    assert one.known() is None
    with one:
        work(bare_stage)
    one.keep(Answer(201, "a secret"))
    assert asked(bare_stage).known() == Answer(201, "a secret")
    with bare_stage.broker.store.reading() as session:
        row = session.get_one(RequestRow, (bare_stage.member.project_id, "t"))
        assert "a secret" not in str(row.sealed_answer)
    with pytest.raises(TokenMismatch):
        asked(bare_stage, body="b").known()
    with pytest.raises(TokenMismatch):
        asked(bare_stage, actor=bare_stage.admin).known()
    assert asked(bare_stage, token="other").known() is None


def test_what_changed_nothing_is_not_remembered(bare_stage: Stage) -> None:
    one = asked(bare_stage)
    with one:
        keypair.list_key_pairs(bare_stage.broker, bare_stage.member)
    one.keep(Answer(200, ""))
    assert asked(bare_stage).known() is None
    work(bare_stage)
    with pytest.raises(Exists), asked(bare_stage):
        work(bare_stage)
    assert asked(bare_stage).known() is None


def test_an_answer_that_never_came_is_under_way_and_then_lost(bare_stage: Stage) -> None:
    with asked(bare_stage):
        work(bare_stage)
    with pytest.raises(UnderWay):
        asked(bare_stage).known()
    with bare_stage.broker.store.transaction() as session:
        row = session.get_one(RequestRow, (bare_stage.member.project_id, "t"))
        row.created_at -= timedelta(hours=1)
    with pytest.raises(AnswerLost):
        asked(bare_stage).known()
    request.forget(bare_stage.broker, timedelta(minutes=1))
    assert asked(bare_stage).known() is None


def test_of_many_at_once_one_makes_its_change(bare_stage: Stage) -> None:
    ready = threading.Barrier(4)

    def run(number: int) -> int:
        one = asked(bare_stage)
        assert one.known() is None
        ready.wait(30)
        try:
            with one:
                work(bare_stage, f"key-{number}")
        except UnderWay:
            return 0
        return 1

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(run, range(4))) == 1
    assert len(keypair.list_key_pairs(bare_stage.broker, bare_stage.member)) == 1
