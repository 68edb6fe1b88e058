"""Tables of the report about the record: how runs ended and why, and what the design asks for beside it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.cells import Tally, good_runs
from benchmarks.design import Design, Part
from benchmarks.runs import Outcome, Run
from benchmarks.table import Column, Table


def outcomes(tallies: Sequence[Tally]) -> Table:
    """Count the recorded runs."""
    counts = tuple(Column(key=str(one).replace(" ", "_"), heading=str(one), form="d") for one in Outcome)
    return Table(
        name="outcomes",
        title="Recorded runs by how they ended; attempts that were repeated count, too",
        columns=(
            Column(key="part", heading="part"),
            Column(key="isolation", heading="isolation"),
            *counts,
            Column(key="cells", heading="cells", form="d"),
            Column(key="cells_without_good_run", heading="of them without good run", form="d"),
            Column(key="surplus", form="d"),
        ),
        rows=tuple(
            (
                str(one.part),
                str(one.isolation),
                *(one.outcomes[str(outcome)] for outcome in Outcome),
                one.cells,
                one.cells_without_good_run,
                one.surplus,
            )
            for one in tallies
        ),
    )


def reasons(runs: Iterable[Run]) -> Table:
    """Count why runs are not among the good ones."""
    counts = Counter(
        (str(run.outcome), str(run.isolation), reason)
        for run in runs
        if run.outcome is not Outcome.OK
        for reason in _causes(run)
    )
    return Table(
        name="reasons",
        title="Why runs are not among the good ones; a run may have several reasons",
        columns=(
            Column(key="outcome", heading="outcome"),
            Column(key="isolation", heading="isolation"),
            Column(key="reason", heading="reason"),
            Column(key="runs", heading="runs", form="d"),
        ),
        rows=tuple((*key, count) for key, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))),
    )


def _causes(run: Run) -> list[str]:
    """Give the reasons of a run; of a disturbed one without its own numbers, so that they can be counted."""
    if run.outcome is not Outcome.DISTURBED:
        return [run.reason]
    causes = []
    for one in run.reason.split("; "):
        if "stolen" in one:
            causes.append("CPU time stolen by the hypervisor")
        elif one.startswith("other programs"):
            causes.append("other programs computed")
        else:
            causes.append(one.partition(" by a factor of ")[0])
    return causes


def coverage(runs: Sequence[Run], design: Design) -> Table:
    """Compare the design with the good runs."""
    good = Counter(run.cell for run in good_runs(runs))
    not_here = {run.cell for run in runs if run.outcome is Outcome.NOT_APPLICABLE}
    rows = []
    for part in Part:
        planned = {cell.name: count for cell, count in design.repetitions.items() if cell.part is part}
        done = {name: min(good[name], count) for name, count in planned.items()}
        rows.append(
            (
                str(part),
                len(planned),
                sum(planned.values()),
                sum(done.values()),
                sum(done[name] >= count for name, count in planned.items()),
                sum(0 < done[name] < count for name, count in planned.items()),
                sum(not done[name] and name in not_here for name in planned),
                sum(not done[name] and name not in not_here for name in planned),
            )
        )
    return Table(
        name="coverage",
        title="The design of this version against what is measured",
        columns=(
            Column(key="part", heading="part"),
            Column(key="cells_planned", heading="cells planned", form="d"),
            Column(key="runs_planned", heading="runs planned", form="d"),
            Column(key="runs_good", heading="good runs of them", form="d"),
            Column(key="cells_complete", heading="cells complete", form="d"),
            Column(key="cells_begun", heading="cells begun", form="d"),
            Column(key="cells_not_applicable", heading="cells not applicable here", form="d"),
            Column(key="cells_missing", heading="cells without good run", form="d"),
        ),
        rows=tuple(rows),
    )
