"""Analyses a record of runs and writes the report, its figures and its tables into a folder."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from benchmarks.analysis import Analysis
from benchmarks.analysis_cli import analyse_record, read_record
from benchmarks.design import Isolation, Part, parse_design
from benchmarks.drawing import Drawing
from benchmarks.errors import ReportUnwritable
from benchmarks.figures import distributions, effect_sizes, pair_matrix, relief, slowdown_matrix
from benchmarks.noise_figures import burstiness, noise, prediction
from benchmarks.record_tables import coverage, outcomes, reasons
from benchmarks.report import Material, document
from benchmarks.result_tables import result_tables
from benchmarks.runs import Run, RunLog

PAGE = "report.html"


def write_report(folder: Path, state: Path, out: Path, *, is_simulated: bool = False) -> Path:
    """Write the report of a folder of runs; gives its page. Raises RunsMissing, RunsDamaged, ReportUnwritable."""
    log = read_record(folder)
    with _writing(out):  # before the minute that the analysis takes
        out.mkdir(parents=True, exist_ok=True)
    material = read_material(log, state, is_simulated=is_simulated)
    page = document(material).encode()
    with _writing(out):
        for table in material.tables.values():
            (out / f"{table.name}.csv").write_bytes(table.csv())
        for drawing in material.drawings:
            for ending, data in (("svg", drawing.svg), ("png", drawing.png)):
                path = out / f"{drawing.name}.{ending}"
                if data:
                    path.write_bytes(data)
                else:  # of an earlier report with other runs
                    path.unlink(missing_ok=True)
        (out / PAGE).write_bytes(page)
    return out / PAGE


def read_material(log: RunLog, state: Path, *, is_simulated: bool) -> Material:
    """Analyse runs, and draw and tabulate what is found."""
    found = analyse_record(log, state)
    design = parse_design(tomllib.loads(resources.files("benchmarks").joinpath("factorial.toml").read_text()))
    tables = (outcomes(found.tallies), reasons(log.runs), coverage(log.runs, design), *result_tables(found))
    return Material(
        analysis=found,
        runs=log.runs,
        hosts=log.hosts,
        design=design,
        drawings=drawings(found, log.runs, "simulated" if is_simulated else ""),
        tables={one.name: one for one in tables},
        is_simulated=is_simulated,
    )


def drawings(found: Analysis, runs: Sequence[Run], note: str) -> tuple[Drawing, ...]:
    """Draw every figure; `note` stands beside each title."""
    breadth = [one for one in Isolation if any(e.part is Part.BREADTH and e.isolation is one for e in found.effects)]
    return (
        slowdown_matrix(found, note),
        effect_sizes(found, note),
        distributions(found, Part.FACTORIAL, note),
        distributions(found, Part.COMPOSITION, note),
        *(pair_matrix(found, isolation, note) for isolation in breadth or [Isolation.PINNING]),
        relief(found, note),
        burstiness(found, note),
        prediction(found, note),
        noise(runs, note),
    )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportUnwritable(
            f"the report cannot be written to {str(out)!r}: {error.strerror}; name another folder with --out"
        ) from error
