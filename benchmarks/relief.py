"""How much of a slowdown an isolation takes away, cell by cell against the same members without it. Pure.

relief = 1 - (SF with - 1) / (SF without - 1), of medians: 1 = all of it, 0 = nothing, below 0 = it made matters worse.
There is something to relieve only where the interval of the median SF without isolation lies above 1.02; elsewhere the
denominator is noise, and relief is NaN with that reason. The ratio of medians, with / without, always exists.
Neither counts what the isolation itself costs; `price` and `net` do (benchmarks/isolation_cost.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.cells import Sample, Side
from benchmarks.design import Isolation, Part
from benchmarks.effect import Comparison, compare_groups
from benchmarks.inference import holm
from benchmarks.interval import Interval, bootstrap_interval, least_units, median_interval
from benchmarks.isolation_cost import TimeRatios, time_ratios
from benchmarks.runs import Run
from benchmarks.sample import FloatArray
from benchmarks.statistical_power import ALPHA

CONFIDENCE = 0.95
SLOWED = 1.02  #: about what a median is known to; dividing by less excess tells of noise only
_NO_RATIOS = TimeRatios(alone=np.empty(0), together=np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """One side of two cells that differ in isolation only."""

    side: Side
    members: tuple[str, ...]
    traditional: str
    agent: str
    concurrency: int
    isolation: Isolation  #: compared with none
    without: Interval  #: median SF under "none"
    with_it: Interval  #: median SF under `isolation`
    relief: Interval
    ratio: Interval  #: of medians, with / without: below 1 is better
    price: Interval  #: median of the time for the same work alone, with / without: above 1 is slower
    net: Interval  #: likewise of the time together: below 1 the isolation gains more than it costs
    prices: tuple[float, ...]  #: of each repetition
    nets: tuple[float, ...]
    comparison: Comparison  #: of log SF, without less with; one-sided: without is greater
    p_holm: float  #: of its Welch t, over the pairs of one side and isolation


def reliefs(
    good: Sequence[Run], samples: Sequence[Sample], isolation: Isolation, *, seed: int = 0
) -> tuple[Relief, ...]:
    """Compare every cell of part "factorial" under that isolation with the same one under none."""
    ratios = time_ratios(good, isolation)
    cells = {
        (one.members, one.side, one.isolation): one
        for one in samples
        if one.part is Part.FACTORIAL and one.known.size and one.isolation in {Isolation.NONE, isolation}
    }
    found = [
        _relief(cells[members, side, Isolation.NONE], one, ratios.get((members, one.member.workload), _NO_RATIOS), seed)
        for (members, side, kind), one in cells.items()
        if kind is isolation and (members, side, Isolation.NONE) in cells
    ]
    for side in Side:
        places = [place for place, one in enumerate(found) if one.side is side]
        adjusted = holm([found[place].comparison.welch.p for place in places])
        for place, p in zip(places, adjusted, strict=True):
            found[place] = replace(found[place], p_holm=float(p))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliefSummary:
    """All pairs of cells of one side and isolation."""

    side: Side
    isolation: Isolation
    pairs: int
    slowed: int  #: pairs with something to relieve
    better: int  #: pairs whose p_holm is below 0.05
    tested: int  #: pairs with a p
    worse: int  #: pairs whose interval of the ratio lies above 1; each for itself, not corrected
    relief: Interval  #: median over the slowed pairs of their relief, see `over_pairs`
    price: Interval  #: median over all pairs, likewise
    net: Interval
    faster: int  #: pairs whose interval of `net` lies below 1; each for itself, not corrected
    slower: int  #: above 1


def summarised(samples: Sequence[Sample], found: Sequence[Relief], *, seed: int = 0) -> tuple[ReliefSummary, ...]:
    """Summarise what `reliefs` found of these samples."""
    cells = {
        (tuple(map(str, one.members)), one.side, one.isolation): one.known
        for one in samples
        if one.part is Part.FACTORIAL
    }
    groups: dict[tuple[Side, Isolation], list[Relief]] = {}
    for one in found:
        groups.setdefault((one.side, one.isolation), []).append(one)
    summaries = []
    for (side, isolation), group in groups.items():
        slowed = [one for one in group if math.isfinite(one.relief.estimate)]
        relief = over_pairs(
            relieved_share,
            [cells[one.members, side, Isolation.NONE] for one in slowed],
            [cells[one.members, side, isolation] for one in slowed],
            seed=seed,
        )
        summaries.append(
            ReliefSummary(
                side=side,
                isolation=isolation,
                pairs=len(group),
                slowed=len(slowed),
                better=sum(one.p_holm < ALPHA for one in group),
                tested=sum(math.isfinite(one.p_holm) for one in group),
                worse=sum(one.ratio.lower > 1 for one in group),
                relief=relief if slowed else replace(relief, reason="no pair of cells has anything to relieve"),
                price=over_pairs(np.median, [np.array(one.prices) for one in group if one.prices], seed=seed),
                net=over_pairs(np.median, [np.array(one.nets) for one in group if one.nets], seed=seed),
                faster=sum(one.net.upper < 1 for one in group),
                slower=sum(one.net.lower > 1 for one in group),
            )
        )
    return tuple(summaries)


def over_pairs(share: Callable[..., FloatArray], *columns: Sequence[FloatArray], seed: int = 0) -> Interval:
    """Give the median over pairs of cells of share(of each column one, axis=-1), every array resampled for itself.

    The interval leaves pairs with too few runs out where others have enough, since one would take it from all; the
    estimate is of all.
    """
    pairs = list(zip(*columns, strict=True))
    enough = [pair for pair in pairs if min(one.size for one in pair) >= least_units(CONFIDENCE)]
    flat = [one for pair in enough or pairs for one in pair]

    def median(*drawn: FloatArray, axis: int = -1) -> FloatArray:
        width = len(columns)
        shares = [share(*drawn[at : at + width], axis=axis) for at in range(0, len(drawn), width)]
        return np.asarray(np.median(shares, axis=0))

    found = bootstrap_interval(median, *(flat or [np.empty(0)]), confidence=CONFIDENCE, seed=seed)
    return replace(found, estimate=float(np.median([share(*pair, axis=-1) for pair in pairs]))) if pairs else found


def relieved_share(without: FloatArray, with_it: FloatArray, axis: int = -1) -> FloatArray:
    """Give 1 - (median with - 1) / (median without - 1)."""
    return np.asarray(1 - (np.median(with_it, axis=axis) - 1) / (np.median(without, axis=axis) - 1))


def _ratio(without: FloatArray, with_it: FloatArray, axis: int = -1) -> FloatArray:
    return np.asarray(np.median(with_it, axis=axis) / np.median(without, axis=axis))


def _relief(without: Sample, with_it: Sample, ratios: TimeRatios, seed: int) -> Relief:
    traditional, agent, _, concurrency = with_it.factors
    before, after = without.known, with_it.known
    median = median_interval(before, seed=seed)
    relief = bootstrap_interval(relieved_share, before, after, seed=seed)
    if not median.lower > SLOWED:  # NaN compares false
        # Too few runs for an interval: the estimate stands, with the reason why it has no ends.
        keeps = math.isnan(median.lower) and median.estimate > SLOWED
        nothing = (
            f"nothing to relieve: median SF without isolation is {median.estimate:.3f}, its interval reaches "
            f"below {SLOWED}"
        )
        relief = replace(
            relief,
            estimate=relief.estimate if keeps else math.nan,
            lower=math.nan,
            upper=math.nan,
            reason=(relief.reason or median.reason) if keeps else nothing,
        )
    return Relief(
        side=with_it.side,
        members=tuple(map(str, with_it.members)),
        traditional=traditional,
        agent=agent,
        concurrency=concurrency,
        isolation=with_it.isolation,
        without=median,
        with_it=median_interval(after, seed=seed),
        relief=relief,
        ratio=bootstrap_interval(_ratio, before, after, seed=seed),
        price=median_interval(ratios.alone, seed=seed),
        net=median_interval(ratios.together, seed=seed),
        prices=tuple(ratios.alone.tolist()),
        nets=tuple(ratios.together.tolist()),
        comparison=compare_groups(np.log(before), np.log(after), alternative="greater"),
        p_holm=math.nan,
    )
