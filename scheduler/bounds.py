"""What a promise allows, as one slowdown factor: the tightest bound that the workload's profile lets us judge. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from profiler.records import WorkloadProfile
from scheduler.placement import Slo

_ROUNDING = 1e-9
#: What profiles hold of what a bound speaks of: highest quantile judged on it, feature, its own quantile and name.
_PROFILED: dict[str, tuple[tuple[float, str, float, str], ...]] = {
    "tbt_ms": ((0.5, "tbt_s", 0.5, "median"), (1.0, "tbt_p99_s", 0.99, "P99")),
    "ttft_ms": ((0.5, "ttft_s", 0.5, "median"),),
    "ttlt_ms": ((0.5, "ttlt_s", 0.5, "median"),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The tightest bound of one workload; `allowed_sf` is infinite when it has none."""

    bound: str = ""  #: field of the Slo; where it is judged on another quantile than its own, that is said too
    allowed_sf: float = math.inf
    solo_ms: float | None = None  #: what a bound in milliseconds is a multiple of; None for max_slowdown
    unjudged: tuple[str, ...] = ()  #: bounds that cannot be judged, each with the reason
    inexact: tuple[str, ...] = ()  #: bounds judged on another quantile than their own, each with both

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


def limit_of(slo: Slo, profile: WorkloadProfile | None, host_fingerprint: str) -> Limit:
    """Find the tightest bound; one whose solo value the profile does not know is reported, never passed in silence.

    A bound in milliseconds is judged on the lowest profiled quantile that is not below its own. TBT above the P99 is
    judged on the P99, TTFT and TTLT above the median not at all. Solo times of another class of host say nothing here.
    """
    judged: list[tuple[float, str, float | None]] = []
    unjudged: list[str] = []
    inexact: list[str] = []
    if slo.max_slowdown is not None:
        judged.append((slo.max_slowdown, "max_slowdown", None))
    for bound, allowed_ms in (("tbt_ms", slo.tbt_ms), ("ttft_ms", slo.ttft_ms), ("ttlt_ms", slo.ttlt_ms)):
        if allowed_ms is None:
            continue
        solo_ms, quantiles, reason = _solo_ms(bound, slo.quantile, profile, host_fingerprint)
        if reason:
            unjudged.append(f"{bound} ({reason})")
            continue
        if quantiles:
            inexact.append(f"{bound} ({quantiles})")
        judged.append((allowed_ms / solo_ms, inexact[-1] if quantiles else bound, solo_ms))
    if not judged:
        return Limit(unjudged=tuple(unjudged))
    allowed_sf, bound, solo_ms_of_bound = min(judged, key=lambda one: one[0])
    return Limit(
        bound=bound,
        allowed_sf=allowed_sf,
        solo_ms=solo_ms_of_bound,
        unjudged=tuple(unjudged),
        inexact=tuple(inexact),
    )


def foreign(profile: WorkloadProfile, host_fingerprint: str) -> str:
    """Say that a profile is not known to come from this class of host; empty when it does."""
    if profile.host_fingerprint == host_fingerprint:
        return ""
    if not profile.host_fingerprint:
        return f"profile {profile.name!r} does not say on which class of host it was taken"
    return (
        f"profile {profile.name!r} was taken on another class of host ({profile.host_fingerprint}, "
        f"this is {host_fingerprint})"
    )


def _solo_ms(
    bound: str, quantile: float | None, profile: WorkloadProfile | None, host_fingerprint: str
) -> tuple[float, str, str]:
    """Give the solo time a bound is judged on, the quantiles if they differ, and why it cannot be judged."""
    profiled = _PROFILED[bound]
    found = profiled[-1] if quantile is None else next((one for one in profiled if quantile <= one[0]), None)
    if found is None:
        return math.nan, "", f"only its {profiled[-1][3]} is profiled, not quantile {quantile:g}"
    _, feature, its_quantile, word = found
    if profile is None:
        return math.nan, "", "there is no profile"
    if strange := foreign(profile, host_fingerprint):
        return math.nan, "", strange
    solo_ms = profile.value(feature) * 1000.0
    if not solo_ms > 0:
        return math.nan, "", f"profile {profile.name!r} holds no {feature}"
    exact = quantile is None or quantile == its_quantile
    return solo_ms, "" if exact else f"quantile {quantile:g} judged on the {word}", ""


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100.0 else f"{value:.3g} ms"
