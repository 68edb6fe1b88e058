"""Commands `experiment plan`, `run`, `status`, `analyze`, `report`: the factorial experiment on this host."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from benchmarks.design import Part
from benchmarks.errors import DesignInvalid, ModelUnusable, RunsMissing
from benchmarks.host_setting import host_setting, no_agents, remove_orphans, source_revision
from benchmarks.plan import chosen_cells, extended, plan_table, read_design, run_s
from benchmarks.run_folder import run_folder
from benchmarks.runner import ATTEMPTS, Campaign, remaining
from benchmarks.runs import Outcome, Run, RunLog
from cotenant.paths import default_state
from isolation.topology import read_topology
from profiler.dataset import default_dataset
from profiler.interruption import ended_by_signals

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
experiment = typer.Typer(
    no_args_is_help=True,
    help="The factorial experiment: ordinary workloads beside agents, under four isolations, measured and kept.",
)
app.add_typer(experiment, name="experiment")

_TOLD_RUNS = 50  #: where there is no terminal to draw on, a line every so many

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the runs; default STATE/experiment.", metavar="DIR")
]
LookedAtOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder of the runs; default STATE/experiment, and the dataset that comes along where that holds none.",
        metavar="DIR",
    ),
]
DesignOption = Annotated[
    Path | None, typer.Option("--design", help="Another design than benchmarks/factorial.toml.", metavar="FILE")
]
PartsOption = Annotated[
    list[Part] | None,
    typer.Option("--part", help="Which part; may be repeated. Default: factorial, or what --extra adds."),
]
CellsOption = Annotated[
    str | None,
    typer.Option("--cells", help="A number (that many feasible ones, drawn) or a pattern such as 'memory*pinning'."),
]
RepsOption = Annotated[int | None, typer.Option("--reps", min=1, help="At most so many repetitions of each cell.")]
ExtraOption = Annotated[
    str,
    typer.Option(
        "--extra",
        help="Services of `cotenant catalogue` to add to part breadth, such as redis; without --part only these.",
        metavar="NAMES",
    ),
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder with the trained model whose score is told.", metavar="DIR")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.callback()
def _commands() -> None:
    """Keep `experiment` a group."""


@experiment.command()
def plan(
    *,
    data: DataOption = None,
    parts: PartsOption = None,
    cells: CellsOption = None,
    reps: RepsOption = None,
    extra: ExtraOption = "",
    design: DesignOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cells, which of them this host can do and why not, and how long they take. Measures nothing.

    With runs measured already it says, too, how many are still to do.
    """
    setting = host_setting(extended(read_design(design), extra), Path(), revision="")
    chosen = chosen_cells(setting, parts, cells, reps, extra)
    rows = [(cell, count, setting.infeasible(cell)) for cell, count in chosen.repetitions.items()]
    seconds = sum(count * run_s(chosen, cell) for cell, count, reason in rows if not reason)
    folder = data or default_state() / "experiment"
    possible = {cell for cell, _, reason in rows if not reason}
    left = remaining(chosen.steps(), RunLog.load(folder).runs, ATTEMPTS, setting.infeasible)
    due = [one for one in left if one.cell in possible]
    due_s = sum(run_s(chosen, one.cell) for one in due)
    if as_json:
        listed = [
            {
                "cell": cell.name,
                "repetitions": count,
                "feasible": not reason,
                "reason": reason,
                "run_s": run_s(chosen, cell),
            }
            for cell, count, reason in rows
        ]
        told = {
            "cells": listed,
            "seconds": round(seconds),
            "due_runs": len(due),
            "due_seconds": round(due_s),
            "seed": chosen.seed,
        }
        typer.echo(json.dumps(told, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"Host class {setting.host.kind}")
    console.print(plan_table(rows, chosen))
    feasible = [count for _, count, reason in rows if not reason]
    console.print(
        f"{len(rows)} cells, {sum(count for _, count, _ in rows)} runs; here {len(feasible)} cells, {sum(feasible)} "
        f"runs, about {seconds / 3600:.1f} h on a quiet machine."
        + (" The others are recorded as not applicable." if len(feasible) < len(rows) else "")
    )
    if len(due) < sum(feasible):
        console.print(f"Still to do: {len(due)} runs, about {due_s / 3600:.1f} h; the others are kept in {folder}")
    for reason in sorted({reason for *_, reason in rows if reason}):
        console.print(f"Not available here: {reason}")


@experiment.command()
def run(
    *,
    data: DataOption = None,
    parts: PartsOption = None,
    cells: CellsOption = None,
    reps: RepsOption = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Stop after so many runs, repetitions of disturbed ones not counted."),
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", help="K/N: every N-th block from the K-th, for sessions or machines.")
    ] = "1/1",
    extra: ExtraOption = "",
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, max=100, help="How often a run that failed or was disturbed is tried.")
    ] = ATTEMPTS,
    design: DesignOption = None,
) -> None:
    """Measure what is not measured yet. Run it on a quiet machine; it notices when something else computes.

    Each run is kept on the disk before the next begins. Ctrl-C, or even kill -9, loses the run in progress at most;
    the same command goes on where it stopped.
    """
    folder = data or default_state() / "experiment"
    number, shards = _parse_shard(shard)
    asked = extended(read_design(design), extra)
    with RunLog(folder).locked(), ended_by_signals():
        setting = host_setting(asked, folder, revision=source_revision())
        chosen = chosen_cells(setting, parts, cells, reps, extra)
        log = RunLog.load(folder)
        log.refuse_other_designs({cell.name: chosen.digest(cell) for cell in chosen.repetitions})
        log.join(setting.host)
        remove_orphans(setting.enforcer)
        steps = [step for step in chosen.steps() if step.block % shards == number - 1]
        if not steps:
            blocks = max(chosen.repetitions.values())
            raise DesignInvalid(f"--shard {shard} holds no run: there are only {blocks} repetitions to share out")
        if not setting.no_agents and any(chosen.agents_of(cell) for cell in chosen.repetitions):
            _ensure_model()
        due = len(remaining(steps, log.runs, attempts, setting.infeasible))
        columns = (TextColumn("{task.description:<58}"), BarColumn(bar_width=20), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
            task = bar.add_task("starting the workloads", total=due)
            bar.refresh()
            started_s = time.monotonic()

            def told(one: Run, done: int, total: int, left_s: float) -> None:
                left = f", {left_s / 60:.0f} min left" if left_s == left_s else ""  # noqa: PLR0124 - NaN = unknown
                bar.update(task, completed=done, total=total, description=f"{one.cell}{left}")
                bar.refresh()  # by hand: a thread that draws would disturb
                if not bar.console.is_terminal and done % _TOLD_RUNS == 0:
                    bar.console.print(f"{done} of {total} runs{left}", highlight=False)
                if one.outcome in {Outcome.FAILED, Outcome.DISTURBED}:
                    bar.console.print(f"{one.outcome}: {one.cell}#{one.repetition}: {one.reason}", markup=False)

            try:
                Campaign(setting, log, attempts).run(steps, told, limit=limit)
            finally:
                took_s = time.monotonic() - started_s
                Console(stderr=True, highlight=False).print(f"{took_s:.0f} s; {summary(log.runs)}; kept in {folder}")


@experiment.command()
def status(*, data: LookedAtOption = None, as_json: JsonOption = False) -> None:
    """Show what is measured and how it ended."""
    folder = _looked_at(data)
    log = RunLog.load(folder)
    counts: dict[tuple[str, str], Counter[str]] = {}
    for one in log.runs:
        counts.setdefault((str(one.part), str(one.isolation)), Counter())[str(one.outcome)] += 1
    if as_json:
        rows = [
            {"part": part, "isolation": isolation, **{str(one): found[str(one)] for one in Outcome}}
            for (part, isolation), found in sorted(counts.items())
        ]
        typer.echo(json.dumps({"folder": str(folder), "rows": rows, "hosts": len(log.hosts)}, indent=2))
        return
    table = Table("part", "isolation", *(str(one) for one in Outcome))
    for (part, isolation), found in sorted(counts.items()):
        table.add_row(part, isolation, *(str(found[str(one)]) for one in Outcome))
    console = Console(highlight=False)
    if table.row_count:
        console.print(table)
    console.print(f"{summary(log.runs)}; host instances: {len(log.hosts)}; in {folder}")


@experiment.command()
def analyze(
    *,
    data: LookedAtOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Analyse what is measured: slowdown, tests, factors, relief, questions, hypotheses, sensitivity."""
    from benchmarks.analysis_cli import print_analysis  # noqa: PLC0415 - SciPy takes a second to load

    print_analysis(_looked_at(data), state or default_state(), as_json=as_json)


@experiment.command()
def report(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.", metavar="DIR")],
    data: LookedAtOption = None,
    state: StateOption = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Say that nothing of it was measured.")] = False,
) -> None:
    """Write the analysis as one HTML page that stands alone; figures and tables beside it. Needs the extra `bench`."""
    from benchmarks.report_cli import print_report  # noqa: PLC0415 - as above

    print_report(_looked_at(data), state or default_state(), out, is_simulated=simulated)


@experiment.command()
def profile(
    *,
    data: DataOption = None,
    parts: PartsOption = None,
    cells: CellsOption = None,
    extra: ExtraOption = "",
    design: DesignOption = None,
) -> None:
    """Profile each of the experiment's workloads alone, under a minute each; what has a profile is left out.

    Training needs them beside the runs. Run it on a quiet machine; Ctrl-C keeps those that are done.
    """
    from benchmarks.solo_profiles import measure_profiles  # noqa: PLC0415 - the collector takes a while to load

    folder = data or default_state() / "experiment"
    chosen = extended(read_design(design), extra).chosen(parts or list(Part), cells=cells)
    _ensure_model()
    columns = (TextColumn("{task.description:<40}"), BarColumn(bar_width=20))
    with ended_by_signals(), Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("profiling", total=1.0)

        def told(workload: str, number: int, total: int, share: float) -> None:
            text = f"{workload} ({number + 1} of {total})"
            bar.update(task, completed=(number + share) / total, description=text)

        found = measure_profiles(chosen, folder, read_topology(), told)
    for one in found:
        typer.echo(f"{one.name}: {one.quality}{f', {one.note}' if one.note else ''}")


@experiment.command()
def pack(
    to: Annotated[Path, typer.Argument(help="Folder to write the dataset to.", metavar="DIR")],
    *,
    data: DataOption = None,
    state: StateOption = None,
) -> None:
    """Write a dataset: all runs compressed, what training takes from them (same runs, same bytes), the model in use."""
    from benchmarks.solo_profiles import pack_model, pack_training  # noqa: PLC0415 - as above

    folder = data or default_state() / "experiment"
    log = RunLog.load(folder)
    if not log.runs:
        raise RunsMissing(f"no runs in {str(folder)!r}: measure some with `cotenant experiment run`")
    path = log.pack(to)
    typer.echo(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {summary(log.runs)}")
    typer.echo(pack_training(log, folder, to, read_topology()))
    typer.echo(pack_model(log, state or default_state(), to))


def _ensure_model() -> None:
    """Write the model that agents run on, unless it is there; raises ModelUnusable without the extra `bench`."""
    if reason := no_agents():
        raise ModelUnusable(reason)
    from benchmarks.model_file import DEFAULT_SHAPE, ensure_model, named_shape  # noqa: PLC0415 - needs the extra

    ensure_model(named_shape(DEFAULT_SHAPE))


def _looked_at(named: Path | None) -> Path:
    return run_folder(
        named,
        default_state() / "experiment",
        default_dataset(),
        lambda text: typer.echo(f"cotenant: {text}", err=True),
    )


def summary(runs: Iterable[Run]) -> str:
    """Count runs by how they ended."""
    counts = Counter(str(run.outcome) for run in runs)
    return ", ".join(f"{counts[str(one)]} {one}" for one in Outcome if counts[str(one)]) or "no runs yet"


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise DesignInvalid(f"--shard {text!r} is not K/N with K from 1 to N, such as 1/3")
    return int(number), int(count)
