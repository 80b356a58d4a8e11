"""What a checked policy says of a VM."""

from __future__ import annotations

from placement.policy import parse


def test_vm_gets_the_policys_requirement_and_keeps_its_own_rank() -> None:
    policy = parse("version: 1\nplacement: {requirements: 'a || b', rank: 'cpu_free'}\n")
    assert policy.requirement_for("c || d") == "(c || d) && (a || b)"
    assert policy.requirement_for(None) == "a || b"
    assert (policy.rank_for(None), policy.rank_for("-price_hour")) == ("cpu_free", "-price_hour")
    bare = parse("version: 1\n")
    assert (bare.requirement_for(None), bare.requirement_for("x"), bare.rank_for(None)) == (None, "x", None)
