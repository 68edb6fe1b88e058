"""Commands `experiment plan`, `run`, `status`, `analyze`, `report`: the factorial experiment on this host."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from benchmarks.design import Cell, Design, Isolation, Part, parse_design
from benchmarks.environment import read_environment
from benchmarks.errors import BenchmarkError, DesignInvalid, RunsMissing
from benchmarks.gauges import Gauges
from benchmarks.host_class import Host, host_class, memory_gib, read_instance
from benchmarks.model_file import DEFAULT_SHAPE, ensure_model, named_shape
from benchmarks.runner import ATTEMPTS, Campaign, Setting, remaining
from benchmarks.runs import Outcome, Run, RunLog
from benchmarks.seats import infeasible, lacking
from benchmarks.service import found_entry
from cotenant.paths import default_state
from isolation.enforcer import Enforcer
from isolation.errors import CgroupRefused
from isolation.topology import read_topology
from profiler.interruption import ended_by_signals
from scheduler.state import group_prefix

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
experiment = typer.Typer(
    no_args_is_help=True,
    help="The factorial experiment: ordinary workloads beside agents, under four isolations, measured and kept.",
)
app.add_typer(experiment, name="experiment")

_SETTLE_S = 0.35  #: of each window, besides the seconds that count
_TOLD_RUNS = 50  #: where there is no terminal to draw on, a line every so many
_OWN_S = 0.15  #: of each run: probes, confining, releasing

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the runs; default STATE/experiment.", metavar="DIR")
]
DesignOption = Annotated[
    Path | None, typer.Option("--design", help="Another design than benchmarks/factorial.toml.", metavar="FILE")
]
PartsOption = Annotated[
    list[Part] | None, typer.Option("--part", help="Which part; may be repeated. Default: factorial.")
]
CellsOption = Annotated[
    str | None,
    typer.Option("--cells", help="A number (that many feasible ones, drawn) or a pattern such as 'memory*pinning'."),
]
RepsOption = Annotated[int | None, typer.Option("--reps", min=1, help="At most so many repetitions of each cell.")]
ExtraOption = Annotated[
    str, typer.Option("--extra", help="Services of `cotenant catalogue` to add, such as redis,sqlite.", metavar="NAMES")
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
    parts: PartsOption = None,
    cells: CellsOption = None,
    reps: RepsOption = None,
    extra: ExtraOption = "",
    design: DesignOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cells, which of them this host can do and why not, and how long they take. Measures nothing."""
    setting = _setting(_extended(read_design(design), extra), Path(), revision="")
    chosen = _chosen(setting, parts, cells, reps)
    rows = [(cell, count, _infeasible(setting, cell)) for cell, count in chosen.repetitions.items()]
    seconds = sum(count * run_s(chosen, cell) for cell, count, reason in rows if not reason)
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
        typer.echo(json.dumps({"cells": listed, "seconds": seconds, "seed": chosen.seed}, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"Host class {setting.host.kind}")
    console.print(_plan_table(rows, chosen))
    feasible = [count for _, count, reason in rows if not reason]
    console.print(
        f"{len(rows)} cells, {sum(count for _, count, _ in rows)} runs; here {len(feasible)} cells, {sum(feasible)} "
        f"runs, about {seconds / 3600:.1f} h on a quiet machine. The others are recorded as not applicable."
    )
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
        str | None, typer.Option("--shard", help="K/N: every N-th block from the K-th, for sessions or machines.")
    ] = None,
    extra: ExtraOption = "",
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, max=20, help="How often a run that failed or was disturbed is tried.")
    ] = ATTEMPTS,
    design: DesignOption = None,
) -> None:
    """Measure what is not measured yet. Run it on a quiet machine; it notices when something else computes.

    Each run is kept on the disk before the next begins. Ctrl-C, or even kill -9, loses the run in progress at most;
    the same command goes on where it stopped.
    """
    folder = data or default_state() / "experiment"
    setting = _setting(_extended(read_design(design), extra), folder, revision=_revision())
    chosen = _chosen(setting, parts, cells, reps)
    log = RunLog.load(folder)
    with log.locked(), ended_by_signals():
        log.join(setting.host)
        _sweep(setting.enforcer)
        steps = chosen.steps()
        if shard is not None:
            number, count = _parse_shard(shard)
            steps = [step for step in steps if step.block % count == number - 1]
        if any(chosen.agents_of(cell) for cell in chosen.repetitions):
            ensure_model(named_shape(DEFAULT_SHAPE))
        due = len(remaining(steps, log.runs, attempts))
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
def status(*, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show what is measured and what is still to do."""
    folder = data or default_state() / "experiment"
    log = RunLog.load(folder)
    counts: dict[tuple[str, str], Counter[str]] = {}
    for one in log.runs:
        counts.setdefault((str(one.part), str(one.isolation)), Counter())[str(one.outcome)] += 1
    if as_json:
        rows = [{"part": part, "isolation": isolation, **found} for (part, isolation), found in sorted(counts.items())]
        typer.echo(json.dumps({"folder": str(folder), "rows": rows, "hosts": len(log.hosts)}, indent=2))
        return
    table = Table("part", "isolation", *(str(one) for one in Outcome))
    for (part, isolation), found in sorted(counts.items()):
        table.add_row(part, isolation, *(str(found[str(one)]) for one in Outcome))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{summary(log.runs)}; {len(log.hosts)} host instances; in {folder}")


@experiment.command()
def analyze(
    *,
    data: DataOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Analyse what is measured: slowdown, tests, factors, relief, questions, hypotheses, sensitivity."""
    from benchmarks.analysis_cli import print_analysis  # noqa: PLC0415 - SciPy takes a second to load

    print_analysis(data or default_state() / "experiment", state or default_state(), as_json=as_json)


@experiment.command()
def report(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.", metavar="DIR")],
    data: DataOption = None,
    state: StateOption = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Say that nothing of it was measured.")] = False,
) -> None:
    """Write the analysis as one HTML page that stands alone; figures and tables beside it. Needs the extra `bench`."""
    from benchmarks.report_cli import print_report  # noqa: PLC0415 - as above

    print_report(data or default_state() / "experiment", state or default_state(), out, is_simulated=simulated)


@experiment.command()
def profile(
    *,
    data: DataOption = None,
    parts: PartsOption = None,
    cells: CellsOption = None,
    design: DesignOption = None,
) -> None:
    """Profile each of the experiment's workloads alone, under a minute each; what has a profile is left out.

    Training needs them beside the runs. Run it on a quiet machine; Ctrl-C keeps those that are done.
    """
    from benchmarks.solo_profiles import measure_profiles  # noqa: PLC0415 - the collector takes a while to load

    folder = data or default_state() / "experiment"
    chosen = read_design(design).chosen(parts or list(Part), cells=cells)
    ensure_model(named_shape(DEFAULT_SHAPE))
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
) -> None:
    """Write a dataset: all runs compressed, and what training takes from them; same runs, same bytes."""
    from benchmarks.solo_profiles import pack_training  # noqa: PLC0415 - as above

    folder = data or default_state() / "experiment"
    log = RunLog.load(folder)
    if not log.runs:
        raise RunsMissing(f"no runs in {str(folder)!r}: measure some with `cotenant experiment run`")
    path = log.pack(to)
    typer.echo(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {summary(log.runs)}")
    typer.echo(pack_training(log, folder, to, read_topology()))


def read_design(path: Path | None) -> Design:
    """Read a design file, the project's own without a path; raises DesignInvalid."""
    try:
        text = path.read_text() if path else resources.files("benchmarks").joinpath("factorial.toml").read_text()
        return parse_design(tomllib.loads(text))
    except OSError as error:
        raise DesignInvalid(f"design {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DesignInvalid(f"design {str(path)!r} is no TOML: {error}") from error


def _extended(design: Design, extra: str) -> Design:
    """Add services by name; raises DesignInvalid, or RecordInvalid for one that cannot be run here."""
    names = [name.strip() for name in extra.split(",") if name.strip()]
    for name in names:
        found_entry(name)
    return design.with_services(names) if names else design


def run_s(design: Design, cell: Cell) -> float:
    """Estimate one run of a cell."""
    alone_s = 2 * sum(design.solo_s(member) + _SETTLE_S for member in cell.members)
    return alone_s + design.together_s(cell) + _SETTLE_S + _OWN_S


def summary(runs: Iterable[Run]) -> str:
    """Count runs by how they ended."""
    counts = Counter(str(run.outcome) for run in runs)
    return ", ".join(f"{counts[str(one)]} {one}" for one in Outcome if counts[str(one)]) or "no runs yet"


def _setting(design: Design, folder: Path, *, revision: str) -> Setting:
    topology = read_topology()
    prefix = group_prefix(folder.absolute())
    enforcer = Enforcer.for_host(topology, prefix=prefix)
    gauges = Gauges.for_host(f"{prefix}-run")
    controls = enforcer.controls()
    cache = controls.cache("L3") if controls else None
    without = lacking(cache, _no_ways(controls is not None))
    environment = read_environment()
    host = Host(
        kind=host_class(topology),
        instance=read_instance(),
        topology=topology.fingerprint,
        kernel=topology.kernel,
        memory_gib=memory_gib(topology),
        mechanism=str(enforcer.mechanism),
        without=(*dict.fromkeys(without.values()), *gauges.missing),
        versions=environment.versions,
    )
    return Setting(
        design=design,
        host=host,
        topology=topology,
        enforcer=enforcer,
        cache=cache,
        lacking=without,
        gauges=gauges,
        revision=revision,
    )


def _no_ways(has_resctrl: bool) -> str:  # noqa: FBT001 - one fact
    if has_resctrl:
        return "resctrl is mounted, but it controls no L3 cache ways (with CDP they are not split here)"
    return "no cache ways can be given: resctrl is not mounted or not ours to write (see `cotenant check`)"


def _chosen(setting: Setting, parts: list[Part] | None, cells: str | None, reps: int | None) -> Design:
    wanted = parts or [Part.FACTORIAL]
    if cells is None or not cells.isdecimal():
        return setting.design.chosen(wanted, cells=cells, repetitions=reps)
    chosen = setting.design.chosen(wanted, repetitions=reps)
    return chosen.some(int(cells), (cell for cell in chosen.repetitions if not _infeasible(setting, cell)))


def _infeasible(setting: Setting, cell: Cell) -> str:
    if setting.design.agents_of(cell) and importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed (extra `bench`; `make setup` installs it)"
    return infeasible(cell, setting.topology, setting.cache, setting.lacking)


def _plan_table(rows: list[tuple[Cell, int, str]], design: Design) -> Table:
    """One line for each set of members, one column for each isolation."""
    isolations = [one for one in Isolation if any(cell.isolation is one for cell, *_ in rows)]
    table = Table("part", "members", *map(str, isolations), "s a run")
    lines: dict[tuple[str, str], dict[Isolation, str]] = {}
    seconds: dict[tuple[str, str], float] = {}
    for cell, count, reason in rows:
        key = str(cell.part), " + ".join(map(str, cell.members))
        lines.setdefault(key, {})[cell.isolation] = "-" if reason else str(count)
        seconds[key] = run_s(design, cell)
    for key, found in lines.items():
        table.add_row(*key, *(found.get(one, "") for one in isolations), f"{seconds[key]:.1f}")
    return table


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise DesignInvalid(f"--shard {text!r} is not K/N with K from 1 to N, such as 1/3")
    return int(number), int(count)


def _revision() -> str:
    """Name the source's revision; "unknown" for an installed package without its repository."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ("git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"),
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


def _sweep(enforcer: Enforcer) -> None:
    """Remove groups of a campaign in the same folder that was killed."""
    for name in enforcer.groups():
        try:
            enforcer.remove_orphan(name)
        except CgroupRefused as error:
            raise BenchmarkError(f"a killed campaign left group {name!r} with living processes: {error}") from error
