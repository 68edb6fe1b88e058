"""Analyses a record of runs and writes the report, its figures and its tables into a folder."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from benchmarks.analysis import Analysis
from benchmarks.analysis_cli import analyse_record, read_record, scored_place, without_path
from benchmarks.composition_figures import composition
from benchmarks.design import Isolation, Part, parse_design
from benchmarks.drawing import Drawing
from benchmarks.errors import ReportUnwritable
from benchmarks.figures import distributions, effect_sizes, pair_matrix, relief, slowdown_matrix
from benchmarks.noise_figures import burstiness, noise
from benchmarks.prediction_figures import predicted_against_measured, prediction
from benchmarks.prediction_tables import placed, placed_cells
from benchmarks.record_tables import coverage, outcomes, reasons
from benchmarks.report import Material, document
from benchmarks.result_tables import result_tables
from benchmarks.runs import Run, RunLog
from profiler.errors import ModelDamaged
from profiler.held_out_predictions import HeldOutPrediction
from profiler.registry import ModelRegistry

PAGE = "report.html"
LIST = "report.sha256"  #: every file of the report; `sha256sum -c` checks them

_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>\w[\w-]*\.(csv|svg|png|html))")


def write_report(folder: Path, state: Path, out: Path, *, is_simulated: bool = False) -> Path:
    """Write the report of a folder of runs; gives its page. Raises RunsMissing, RunsDamaged, ReportUnwritable."""
    log = read_record(folder)
    with _writing(out):  # before the minute that the analysis takes
        out.mkdir(parents=True, exist_ok=True)
    material = read_material(log, state, is_simulated=is_simulated)
    files = {f"{one.name}.csv": one.csv() for one in material.tables.values()}
    for drawing in material.drawings:
        for ending, data in (("svg", drawing.svg), ("png", drawing.png)):
            if data:  # empty = not drawn, for lack of runs
                files[f"{drawing.name}.{ending}"] = data
    files[PAGE] = document(material).encode()
    with _writing(out):
        _replace(out, files)
    return out / PAGE


def read_material(log: RunLog, state: Path, *, is_simulated: bool) -> Material:
    """Analyse runs, and draw and tabulate what is found."""
    found = analyse_record(log, state)
    design = parse_design(tomllib.loads(resources.files("benchmarks").joinpath("factorial.toml").read_text()))
    tables = (outcomes(found.tallies), reasons(log.runs), coverage(log.runs, design), *result_tables(found))
    tables = (*tables, placed(found), placed_cells(found))
    return Material(
        analysis=found,
        runs=log.runs,
        hosts=log.hosts,
        design=design,
        drawings=drawings(found, log.runs, read_predictions(log, state), "simulated" if is_simulated else ""),
        tables={one.name: one for one in tables},
        is_simulated=is_simulated,
    )


def read_predictions(log: RunLog, state: Path) -> tuple[Sequence[HeldOutPrediction], str]:
    """Give the held-out predictions of the model in use if it is of the record's class of host, else why none."""
    place, score, reason = scored_place(log, state)
    if score is None:
        return (), reason
    try:
        found = ModelRegistry(place.absolute() / "models").held_out(score.model)
    except ModelDamaged as damage:
        return (), without_path(damage, place)
    reason = f"model {score.model} keeps no held-out predictions: it is of an earlier version, or nothing was held out"
    return found, "" if found else f"{reason}; train again (`cotenant train`)"


def drawings(
    found: Analysis, runs: Sequence[Run], predictions: tuple[Sequence[HeldOutPrediction], str], note: str
) -> tuple[Drawing, ...]:
    """Draw every figure; predictions come with the reason where there are none, `note` stands beside each title."""
    breadth = [one for one in Isolation if any(e.part is Part.BREADTH and e.isolation is one for e in found.effects)]
    return (
        slowdown_matrix(found, note),
        effect_sizes(found, note),
        distributions(found, Part.FACTORIAL, note),
        distributions(found, Part.COMPOSITION, note),
        *(pair_matrix(found, isolation, note) for isolation in breadth or [Isolation.PINNING]),
        relief(found, note),
        burstiness(found, note),
        composition(found, note),
        prediction(found, note),
        predicted_against_measured(found, *predictions, note),
        noise(runs, note),
    )


def _replace(out: Path, files: Mapping[str, bytes]) -> None:
    """Write these files and remove those of an earlier report that this one lacks, unless somebody changed them."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    for name, earlier in _listed(out / LIST).items():
        path = out / name
        if name not in files and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == earlier:
            path.unlink()
    # the list comes first: killed in between, no file of ours is without its line
    (out / LIST).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    for name, data in files.items():
        (out / name).write_bytes(data)


def _listed(path: Path) -> dict[str, str]:
    """Read the names and sha256 of an earlier report's files; a line of another form is none of ours."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = (_LINE.fullmatch(line) for line in text.splitlines())
    return {line["name"]: line["sha256"] for line in lines if line}


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportUnwritable(
            f"the report cannot be written to {str(out)!r}: {error.strerror}; name another folder with --out"
        ) from error
