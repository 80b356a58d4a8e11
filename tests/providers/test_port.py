"""The port's table of capabilities, and the one way to a capability's methods."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from providers import port
from providers.port import SUPPORT, Capability, Provider, SiteContext, Unsupported
from providers.simulated import SimulatedProvider

PORT = Path(port.__file__).parent


class Claims(SimulatedProvider):
    """Says of itself what a test wants."""

    claims: frozenset[Capability] = frozenset()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.claims


def claiming(*claims: Capability) -> Claims:
    provider = Claims(SiteContext("brk", "site", "sim"))
    provider.claims = frozenset(claims)
    return provider


def test_every_capability_has_its_protocol_and_its_words() -> None:
    assert set(SUPPORT) == set(Capability)
    for support in SUPPORT.values():
        assert Provider in support.protocol.__mro__
        assert "web-1" in support.words.format("web-1")


@pytest.mark.parametrize("capability", list(Capability))
def test_capability_is_had_only_where_it_is_declared(capability: Capability) -> None:
    provider = claiming(capability)
    assert port.require(provider, capability) is provider
    assert port.supports(provider, capability)
    assert isinstance(provider, SUPPORT[capability].protocol)
    provider = claiming(*set(Capability) - {capability})
    assert not port.supports(provider, capability)
    with pytest.raises(Unsupported, match=f"does not have the capability {capability}"):
        port.require(provider, capability)


def test_capability_without_its_methods_is_refused_and_they_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = claiming(Capability.SUSPEND)
    monkeypatch.setattr(Claims, "suspend_vm", None, raising=False)
    assert port.missing(provider, Capability.SUSPEND) == ["suspend_vm"]
    assert not port.supports(provider, Capability.SUSPEND)
    with pytest.raises(Unsupported, match=r"its Claims declares the capability suspend without suspend_vm;"):
        port.require(provider, Capability.SUSPEND)


def test_all_that_the_port_defines_is_exported() -> None:
    defined = set()
    for path in PORT.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                defined.add(ast.unparse(target))
    assert defined - {"__all__"} == set(port.__all__)
