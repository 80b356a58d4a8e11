"""Runs the suite on each rig: those of ``rigs.py``, or those given by ``--rig MODULE:CLASS``."""

from __future__ import annotations

import importlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from providers.port import ImageSpec, Provider
from tests.api.ec2 import conftest as isthmus_as_cloud
from tests.providers.contract.rig import Rig
from tests.providers.contract.rigs import RIGS
from tests.providers.ec2 import conftest as moto_as_cloud

# The fixtures that the rigs stand on.
face = isthmus_as_cloud.face
models_are_read_once = moto_as_cloud.models_are_read_once
moto = moto_as_cloud.moto
wire = moto_as_cloud.wire
clock = moto_as_cloud.clock
make = moto_as_cloud.make
ec2 = moto_as_cloud.ec2
ami = moto_as_cloud.ami


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rig",
        action="append",
        metavar="MODULE:CLASS",
        help="run the providers' contract on this rig, in place of those that come with Isthmus",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(capability): a capability's contract, for those who declare it")


def _rigs(config: pytest.Config) -> dict[str, type[Rig]]:
    given = config.getoption("--rig", default=None)
    if not given:
        return RIGS
    found = {}
    for text in given:
        module, _, name = text.partition(":")
        found[name] = getattr(importlib.import_module(module), name)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs on the rigs whose provider declares what it needs."""
    if "rig" not in metafunc.fixturenames:
        return
    needed = {capability for mark in metafunc.definition.iter_markers("needs") for capability in mark.args}
    params = [
        pytest.param(kind, id=name, marks=[pytest.mark.lab] if name == "kvm-lab" else [])
        for name, kind in _rigs(metafunc.config).items()
        if needed <= kind.capabilities - kind.beyond
    ]
    metafunc.parametrize("rig", params, indirect=True)


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made: Rig = request.param(request)
    yield made
    made.close()


@pytest.fixture
def provider(rig: Rig) -> Provider:
    return rig.make()


@dataclass(frozen=True)
class Pair:
    """Two hosts of the lab on one wire, and the tiny guest's image."""

    nodes: dict[str, Any]
    pools: dict[str, Path]
    image: ImageSpec


@pytest.fixture(scope="session")
def lab_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    from lab import network as wires
    from lab.host import Host
    from lab.image import build

    tiny = build()
    image = ImageSpec(
        "img-1",
        "tiny",
        "qcow2",
        str(tiny.disk),
        "ab" * 32,
        tiny.disk.stat().st_size,
        str(tiny.kernel),
        str(tiny.initrd),
        tiny.cmdline,
    )
    directory = tmp_path_factory.mktemp("kc")
    addresses = {"a": "10.78.1.1", "b": "10.78.1.2"}
    nodes = {
        name: Host(f"kc-{name}{secrets.token_hex(2)}", directory / name, lab=directory, address=address)
        for name, address in addresses.items()
    }
    try:
        for node in nodes.values():
            node.up()
        wires.connect(nodes["a"], "eth0", nodes["b"], "eth0")
        for name, node in nodes.items():
            node.ip(f"addr add {addresses[name]}/24 dev eth0", "link set eth0 up")
        pools = {name: directory / name / "var-lib-libvirt" / "images" / "isthmus" for name in nodes}
        yield Pair(nodes, pools, image)
    finally:
        for node in nodes.values():
            node.down()
        shutil.rmtree(directory, ignore_errors=True)
