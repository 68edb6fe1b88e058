"""Which factors of the design move the slowdown: analysis of variance of log SF over the measured levels. Pure.

The host instance enters as a block. All interactions are taken; where cells are empty or not repeated, only those up to
the highest order that the data can tell, and the result says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.anova import Anova, anova
from benchmarks.cells import Sample, Side, told_term
from benchmarks.design import Part
from benchmarks.inference import Significance, holm, kruskal_wallis, levene
from benchmarks.runs import Outcome, Run

FACTORS = ("traditional", "agent", "isolation", "concurrency")


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorEffects:
    """The table for one side."""

    side: Side
    levels: Mapping[str, tuple[str, ...]]  #: measured, of the factors in the table
    left_out: tuple[str, ...]  #: levels without a good run, factors with one level only
    order: int  #: of the interactions taken; 0 = no table
    table: Anova
    p_holm: Mapping[str, float]  #: by term, over the terms of this table
    levene: Significance  #: do cells differ in spread; if so, p of the table is approximate
    combinations: Significance  #: Kruskal-Wallis over traditional x agent, which needs no equal spread


def factor_effects(runs: Sequence[Run], samples: Sequence[Sample], side: Side) -> FactorEffects:
    """Analyse one side of part "factorial"; `runs` are all runs, to name the levels that lack good ones."""
    chosen = [one for one in samples if one.part is Part.FACTORIAL and one.side is side and one.known.size]
    logs = [one.log_slowdown for one in chosen]
    values = np.concatenate(logs) if logs else np.empty(0)
    columns = {
        name: [str(one.factors[place]) for one in chosen for _ in range(one.known.size)]
        for place, name in enumerate(FACTORS)
    }
    block = [
        instance
        for one in chosen
        for instance, known in zip(one.instances, np.isfinite(one.slowdown), strict=True)
        if known
    ]
    measured = {name: tuple(sorted(set(column), key=_natural)) for name, column in columns.items()}
    factors = {name: column for name, column in columns.items() if len(measured[name]) > 1}
    order = len(factors)
    table = anova(values, factors or columns, block=block)
    while order > 1 and not table.terms:
        order -= 1
        table = anova(values, factors, block=block, order=order)
    pairs: dict[tuple[str, str], list[float]] = {}
    for one in chosen:
        pairs.setdefault(one.factors[:2], []).extend(one.log_slowdown.tolist())
    return FactorEffects(
        side=side,
        levels={name: measured[name] for name in factors},
        left_out=_left_out(runs, measured),
        order=order if table.terms else 0,
        table=replace(table, reason=told_term(table.reason)),
        p_holm=dict(zip((one.name for one in table.terms), holm([one.p for one in table.terms]).tolist(), strict=True)),
        levene=levene([one for one in logs if one.size > 1]),
        combinations=kruskal_wallis(list(pairs.values())),
    )


def _natural(level: str) -> tuple[int, str]:
    return (int(level), "") if level.isdecimal() else (0, level)


def _left_out(runs: Sequence[Run], measured: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    why: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.part is Part.FACTORIAL:
            for name, level in zip(FACTORS, map(str, run.factorial), strict=True):
                told = run.reason if run.outcome is Outcome.NOT_APPLICABLE else str(run.outcome)
                why.setdefault((name, level), told)
    lacking = [
        f"{told_term(name)} {level}: no good run ({reason})"
        for (name, level), reason in why.items()
        if level not in measured[name]
    ]
    single = [
        f"{told_term(name)}: one level only ({levels[0]})" for name, levels in measured.items() if len(levels) == 1
    ]
    return (*sorted(lacking), *single)
