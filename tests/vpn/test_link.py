"""What the kernel says of interfaces while they come and go."""

from __future__ import annotations

import errno
from typing import NoReturn

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from vpn import link


class Kernel:
    """Knows the interface's number, and no more the interface."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def link_lookup(self, **_: object) -> list[int]:
        return [7]

    def get_links(self, *_: object, **__: object) -> NoReturn:
        raise NetlinkError(self.code)


def test_interface_that_goes_while_it_is_looked_at_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "IPRoute", lambda: Kernel(errno.ENODEV))
    assert link.Links().look("wg-isthmus") is None


def test_other_refusals_of_the_kernel_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "IPRoute", lambda: Kernel(errno.EPERM))
    with pytest.raises(NetlinkError):
        link.Links().look("wg-isthmus")
