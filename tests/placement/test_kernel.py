"""The compiled match: built, used, and of one mind with numpy over more hosts than fit in one block."""

from __future__ import annotations

import random

import numpy as np
import pytest

from placement.kernel import KERNEL
from placement.language import parse
from placement.match import Matcher, match
from placement.request import Request
from placement.table import HostTable
from placement.value import AttributeValue

HOSTS = 700
"""Two whole blocks of the kernel and a part of one."""


def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    assert KERNEL is not None


@pytest.mark.parametrize(
    "text",
    [
        "cpu_free / cpu_total - 0.5 * price_hour",
        "running_vms < 3 ? 100 / running_vms : -price_hour",
        "min(cpu_free, mem_free_mb / 1024, disk_free_gb) + max(1, floor(load1)) - ceil(abs(load1 - 2))",
        'kind == "kvm" && "avx2" in cpu_flags || !(price_hour >= 0.02) && cpu_free != 3',
        "(cpu_free > 2) + (kind ~ 'kvm*')",
        "vm.budget * cpu_free > price_hour",
        " && ".join(f"cpu_free != {number}" for number in range(300)),
    ],
)
def test_what_people_write_has_code_for_the_kernel(text: str) -> None:
    assert KERNEL is not None
    for term in parse(text).terms:
        assert KERNEL.code(term.shape.truth) is not None
        assert KERNEL.code(term.shape.number) is not None


@pytest.mark.parametrize("text", ["cpu_free % 2 == 1", '(cpu_free > 2 ? site : "a") == "a"'])
def test_what_the_kernel_has_no_code_for_is_left_to_numpy(text: str) -> None:
    assert KERNEL is not None
    (term,) = parse(text).terms
    assert KERNEL.code(term.shape.truth) is None
    table = HostTable.from_rows([{"cpu_free": 3, "mem_free_mb": 9, "site": "a"}])
    assert match(table, [Request("a", 1, 1, requirement=text)])[0].host == 0


def _pool(chance: random.Random) -> list[dict[str, AttributeValue]]:
    return [
        {
            "cpu_free": chance.randint(0, 8),
            "mem_free_mb": chance.randint(0, 8),
            "disk_free_gb": chance.choice([0, 5, None]),
            "running_vms": chance.randint(0, 3),
            "price_hour": chance.choice([0.01, 0.02, 0.05, None]),
            "kind": chance.choice(["kvm", "cloud"]),
            "vm_cpu_max": chance.choice([None, 1, 4]),
            "cpu_flags": chance.choice([["avx2"], ["avx2", "aes"], []]),
        }
        for _ in range(HOSTS)
    ]


_REQUIREMENTS = (
    None,
    'kind == "kvm"',
    '"aes" in cpu_flags && price_hour <= 0.02',
    "running_vms < 4",
    "cpu_free - 1 >= vm.spare && running_vms < 6",
    "price_hour > 0.04 && cpu_free > 6",
)
_RANKS = (None, "-price_hour", "cpu_free", "1 / running_vms - price_hour", "-cpu_free - vm.spare", "1e999")


@pytest.mark.parametrize("seed", range(12))
def test_kernel_and_numpy_decide_the_same_over_many_blocks_of_hosts(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    table = HostTable.from_rows(_pool(chance))
    kinds = [
        Request(
            "a",
            cpu=chance.randint(0, 3),
            mem_mb=chance.randint(0, 3),
            disk_gb=chance.choice([0, 0, 1]),
            requirement=chance.choice(_REQUIREMENTS),
            rank=chance.choice(_RANKS),
            attributes=chance.choice([{}, {"spare": 1}]),
        )
        for _ in range(10)
    ]
    masks = [None, None, np.array([chance.random() < 0.5 for _ in range(HOSTS)])]
    turns = [(chance.choice(kinds), chance.choice(masks)) for _ in range(900)]
    for runners_up in (True, False):
        pair = [Matcher(table.copy(), runners_up=runners_up, kernel=kernel) for kernel in (KERNEL, None)]
        ours, plain = ([matcher.place(request, mask) for request, mask in turns] for matcher in pair)
        assert ours == plain
        assert sum(decision.host is None for decision in ours) < len(ours)
        for name in ("cpu_free", "mem_free_mb", "disk_free_gb", "running_vms"):
            np.testing.assert_array_equal(pair[0].table.numbers(name), pair[1].table.numbers(name))


def test_a_mask_of_another_length_is_refused_before_anything_is_read() -> None:
    table = HostTable.from_rows([{"cpu_free": 3, "mem_free_mb": 9}] * 3)
    matcher = Matcher(table)
    for _ in range(3):  # new, come again, and known
        with pytest.raises(ValueError, match="a mask of 2 for 3 hosts"):
            matcher.place(Request("a", 1, 1), np.array([True, False]))
        assert matcher.place(Request("a", 1, 1)).host == 0
