"""What one cell shows of each of its members: how much slower, how surely, and how repeatably. Pure.

Slowdown is analysed as log SF against 0, because it is a ratio: half as fast and twice as fast are equally far from 1.
Holm's correction is over all tests of one kind in one part of the design, both sides together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.cells import Sample, Side
from benchmarks.design import Isolation, Part
from benchmarks.effect import Effect, paired_d
from benchmarks.inference import Significance, holm, paired_t, signed_rank
from benchmarks.interval import Interval, median_interval
from benchmarks.noise_floor import NoiseFloor, noise_floor
from benchmarks.sample import FloatArray
from benchmarks.statistical_power import Power, power_of

WANTED_D = 0.8  #: the effect that the design is made to find

_UNCOUNTED = "told by no run; the limits say where there are no hardware counters"
_NO_TOKENS = "it makes no tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEffect:
    """One member of one cell; every part carries its own reason where it is unknown."""

    part: Part
    cell: str
    members: tuple[str, ...]
    member: str  #: as in the cell's name, such as "cpu:4"
    side: Side
    isolation: Isolation
    factors: tuple[str, str, str, int] | None  #: traditional, agent, isolation, concurrency; of part "factorial"
    n: int  #: good runs that tell its slowdown
    unknown: int  #: good runs that do not
    slowdowns: tuple[float, ...]  #: SF of those n, by repetition
    slowdown: Interval  #: median
    log_spread: float  #: standard deviation of log SF; NaN with fewer than 2 runs
    noise: NoiseFloor
    tail_sensitivity: Interval  #: medians
    ttft_ratio: Interval
    ttlt_ratio: Interval
    tbt_ratio: Interval
    interference_factor: Interval
    cache_interference: Interval
    t: Significance  #: paired t of log SF against 0, two-sided
    wilcoxon: Significance
    t_p_holm: float
    wilcoxon_p_holm: float
    effect: Effect  #: d_z of log SF
    power: Power  #: of that t for d_z = 0.8


def cell_effects(samples: Sequence[Sample], *, seed: int = 0) -> tuple[CellEffect, ...]:
    """Summarise every sample, in the same order."""
    found = [_effect(sample, seed) for sample in samples]
    for part in Part:
        places = [place for place, one in enumerate(found) if one.part is part]
        by_t = holm([found[place].t.p for place in places])
        by_rank = holm([found[place].wilcoxon.p for place in places])
        for place, t, rank in zip(places, by_t, by_rank, strict=True):
            found[place] = replace(found[place], t_p_holm=float(t), wilcoxon_p_holm=float(rank))
    return tuple(found)


def _effect(sample: Sample, seed: int) -> CellEffect:
    known, logs = sample.known, sample.log_slowdown
    tokens = "" if sample.side is Side.AGENT else _NO_TOKENS
    return CellEffect(
        part=sample.part,
        cell=sample.cell,
        members=tuple(map(str, sample.members)),
        member=str(sample.member),
        side=sample.side,
        isolation=sample.isolation,
        factors=sample.factors if sample.part is Part.FACTORIAL else None,
        n=known.size,
        unknown=sample.slowdown.size - known.size,
        slowdowns=tuple(known.tolist()),
        slowdown=median_interval(known, seed=seed),
        log_spread=float(logs.std(ddof=1)) if logs.size > 1 else math.nan,
        noise=noise_floor(known),
        tail_sensitivity=_median(sample.tail_sensitivity, tokens or "no two tokens in some window of every run", seed),
        ttft_ratio=_median(sample.ttft_ratio, tokens or "no turn began in some window of every run", seed),
        ttlt_ratio=_median(sample.ttlt_ratio, tokens or "no whole turn in some window of every run", seed),
        tbt_ratio=_median(sample.tbt_ratio, tokens or "no two tokens in some window of every run", seed),
        interference_factor=_median(sample.interference_factor, _UNCOUNTED, seed),
        cache_interference=_median(sample.cache_interference, _UNCOUNTED, seed),
        t=paired_t(logs),
        wilcoxon=signed_rank(logs),
        t_p_holm=math.nan,
        wilcoxon_p_holm=math.nan,
        effect=paired_d(logs),
        power=power_of(WANTED_D, known.size),
    )


def _median(values: FloatArray, missing: str, seed: int) -> Interval:
    known = values[np.isfinite(values)]
    found = median_interval(known, seed=seed)
    return found if known.size else replace(found, reason=missing)
