"""Tables of the report about the results of the analysis. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.analysis import Analysis
from benchmarks.cell_effects import CellEffect
from benchmarks.table import Column, Table, Value, interval_columns, interval_values


def result_tables(found: Analysis) -> tuple[Table, ...]:
    """Give every table of the results."""
    return (
        _cells(found.effects),
        _slowdowns(found.effects),
        _factors(found),
        _reliefs(found),
        _relief_summaries(found),
        _matrix(found),
        _burstiness(found),
        _composition(found),
        _noise(found),
        _power(found),
        _numbers(found),
    )


def _cells(effects: Sequence[CellEffect]) -> Table:
    return Table(
        name="cells",
        title="Every member of every cell",
        columns=(
            Column(key="cell", heading="cell"),
            Column(key="member", heading="member"),
            Column(key="side"),
            Column(key="isolation"),
            Column(key="n", heading="n", form="d"),
            Column(key="unknown", heading="untold", form="d"),
            *interval_columns("sf", "SF", ".2f"),
            Column(key="log_sf_standard_deviation"),
            Column(key="robust_cv_ratio", heading="noise", form=".1%"),
            Column(key="d_z", heading="d_z", form=".2f"),
            Column(key="d_z", heading="95 %", form=".2f", has_ends=True),
            Column(key="d_z_reason"),
            Column(key="t_p"),
            Column(key="t_p_holm", heading="p (t, Holm)", form="p"),
            Column(key="wilcoxon_p"),
            Column(key="wilcoxon_p_holm", heading="p (Wilcoxon, Holm)", form="p"),
            Column(key="power_of_d_0_8", heading="power", form=".2f"),
            *interval_columns("tls", "TLS", ".2f", with_ends=False),
            *interval_columns("ttft_ratio", "TTFT", ".2f", with_ends=False),
            *interval_columns("ttlt_ratio", "TTLT", ".2f", with_ends=False),
            *interval_columns("tbt_ratio", "TBT", ".2f", with_ends=False),
            *interval_columns("if", "", ".2f"),
            *interval_columns("cis", "", ".2f"),
        ),
        rows=tuple(tuple(_cell(one)) for one in effects),
    )


def _cell(one: CellEffect) -> Iterator[Value]:
    yield from (one.cell, one.member, str(one.side), str(one.isolation), one.n, one.unknown)
    yield from interval_values(one.slowdown)
    yield from (one.log_spread, one.noise.robust_cv_ratio)
    yield from (one.effect.d, (one.effect.lower, one.effect.upper), one.effect.reason)
    yield from (one.t.p, one.t_p_holm, one.wilcoxon.p, one.wilcoxon_p_holm, one.power.power)
    for interval in (
        one.tail_sensitivity,
        one.ttft_ratio,
        one.ttlt_ratio,
        one.tbt_ratio,
        one.interference_factor,
        one.cache_interference,
    ):
        yield from interval_values(interval)


def _slowdowns(effects: Sequence[CellEffect]) -> Table:
    return Table(
        name="slowdowns",
        title="Slowdown factor of every good run",
        columns=(Column(key="cell"), Column(key="member"), Column(key="sf")),
        rows=tuple((one.cell, one.member, value) for one in effects for value in one.slowdowns),
    )


def _factors(found: Analysis) -> Table:
    return Table(
        name="anova",
        title="Analysis of variance of log SF over the factorial part",
        columns=(
            Column(key="side", heading="side", form="term"),
            Column(key="term", heading="term", form="term"),
            Column(key="degrees", heading="df", form="d"),
            Column(key="sum_of_squares"),
            Column(key="f", heading="F", form=".1f"),
            Column(key="p"),
            Column(key="p_holm", heading="p (Holm)", form="p"),
            Column(key="partial_eta_squared", heading="partial eta²", form=".3f"),
            Column(key="omega_squared", heading="omega²", form=".3f"),
            Column(key="eta_squared"),
            Column(key="residual_degrees", heading="residual df", form="d"),
            Column(key="n", heading="values", form="d"),
            Column(key="r_squared"),
        ),
        rows=tuple(
            (
                str(one.side),
                term.name,
                term.degrees,
                term.sum_of_squares,
                term.f,
                term.p,
                one.p_holm[term.name],
                term.partial_eta_squared,
                term.omega_squared,
                term.eta_squared,
                one.table.residual_degrees,
                one.table.n,
                one.table.r_squared,
            )
            for one in found.factors
            for term in one.table.terms
        ),
    )


def _reliefs(found: Analysis) -> Table:
    return Table(
        name="relief",
        title="What each isolation takes away of the slowdown, cell by cell",
        columns=(
            Column(key="members", heading="members"),
            Column(key="side", heading="side", form="term"),
            Column(key="isolation", heading="isolation"),
            Column(key="sf_without", heading="SF without", form=".2f"),
            Column(key="sf_with", heading="SF with", form=".2f"),
            *interval_columns("relief", "relief", ".0%"),
            *interval_columns("ratio", "SF with / without", ".2f"),
            *interval_columns("price", "time alone, with / without", ".2f", with_ends=False),
            *interval_columns("net", "time together, with / without", ".2f"),
            Column(key="d", heading="d", form=".2f"),
            Column(key="d", form=".2f", has_ends=True),
            Column(key="welch_p"),
            Column(key="welch_p_holm", heading="p (Holm)", form="p"),
        ),
        rows=tuple(
            (
                " + ".join(one.members),
                str(one.side),
                str(one.isolation),
                one.without.estimate,
                one.with_it.estimate,
                *interval_values(one.relief),
                *interval_values(one.ratio),
                *interval_values(one.price),
                *interval_values(one.net),
                one.comparison.effect.d,
                (one.comparison.effect.lower, one.comparison.effect.upper),
                one.comparison.welch.p,
                one.p_holm,
            )
            for one in found.reliefs
        ),
    )


def _relief_summaries(found: Analysis) -> Table:
    return Table(
        name="relief_summary",
        title="Relief over all pairs of cells",
        columns=(
            Column(key="isolation", heading="isolation"),
            Column(key="side", heading="side", form="term"),
            Column(key="pairs", heading="pairs of cells", form="d"),
            Column(key="slowed", heading="slowed without it", form="d"),
            Column(key="tested", heading="tested", form="d"),
            Column(key="better", heading="SF better beyond chance", form="d"),
            Column(key="worse", heading="SF worse (each for itself)", form="d"),
            *interval_columns("median_relief", "median relief", ".0%"),
            *interval_columns("price", "time alone, with / without", ".2f"),
            *interval_columns("net", "time together, with / without", ".2f"),
            Column(key="faster", heading="faster in all", form="d"),
            Column(key="slower", heading="slower in all", form="d"),
        ),
        rows=tuple(
            (
                str(one.isolation),
                str(one.side),
                one.pairs,
                one.slowed,
                one.tested,
                one.better,
                one.worse,
                *interval_values(one.relief),
                *interval_values(one.price),
                *interval_values(one.net),
                one.faster,
                one.slower,
            )
            for one in found.relief_summaries
        ),
    )


def _matrix(found: Analysis) -> Table:
    return Table(
        name="sensitivity",
        title="Sensitivity from 1 to 5",
        columns=(
            Column(key="isolation", heading="isolation"),
            Column(key="agents", heading="agents"),
            Column(key="pressure", heading="pressure"),
            Column(key="grade", heading="grade", form="d"),
            Column(key="median_sf", heading="median SF", form=".2f"),
            Column(key="median_tls", heading="median TLS", form=".2f"),
            Column(key="cells", heading="cells", form="d"),
            Column(key="runs", heading="runs", form="d"),
            Column(key="reason", heading=""),
        ),
        rows=tuple(
            (
                str(one.isolation),
                one.row,
                one.column,
                math.nan if one.grade is None else one.grade,
                one.median_slowdown,
                one.median_tail_sensitivity,
                len(one.cells),
                one.runs,
                one.reason,
            )
            for one in found.matrix
        ),
    )


def _burstiness(found: Analysis) -> Table:
    return Table(
        name="burstiness",
        title="Burstiness of agents alone, and their sensitivity",
        columns=(
            Column(key="agent", heading="agent"),
            Column(key="burstiness_index", heading="burstiness index", form=".2f"),
            Column(key="windows", heading="windows alone that told it", form="d"),
            Column(key="mean_log_median_sf"),
            Column(key="sensitivity_sf", heading="mean SF, same conditions", form=".2f"),
            Column(key="conditions", heading="conditions measured in", form="d"),
        ),
        rows=tuple(
            (
                one.workload,
                one.burstiness_index,
                one.windows,
                one.sensitivity,
                math.exp(one.sensitivity),
                one.conditions,
            )
            for one in found.burstiness.agents
        ),
    )


def _composition(found: Analysis) -> Table:
    return Table(
        name="composition",
        title="Slowdowns of pairs composed, against those measured with three and four at once",
        columns=(
            Column(key="isolation", heading="isolation"),
            Column(key="rule", heading="rule"),
            Column(key="members", heading="members", form="d"),
            Column(key="cells", heading="cells", form="d"),
            *interval_columns("error", "median error", ".1%"),
            *interval_columns("bias", "median bias", ".1%"),
            *interval_columns("advantage", "less error than the scheduler's", ".1%"),
            Column(key="wilcoxon_p"),
            Column(key="wilcoxon_p_holm", heading="p (Wilcoxon, Holm)", form="p"),
        ),
        rows=tuple(
            (
                str(one.isolation or "all"),
                str(one.rule),
                one.members,
                one.cells,
                *interval_values(one.error),
                *interval_values(one.bias),
                *interval_values(one.advantage),
                one.p,
                one.p_holm,
            )
            for one in found.composition.scores
        ),
    )


def _noise(found: Analysis) -> Table:
    return Table(
        name="noise",
        title="How quiet the host was during the good runs",
        columns=(
            Column(key="measure", heading="measure"),
            Column(key="unit", heading="unit"),
            Column(key="n", heading="values", form="d"),
            Column(key="median", heading="median", form=".2%"),
            Column(key="p95", heading="95th percentile", form=".2%"),
            Column(key="largest", heading="largest", form=".2%"),
        ),
        rows=tuple((one.measure, one.unit, one.n, one.median, one.p95, one.largest) for one in found.noise),
    )


def _power(found: Analysis) -> Table:
    return Table(
        name="power",
        title="What the repetitions can find, at alpha 0.05 for one test alone (less after Holm's correction)",
        columns=(
            Column(key="part", heading="part"),
            Column(key="cells", heading="cells with good runs", form="d"),
            Column(key="least_n", heading="least good runs", form="d"),
            Column(key="median_n", heading="median", form="d"),
            Column(key="power_within", heading="power, one cell, d = 0.8", form=".3f"),
            Column(key="power_between", heading="power, two cells, d = 0.8", form=".3f"),
            Column(key="least_d_within", heading="least d, one cell", form=".2f"),
            Column(key="least_d_between", heading="least d, two cells", form=".2f"),
        ),
        rows=tuple(
            (
                str(one.part),
                one.cells,
                one.least_n,
                one.median_n,
                one.within.power,
                one.between.power,
                one.least_within.d,
                one.least_between.d,
            )
            for one in found.power
        ),
    )


def _numbers(found: Analysis) -> Table:
    asked = [("question", one.name, one.numbers) for one in found.questions]
    claimed = [("hypothesis", one.name, one.numbers) for one in found.hypotheses]
    return Table(
        name="answers",
        title="The numbers behind questions and hypotheses",
        columns=(
            Column(key="kind", heading="kind"),
            Column(key="name", heading="name"),
            Column(key="number", heading="number", form="term"),
            Column(key="value", heading="value", form=".4g"),
        ),
        rows=tuple(
            (kind, name, key, value) for kind, name, numbers in (*asked, *claimed) for key, value in numbers.items()
        ),
    )
