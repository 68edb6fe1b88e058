"""What a hypothesis is judged by, and the judgement. Pure.

The rule for all: supported only if the whole 95 % interval of the estimate lies beyond the threshold of the claim AND
the test against no effect is significant at the claim's alpha (one-sided, in the direction of the claim). An interval
that holds the threshold is "not supported" too, and the reason calls it undecided.
Not testable is what lacks measurements; it is never "not supported".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What the data say to a claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    NOT_TESTABLE = "not testable here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A claim and what became of it."""

    name: str
    claim: str
    rule: str  #: how it was computed
    verdict: Verdict
    reason: str  #: one sentence with the numbers
    numbers: Mapping[str, float] = field(default_factory=dict)


def told_p(p: float) -> str:
    """Write a p value; those too small for a number as a bound."""
    return "p < 1e-300" if p == 0 else f"p = {p:.2g}"


def judged(
    estimate: float, lower: float, upper: float, p: float, *, threshold: float, alpha: float, what: str
) -> tuple[Verdict, str]:
    """Apply the rule to a claim that something is greater than a threshold of at least 0."""
    if not all(map(math.isfinite, (estimate, lower, upper, p))):
        return Verdict.NOT_TESTABLE, f"{what} with its interval cannot be told"
    told = f"{what} = {estimate:.3g}, 95 % interval {lower:.3g} to {upper:.3g}, {told_p(p)}"
    lacking = []
    if not p < alpha:
        lacking.append(f"p is not below {alpha:g}")
    if not lower > threshold:
        held = upper > threshold
        lacking.append(f"the interval holds {threshold:g}: undecided" if held else f"all below {threshold:g}")
    if lacking:
        return Verdict.NOT_SUPPORTED, f"{told}; {', '.join(lacking)}"
    return Verdict.SUPPORTED, f"{told}; the whole interval is above {threshold:g}"
