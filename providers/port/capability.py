"""What a provider can do beyond its core, by name."""

from __future__ import annotations

from enum import StrEnum


class Capability(StrEnum):
    """What a site may be able to do. What each demands of its provider is in ``SUPPORT``.

    The last four have no methods of their own: they say how to read and use the core's.
    """

    STOP = "stop"
    """Stops VMs, and starts them again."""
    REBOOT = "reboot"
    SUSPEND = "suspend"
    """Saves a VM's memory on its host's disk and gives its cores and memory back; ``start_vm`` goes on from there."""
    MIGRATE = "migrate"
    """Moves a running VM to another host of the site."""
    CONSOLE = "console"
    EVENTS = "events"
    """Tells by itself when something changes."""
    SUBNETS = "subnets"
    """Tells which subnets of ours its hosts have, and takes those away that nobody needs any more."""
    ELASTIC = "elastic"
    """Hosts are not machines but zone x instance type, with a price and a quota."""
    SPOT = "spot"
    """Sells spare capacity that may be taken back: hosts whose attribute ``spot`` is 1."""
    DIRECT_KERNEL = "direct-kernel"
    """Boots an image's kernel and initrd without a boot loader."""
    ADDRESSES = "addresses"
    """Puts a VM on a subnet of ours at the address that the broker leased (no tunnel needed)."""
