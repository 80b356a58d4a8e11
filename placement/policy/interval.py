"""The values of a metric at which the conditions of a policy hold: whether there are any, and whether two of them meet."""

from __future__ import annotations

from dataclasses import dataclass

from placement import tree
from placement.language import Expression
from placement.policy.data import Condition


@dataclass(frozen=True, slots=True)
class Interval:
    """The values of a metric that satisfy some comparisons."""

    low: float = float("-inf")
    high: float = float("inf")
    low_open: bool = True
    high_open: bool = True

    @classmethod
    def of(cls, operator: str, bound: float) -> Interval:
        """The values that compare so with a number."""
        if operator in ("<", "<="):
            return cls(high=bound, high_open=operator == "<")
        if operator in (">", ">="):
            return cls(low=bound, low_open=operator == ">")
        return cls(bound, bound, False, False)

    @classmethod
    def joint(cls, condition: Condition) -> dict[str, Interval]:
        """Per metric what ``all`` clauses leave of it; of ``any`` clauses each metric that has a single one.

        Only clauses that are one comparison of a metric with a number are understood.
        """
        result: dict[str, Interval] = {}
        counts: dict[str, int] = {}
        for clause in condition.clauses:
            terms = clause.conjuncts()
            if condition.mode == "any" and len(terms) > 1:
                continue
            for metric, operator, bound, _ in (found for term in terms for found in comparisons(term)):
                if operator == "!=":
                    continue
                counts[metric] = counts.get(metric, 0) + 1
                result[metric] = result.get(metric, cls()).meet(cls.of(operator, bound))
        if condition.mode == "any":
            return {metric: interval for metric, interval in result.items() if counts[metric] == 1}
        return result

    def meet(self, other: Interval) -> Interval:
        """The values that are in both."""
        low, low_open = max((self.low, self.low_open), (other.low, other.low_open))
        high, shut = min((self.high, not self.high_open), (other.high, not other.high_open))
        return Interval(low, high, low_open, not shut)

    @property
    def empty(self) -> bool:
        """Whether there is no such value."""
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.low == float("-inf"):
            return f"below {self.high:g}"
        if self.high == float("inf"):
            return f"above {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


def comparisons(expression: Expression) -> list[tuple[str, str, float, int]]:
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
