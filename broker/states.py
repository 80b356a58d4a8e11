"""The states of every noun: the words that the store, the faces and the documentation share. Nothing stands below this file."""

from __future__ import annotations

from enum import StrEnum


class VMState(StrEnum):
    """A VM on the wire. What goes on inside a state is the phase of its operation."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    MIGRATING = "migrating"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    ERROR = "error"


class OperationState(StrEnum):
    """A durable change: under way, or over in one of three ways."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class HostState(StrEnum):
    """A host, as the last inventory of its site found it. Whether it is in maintenance is another question."""

    UP = "up"
    UNREACHABLE = "unreachable"


class SiteState(StrEnum):
    """A site, as its last inventory found it."""

    NEW = "new"
    UP = "up"
    UNREACHABLE = "unreachable"


class ReservationState(StrEnum):
    """An advance reservation: ahead, begun, over, or given back."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    ENDED = "ended"
    CANCELLED = "cancelled"


LIVE_RESERVATION = (ReservationState.SCHEDULED, ReservationState.ACTIVE)
"""States in which a reservation holds room."""


class ImageState(StrEnum):
    """A version of an image. One that is deleted stays for the history of VMs, and so that its number is not given again."""

    AVAILABLE = "available"
    DELETED = "deleted"


class RealisationState(StrEnum):
    """What a site has of an image."""

    AVAILABLE = "available"


class Visibility(StrEnum):
    """Who sees and uses what has an owner: its project alone, or all."""

    PRIVATE = "private"
    SHARED = "shared"


class SubnetMode(StrEnum):
    """What a subnet is at its site: a bridge that is there, one that the hosts make, or the end of a tunnel."""

    BRIDGE = "bridge"
    NAT = "nat"
    ROUTE = "route"
    TUNNEL = "tunnel"


class PeerState(StrEnum):
    """A burst VM's end of a tunnel, from its bootstrap key to its removal."""

    BOOTSTRAP = "bootstrap"
    ENROLLED = "enrolled"
    EXPIRED = "expired"
    REMOVED = "removed"


LIVE_PEER = (PeerState.BOOTSTRAP, PeerState.ENROLLED)
"""States in which a gateway knows, or is to know, a peer."""


class BurstWord(StrEnum):
    """Whether VMs may go to clouds now; ``off`` without a policy that says when."""

    OPEN = "open"
    CLOSED = "closed"
    OFF = "off"
