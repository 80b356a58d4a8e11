"""A policy file: text in, a checked ``Policy`` out, or every mistake in it at its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node, ScalarNode

from placement.language import Expression, ExpressionError, unknown_names
from placement.language import parse as parse_expression
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
    Limits,
    Placement,
    Policy,
    PolicyError,
    ProjectBurst,
    Queue,
    Return,
    Spot,
)
from placement.policy.interval import Interval, comparisons
from placement.policy.positions import place
from placement.policy.values import ValueReader


def parse(text: str, filename: str = "policy.yaml") -> Policy:
    """Parse and check a policy. Raises PolicyError with all mistakes at once."""
    reader = _Reader(text, filename)
    policy = reader.policy()
    if reader.problems:
        raise PolicyError(sorted(reader.problems, key=lambda problem: (problem.line, problem.column)))
    assert policy is not None  # noqa: S101 - no policy is a problem
    return policy


_FIELDS = {"half_life": "half_life_s", "aging": "aging_s"}
_SITE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class _Reader(ValueReader):
    """Reads one file and collects its problems. A part with a problem is read as None."""

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

    # Expressions

    def host_expression(self, node: Node) -> Expression | None:
        return self.expression(node, None, VM_ATTRIBUTES)

    def metric_expression(self, node: Node) -> Expression | None:
        before = len(self.problems)
        expression = self.expression(node, METRICS.keys(), frozenset())
        if expression is None or len(self.problems) > before:
            return None
        for metric, operator, bound, offset in comparisons(expression):
            if metric in FRACTIONS and not 0 <= bound <= 1:
                line, column = place(self.text, node, offset)
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
        line, column = place(self.text, node, error.offset)
        self.problem_at(line, column, error.message, error.mend)

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
            joint = Interval.joint(condition)
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


def _yaml_mend(words: str) -> str:
    if "\\t" in words:
        return "indent with spaces, not tabs"
    if "another document" in words:
        return "keep one document per file"
    if "expected ',' or" in words or "mapping values" in words:
        return "close the bracket, or put quotes around a text with : in it"
    return ""
