"""The options of a kvm site are read, and mistakes in them are told."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from providers.kvm.options import POOL_PATH, Options
from providers.port import InvalidSpec, SiteContext


def parse(
    options: Mapping[str, Any],
    tmp_path: Path | None = None,
    **credentials: Any,
) -> Options:
    return Options.parse(SiteContext("b", "s", "campus", options, credentials, str(tmp_path or "")))


def test_hosts_are_uris_or_mappings() -> None:
    options = parse(
        {
            "hosts": [
                "qemu:///system",
                {
                    "uri": "qemu+unix:///system?socket=/run/x",
                    "name": "x",
                    "attributes": {"rack": 4, "spot": True},
                },
            ]
        }
    )
    assert [host.name for host in options.hosts] == ["", "x"]
    assert options.hosts[1].attributes == {"rack": 4.0, "spot": 1.0}
    assert options.pool_path == POOL_PATH


def test_ssh_never_asks_on_a_terminal_and_uses_the_sites_key(tmp_path: Path) -> None:
    options = parse({"hosts": "qemu+ssh://root@node1/system"}, tmp_path, ssh_key="-----BEGIN KEY-----")
    uri = options.hosts[0].uri
    assert uri.startswith("qemu+ssh://root@node1/system?no_tty=1&keyfile=")
    key = Path(uri.rpartition("=")[2])
    assert key.read_text() == "-----BEGIN KEY-----\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert options.hosts[0].label == "node1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "needs option `hosts`"),
        ({"hosts": []}, "needs option `hosts`"),
        ({"hosts": ["node1"]}, "'node1' is no URI"),
        ({"hosts": ["xen:///"]}, "no URI of libvirt's QEMU driver"),
        ({"hosts": ["qemu+ssh://a/system?command=/tmp/x"]}, "the parameter 'command'"),
        ({"hosts": ["qemu+ssh://a/system?socket=/x;netcat=/tmp/x"]}, "the parameter 'netcat'"),
        ({"hosts": ["qemu+ssh://a/system?c%6fmmand=/tmp/x"]}, "the parameter 'command'"),
        ({"hosts": ["qemu+ssh://-oProxyCommand=x/system"]}, "begins with a hyphen"),
        ({"hosts": ["qemu+ssh://-oProxyCommand=x@a/system"]}, "begins with a hyphen"),
        ({"hosts": ["qemu+ext:///system?command=/tmp/x"]}, "no URI of libvirt's QEMU driver"),
        ({"hosts": [{"url": "qemu:///system"}]}, "mapping of uri, name, attributes and dedicated_cpus"),
        ({"hosts": ["qemu:///system", "qemu:///system"]}, "given twice"),
        ({"hosts": ["qemu:///system"], "pool": "/x"}, "unknown option 'pool'"),
        ({"hosts": ["qemu:///system"], "pool_path": "x"}, "absolute path"),
        ({"hosts": ["qemu:///system"], "acceleration": "yes"}, "one of auto, kvm, tcg"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        parse(options)
