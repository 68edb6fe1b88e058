"""Commands `profile`, `profiles`, `train` and `models`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
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
from isolation.topology import read_topology
from profiler.collector import collect
from profiler.errors import ModelDamaged, ProfileDamaged, ProfilerError, TrainingImpossible
from profiler.files import make_folder, name_checked
from profiler.interruption import ended_by_signals
from profiler.records import WorkloadProfile
from profiler.registry import Manifest, ModelRegistry
from profiler.store import ProfileStore

app = typer.Typer(no_args_is_help=True, add_completion=False)
_profiles = typer.Typer(invoke_without_command=True, help="List stored profiles, or show one.")
app.add_typer(_profiles, name="profiles")

_State = Annotated[Path | None, typer.Option("--state", help="State folder; default $COTENANT_STATE.", metavar="DIR")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="Name to store the profile under.")],
    command: Annotated[
        list[str], typer.Argument(help="The command and its arguments, after --.", metavar="-- COMMAND...")
    ],
    *,
    cpus: Annotated[str, typer.Option(help="CPUs to run it on, such as 2-3; default: one of this host's.")] = "",
    window: Annotated[float, typer.Option(help="Seconds to measure, after warm-up.")] = 6.0,
    warmup: Annotated[float, typer.Option(help="Longest warm-up in seconds.")] = 5.0,
    no_probes: Annotated[bool, typer.Option("--no-probes", help="Leave cache probes out: 15 to 25 s faster.")] = False,
    metric: Annotated[str, typer.Option(help="auto, progress or exit-time.")] = "auto",
    state: _State = None,
    as_json: _Json = False,
) -> None:
    """Run a command alone, measure it, and store what it does under NAME (an older profile is replaced)."""
    name_checked(name)
    folder = (state or default_state()) / "profiles"
    make_folder(folder)  # before measuring, not after
    chosen = CpuSet.parse(cpus) if cpus else CpuSet.of(list(read_topology().usable)[-1:])
    with ended_by_signals(), _bar() as bar:  # the command must not outlive us
        task = bar.add_task(f"profiling {escape(name)} on CPUs {chosen}", total=1.0)

        def told(share: float, stage: str) -> None:
            bar.update(task, completed=share, description=f"{escape(name)} on CPUs {chosen}: {stage}")

        found = collect(
            name,
            command,
            cpus=chosen,
            window_s=window,
            warmup_s=warmup,
            probes=not no_probes,
            metric=metric,
            on_progress=told,
        )
    ProfileStore(folder).save(found, replace=True)
    _print_profile(found, as_json=as_json)


@_profiles.callback()
def profiles(context: typer.Context, *, state: _State = None, as_json: _Json = False) -> None:
    """List stored profiles; `profiles show NAME` shows one."""
    if context.invoked_subcommand is not None:
        context.obj = state
        return
    damaged: list[ProfileDamaged] = []
    stored = ProfileStore((state or default_state()) / "profiles").load_all(on_damaged=damaged.append)
    if as_json:
        print_json([_as_record(one) for one in stored.values()])
    elif stored:
        table = Table("name", "CPUs", "quality", "rate/s", "CPU", "sensitivity", "pressure", "features")
        for one in stored.values():
            numbers = ("rate_per_s", "cpu_utilisation_ratio", "cache_sensitivity_sf", "cache_pressure_ratio")
            shown = [_number(one.value(key)) for key in numbers]
            table.add_row(one.name, str(one.cpus), one.quality.value, *shown, str(len(one.features)))
        Console().print(table)
    else:
        typer.echo("no profiles yet: make one with `cotenant profile NAME -- COMMAND`")
    for error in damaged:
        typer.echo(f"cotenant: {error}", err=True)


@_profiles.command()
def show(context: typer.Context, name: str, *, state: _State = None, as_json: _Json = False) -> None:
    """Show all features of one profile."""
    folder = (state or context.obj or default_state()) / "profiles"
    _print_profile(ProfileStore(folder).load(name), as_json=as_json)


@app.command()
def train(
    *,
    state: _State = None,
    only_if_better: Annotated[
        bool, typer.Option("--only-if-better", help="Activate only if it beats the prior and the current model.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Fit the slowdown model on the measured observations, score it on workloads held out, and activate it."""
    # in a child process, so that this command and whoever imports it stay free of xgboost
    command = [sys.executable, "-P", "-m", "profiler.training", "--state", str(state or default_state())]
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
    table = Table("median error, workload held out", "")
    for label, key in (
        ("this model", "lowo_mape"),
        ("prior alone", "prior_mape"),
        ("constant", "constant_mape"),
        ("noise of one repetition", "noise_floor"),
    ):
        table.add_row(label, _percent(scores[key]))
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
        table = Table("", "id", "observations", "workloads", "held-out error", "prior", "noise floor")
        for one in stored:
            errors = [
                _percent(value) for value in (one.scores.lowo_mape, one.scores.prior_mape, one.scores.noise_floor)
            ]
            table.add_row("*" if one.id == active else "", one.id, str(one.observations), str(one.workloads), *errors)
        Console().print(table)
    else:
        typer.echo("no models yet: fit one with `cotenant train`")
    for damage in damaged:
        typer.echo(f"cotenant: {damage}", err=True)


def print_json(value: Any) -> None:
    """Print strict JSON: an unknown number is null."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def _bar() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _print_profile(found: WorkloadProfile, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_record(found))
        return
    typer.echo(f"{found.name}: {found.cpus} CPUs, {found.quality.value}")
    table = Table("feature", "value", "spread", "from", "window s")
    for one in found.features:
        spread = "" if one.spread is None else _number(one.spread)
        table.add_row(one.name, _number(one.value), spread, one.source.value, f"{one.window_s:.3g}")
    Console().print(table)
    if found.note:
        typer.echo(f"note: {found.note}")


def _as_record(found: WorkloadProfile) -> dict[str, Any]:
    return asdict(found)


def _model_record(manifest: Manifest, active: str | None) -> dict[str, Any]:
    hidden = {"feature_names", "training_low", "training_high"}
    shown = {key: value for key, value in asdict(manifest).items() if key not in hidden}
    return {"active": manifest.id == active, **shown}


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"
