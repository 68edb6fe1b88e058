"""The scheduler's commands: serve, and one per call."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc import StatusCode
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cotenant.client import Client, CotenantError
from cotenant.v1 import placement_pb2
from scheduler.config import Settings
from scheduler.errors import RequestInvalid, Violation
from scheduler.launch import call_off, let_go, start_held
from scheduler.slo_text import parse_slo

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
_out = Console(highlight=False, markup=False)  # names and paths may hold brackets
_GIVEN = frozenset({"cpus", "mems", "cache_ways", "memory_bandwidth"})  # what a placement gives its workload

SocketOption = Annotated[
    Path | None, typer.Option("--socket", help="The daemon's socket [default: $COTENANT_SOCKET or STATE/cotenant.sock]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON")]
NameOption = Annotated[str, typer.Option("--name", help="Name of the workload: a-z, 0-9, '.', '_', '-'")]
CpusOption = Annotated[int, typer.Option("--cpus", min=1, help="CPUs wanted")]
SloOption = Annotated[
    list[str] | None, typer.Option("--slo", help="Promise: tbt-p99=120ms, ttft=1.5s, ttlt=30s or slowdown=1.3")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Stored profile to predict from [default: the one called like the name]")
]
CoresOption = Annotated[bool, typer.Option("--whole-cores", help="Take every SMT sibling of the cores used")]
BestEffortOption = Annotated[bool, typer.Option("--best-effort", help="Place even if a bound would break")]


@app.command()
def serve(
    state: Annotated[
        Path | None, typer.Option(help="State folder [default: $COTENANT_STATE or the usual place]")
    ] = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket [default: STATE/cotenant.sock]")] = None,
    mechanism: Annotated[
        str | None, typer.Option(help="auto, cgroup_v1, cgroup_v2 or affinity [default: auto]")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Prometheus address on loopback; '' = none [default: 127.0.0.1:9417]")
    ] = None,
    allow_uid: Annotated[list[int] | None, typer.Option(help="Also place processes of this uid; repeatable")] = None,
    allow_any_uid: Annotated[
        bool | None, typer.Option("--allow-any-uid", help="Place processes of every user", show_default=False)
    ] = None,
    migrate_memory: Annotated[
        int | None,
        typer.Option(
            help="Move present memory to a placement's nodes, so many MiB/s [default: 0 = leave it]",
            metavar="MIB_PER_S",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json or text")] = None,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. As root it uses cpuset cgroups, otherwise affinity of your own processes.

    Placements outlive the daemon: the next one on the same state folder takes them over. Two sockets are served:
    STATE/cotenant.sock for everything and STATE/cotenant-read.sock for reads.
    """
    given: dict[str, Any] = {
        "state": state,
        "socket": socket,
        "mechanism": mechanism,
        "metrics_address": metrics,
        "allow_uids": tuple(allow_uid) if allow_uid else None,
        "allow_any_uid": allow_any_uid,
        "migrate_mib_per_s": migrate_memory,
        "log_format": log_format,
    }
    try:
        settings = Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise RequestInvalid(
            tuple(Violation(".".join(map(str, one["loc"])) or "settings", one["msg"]) for one in error.errors())
        ) from error
    from scheduler.daemon import serve as run_daemon  # noqa: PLC0415 - the other commands need none of it

    run_daemon(settings)


@app.command()
def run(
    command: Annotated[list[str], typer.Argument(help="The command, after --", show_default=False)],
    name: NameOption = "",
    cpus: CpusOption = 1,
    slo: SloOption = None,
    profile: ProfileOption = None,
    whole_cores: CoresOption = False,
    best_effort: BestEffortOption = False,
    socket: SocketOption = None,
) -> None:
    """Start a command on the CPUs chosen for it, and release it when it ends; its exit code is ours.

    The command is held back until every thread of it will be born in place. Example:
    cotenant run --name llm --cpus 4 --slo tbt-p99=120ms -- llama-server -m model.gguf
    """
    name = name or f"{_as_name(Path(command[0]).name)}-{os.getpid()}"
    with Client(socket) as client:
        child, writing = start_held(command)
        try:
            placed = client.place(
                name,
                pids=[child.pid],
                cpus=cpus,
                slo=parse_slo(slo or []),
                profile=profile,
                whole_cores=whole_cores,
                allow_best_effort=best_effort,
            )
        except BaseException:
            call_off(child, writing)
            raise

        def pass_on(number: int, _frame: FrameType | None) -> None:
            child.send_signal(number)

        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, pass_on)
        if sys.stdin.isatty():  # Ctrl-C: the terminal sends it to the command as well
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        told = Console(stderr=True, highlight=False, markup=False)
        told.print(f"cotenant: {placed.explanation.summary}")
        let_go(writing)
        code = child.wait()
        try:
            client.release(name)
        except CotenantError as error:
            if error.code is not StatusCode.NOT_FOUND:  # the daemon saw the end first, and released it itself
                told.print(f"cotenant: {error}", markup=False)
    raise typer.Exit(code if code >= 0 else 128 - code)


@app.command()
def place(
    pids: Annotated[list[int], typer.Argument(help="Process ids; all their threads are placed")],
    name: NameOption,
    cpus: CpusOption = 1,
    slo: SloOption = None,
    profile: ProfileOption = None,
    whole_cores: CoresOption = False,
    best_effort: BestEffortOption = False,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Place running processes and read back that every thread is there."""
    with Client(socket) as client:
        placement = client.place(
            name,
            pids=pids,
            cpus=cpus,
            slo=parse_slo(slo or []),
            profile=profile,
            whole_cores=whole_cores,
            allow_best_effort=best_effort,
        )
    _show(placement, as_json=as_json)


@app.command()
def preview(
    name: NameOption,
    cpus: CpusOption = 1,
    slo: SloOption = None,
    profile: ProfileOption = None,
    whole_cores: CoresOption = False,
    best_effort: BestEffortOption = False,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask where a workload would go and what it and its neighbours would suffer; touch nothing."""
    with Client(socket) as client:
        placement = client.preview(
            name,
            cpus=cpus,
            slo=parse_slo(slo or []),
            profile=profile,
            whole_cores=whole_cores,
            allow_best_effort=best_effort,
        )
    _show(placement, as_json=as_json)


@app.command(name="list")
def list_placements(
    socket: SocketOption = None,
    released: Annotated[bool, typer.Option(help="Released ones too")] = False,
    as_json: JsonOption = False,
) -> None:
    """List placements: where, how many threads, predicted slowdown when placed."""
    with Client(socket) as client:
        found = list(client.placements(released=released))
    if as_json:
        _print_json([_plain(one) for one in found])
        return
    table = Table(
        *("workload", "state", "CPUs", "mems", "cache ways", "bandwidth", "threads", "predicted slowdown", "by"),
        box=None,
    )
    for one in found:
        own = [prediction for prediction in one.predictions if prediction.workload == one.name]
        said = f"{own[0].slowdown:.2f} ({own[0].lower:.2f}-{own[0].upper:.2f})" if own else "unknown"
        state = placement_pb2.PlacementState.Name(one.state).removeprefix("PLACEMENT_STATE_")
        held = (one.mems or "-", ways_of(one) or "-", caps_of(one) or "-")
        table.add_row(one.name, state, one.cpus, *held, str(one.threads), said, one.mechanism)
    _out.print(table if found else "no placements")


@app.command()
def explain(name: str, socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Say why a workload was placed where it is: candidates, predictions, what decided."""
    with Client(socket) as client:
        placement = client.get(name)
    if as_json:
        given = {name: value for name, value in _plain(placement).items() if name in _GIVEN}
        _print_json(_plain(placement.explanation) | given)
        return
    explain_to(_out, placement)


@app.command()
def release(names: list[str], socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Give workloads their exact earlier state back."""
    with Client(socket) as client:
        done = [client.release(name) for name in names]
    if as_json:
        _print_json([_plain(one) for one in done])
        return
    for one in done:
        _out.print(f"{one.name}: released" + "".join(f"; {note}" for note in one.notes))


@app.command()
def rebalance(
    max_moves: Annotated[int, typer.Option(min=1, help="Most workloads to move")] = 4,
    min_gain: Annotated[float, typer.Option(min=0, max=1, help="Least fall of the total cost, as a share")] = 0.05,
    preview_only: Annotated[bool, typer.Option("--preview", help="Say what would move; touch nothing")] = False,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plan each placed workload anew and move those whose predicted cost falls enough."""
    with Client(socket) as client:
        answer = client.rebalance(max_moves=max_moves, min_gain=min_gain, validate_only=preview_only)
    if as_json:
        _print_json(_plain(answer))
        return
    _out.print(f"total cost {answer.cost_before:.3f} -> {answer.cost_after:.3f}, {len(answer.moved)} moved")
    for one in answer.moved:
        _out.print(f"  {one.name}: CPUs {one.cpus}: {one.explanation.summary}")


@app.command()
def events(
    after: Annotated[int, typer.Option(min=0, help="Only later than this sequence number")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what happened, oldest first."""
    with Client(socket) as client:
        found = client.events(after_sequence=after, limit=limit)
    if as_json:
        _print_json([_plain(one) for one in found])
        return
    table = Table("#", "time (UTC)", "what", "workload", "detail", box=None)
    for one in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.time_unix_s))
        table.add_row(str(one.sequence), when, one.kind, one.workload, one.detail)
    _out.print(table if found else "no events")


def _as_name(text: str) -> str:
    """Make a workload name of a command's."""
    return re.sub(r"[^a-z0-9._-]", "-", text.lower())[:40].lstrip("._-") or "command"


def explain_to(console: Console, placement: placement_pb2.Placement) -> None:
    """Print an explanation for a human."""
    told = placement.explanation
    console.print(told.summary)
    given = {"CPUs": placement.cpus, "memory nodes": placement.mems}
    given |= {"cache ways": ways_of(placement), "memory bandwidth": caps_of(placement)}
    console.print("; ".join(f"{what} {value}" for what, value in given.items() if value))
    source = f"fallback: {placement.fallback}" if placement.fallback else f"predicted by model {told.model_id}"
    count = told.candidates_considered
    console.print(f"{source}; {count} CPU set{'s' * (count != 1)} considered; decided by: {told.decided_by}")
    if told.binding_constraint:
        console.print(f"binding: {told.binding_constraint}")
    table = Table("CPUs", "cost", "fits", "predicted slowdown of each (lower-upper)", box=None)
    for one in told.candidates:
        said = ", ".join(f"{p.workload} {p.slowdown:.2f} ({p.lower:.2f}-{p.upper:.2f})" for p in one.predictions)
        table.add_row(one.cpus, f"{one.cost:.3f}", "yes" if one.feasible else one.reason, said)
    console.print(table)
    for part in told.contributions:
        if abs(part.factor - 1) >= 0.005:
            console.print(f"  {part.aggressor}: {part.cause.replace('_', ' ')} x {part.factor:.2f}")


def ways_of(placement: placement_pb2.Placement) -> str:
    """Write cache ways as the kernel does, "0=ff;1=f"; empty = not restricted."""
    return ";".join(f"{one.cache_id}={one.mask}" for one in placement.cache_ways)


def caps_of(placement: placement_pb2.Placement) -> str:
    """Write bandwidth caps by cache, "0=50 %;1=2.5 GB/s"; empty = not held."""
    return ";".join(
        f"{one.cache_id}={one.percent} %"
        if one.HasField("percent")
        else f"{one.cache_id}={one.bytes_per_s / 1e9:.3g} GB/s"
        for one in placement.memory_bandwidth
    )


def _show(placement: placement_pb2.Placement, *, as_json: bool) -> None:
    if as_json:
        _print_json(_plain(placement))
    else:
        explain_to(_out, placement)


def _plain(message: Message) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
