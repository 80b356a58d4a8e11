"""What a host's capabilities say of its hardware."""

from __future__ import annotations

from lxml import etree

from providers.kvm.host import topology

CELL = """
<cell id='{0}'>
  <memory unit='KiB'>{1}</memory>
  <pages unit='KiB' size='4'>1000000</pages>
  <pages unit='KiB' size='2048'>{2}</pages>
  <cpus num='2'><cpu id='{0}0'/><cpu id='{0}1'/></cpus>
</cell>
"""


def capabilities(*cells: str) -> etree._Element:
    inside = "".join(cells)
    return etree.fromstring(
        f"<capabilities><host><topology><cells>{inside}</cells></topology></host></capabilities>"
    )


def test_largest_numa_node_and_the_huge_pages_of_all_are_told() -> None:
    found = topology(capabilities(CELL.format(0, 8388608, 512), CELL.format(1, 16777216, 256)))
    assert found == {"numa_node_cpus": 2.0, "numa_node_mem_mb": 16384.0, "hugepages_mb": 1536.0}


def test_host_that_tells_nothing_of_its_nodes_leaves_them_undefined() -> None:
    found = topology(etree.fromstring("<capabilities/>"))
    assert found == {"numa_node_cpus": None, "numa_node_mem_mb": None, "hugepages_mb": 0.0}
