"""The burst policy file: text in, a checked ``Policy`` out, or every mistake in it at its place.

``docs/reference/policy.md`` describes the file to users.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from placement import tree
from placement.language import Expression, ExpressionError, unknown_names
from placement.language import parse as parse_expression
from placement.reader import nearest

VERSION = 1

METRICS: dict[str, str] = {
    "queue.length": "VMs that wait for a host",
    "queue.wait_p95": "seconds that 95 % of the waiting VMs have waited at most",
    "queue.oldest": "seconds that the oldest waiting VM has waited",
    "local.cpu_used": "fraction of the local cores that VMs hold, 0 to 1",
    "local.mem_used": "fraction of the local memory that VMs hold, 0 to 1",
    "local.vms": "VMs on local hosts",
    "burst.vms": "VMs in clouds",
    "burst.vcpus": "vCPUs of the VMs in clouds",
}
"""What the conditions of ``open`` and ``close`` may read."""

FRACTIONS = frozenset({"local.cpu_used", "local.mem_used"})

VM_ATTRIBUTES = frozenset(
    {
        "id",
        "name",
        "project",
        "image",
        "flavor",
        "vcpus",
        "mem_mb",
        "disk_gb",
        "gpus",
        "dedicated_cpus",
        "hugepages",
        "labels",
        "priority",
        "runtime_s",
        "deadline",
    }
)
"""What ``vm.*`` may name in a policy."""

Return = Literal["drain", "recreate", "never"]
Backfill = Literal["none", "aggressive", "conservative"]
Interruption = Literal["relaunch", "fallback", "none"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what is wrong and how to mend it. ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    message: str
    mend: str = ""

    def __str__(self) -> str:
        mend = f" ({self.mend})" if self.mend else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{mend}"


class PolicyError(ValueError):
    """A policy that cannot be used, with every mistake found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True)
class Condition:
    """``any`` or ``all`` of some clauses over ``METRICS``; for ``close``, without a break for ``for_s`` seconds."""

    mode: Literal["any", "all"]
    clauses: tuple[Expression, ...]
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """What holds for every VM: ``requirements`` is ANDed to its own, ``rank`` is for VMs without one."""

    requirements: Expression | None = None
    rank: Expression | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be in clouds at once, and ``per_hour`` be launched there in an hour; None is no limit."""

    vms: int | None = None
    vcpus: int | None = None
    per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class ProjectBurst:
    """What holds for one project: the sites it may burst to, None for all of ``burst.to``, and limits of its own."""

    to: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Cap:
    """Money: beyond ``soft`` nothing new is bought but for deadlines and priorities, ``hard`` is never passed."""

    soft: float | None = None
    hard: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in clouds: in an hour (``hourly``: the rate of all VMs there together), and in a calendar month
    (UTC) in all and by each project. ``projects`` are the months' caps of projects that have one of their own."""

    currency: str = "USD"
    hourly: Cap = field(default_factory=Cap)
    monthly: Cap = field(default_factory=Cap)
    per_project: float | None = None
    projects: Mapping[str, float] = field(default_factory=dict)

    def project_cap(self, project: str) -> float | None:
        """The most that a project may spend in a month, None without a limit."""
        return self.projects.get(project, self.per_project)


@dataclass(frozen=True, slots=True)
class Spot:
    """Whether spare capacity is bought that a cloud may take back, and for at most which part of the on-demand price.

    ``on_interruption``: ``relaunch`` anywhere, ``fallback`` on demand, ``none``: the VM is gone. After
    ``max_interruptions`` a VM is bought on demand.
    """

    use: bool = False
    max_price_ratio: float = 1.0
    on_interruption: Interruption = "relaunch"
    max_interruptions: int = 3


@dataclass(frozen=True, slots=True)
class Deadline:
    """``slack_s``: so long before the last moment a VM with a deadline may burst though the burst is closed."""

    slack_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Queue:
    """In which order those that wait are looked at, and what may be done to make room for them.

    ``shares``: the fair share of projects that have not 1; what was used counts half after ``half_life_s``.
    ``aging_s``: waiting so long raises a VM by one priority, 0 never. ``repair``: how many moves a round may try for those
    it left behind. ``preempt``: whether preemptible VMs are suspended for VMs of higher priority. ``backfill``: who may
    start before a VM that waits for room: ``aggressive``: who does not delay the first that waits; ``conservative``: who
    delays nobody; ``none``: nobody.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    half_life_s: float = 86400.0
    aging_s: float = 3600.0
    repair: int = 0
    preempt: bool = False
    backfill: Backfill = "aggressive"

    def share(self, project: str) -> float:
        """A project's share."""
        return self.shares.get(project, 1.0)


@dataclass(frozen=True, slots=True)
class Burst:
    """When VMs may go to which sites, and how they come back. Durations in seconds.

    ``never`` is an expression over ``vm.*`` and ``site``: where it is true, the VM stays.
    ``billing_boundary_s``: a burst VM that may leave does so shortly before the next multiple of this age.
    """

    to: tuple[str, ...]
    open: Condition
    close: Condition
    never: Expression | None = None
    dwell_s: float = 0.0
    returns: Return = "drain"
    billing_boundary_s: float | None = None
    limits: Limits = field(default_factory=Limits)
    max_price_hour: float | None = None
    projects: Mapping[str, ProjectBurst] = field(default_factory=dict)

    def sites_of(self, project: str) -> tuple[str, ...]:
        """The sites that a project may burst to."""
        own = self.projects.get(project)
        return self.to if own is None or own.to is None else own.to


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. ``burst`` is None when the file has no such part: then no VM ever bursts."""

    version: int
    placement: Placement
    burst: Burst | None
    text: str
    filename: str
    queue: Queue = field(default_factory=Queue)
    budget: Budget | None = None
    spot: Spot = field(default_factory=Spot)
    deadline: Deadline | None = None

    def requirement_for(self, own: str | None) -> str | None:
        """A VM's requirement under this policy: its own and the policy's, both."""
        common = self.placement.requirements
        texts = [text for text in (own, common.text if common else None) if text]
        return " && ".join(f"({text})" for text in texts) if len(texts) > 1 else next(iter(texts), None)

    def rank_for(self, own: str | None) -> str | None:
        """A VM's rank under this policy: its own, else the policy's."""
        return own or (self.placement.rank.text if self.placement.rank else None)


def parse(text: str, filename: str = "policy.yaml") -> Policy:
    """Parse and check a policy. Raises PolicyError with all mistakes at once."""
    reader = _Reader(text, filename)
    policy = reader.policy()
    if reader.problems:
        raise PolicyError(sorted(reader.problems, key=lambda problem: (problem.line, problem.column)))
    assert policy is not None  # noqa: S101 - no policy is a problem
    return policy


def duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``1h30m``, ``2d``. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f'"{text}" is no duration')
    return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))


def show_duration(seconds: float) -> str:
    """``90s`` for 90, ``15m`` for 900, ``1h30m`` for 5400."""
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size and (size > 1 or left):
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts) or "0s"


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_INTEGER, _FLOAT, _NULL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:null"
_FIELDS = {"half_life": "half_life_s", "aging": "aging_s"}
_SITE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class _Reader:
    """Reads one file and collects its problems. A part with a problem is read as None."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self.problems: list[Problem] = []

    def problem(self, node: Node, message: str, mend: str = "") -> None:
        mark = node.start_mark
        self.problem_at(mark.line + 1, mark.column + 1, message, mend)

    def problem_at(self, line: int, column: int, message: str, mend: str = "") -> None:
        self.problems.append(Problem(self.filename, line, column, message, mend))

    # The document

    def policy(self) -> Policy | None:
        root = self._root()
        if root is None:
            return None
        values = self.mapping(
            root,
            "the policy",
            {
                "version": self.version,
                "placement": self.placement,
                "queue": self.queue,
                "burst": self.burst,
                "budget": self.budget,
                "spot": self.spot,
                "deadline": self.deadline,
            },
            required={"version": "add version: 1"},
        )
        for key, what in (("budget", "spend"), ("spot", "buy"), ("deadline", "start VMs in")):
            if key in values and "burst" not in values and not self.problems:
                self.problem(
                    root, f'there is "{key}", but no "burst"', f"without one there is nothing to {what}"
                )
        return Policy(
            values.get("version") or VERSION,
            values.get("placement") or Placement(),
            values.get("burst"),
            self.text,
            self.filename,
            values.get("queue") or Queue(),
            values.get("budget"),
            values.get("spot") or Spot(),
            values.get("deadline"),
        )

    def _root(self) -> Node | None:
        try:
            root = YAML(typ="rt").compose(self.text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            words = " ".join(part for part in (error.context, error.problem) if part)
            self.problem_at(line, column, f"not YAML: {words}", _yaml_mend(words))
            return None
        except YAMLError as error:
            position = min(getattr(error, "position", 0) or 0, len(self.text))
            before = self.text[:position]
            column = position - (before.rfind("\n") + 1) + 1
            self.problem_at(before.count("\n") + 1, column, f"not YAML: {str(error).splitlines()[0]}")
            return None
        except RecursionError:
            self.problem_at(1, 1, "not a policy: nested too deep")
            return None
        if root is None:
            self.problem_at(1, 1, "the policy is empty", "begin with version: 1")
            return None
        return root  # type: ignore[no-any-return]

    def version(self, node: Node) -> int | None:
        version = self.integer(node)
        if version is not None and version != VERSION:
            self.problem(node, f"version {version} is not supported", f"this broker reads version {VERSION}")
            return None
        return version

    def placement(self, node: Node) -> Placement | None:
        values = self.mapping(
            node, "placement", {"requirements": self.host_expression, "rank": self.host_expression}
        )
        return Placement(values.get("requirements"), values.get("rank"))

    def burst(self, node: Node) -> Burst | None:
        before = len(self.problems)
        values = self.mapping(
            node,
            "burst",
            {
                "to": self.sites,
                "open": lambda node: self.condition(node, "open", with_for=False),
                "close": lambda node: self.condition(node, "close", with_for=True),
                "never": self.never,
                "dwell": self.duration,
                "return": self.returns,
                "billing_boundary": self.positive_duration,
                "limits": self.limits,
                "max_price_hour": self.amount,
                "projects": lambda node: self.by_name(node, "projects", self.project_burst),
            },
            required={
                "to": "name the sites that may take bursts, as in to: [aws-eu]",
                "open": "say when, as in open: {any: ['local.cpu_used > 0.90']}",
                "close": "say when, as in close: {all: ['local.cpu_used < 0.60'], for: 15m}",
            },
        )
        if len(self.problems) > before:
            return None
        burst = Burst(
            to=values["to"],
            open=values["open"],
            close=values["close"],
            never=values.get("never"),
            dwell_s=values.get("dwell") or 0.0,
            returns=values.get("return") or "drain",
            billing_boundary_s=values.get("billing_boundary"),
            limits=values.get("limits") or Limits(),
            max_price_hour=values.get("max_price_hour"),
            projects=values.get("projects") or {},
        )
        self._contradictions(node, burst)
        self._project_sites(node, burst)
        return burst if len(self.problems) == before else None

    def sites(self, node: Node) -> tuple[str, ...] | None:
        names = self.sequence(node, "a list of site names", self.site)
        if names is not None and not names:
            self.problem(node, "no site", "name the sites that may take bursts, as in [aws-eu]")
            return None
        return names

    def site(self, node: Node) -> str | None:
        name = self.string(node, "a site name")
        if name is not None and not _SITE_NAME.fullmatch(name):
            self.problem(node, f'"{name}" is no site name', "1 to 63 of a-z, 0-9, dot and hyphen")
            return None
        return name

    def condition(self, node: Node, name: str, *, with_for: bool) -> Condition | None:
        before = len(self.problems)
        readers: dict[str, Callable[[Node], Any]] = {"any": self.clauses, "all": self.clauses}
        if with_for:
            readers["for"] = self.duration
        values = self.mapping(node, name, readers)
        if len(self.problems) > before:
            return None
        modes = [mode for mode in ("any", "all") if mode in values]
        if len(modes) != 1:
            which = "both any and all" if modes else "neither any nor all"
            self.problem(node, f"{name} has {which}", "give one of them a list of conditions")
            return None
        mode: Literal["any", "all"] = "any" if modes == ["any"] else "all"
        return Condition(mode, values[mode], values.get("for") or 0.0)

    def clauses(self, node: Node) -> tuple[Expression, ...] | None:
        clauses = self.sequence(node, "a list of conditions", self.metric_expression)
        if clauses is not None and not clauses:
            self.problem(node, "no condition", "for instance ['local.cpu_used > 0.90']")
            return None
        return clauses

    def never(self, node: Node) -> Expression | None:
        return self.expression(node, {"site"}, VM_ATTRIBUTES)

    def returns(self, node: Node) -> Return | None:
        word = self.string(node, "drain, recreate or never")
        known: dict[str | None, Return] = {"drain": "drain", "recreate": "recreate", "never": "never"}
        if word is not None and word not in known:
            self.problem(node, f'"{word}" is no way to return', "one of drain, recreate, never")
        return known.get(word)

    def limits(self, node: Node) -> Limits | None:
        values = self.mapping(
            node, "limits", {"vms": self.count, "vcpus": self.count, "per_hour": self.count}
        )
        return Limits(values.get("vms"), values.get("vcpus"), values.get("per_hour"))

    def project_burst(self, node: Node) -> ProjectBurst:
        values = self.mapping(node, "a project", {"to": self.sites, "limits": self.limits})
        return ProjectBurst(values.get("to"), values.get("limits") or Limits())

    def queue(self, node: Node) -> Queue:
        values = self.mapping(
            node,
            "queue",
            {
                "shares": lambda node: self.by_name(node, "shares", self.positive),
                "half_life": self.positive_duration,
                "aging": self.duration,
                "repair": self.count,
                "preempt": self.truth,
                "backfill": self.backfill,
            },
        )
        return Queue(
            **{_FIELDS.get(key, key): value for key, value in values.items()},
        )

    def backfill(self, node: Node) -> Backfill | None:
        word = self.string(node, "none, aggressive or conservative")
        known: dict[str | None, Backfill] = {
            "none": "none",
            "aggressive": "aggressive",
            "conservative": "conservative",
        }
        if word is not None and word not in known:
            self.problem(node, f'"{word}" is no way to backfill', "one of none, aggressive, conservative")
        return known.get(word)

    def budget(self, node: Node) -> Budget | None:
        before = len(self.problems)
        values = self.mapping(
            node,
            "budget",
            {
                "currency": self.currency,
                "hourly": lambda node: self.cap(node, "hourly"),
                "monthly": lambda node: self.cap(node, "monthly"),
            },
        )
        if len(self.problems) > before:
            return None
        if not values.keys() & {"hourly", "monthly"}:
            self.problem(node, "budget limits nothing", "give it hourly or monthly")
            return None
        monthly, per_project, projects = values.get("monthly") or (Cap(), None, {})
        hourly = (values.get("hourly") or (Cap(), None, {}))[0]
        return Budget(values.get("currency") or "USD", hourly, monthly, per_project, projects)

    def currency(self, node: Node) -> str | None:
        word = self.string(node, "a currency")
        if word is not None and not re.fullmatch("[A-Z]{3}", word):
            self.problem(node, f'"{word}" is no currency', "three letters, as in USD")
            return None
        return word

    def cap(self, node: Node, name: str) -> tuple[Cap, float | None, Mapping[str, float]] | None:
        """A number is a hard limit."""
        if isinstance(node, ScalarNode):
            hard = self.amount(node)
            return None if hard is None else (Cap(None, hard), None, {})
        before = len(self.problems)
        readers: dict[str, Callable[[Node], Any]] = {"soft": self.amount, "hard": self.amount}
        if name == "monthly":
            readers["per_project"] = self.per_project
        values = self.mapping(node, name, readers)
        if len(self.problems) > before:
            return None
        soft, hard = values.get("soft"), values.get("hard")
        if not values:
            self.problem(node, f"{name} limits nothing", "give it soft, hard or both")
            return None
        if soft is not None and hard is not None and soft > hard:
            self.problem(node, f"the soft limit {soft:g} is above the hard one {hard:g}", "exchange them")
            return None
        each = values.get("per_project")
        one, some = (None, each) if isinstance(each, dict) else (each, {})
        for amount in (*([] if one is None else [one]), *some.values()):
            if hard is not None and amount > hard:
                message = f"a project may spend {amount:g}, which is above the hard limit {hard:g} of all"
                self.problem(node, message, "lower per_project, or raise hard")
                return None
        return Cap(soft, hard), one, some

    def per_project(self, node: Node) -> float | dict[str, float] | None:
        if isinstance(node, ScalarNode):
            return self.amount(node)
        return self.by_name(node, "per_project", self.amount)

    def spot(self, node: Node) -> Spot:
        values = self.mapping(
            node,
            "spot",
            {
                "use": self.truth,
                "max_price_ratio": self.positive,
                "on_interruption": lambda node: self.word(node, ("relaunch", "fallback", "none")),
                "max_interruptions": self.count,
            },
        )
        return Spot(**values)

    def deadline(self, node: Node) -> Deadline:
        values = self.mapping(node, "deadline", {"slack": self.duration})
        return Deadline(values.get("slack") or 0.0)

    # Kinds of values

    def mapping(
        self,
        node: Node,
        what: str,
        readers: Mapping[str, Callable[[Node], Any]],
        *,
        required: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The values of a mapping's known keys; keys whose value had a problem are left out."""
        if not isinstance(node, MappingNode):
            self.problem(
                node, f"{what} must be a mapping, not {_kind(node)}", "keys are " + ", ".join(readers)
            )
            return {}
        values: dict[str, Any] = {}
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.problem(key_node, f"a key of {what} must be a word", "keys are " + ", ".join(readers))
                continue
            key = str(key_node.value)
            if key in seen:
                self.problem(key_node, f'"{key}" is there twice', "keep one")
            elif key in readers:
                value = readers[key](value_node)
                if value is not None:
                    values[key] = value
            else:
                mend = nearest(key, list(readers)) or "keys are " + ", ".join(readers)
                self.problem(key_node, f'unknown key "{key}" in {what}', mend)
            seen.add(key)
        for key, mend in (required or {}).items():
            if key not in seen:
                self.problem(node, f'{what} has no "{key}"', mend)
        return values

    def sequence(self, node: Node, what: str, read: Callable[[Node], T | None]) -> tuple[T, ...] | None:
        """A list whose items all could be read, else None."""
        if not isinstance(node, SequenceNode):
            self.problem(node, f"must be {what}, not {_kind(node)}", "put it in brackets: [...]")
            return None
        items = [read(item) for item in node.value]
        return None if None in items else tuple(item for item in items if item is not None)

    def string(self, node: Node, what: str) -> str | None:
        if not isinstance(node, ScalarNode) or str(node.tag) == _NULL:
            self.problem(node, f"must be {what}, not {_kind(node)}")
            return None
        return _scalar(node)

    def integer(self, node: Node) -> int | None:
        if isinstance(node, ScalarNode) and str(node.tag) == _INTEGER:
            try:
                return int(str(node.value).replace("_", ""), 0)
            except ValueError:
                pass
        self.problem(node, f"must be a whole number, not {_kind(node)}")
        return None

    def count(self, node: Node) -> int | None:
        number = self.integer(node)
        if number is not None and number < 0:
            self.problem(node, "must not be negative", "0 allows none; leave it out for no limit")
            return None
        return number

    def amount(self, node: Node) -> float | None:
        """A number that is not negative."""
        if isinstance(node, ScalarNode) and str(node.tag) in (_INTEGER, _FLOAT):
            with contextlib.suppress(ValueError):
                number = float(str(node.value).replace("_", ""))
                if math.isfinite(number) and number >= 0:
                    return number
        self.problem(node, f"must be a number, 0 or more, not {_kind(node)}")
        return None

    def positive(self, node: Node) -> float | None:
        number = self.amount(node)
        if number == 0:
            self.problem(node, "must be more than 0")
            return None
        return number

    def truth(self, node: Node) -> bool | None:
        text = str(node.value).lower() if isinstance(node, ScalarNode) else ""
        if text not in ("true", "false"):
            self.problem(node, f"must be true or false, not {_kind(node)}")
            return None
        return text == "true"

    def word(self, node: Node, words: Sequence[str]) -> str | None:
        word = self.string(node, " or ".join(words))
        if word is not None and word not in words:
            self.problem(
                node, f'"{word}" is not known here', nearest(word, words) or "one of " + ", ".join(words)
            )
            return None
        return word

    def by_name(self, node: Node, what: str, read: Callable[[Node], T | None]) -> dict[str, T] | None:
        """A mapping from names of the user's own."""
        if not isinstance(node, MappingNode):
            self.problem(node, f"{what} must be a mapping, not {_kind(node)}", "write NAME: VALUE")
            return None
        found: dict[str, T] = {}
        for key_node, value_node in node.value:
            name = self.string(key_node, "a name")
            if name is not None and name in found:
                self.problem(key_node, f'"{name}" is there twice', "keep one")
                continue
            value = read(value_node)
            if name is not None and value is not None:
                found[name] = value
        return found

    def duration(self, node: Node) -> float | None:
        text = str(node.value) if isinstance(node, ScalarNode) else ""
        try:
            return duration(text)
        except ValueError:
            bare = bool(re.fullmatch(r"\d+(\.\d+)?", text))
            what = f'"{text}" is no duration' if text else f"must be a duration, not {_kind(node)}"
            self.problem(
                node, what, f'add a unit, as in "{text}s"' if bare else "write 90s, 15m, 1h30m or 2d"
            )
            return None

    def positive_duration(self, node: Node) -> float | None:
        seconds = self.duration(node)
        if seconds == 0:
            self.problem(node, "must be longer than 0", "clouds bill by 60m or by 60s")
            return None
        return seconds

    # Expressions

    def host_expression(self, node: Node) -> Expression | None:
        return self.expression(node, None, VM_ATTRIBUTES)

    def metric_expression(self, node: Node) -> Expression | None:
        before = len(self.problems)
        expression = self.expression(node, METRICS.keys(), frozenset())
        if expression is None or len(self.problems) > before:
            return None
        for metric, operator, bound, offset in _comparisons(expression):
            if metric in FRACTIONS and not 0 <= bound <= 1:
                line, column = self.place(node, offset)
                mend = f"write {bound / 100:g}" if 1 < bound <= 100 else ""
                self.problem_at(
                    line, column, f"{metric} is a fraction from 0 to 1, not {operator} {bound:g}", mend
                )
        return expression if len(self.problems) == before else None

    def expression(self, node: Node, names: Any, vm_names: frozenset[str]) -> Expression | None:
        """An expression that reads only ``names`` (None: any) and ``vm_names``."""
        text = self.string(node, "an expression")
        if text is None:
            return None
        try:
            found = parse_expression(text)
        except ExpressionError as error:
            self._expression_problem(node, error)
            return None
        known = found.host_names if names is None else names
        mistakes = unknown_names(found, known, vm_names)
        for mistake in mistakes:
            self._expression_problem(node, mistake)
        return None if mistakes else found

    def _expression_problem(self, node: Node, error: ExpressionError) -> None:
        line, column = self.place(node, error.offset)
        self.problem_at(line, column, error.message, error.mend)

    def place(self, node: Node, offset: int) -> tuple[int, int]:
        """The line and column in the file of a place inside a scalar, both from 1."""
        assert isinstance(node, ScalarNode)  # noqa: S101 - an expression was read from it
        index = _index(self.text, node, offset)
        return self.text.count("\n", 0, index) + 1, index - self.text.rfind("\n", 0, index)

    def _project_sites(self, node: Node, burst: Burst) -> None:
        nodes = {key.value: value for key, value in node.value if isinstance(key, ScalarNode)}
        for name, own in burst.projects.items():
            strange = [site for site in own.to or () if site not in burst.to]
            if strange:
                message = f'project {name} may burst to "{strange[0]}", which is not in burst.to'
                self.problem(nodes["projects"], message, f"add {strange[0]} to burst.to")

    def _contradictions(self, node: Node, burst: Burst) -> None:
        """Conditions that can never hold, and open and close that can hold at once on one metric."""
        nodes = {key.value: value for key, value in node.value if isinstance(key, ScalarNode)}
        bounds = {}
        for name, condition in (("open", burst.open), ("close", burst.close)):
            joint = _Interval.joint(condition)
            bounds[name] = joint
            for metric, interval in joint.items():
                if interval.empty:
                    message = f"{name} can never hold: no {metric} satisfies all of its conditions"
                    self.problem(nodes[name], message, "use any instead of all, or change a threshold")
        shared = sorted(bounds["open"].keys() & bounds["close"].keys())
        overlaps = {metric: bounds["open"][metric].meet(bounds["close"][metric]) for metric in shared}
        if burst.open.mode == burst.close.mode == "all" and any(both.empty for both in overlaps.values()):
            return  # one metric keeps the two apart
        for metric, both in overlaps.items():
            if not both.empty:
                message = f"open and close both hold when {metric} is {both}: the burst would flap"
                self.problem(nodes["close"], message, f"leave a gap between the two thresholds of {metric}")


@dataclass(frozen=True, slots=True)
class _Interval:
    """The values of a metric that satisfy some comparisons."""

    low: float = float("-inf")
    high: float = float("inf")
    low_open: bool = True
    high_open: bool = True

    @classmethod
    def of(cls, operator: str, bound: float) -> _Interval:
        if operator in ("<", "<="):
            return cls(high=bound, high_open=operator == "<")
        if operator in (">", ">="):
            return cls(low=bound, low_open=operator == ">")
        return cls(bound, bound, False, False)

    @classmethod
    def joint(cls, condition: Condition) -> dict[str, _Interval]:
        """Per metric what ``all`` clauses leave of it; of ``any`` clauses each metric that has a single one.

        Only clauses that are one comparison of a metric with a number are understood.
        """
        result: dict[str, _Interval] = {}
        counts: dict[str, int] = {}
        for clause in condition.clauses:
            terms = clause.conjuncts()
            if condition.mode == "any" and len(terms) > 1:
                continue
            for metric, operator, bound, _ in (found for term in terms for found in _comparisons(term)):
                if operator == "!=":
                    continue
                counts[metric] = counts.get(metric, 0) + 1
                result[metric] = result.get(metric, cls()).meet(cls.of(operator, bound))
        if condition.mode == "any":
            return {metric: interval for metric, interval in result.items() if counts[metric] == 1}
        return result

    def meet(self, other: _Interval) -> _Interval:
        low, low_open = max((self.low, self.low_open), (other.low, other.low_open))
        high, shut = min((self.high, not self.high_open), (other.high, not other.high_open))
        return _Interval(low, high, low_open, not shut)

    @property
    def empty(self) -> bool:
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.low == float("-inf"):
            return f"below {self.high:g}"
        if self.high == float("inf"):
            return f"above {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


def _comparisons(expression: Expression) -> list[tuple[str, str, float, int]]:
    """(metric, operator, number, offset of the number) if the expression is such a comparison, either way round."""
    root = expression.root
    if not isinstance(root, tree.Compare):
        return []
    left, right = root.children
    operator = root.operator
    if isinstance(left, tree.Constant):
        left, right = right, left
        operator = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(operator, operator)
    if not isinstance(left, tree.HostName) or not isinstance(right, tree.Constant):
        return []
    number = right.constant_value
    return [(left.name, operator, number, right.start)] if isinstance(number, float) else []


def _index(text: str, node: ScalarNode, offset: int) -> int:
    """Where in the file the character at ``offset`` of a scalar's value stands; its end for the value's end.

    YAML changes a scalar on its way to the value: quotes and escapes go, folded lines join, indents vanish.
    What is not white space stays in order, so it is found again by walking both side by side.
    """
    start, end, style = node.start_mark.index, node.end_mark.index, node.style
    position: int = start
    if style in ("'", '"'):
        position += 1
        end -= 1
    elif style in ("|", ">"):
        position = text.index("\n", start) + 1
    value = _scalar(node)
    for character in value[:offset]:
        if not character.isspace():
            position = _next(text, character, position, end, style)
    if offset >= len(value) or value[offset].isspace():
        return position
    return _next(text, value[offset], position, end, style) - (2 if _doubled(style, value[offset]) else 1)


def _next(text: str, character: str, position: int, end: int, style: str | None) -> int:
    """Right behind the next place of a character. An escape such as ``\\x41`` is not found: stay before it."""
    found = text.find(character, position, end)
    return position if found < 0 else found + (2 if _doubled(style, character) else 1)


def _doubled(style: str | None, character: str) -> bool:
    """Whether YAML writes the character twice."""
    return style == "'" and character == "'"


def _scalar(node: ScalarNode) -> str:
    """The text of a scalar. The round-trip reader marks where a folded one (``>``) was folded with a BEL."""
    value = str(node.value)
    return value.replace("\a", "") if node.style == ">" else value


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "nothing" if str(node.tag) == _NULL else f'"{node.value}"'


def _yaml_mend(words: str) -> str:
    if "\\t" in words:
        return "indent with spaces, not tabs"
    if "another document" in words:
        return "keep one document per file"
    if "expected ',' or" in words or "mapping values" in words:
        return "close the bracket, or put quotes around a text with : in it"
    return ""
