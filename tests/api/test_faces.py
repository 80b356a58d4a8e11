"""What each face of the table has: a package, a port of its own, a contract, a row in the settings' page."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from api.server import FACES
from broker.settings import Listen

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("face", FACES)
def test_a_face_is_an_app_with_a_port_of_its_own(face: str) -> None:
    assert callable(import_module(f"api.{face}").create_app)
    ports = [
        field.default for name, field in Listen.model_fields.items() if name in {f"{f}_port" for f in FACES}
    ]
    assert f"{face}_port" in Listen.model_fields
    assert len(ports) == len(set(ports)) == len(FACES)


def test_every_port_that_can_be_set_is_a_faces() -> None:
    assert {name for name in Listen.model_fields if name.endswith("_port")} == {f"{f}_port" for f in FACES}


def test_the_contract_that_no_face_knows_anothers_format_has_them_all() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (modules,) = [c["modules"] for c in contracts if c["name"] == "No face knows another's format"]
    assert {f"api.{face}" for face in FACES} <= set(modules)
