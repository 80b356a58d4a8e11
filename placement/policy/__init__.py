"""The burst policy: what a file says, read and checked.

``docs/reference/policy.md`` describes the file to users.
"""

from placement.policy.data import (
    FRACTIONS,
    METRICS,
    VERSION,
    VM_ATTRIBUTES,
    Backfill,
    Budget,
    Burst,
    Cap,
    Condition,
    Deadline,
    Interruption,
    Limits,
    Placement,
    Policy,
    PolicyError,
    Problem,
    ProjectBurst,
    Queue,
    Return,
    Spot,
)
from placement.policy.file import parse

__all__ = [
    "FRACTIONS",
    "METRICS",
    "VERSION",
    "VM_ATTRIBUTES",
    "Backfill",
    "Budget",
    "Burst",
    "Cap",
    "Condition",
    "Deadline",
    "Interruption",
    "Limits",
    "Placement",
    "Policy",
    "PolicyError",
    "Problem",
    "ProjectBurst",
    "Queue",
    "Return",
    "Spot",
    "parse",
]
