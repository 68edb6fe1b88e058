"""Which rule composes the slowdowns of pairs into the slowdown beside several neighbours. Pure.

For each member of a cell of three or more: the median SF that it had beside each of the others alone, in any part of
the record, under the same isolation, with as many instances and on the same CPUs, is composed by each candidate rule
and compared with its median SF in the cell. Error: |composed / measured - 1|; bias: composed / measured - 1; medians
over members. A member one of whose pairs was not measured so is left out, with the reason.

Intervals: cells are drawn anew with all their members, and of every sample of SF, of cells and of pairs, its values.
The draws are the same for all rules. A rule beats another only if the interval of their difference in error lies on
one side of 0 and Wilcoxon's test, paired over members, agrees: the test alone takes the members of a cell as
independent, which they are not. Drawing values adds their noise once more, so intervals of an error lie rather high,
for all rules alike.

Scores are told of each isolation besides: where nothing is done, two may have a CPU each and three may not, which no
rule can know from pairs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from benchmarks.cells import Sample
from benchmarks.design import Isolation, Member
from benchmarks.inference import holm, signed_rank
from benchmarks.interval import RESAMPLES, Interval, least_units
from benchmarks.runs import Run
from benchmarks.sample import FloatArray, counted
from benchmarks.statistical_power import ALPHA
from benchmarks.verdict import told_p
from profiler.composition import compose

_CONFIDENCE = 0.95


class Rule(StrEnum):
    """A candidate; in all of them a neighbour that does not slow (SF below 1) makes up for no other."""

    SUM = "sum of excesses"  #: profiler.composition
    PRODUCT = "product"
    LARGEST = "largest"


SCHEDULERS = Rule.SUM


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedMember:
    """One member of a cell of three or more, all of whose pairs were measured."""

    cell: str
    member: str
    isolation: Isolation
    beside: Mapping[str, float]  #: neighbour -> median SF of the pair
    measured: float  #: median SF in the cell
    composed: Mapping[Rule, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """One that cannot be composed."""

    cell: str
    member: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScore:
    """How far a rule is off; NaN = unknown, with the reason."""

    isolation: Isolation | None  #: None = all
    rule: Rule
    members: int
    cells: int
    error: Interval
    bias: Interval
    advantage: Interval  #: error of the scheduler's rule less this error: above 0 = this one is better
    p: float  #: Wilcoxon, two-sided: the errors of the same members by the scheduler's rule and by this one
    p_holm: float  #: over the other rules of one isolation

    @property
    def is_better(self) -> bool:
        """Tell whether it beats the scheduler's rule beyond chance."""
        return self.p_holm < ALPHA and self.advantage.lower > 0

    @property
    def is_worse(self) -> bool:
        """Tell whether the scheduler's rule beats it beyond chance."""
        return self.p_holm < ALPHA and self.advantage.upper < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionEffect:
    """All rules over all members."""

    members: tuple[ComposedMember, ...]
    left_out: tuple[LeftOut, ...]
    scores: tuple[RuleScore, ...]  #: over all first, then of each isolation
    conclusion: str  #: the best rule against the scheduler's, over all and of each isolation, or why there is none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Case:
    """A member with what its rules are computed from; the sample of a pair is the same object in all its cases."""

    sample: Sample
    measured: FloatArray  #: SF of each run
    pairs: Mapping[Member, FloatArray]


def composition_effect(runs: Iterable[Run], samples: Sequence[Sample], *, seed: int = 0) -> CompositionEffect:
    """Compare the rules; `runs` are the good ones that the samples were made of."""
    several = [one for one in samples if len(one.members) > 2]
    seats = _seats(runs)
    cases, left_out = _cases(several, _pairs(samples, seats), seats)
    rng = np.random.default_rng(seed)
    ratios = _ratios(cases, rng)
    isolations = [one for one in Isolation if any(case.sample.isolation is one for case in cases)]
    missing = "no member all of whose pairs were measured" if several else "no good run of three or more at once"
    scores = [
        score
        for isolation in (None, *isolations)
        for score in _scores(isolation, _cells(cases, isolation), ratios, rng, missing)
    ]
    return CompositionEffect(
        members=tuple(
            ComposedMember(
                cell=case.sample.cell,
                member=str(case.sample.member),
                isolation=case.sample.isolation,
                beside={str(other): float(np.median(values)) for other, values in case.pairs.items()},
                measured=float(np.median(case.measured)),
                composed={
                    rule: _COMPOSED[rule]([float(np.median(one)) for one in case.pairs.values()]) for rule in Rule
                },
            )
            for case in cases
        ),
        left_out=tuple(left_out),
        scores=tuple(scores),
        conclusion=" ".join(
            _conclusion([one for one in scores if one.isolation is isolation])
            for isolation in (None, *(isolations if len(isolations) > 1 else ()))
        ),
    )


def _product(slowdowns: Sequence[float]) -> float:
    harmful = [one for one in slowdowns if one > 1]
    return math.prod(harmful) if harmful else max(slowdowns)


_COMPOSED: Mapping[Rule, Callable[[Sequence[float]], float]] = {
    Rule.SUM: compose,
    Rule.PRODUCT: _product,
    Rule.LARGEST: max,
}

_Seats = Mapping[tuple[str, str], set[str]]  # (cell, workload) -> its CPUs in the good runs; "" = left to the kernel


def _seats(runs: Iterable[Run]) -> _Seats:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        for place, member in enumerate(run.members):
            found[run.cell, member.workload].add(run.cpus[place] if run.cpus else "")
    return found


_Seat = tuple[Member, Member, Isolation, frozenset[str], frozenset[str]]  # member and neighbour, and the CPUs of each


def _pairs(samples: Sequence[Sample], seats: _Seats) -> Mapping[_Seat, FloatArray]:
    """Give the SF of each member of each pair; a pair that several parts hold is pooled."""
    found: dict[_Seat, list[FloatArray]] = defaultdict(list)
    for one in samples:
        if len(one.members) == 2 and one.known.size:
            found[_seat(one, one.neighbours[0], seats)].append(one.known)
    return {key: np.concatenate(values) for key, values in found.items()}


def _seat(one: Sample, other: Member, seats: _Seats) -> _Seat:
    cpus = [frozenset(seats[one.cell, member.workload]) for member in (one.member, other)]
    return one.member, other, one.isolation, cpus[0], cpus[1]


def _cases(
    several: Sequence[Sample], pairs: Mapping[_Seat, FloatArray], seats: _Seats
) -> tuple[list[_Case], list[LeftOut]]:
    elsewhere = {key[:3] for key in pairs}
    cases, left_out = [], []
    for one in several:
        keys = {other: _seat(one, other, seats) for other in one.neighbours}
        reasons = [] if one.known.size else ["no good run tells its slowdown"]
        for other, key in keys.items():
            if key not in pairs:
                pair = f"{' + '.join(sorted(map(str, (one.member, other))))} under {one.isolation}"
                reasons.append(f"{pair} ran on other CPUs" if key[:3] in elsewhere else f"no good run of {pair}")
        if reasons:
            left_out.append(LeftOut(cell=one.cell, member=str(one.member), reasons=tuple(reasons)))
        else:
            cases.append(
                _Case(sample=one, measured=one.known, pairs={other: pairs[key] for other, key in keys.items()})
            )
    return cases, left_out


def _ratios(cases: Sequence[_Case], rng: np.random.Generator) -> Mapping[Rule, FloatArray]:
    """Give composed / measured of each rule, [1 + resamples, cases]; the first row is of the values as they are."""
    drawn: dict[int, FloatArray] = {}

    def medians(values: FloatArray) -> FloatArray:
        if id(values) not in drawn:  # the cases hold it, so its identity lasts
            anew = rng.choice(values, size=(RESAMPLES, values.size))
            drawn[id(values)] = np.concatenate([[np.median(values)], np.median(anew, axis=1)])
        return drawn[id(values)]

    found = {rule: np.empty((1 + RESAMPLES, len(cases))) for rule in Rule}
    for place, case in enumerate(cases):
        measured = medians(case.measured)
        beside = np.stack([medians(one) for one in case.pairs.values()], axis=1).tolist()
        for rule, ratios in found.items():
            ratios[:, place] = np.array([_COMPOSED[rule](row) for row in beside]) / measured
    return found


def _cells(cases: Sequence[_Case], isolation: Isolation | None) -> list[list[int]]:
    """Give the places of the cases of each cell under an isolation, None = under any."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, case in enumerate(cases):
        if isolation in {None, case.sample.isolation}:
            found[case.sample.cell].append(place)
    return list(found.values())


def _scores(
    isolation: Isolation | None,
    cells: Sequence[Sequence[int]],
    ratios: Mapping[Rule, FloatArray],
    rng: np.random.Generator,
    missing: str,
) -> list[RuleScore]:
    """Score every rule over some cells; `missing` says why there are none."""
    chosen = [place for members in cells for place in members]
    least = least_units(_CONFIDENCE)
    few = f"{counted(len(cells), 'cell')} to resample: an interval of {_CONFIDENCE:.0%} needs at least {least}"
    reason = "" if len(cells) >= least else few
    empty = Interval(
        estimate=math.nan,
        lower=math.nan,
        upper=math.nan,
        confidence=_CONFIDENCE,
        method="bootstrap percentile of cells and of values within",
        n=len(chosen),
        clusters=len(cells),
        reason=reason if chosen else missing,
    )

    def interval(values: FloatArray) -> Interval:
        known = replace(empty, estimate=float(values[0]))
        outside = (1 - _CONFIDENCE) / 2
        lower, upper = np.quantile(values[1:], [outside, 1 - outside])
        return known if reason else replace(known, lower=float(lower), upper=float(upper))

    unknown = [
        RuleScore(
            isolation=isolation,
            rule=rule,
            members=len(chosen),
            cells=len(cells),
            error=empty,
            bias=empty,
            advantage=empty,
            p=math.nan,
            p_holm=math.nan,
        )
        for rule in Rule
    ]
    if not chosen:
        return unknown
    draws = np.concatenate([[np.arange(len(cells))], rng.integers(len(cells), size=(RESAMPLES, len(cells)))])
    bias = {rule: ratios[rule] - 1 for rule in Rule}
    errors = {rule: _over_cells(np.abs(bias[rule]), cells, draws) for rule in Rule}
    now = {rule: np.abs(bias[rule][0, chosen]) for rule in Rule}
    tests = {  # rounded: where one neighbour alone slows, all rules say the same but for the last digits
        rule: signed_rank(np.round(now[SCHEDULERS] - now[rule], 12)).p for rule in Rule if rule is not SCHEDULERS
    }
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        replace(
            one,
            error=interval(errors[one.rule]),
            bias=interval(_over_cells(bias[one.rule], cells, draws)),
            advantage=interval(errors[SCHEDULERS] - errors[one.rule]),
            p=tests.get(one.rule, math.nan),
            p_holm=float(adjusted.get(one.rule, math.nan)),
        )
        for one in unknown
    ]


def _over_cells(values: FloatArray, cells: Sequence[Sequence[int]], draws: np.typing.NDArray[np.intp]) -> FloatArray:
    """Give the median over the members of the cells drawn, [draws]; values are [draws, cases], cells list theirs."""
    widest = max(map(len, cells))
    padded = np.full((len(draws), len(cells), widest), math.nan)
    for place, members in enumerate(cells):
        padded[:, place, : len(members)] = values[:, members]
    drawn = np.take_along_axis(padded, draws[:, :, None], axis=1)
    return np.asarray(np.nanmedian(drawn.reshape(len(draws), -1), axis=1))


def _conclusion(scores: Sequence[RuleScore]) -> str:
    first = scores[0]
    if not first.members:
        return f"Which rule composes best is unknown: {first.error.reason}."
    best = min(scores, key=lambda one: one.error.estimate)  # of equal ones the scheduler's, which comes first
    where = "" if first.isolation is None else f"Under {first.isolation}: "
    told = (
        f"{where}over {counted(first.members, 'member')} of {counted(first.cells, 'cell')} of three or more the rule "
        f"“{best.rule}” errs least, at the median by {_told(best.error)}"
    )
    told = f"{told[0].upper()}{told[1:]}"
    if best.rule is not SCHEDULERS:
        theirs = next(one for one in scores if one.rule is SCHEDULERS)
        beats = "beats" if best.is_better else "does not beat"
        return (
            f"{told}; it {beats} the scheduler's, “{theirs.rule}” ({_told(theirs.error)}), beyond chance "
            f"({_why(best)})."
        )
    others = [
        f"it {'beats' if one.is_worse else 'does not beat'} “{one.rule}” ({_told(one.error)}) beyond chance "
        f"({_why(one)})"
        for one in scores
        if one.rule is not SCHEDULERS
    ]
    return f"{told}, and it is the scheduler's; {', '.join(others)}."


def _told(error: Interval) -> str:
    ends = f", 95 % interval {error.lower:.1%} to {error.upper:.1%}" if math.isfinite(error.lower) else ""
    return f"{error.estimate:.1%}{ends}"


def _why(one: RuleScore) -> str:
    p = f"Holm, {told_p(one.p_holm)}" if math.isfinite(one.p_holm) else "no test: their errors hardly differ"
    if not math.isfinite(one.advantage.lower):
        return f"{p}; {one.advantage.reason}"
    held = ", which holds 0" if one.advantage.lower <= 0 <= one.advantage.upper else ""  # however small p is
    return f"{p}; difference {one.advantage.lower:.1%} to {one.advantage.upper:.1%}{held}"
