"""Commands `profile`, `train` and `models`; `profiles` and `catalogue` come from profiles_cli.py."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cotenant.paths import default_state
from isolation.cpuset import CpuSet
from isolation.topology import Topology, read_topology
from profiler.catalogue import Entry, read_catalogue, read_entry
from profiler.collector import collect
from profiler.comparison import beside_the_last
from profiler.errors import (
    ModelDamaged,
    ProfileDamaged,
    ProfileMissing,
    ProfilerError,
    RecordInvalid,
    TrainingImpossible,
)
from profiler.files import make_folder, name_checked
from profiler.interruption import ended_by_signals
from profiler.observer import collect_cgroup, collect_running
from profiler.printing import percent, print_json
from profiler.profiles_cli import catalogue, print_profile, profiles_app
from profiler.records import WorkloadProfile
from profiler.registry import Manifest, ModelRegistry
from profiler.staging import staged
from profiler.store import ProfileStore

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(profiles_app, name="profiles")
app.command()(catalogue)

_State = Annotated[Path | None, typer.Option("--state", help="State folder; default $COTENANT_STATE.", metavar="DIR")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="Name to store the profile under; or that of a catalogue entry.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="The command and its arguments, after --.", metavar="-- COMMAND...")
    ] = None,
    *,
    entry: Annotated[str, typer.Option(help="Run this entry of `cotenant catalogue`, or of a TOML file.")] = "",
    pid: Annotated[list[int] | None, typer.Option(help="Watch this running process and its children instead.")] = None,
    cgroup: Annotated[
        str, typer.Option(help="Watch the processes of this cgroup folder instead.", metavar="PATH")
    ] = "",
    cpus: Annotated[
        str, typer.Option(help="How many CPUs to run it on (2), or which (0-1 or 1,3 or 1-1). Default: 1.")
    ] = "",
    metric: Annotated[
        str,
        typer.Option(
            help="auto, progress, exit-time, regex:PATTERN, count:PATTERN, prometheus:URL#NAME or tokens:URL. "
            "In a regex one group is a rate per second, (?P<total>...) work so far, (?P<work>...) work since then."
        ),
    ] = "auto",
    window: Annotated[float, typer.Option(help="Seconds to measure, after warm-up.")] = 6.0,
    warmup: Annotated[float, typer.Option(help="Longest warm-up in seconds, once it is ready.")] = 5.0,
    start_limit: Annotated[float, typer.Option(help="Seconds it has to tell its first progress.")] = 60.0,
    duration: Annotated[float, typer.Option(help="Seconds to watch what runs already.")] = 30.0,
    no_probes: Annotated[bool, typer.Option("--no-probes", help="Leave cache probes out: up to 38 s faster.")] = False,
    refuse_busy: Annotated[
        bool, typer.Option("--refuse-busy", help="Measure only if nobody else uses the CPUs or their cache.")
    ] = False,
    state: _State = None,
    as_json: _Json = False,
) -> None:
    """Run a command alone, or watch what runs; measure it, and store what it does under NAME.

    An older profile of that name is replaced. A name without a command is looked up in the catalogue.
    """
    name_checked(name)
    store = ProfileStore((state or default_state()) / "profiles")
    make_folder((state or default_state()) / "profiles")  # before measuring, not after
    service = _service(name, command, entry, pid, cgroup, (state or default_state()) / "catalogue")
    topology = read_topology()
    chosen = _chosen(cpus or (str(service.workload.cpus) if service else "1"), topology)
    with ended_by_signals(), _bar() as bar, ExitStack() as stage:  # the command must not outlive us
        task = bar.add_task(f"profiling {escape(name)}", total=1.0)

        def told(share: float, doing: str) -> None:
            bar.update(task, completed=share, description=f"{escape(name)}: {doing}")

        if pid:
            found = collect_running(name, pid, duration, told, metric)
        elif cgroup:
            found = collect_cgroup(name, Path(cgroup), duration, told, metric)
        else:
            driver = None
            if service is not None:
                told(0.0, "preparing")
                ready = stage.enter_context(staged(service, chosen, topology))
                command, driver, metric = list(ready.command), ready.driver, service.metric
            found = collect(
                name,
                command or [],
                cpus=chosen,
                window_s=window,
                warmup_s=warmup,
                probes=not no_probes,
                metric=metric,
                driver=driver,
                start_limit_s=start_limit,
                refuse_busy=refuse_busy,
                on_progress=told,
            )
    found = _beside_the_last(found, store)
    store.save(found, replace=True)
    print_profile(found, as_json=as_json)


def _service(
    name: str, command: list[str] | None, entry: str, pids: list[int] | None, cgroup: str, own: Path
) -> Entry | None:
    """Find the catalogue entry that is meant, if one is; raises RecordInvalid unless one thing is to be profiled."""
    given = {"a command": command, "--entry": entry, "--pid": pids, "--cgroup": cgroup}
    told = [what for what, value in given.items() if value]
    if len(told) > 1:
        raise RecordInvalid(f"{' and '.join(told)} were given: only one thing can be profiled at a time")
    if entry.endswith(".toml"):
        return read_entry(Path(entry))
    if told and not entry:
        return None
    entries = read_catalogue(own)
    if (entry or name) not in entries:
        raise RecordInvalid(
            f"no command given, and {entry or name!r} is in no catalogue: write the command after --, for instance "
            f"`-- sleep 10`, or take one of {', '.join(entries)}"
        )
    return entries[entry or name]


def _chosen(text: str, topology: Topology) -> CpuSet:
    """Read "2" as how many, "0-1" or "1,3" as which."""
    if not text.isdecimal():
        return CpuSet.parse(text)
    usable = list(topology.usable)
    if not 1 <= int(text) <= len(usable):
        raise RecordInvalid(
            f"--cpus {text} is how many CPUs, 1 to {len(usable)} here ({topology.usable}); "
            f"one by its number is {text}-{text}"
        )
    return CpuSet.of(usable[-int(text) :])


def _beside_the_last(found: WorkloadProfile, store: ProfileStore) -> WorkloadProfile:
    """Compare with the profile it replaces: what cannot be repeated is marked."""
    try:
        before = store.load(found.name)
    except (ProfileMissing, ProfileDamaged):
        return found
    return beside_the_last(before, found)


@app.command()
def train(
    *,
    state: _State = None,
    only_if_better: Annotated[
        bool,
        typer.Option(
            "--only-if-better/--always", help="Activate only if it beats the prior and the current model, or always."
        ),
    ] = True,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Measured runs to learn from besides; '' = none. Default $COTENANT_DATASET, else what comes along.",
            metavar="DIR",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Fit the slowdown model, score it on workloads held out, and activate it if it is better than what there is.

    It learns from what was measured here and from the dataset that comes with the program, as far as that is of this
    class of host.
    """
    # in a child process, so that this command and whoever imports it stay free of xgboost
    command = [sys.executable, "-P", "-m", "profiler.training", "--state", str(state or default_state())]
    if dataset is not None:
        command += ["--dataset", dataset]
    if only_if_better:
        command.append("--only-if-better")
    with ended_by_signals(), _bar() as bar:  # subprocess.run ends the child when it is interrupted
        bar.add_task("training, and holding out each workload in turn", total=None)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingImpossible(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "training died")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if as_json:
        print_json(result)
        return
    scores = result["scores"]
    typer.echo(
        f"model {result['id']} from {result['observations']} observations of {result['workloads']} workloads: "
        f"{'active' if result['activated'] else 'stored, not active'}"
    )
    table = Table("error, workload held out", "median", "mean")
    for label, key in (
        ("this model", "lowo"),
        ("this model, all variants of a program held out", "families"),
        ("this model, only the pair held out", "pairs"),
        ("prior alone", "prior"),
        ("linear model (ridge) instead of trees", "ridge"),
        ("random forest instead", "random_forest"),
        ("most similar observation", "nearest"),
        ("constant", "constant"),
    ):
        told = scores[key] or {"median": None, "mean": None}
        table.add_row(label, percent(told["median"]), percent(told["mean"]))
    table.add_row("noise of one repetition", percent(scores["noise_floor"]), "")
    Console().print(table)
    typer.echo(
        f"interval: factor {result['known_interval_factor']:.3g} either way for workloads seen in training "
        f"({result['known_interval_rule']})"
    )
    typer.echo(f"for others: factor {result['interval_factor']:.3g} ({result['interval_rule']})")
    for note in result["notes"]:
        typer.echo(f"note: {note}")


@app.command()
def models(
    *,
    activate: Annotated[
        str, typer.Option(help="Make this model the one in use, after checking it.", metavar="ID")
    ] = "",
    state: _State = None,
    as_json: _Json = False,
) -> None:
    """List models, newest first; --activate ID chooses one, which is also the way back to an older one."""
    registry = ModelRegistry((state or default_state()) / "models")
    if activate:
        registry.activate(activate)
    damaged: list[ProfilerError] = []
    stored = registry.list(on_damaged=damaged.append)
    try:
        active = registry.active_id()
    except ModelDamaged as error:
        active = None
        damaged.append(error)
    if as_json:
        print_json([_model_record(one, active) for one in stored])
    elif stored:
        table = Table("", "id", "observations", "workloads", "held-out error, mean", "prior", "noise floor")
        for one in stored:
            told = [None if score is None else score.mean for score in (one.scores.lowo, one.scores.prior)]
            errors = [percent(value) for value in (*told, one.scores.noise_floor)]
            table.add_row("*" if one.id == active else "", one.id, str(one.observations), str(one.workloads), *errors)
        Console().print(table)
    else:
        typer.echo("no models yet: fit one with `cotenant train`")
    for damage in damaged:
        typer.echo(f"cotenant: {damage}", err=True)


def _bar() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _model_record(manifest: Manifest, active: str | None) -> dict[str, Any]:
    hidden = {"feature_names", "training_low", "training_high", "host"}
    shown = {key: value for key, value in asdict(manifest).items() if key not in hidden}
    return {"active": manifest.id == active, **shown}
