"""What a promise allows, as one slowdown factor: the tightest bound that the workload's profile lets us judge. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from profiler.records import WorkloadProfile
from scheduler.placement import Slo

_TAIL = 0.99  # from this quantile on, a bound on the time between tokens is one on its tail
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The tightest bound of one workload; `allowed_sf` is infinite when it has none."""

    bound: str = ""  #: field of the Slo
    allowed_sf: float = math.inf
    solo_ms: float | None = None  #: what a bound in milliseconds is a multiple of; None for max_slowdown
    unjudged: tuple[str, ...] = ()  #: bounds that cannot be judged, each with the reason

    def broken(self, upper: float) -> bool:
        """Tell whether a slowdown of `upper` is over it."""
        return upper > self.allowed_sf * (1.0 + _ROUNDING)

    def says(self, workload: str, upper: float) -> str:
        """Put predicted against allowed, in the unit of the bound."""
        if self.solo_ms is None:
            return f"{self.bound} of {workload!r}: up to {upper:.2f}x predicted, {self.allowed_sf:.2f}x allowed"
        predicted, alone, allowed = (factor * self.solo_ms for factor in (upper, 1.0, self.allowed_sf))
        return (
            f"{self.bound} of {workload!r}: up to {_ms(predicted)} predicted ({upper:.2f}x of {_ms(alone)} alone), "
            f"{_ms(allowed)} allowed"
        )


def limit_of(slo: Slo, profile: WorkloadProfile | None) -> Limit:
    """Find the tightest bound; one whose solo value the profile does not know is reported, never passed in silence.

    TTFT and TTLT are judged on the solo median; TBT on the solo median below quantile 0.99, on the solo P99 from there.
    """
    judged: list[tuple[float, str, float | None]] = []
    unjudged: list[str] = []
    if slo.max_slowdown is not None:
        judged.append((slo.max_slowdown, "max_slowdown", None))
    timed = (
        ("tbt_ms", slo.tbt_ms, "tbt_p99_s" if slo.quantile >= _TAIL else "tbt_s"),
        ("ttft_ms", slo.ttft_ms, "ttft_s"),
        ("ttlt_ms", slo.ttlt_ms, "ttlt_s"),
    )
    for bound, allowed_ms, feature in timed:
        if allowed_ms is None:
            continue
        solo_ms = math.nan if profile is None else profile.value(feature) * 1000.0
        if solo_ms > 0:
            judged.append((allowed_ms / solo_ms, bound, solo_ms))
        else:
            reason = "there is no profile" if profile is None else f"profile {profile.name!r} holds no {feature}"
            unjudged.append(f"{bound} ({reason})")
    if not judged:
        return Limit(unjudged=tuple(unjudged))
    allowed_sf, bound, solo_ms_of_bound = min(judged, key=lambda one: one[0])
    return Limit(bound=bound, allowed_sf=allowed_sf, solo_ms=solo_ms_of_bound, unjudged=tuple(unjudged))


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100.0 else f"{value:.3g} ms"
