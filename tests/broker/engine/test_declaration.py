"""Declarations of operations: what does not fit together is refused when it is made, and any row can be a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from broker import operation
from broker.engine.declaration import Declaration, Done, Fail, GiveUp, Next, Phase, Step, Wait
from broker.engine.registry import OPERATIONS
from broker.states import OperationState
from broker.store import ImageRow, OperationRow
from providers.port import SUPPORT, Provider

if TYPE_CHECKING:
    from tests.broker.conftest import Stage


def first(step: Step[Any]) -> Next:
    return Next(message="on to the second")


def second(step: Step[Any]) -> Done | Wait:
    if "looked" not in step.operation.params:
        return Wait(1.0, "not yet", params={"looked": True})
    return Done("done", lambda _session, image: setattr(image, "status_reason", "touched"))


def hopeless(step: Step[Any]) -> GiveUp:
    return GiveUp("it is hopeless")


def mend(step: Step[Any]) -> Fail:
    return Fail(step.why, lambda _session, image: setattr(image, "status_reason", step.why))


def lost(step: Step[Any]) -> Done:
    return Done()


def operation_of(*phases: Phase, **more: Any) -> Declaration:
    return Declaration("image.touch", ImageRow, phases, **more)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Callable[[Declaration], Declaration]:
    def declare(declaration: Declaration) -> Declaration:
        monkeypatch.setitem(OPERATIONS, declaration.kind, declaration)
        return declaration

    return declare


def asked_on_image(stage: Stage, declaration: Declaration) -> OperationRow:
    with stage.broker.store.transaction() as session:
        image = session.query(ImageRow).one()
        return operation.add(
            stage.broker,
            session,
            declaration.kind,
            image.id,
            phase=declaration.begins,
            project_id=stage.owner.id,
        )


def image_of(stage: Stage) -> ImageRow:
    with stage.broker.store.reading() as session:
        return session.query(ImageRow).one()


def test_successor_that_is_no_phase_of_the_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="first goes to lost, which is no phase of it"):
        operation_of(Phase(first, to=(second, lost), undo="none"), Phase(second, undo="none"))


def test_phase_that_nobody_goes_to_is_refused() -> None:
    with pytest.raises(ValueError, match="no phase goes to lost"):
        operation_of(
            Phase(first, to=(second,), undo="none"), Phase(second, undo="none"), Phase(lost, undo="none")
        )


def test_effect_that_nobody_takes_back_is_refused() -> None:
    with pytest.raises(ValueError, match="second has neither an undo nor a reason"):
        operation_of(Phase(first, to=(second,), undo="none"), Phase(second))


def test_two_phases_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        operation_of(Phase(first, to=(second,), undo="none"), Phase(second, name="first", undo="none"))


def test_operation_on_an_image_is_driven_like_one_on_a_vm(
    stage: Stage, declared: Callable[[Declaration], Declaration]
) -> None:
    declaration = declared(operation_of(Phase(first, to=(second,), undo="none"), Phase(second, undo="none")))
    task = stage.finish(asked_on_image(stage, declaration))
    assert task.message == "done"
    assert image_of(stage).status_reason == "touched"
    assert "image.touch.done" in stage.events(target=task.target)


def test_operation_that_is_given_up_puts_things_right_and_says_why(
    stage: Stage, declared: Callable[[Declaration], Declaration]
) -> None:
    declaration = declared(operation_of(Phase(hopeless, undo="none"), abandon=Phase(mend, undo="none")))
    task = stage.drive(asked_on_image(stage, declaration))
    assert (task.state, task.error) == (OperationState.FAILED, "it is hopeless")
    assert image_of(stage).status_reason == "it is hopeless"


def test_way_that_was_not_declared_is_not_taken(
    stage: Stage, declared: Callable[[Declaration], Declaration]
) -> None:
    def astray(step: Step[Any]) -> Next:
        return Next(lost)

    declaration = declared(operation_of(Phase(astray, to=(second,), undo="none"), Phase(second, undo="none")))
    task = asked_on_image(stage, declaration)
    stage.step(task)
    task = stage.operation(task.id)
    assert (task.phase, task.attempt) == ("astray", 1)
    assert "astray may not go to lost" in task.message


def test_operation_of_a_kind_that_this_version_does_not_know_waits_and_says_so(stage: Stage) -> None:
    with stage.broker.store.transaction() as session:
        task = operation.add(stage.broker, session, "vm.of-tomorrow", "vm-1", phase="act")
    pause = stage.step(task)
    task = stage.operation(task.id)
    assert stage.there(stage.there(pause).seconds) >= 60
    assert "does not know" in task.message
    assert task.claim_token is None


def test_operation_whose_target_is_gone_ends_and_says_so(stage: Stage) -> None:
    with stage.broker.store.transaction() as session:
        task = operation.add(stage.broker, session, "vm.create", "vm-gone", phase="launch")
    assert stage.step(task) is None
    task = stage.operation(task.id)
    assert (task.state, task.error, task.next_at) == (OperationState.FAILED, "its target is gone", None)
    assert task.ended_at is not None
    assert "vm.create.failed" in stage.events(target="vm-gone")


def test_several_phases_are_gone_through_under_one_claim(
    stage: Stage, declared: Callable[[Declaration], Declaration]
) -> None:
    seen = []

    def look(step: Step[Any]) -> Next:
        seen.append(stage.operation(step.operation.id).claim_token)
        return Next()

    def look_again(step: Step[Any]) -> Done:
        seen.append(stage.operation(step.operation.id).claim_token)
        return Done()

    declaration = declared(
        operation_of(Phase(look, to=(look_again,), undo="none"), Phase(look_again, undo="none"))
    )
    assert stage.driver.step(asked_on_image(stage, declaration).id, most=10) is None
    assert seen[0] is not None
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", OPERATIONS)
def test_calls_that_are_declared_are_methods_of_providers(kind: str) -> None:
    assert OPERATIONS[kind].kind == kind
    for phase in OPERATIONS[kind].every:
        for call in phase.calls:
            protocols = [Provider, *(support.protocol for support in SUPPORT.values())]
            assert any(hasattr(protocol, call) for protocol in protocols), call
