"""What projects used: counted from usage records, one for each stay of a VM on a host."""

from __future__ import annotations

from datetime import datetime

from isthmus.schema.size import SizeHours


class Usage(SizeHours):
    """One project's use of one site in a time. ``cost`` is in the currency of the hosts' prices, and counts hours of a known
    price only, each second for itself; ``unpriced_hours`` are the VM hours without one."""

    project: str
    site: str
    elastic: bool
    since: datetime
    until: datetime
    vms: int
    cost: float
    unpriced_hours: float
