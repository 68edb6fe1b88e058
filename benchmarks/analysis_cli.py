"""`experiment analyze`: reads a record of runs and the model in use, prints the analysis as tables or as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

from benchmarks.analysis import Analysis, analyse, plain
from benchmarks.cells import Side, told_term
from benchmarks.errors import RunsMissing
from benchmarks.interval import Interval
from benchmarks.matrix import ISOLATIONS, NEIGHBOURS
from benchmarks.placed_predictions import PlacedPrediction, placed_predictions
from benchmarks.questions import HeldOutScore
from benchmarks.runs import PROFILES_FOLDER, Outcome, RunLog
from isolation.errors import IsolationError
from isolation.topology import read_topology
from profiler.dataset import PROFILES, load_profiles
from profiler.errors import ModelDamaged, ModelMissing, ProfilerError
from profiler.prediction import PairModel
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from scheduler.predictor import Predictor

_FILE_COLUMNS = 150  # of output that is no terminal: the widest table of the factorial part fits


def analyse_folder(folder: Path, state: Path) -> Analysis:
    """Analyse the runs of a folder with the score of the model in use; raises RunsMissing when there are none."""
    return analyse_record(read_record(folder), state)


def read_record(folder: Path) -> RunLog:
    """Read the runs of a folder; raises RunsMissing when there are none, RunsDamaged."""
    log = RunLog.load(folder)
    if not log.runs:
        raise RunsMissing(
            f"no runs in {str(folder)!r}: measure some with `cotenant experiment run`, or name their folder with --data"
        )
    return log


def analyse_record(log: RunLog, state: Path) -> Analysis:
    """Analyse runs with the score of the model in use."""
    place, score, reason = scored_place(log, state)
    placed, not_placed = read_placed(log, place) if score else ((), reason)
    return analyse(log.runs, score=score, no_score=reason, placed=placed, not_placed=not_placed)


def scored_place(log: RunLog, state: Path) -> tuple[Path, HeldOutScore | None, str]:
    """Give the folder whose model speaks for the record, with its score or why there is none.

    That is STATE, or else the record's own folder, if only that has a model of this class of host.
    """
    score, reason = held_out_score(state, log.topologies)
    if score is None:
        own, _ = held_out_score(log.folder, log.topologies)
        if own is not None:
            return log.folder, own, ""
    return state, score, reason


def read_placed(log: RunLog, place: Path) -> tuple[tuple[PlacedPrediction, ...], str]:
    """Predict the measured cells with the model of a folder, as the scheduler would; or say why that cannot be."""
    try:
        topology = read_topology()
    except IsolationError as error:
        return (), f"the topology of this host cannot be read: {error}"
    if log.topologies != {topology.fingerprint}:
        return (), "which CPUs share what is not in the record, and this host is of another class"
    packed = log.folder / PROFILES
    try:
        listed = load_profiles(packed) if packed.exists() else ()
        profiles = {one.name: one for one in listed} or ProfileStore(log.folder / PROFILES_FOLDER).load_all()
        loaded = ModelRegistry(place.absolute() / "models").active()
    except ProfilerError as error:
        return (), without_path(error, place).replace(str(log.folder), "the record")
    predictor = Predictor(PairModel(loaded, loaded.manifest.host), loaded.manifest.id, "", topology.fingerprint)
    found = placed_predictions(log.runs, profiles, predictor, topology)
    return found, "" if found else "no confined cell of workloads with a profile was measured"


def held_out_score(state: Path, topologies: set[str]) -> tuple[HeldOutScore | None, str]:
    """Give the score of the model in use if it is of that class of host, else why there is none."""
    folder = state.absolute()
    try:
        manifest = ModelRegistry(folder / "models").active().manifest
    except ModelDamaged as damage:  # a ModelMissing, too
        return None, without_path(damage, folder)
    except ModelMissing:
        return None, "no model is in use: profile the workloads alone, then `cotenant train`"
    if manifest.host_fingerprint not in topologies:
        return None, f"the model in use ({manifest.id}) is of another class of host"
    found = HeldOutScore(
        model=manifest.id,
        observations=manifest.observations,
        workloads=manifest.workloads,
        scores=manifest.scores,
    )
    return found, ""


def without_path(error: Exception, state: Path) -> str:
    """Tell an error with STATE for the state folder: readers of a report need not know where it was made."""
    return str(error).replace(str(state.absolute()), "STATE")


def print_analysis(folder: Path, state: Path, *, as_json: bool) -> None:
    """Print the analysis of a folder."""
    found = analyse_folder(folder, state)
    if as_json:
        typer.echo(json.dumps(plain(found), indent=1, allow_nan=False))
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_FILE_COLUMNS)
    results = (_cells(found), _relief(found), *_factors(found), *_matrices(found), _placed(found))
    for table in (_outcomes(found), _noise(found), *results):
        if table.row_count:
            left_out = _narrowed(table, console)
            console.print(table)
            if left_out:
                console.print(
                    f"Left out for want of width (COLUMNS={_FILE_COLUMNS} makes room): {', '.join(left_out)}."
                )
    console.print("? = unknown. What each word means: `cotenant experiment report`, section Words.")
    for line in _notes(found):
        console.print(line, markup=False)
    console.print(_verdicts(found))


def _narrowed(table: Table, console: Console) -> Sequence[str]:
    """Take columns off the right until none has to be cut short; gives their headings."""
    left_out: list[str] = []
    unlimited = console.options.update(width=1000)
    while len(table.columns) > 2 and Measurement.get(console, unlimited, table).maximum > console.width:
        if table.columns[-1].overflow == "fold":  # long texts may have lines of their own
            break
        left_out.insert(0, str(table.columns.pop().header))
    return left_out


def _outcomes(found: Analysis) -> Table:
    table = Table("part", "isolation", *map(str, Outcome), "cells", "without good run", title="Runs by how they ended")
    for one in found.tallies:
        counts = (str(one.outcomes[str(outcome)]) for outcome in Outcome)
        table.add_row(str(one.part), str(one.isolation), *counts, str(one.cells), str(one.cells_without_good_run))
    return table


def _noise(found: Analysis) -> Table:
    table = Table(
        "measure",
        "n",
        "median",
        "95th percentile",
        "largest",
        Column("unit", overflow="fold"),
        title="How quiet the host was",
    )
    for one in found.noise:
        if one.n:
            numbers = (_number(value, ".2%") for value in (one.median, one.p95, one.largest))
            table.add_row(one.measure, str(one.n), *numbers, one.unit)
    return table


def _cells(found: Analysis) -> Table:
    table = Table(
        "cell", "member", "n", "SF", "95 %", "p (Holm)", "d_z", "noise", "TLS", "TTFT", "TTLT", "TBT",
        title="Slowdown of each member, median; TLS, TTFT, TTLT and TBT of agents",
    )  # fmt: skip
    for one in found.effects:
        table.add_row(
            one.cell,
            one.member,
            str(one.n),
            _number(one.slowdown.estimate),
            _ends(one.slowdown),
            _p(one.t_p_holm),
            _number(one.effect.d),
            _number(one.noise.robust_cv_ratio, ".1%"),
            *(_number(part.estimate) for part in (one.tail_sensitivity, one.ttft_ratio, one.ttlt_ratio, one.tbt_ratio)),
        )
    return table


def _relief(found: Analysis) -> Table:
    table = Table(
        "members", "side", "isolation", "SF without", "SF with", "relief", "95 %", "p (Holm)", "d", "ratio",
        title="What isolation takes away of the slowdown (SF - 1)",
    )  # fmt: skip
    for one in found.reliefs:
        table.add_row(
            " + ".join(one.members),
            told_term(one.side),
            str(one.isolation),
            _number(one.without.estimate),
            _number(one.with_it.estimate),
            _number(one.relief.estimate, ".0%"),
            _ends(one.relief, ".0%"),
            _p(one.p_holm),
            _number(one.comparison.effect.d),
            _number(one.ratio.estimate),
        )
    return table


def _factors(found: Analysis) -> Sequence[Table]:
    tables = []
    for one in found.factors:
        table = Table(
            "term",
            "df",
            "F",
            "p (Holm)",
            "partial eta²",
            "omega²",
            title=f"ANOVA of log SF, {told_term(one.side)} side",
        )
        for term in one.table.terms:
            table.add_row(
                told_term(term.name),
                str(term.degrees),
                _number(term.f, ".1f"),
                _p(one.p_holm[term.name]),
                _number(term.partial_eta_squared, ".3f"),
                _number(term.omega_squared, ".3f"),
            )
        tables.append(table)
    return tables


def _matrices(found: Analysis) -> Sequence[Table]:
    tables = []
    for isolation in ISOLATIONS:
        entries = [one for one in found.matrix if one.isolation is isolation]
        table = Table("agents", *NEIGHBOURS, title=f"Sensitivity 1 to 5 (median SF) under {isolation}")
        for row in dict.fromkeys(one.row for one in entries):
            fields = [one for one in entries if one.row == row]
            if any(one.cells for one in fields):
                table.add_row(
                    row,
                    *(
                        f"{one.grade} ({one.median_slowdown:.2f})" if one.grade is not None else "not measured"
                        for one in fields
                    ),
                )
        tables.append(table)
    return tables


def _placed(found: Analysis) -> Table:
    table = Table(
        "neighbours", "predictions", "error, mean", "median", "bias", "below upper end", "plain sum of pairs, mean",
        title="What the scheduler tells of the confined cells, beside what was measured",
    )  # fmt: skip
    for one in found.placed_scores:
        errors = (one.error.mean, one.error.median, one.bias, one.kept, one.plain_sum.mean)
        table.add_row(str(one.neighbours), str(one.predictions), *(_number(value, ".1%") for value in errors))
    return table


def _notes(found: Analysis) -> Sequence[str]:
    lines = [f"{found.good_runs} of {found.runs} runs analysed; host instances: {len(found.instances)}"]
    for side in Side:
        missing = {
            name: value.reason
            for effect in found.effects
            if effect.side is side
            for name, value in (("IF", effect.interference_factor), ("CIS", effect.cache_interference))
            if value.reason and math.isnan(value.estimate)
        }
        lines += [f"{name}, {told_term(side)} side: {reason}" for name, reason in missing.items()]
    for one in found.factors:
        anova = f"ANOVA, {told_term(one.side)} side"
        if one.table.reason:
            lines.append(f"{anova}: {one.table.reason}")
        if one.order:
            lines.append(f"{anova}: interactions up to {one.order} factors; block: host instance")
            if one.levene.p < 0.05:  # NaN compares false
                lines.append(f"{anova}: cells differ in spread (Levene p = {one.levene.p:.2g}), p approximate")
    lines += [f"left out: {line}" for line in dict.fromkeys(line for one in found.factors for line in one.left_out)]
    lines += list(found.not_relieving)
    lines += [found.not_placed] if found.not_placed else []
    for part in found.power:
        lines.append(
            f"power, {part.part}: {part.median_n} good runs a cell at the median (least {part.least_n}) find d = 0.8 "
            f"with power {_number(part.within.power, '.3f')} within a cell, {_number(part.between.power, '.3f')} "
            f"between two; least d found with 0.8: {_number(part.least_within.d)} and {_number(part.least_between.d)}"
        )
    return lines


def _verdicts(found: Analysis) -> Table:
    table = Table("question or claim", "verdict", "why", title="Questions and hypotheses", show_lines=True)
    for question in found.questions:
        table.add_row(question.question, "answered" if question.answered else "open", question.answer)
    for claim in found.hypotheses:
        table.add_row(claim.claim, str(claim.verdict), claim.reason)
    return table


def _number(value: float, form: str = ".2f") -> str:
    return "?" if math.isnan(value) else format(value, form)


def _p(value: float) -> str:
    return "<1e-300" if value == 0 else _number(value, ".2g")


def _ends(one: Interval, form: str = ".2f") -> str:
    return f"{_number(one.lower, form)} to {_number(one.upper, form)}" if math.isfinite(one.lower) else "?"
