"""Command `calibrate`: measures this host, draws what came out, and stores it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cotenant.paths import default_state
from isolation.topology import read_topology
from profiler.calibration import Calibration, Estimate, find_calibration, load_calibration, save_calibration
from profiler.errors import CalibrationDamaged
from profiler.files import make_folder
from profiler.host_calibration import calibrate as measure
from profiler.interruption import ended_by_signals

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_BAR_CELLS = 15  # so that the chart fits into 80 columns
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@app.callback()
def _commands() -> None:
    """Keep `calibrate` a command of a group, though it is the only one."""


@app.command()
def calibrate(
    *,
    seconds: Annotated[float, typer.Option(min=2, max=180, help="How long to measure.")] = 60.0,
    show: Annotated[bool, typer.Option("--show", help="Show what is stored; measure nothing.")] = False,
    state: Annotated[
        Path | None, typer.Option("--state", help="State folder; default $COTENANT_STATE.", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a chart.")] = False,
) -> None:
    """Measure what this host's caches and memory give and what sharing costs, about a minute, on a quiet machine.

    The daemon uses it from its next start on; a model keeps the one it was trained with until trained anew. Ctrl-C
    keeps what is done.
    """
    folder = state or default_state()
    if show:
        _print(load_calibration(folder), as_json=as_json)
        return
    make_folder(folder)  # before measuring, not after
    columns = (TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn())
    with ended_by_signals(), Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("calibrating", total=1.0)

        def told(share: float, stage: str) -> None:
            bar.update(task, completed=share, description=stage)

        found = measure(read_topology(), seconds=seconds, folder=folder, on_progress=told)
    try:
        if (earlier := find_calibration(folder)) is not None:
            found = found.completed_by(earlier)
    except CalibrationDamaged as error:
        typer.echo(f"cotenant: replaced: {error}", err=True)
    save_calibration(folder, found)
    _print(found, as_json=as_json)


def _print(found: Calibration, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, allow_nan=False))
        return
    console = Console()
    console.print(chart(found))
    for one in found.peaks:
        console.print(
            f"peak bandwidth of {one.of} (CPUs {one.cpus}): {_gb(one.bytes_per_s)}", highlight=False, soft_wrap=True
        )
    for name, value, text in (
        ("effective last-level cache", found.effective_llc_bytes, _mib),
        ("CPU time beside another process on the CPU", found.time_share_cost_sf, _factor),
        ("time beside a busy sibling thread", found.smt_cost_sf, _factor),
        ("wait of a forced write for a busy CPU, a wake-up", found.disk_wake_wait_s, _ms),
        ("difference of two equal runs", found.noise_ratio, _percent),
    ):
        console.print(f"{name}: {'unknown' if value is None else text(value)}", highlight=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def chart(found: Calibration) -> Table:
    """Draw bandwidth and time of a random read by working set; bars of the read are logarithmic."""
    table = Table("working set", "GB/s", "streaming reads", "ns/line", "one load, ns", "random reads", box=None)
    for name in (1, 3, 4):
        table.columns[name].justify = "right"
    most = max((one.read_bytes_per_s.value for one in found.curve), default=1.0)
    slow = [(one.load_s or one.line_s).value for one in found.curve]
    for one, slowness in zip(found.curve, slow, strict=True):
        height = math.log(slowness / min(slow)) / (math.log(max(slow) / min(slow)) or 1.0)
        table.add_row(
            _size(one.size_bytes),
            f"{one.read_bytes_per_s.value / 1e9:.1f}",
            bar(one.read_bytes_per_s.value / most),
            f"{one.line_s.value * 1e9:.2f}",
            "?" if one.load_s is None else f"{one.load_s.value * 1e9:.1f}",
            bar(height),
        )
    return table


def bar(share: float) -> str:
    """Draw a share of 0 to 1 in eighths of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * _BAR_CELLS * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _size(size_bytes: int) -> str:
    return (
        f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 and not size_bytes % (1 << 20) else f"{size_bytes >> 10} KiB"
    )


def _gb(one: Estimate) -> str:
    return f"{one.value / 1e9:.1f} GB/s ({one.low / 1e9:.1f} to {one.high / 1e9:.1f})"


def _mib(one: Estimate) -> str:
    return f"{one.value / 2**20:.1f} MiB ({one.low / 2**20:.1f} to {one.high / 2**20:.1f})"


def _factor(one: Estimate) -> str:
    return f"{one.value:.3f} times ({one.low:.3f} to {one.high:.3f})"


def _ms(one: Estimate) -> str:
    return f"{one.value * 1e3:.3f} ms ({one.low * 1e3:.3f} to {one.high * 1e3:.3f})"


def _percent(one: Estimate) -> str:
    return f"{one.value:.1%} ({one.low:.1%} to {one.high:.1%})"
