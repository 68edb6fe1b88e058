"""The experiment's commands."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.demo import Demonstration
from benchmarks.demo_report import as_json, print_model, print_outcome, print_profiles
from isolation.drawing import draw_host
from isolation.enforcer import Enforcer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """Keep `demo` a command of a group, though it is the only one."""


@app.command()
def demo(
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr")
    ] = False,
) -> None:
    """Show the whole loop on this machine, about five minutes: profile four workloads, predict, place, measure.

    Starts a daemon of its own in a private folder, a CPU-, a memory- and an IO-bound workload and an agent on real
    llama.cpp; measures them alone, in pairs and all together, under the daemon's placement and under the kernel's own;
    takes everything back and checks that the host is as before. Run it on a quiet machine. Ctrl-C leaves nothing.
    """
    console = Console(highlight=False, stderr=json_output)
    started_s = time.monotonic()
    columns = (TextColumn("{task.description:<62}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def report(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share)

        shown = Demonstration(report)
        mechanism = Enforcer.for_host(shown.topology).mechanism
        console.print(f"This host: {shown.topology.cpu_model}, Linux {shown.topology.kernel}; placing by {mechanism}")
        console.print(draw_host(shown.topology, {}, width=console.width - 2), markup=False)
        outcome = shown.run(
            on_profiles=lambda: print_profiles(console, shown.profiles),
            on_model=lambda model: print_model(console, model),
        )
    print_outcome(console, shown.topology, outcome)
    console.print(f"{time.monotonic() - started_s:.0f} s in all")
    if json_output:
        typer.echo(json.dumps(as_json(outcome), indent=2, allow_nan=False))
    if outcome.differences:
        raise typer.Exit(1)
