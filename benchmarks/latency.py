"""`python -m benchmarks.latency`: what an answer of the daemon costs, beside a bare echo on the same server.

The echo is grpc.health.v1 Check on the daemon's own socket: a unary call that does nothing. Calls are timed in turns
(echo, preview, echo, ...), so that what the machine does meanwhile hits both. Previews ask about one profile after the
other; a warm one finds the ledger as the one before it did, a cold one is the first after a placement changed it.
Profiles and training data here are simulated and say so; the processes, cgroups and calls are real.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from statistics import median

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.daemon_process import DaemonProcess
from benchmarks.timing import cells, timed_us
from cotenant.v1 import placement_pb2, placement_pb2_grpc, workload_pb2
from isolation.topology import read_topology
from profiler.host import host_traits
from profiler.prior import prior
from profiler.records import Feature, Observation, Relation, Source, WorkloadProfile
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from profiler.training import train

_CALLS = 300
_PLACES = 100
_WARM_UP = 20
_POPULATIONS = (1, 16, 64)
_ECHO, _WARM, _COLD = "echo", "PreviewPlacement, warm", "PreviewPlacement, cold"
_PLACE, _RELEASE = "PlaceWorkload", "ReleaseWorkload"
_ECHO_MULTIPLE = 6.0  # of both previews' medians
_MEMORY_LIMIT_BYTES = 250e6


def simulated_profiles(fingerprint: str) -> list[WorkloadProfile]:
    """Make four profiles that differ in what they use; simulated, for timing only."""
    kinds = {
        "sim-cpu": (1.0, 0.05, 1.05),
        "sim-memory": (1.0, 0.9, 1.8),
        "sim-io": (0.1, 0.1, 1.1),
        "sim-llm": (0.9, 0.6, 1.5),
    }
    return [
        WorkloadProfile(
            name=name,
            cpus=1,
            features=tuple(
                Feature(name=feature, value=value, spread=None, source=Source.PROBE, window_s=1.0, samples=1)
                for feature, value in (
                    ("cpu_utilisation_ratio", cpu),
                    ("cache_pressure_ratio", pressure),
                    ("cache_sensitivity_sf", sensitivity),
                )
            ),
            host_fingerprint=fingerprint,
            created_unix_s=0.0,
            note="simulated",
        )
        for name, (cpu, pressure, sensitivity) in kinds.items()
    ]


def prepare(state: Path) -> None:
    """Store simulated profiles and a model trained on simulated observations, so that the usual path is timed."""
    host = host_traits(read_topology())
    profiles = {one.name: one for one in simulated_profiles(host.fingerprint)}
    store = ProfileStore(state / "profiles")
    for one in profiles.values():
        store.save(one, replace=True)
    relations = (Relation(1, 1, 1, 1, 1, 1), Relation(0, 0, 0, 1, 1, 1))
    observations = [
        Observation(
            victim=victim.name,
            aggressors=(aggressor.name,),
            relations=(relation,),
            slowdown=prior(victim, aggressor, relation, host).slowdown * 1.1,
            spread=0.02,
            repetitions=3,
            window_s=1.0,
            host_fingerprint=host.fingerprint,
            created_unix_s=0.0,
            origin="simulated",
        )
        for victim in profiles.values()
        for aggressor in profiles.values()
        for relation in relations
    ]
    registry = ModelRegistry(state / "models")
    registry.activate(registry.save(train(observations, profiles, host)))


class Bench:
    """Calls to one daemon, timed."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._health = health_pb2_grpc.HealthStub(channel)
        self._placements = placement_pb2_grpc.PlacementServiceStub(channel)

    def echo(self) -> object:
        """Call and do nothing."""
        return self._health.Check(health_pb2.HealthCheckRequest())

    def preview(self, profile: str) -> object:
        """Ask where a known class would go."""
        workload = workload_pb2.Workload(name="newcomer", cpus=1, profile_name=profile)
        return self._placements.PreviewPlacement(placement_pb2.PreviewPlacementRequest(workload=workload))

    def place(self, name: str, pid: int, profile: str) -> object:
        """Place one process."""
        workload = workload_pb2.Workload(
            name=name, cpus=1, profile_name=profile, pids=workload_pb2.PidTarget(pids=[pid])
        )
        return self._placements.PlaceWorkload(
            placement_pb2.PlaceWorkloadRequest(request_id=str(uuid.uuid4()), workload=workload)
        )

    def release(self, name: str) -> object:
        """Give it back."""
        return self._placements.ReleaseWorkload(
            placement_pb2.ReleaseWorkloadRequest(request_id=str(uuid.uuid4()), name=name)
        )


def time_calls(
    bench: Bench, pid: int, *, calls: int, places: int, on_call: Callable[[], None]
) -> dict[str, list[float]]:
    """Time each call in turn with the others; microseconds by name."""
    timed: dict[str, list[float]] = {name: [] for name in (_ECHO, _WARM, _COLD, _PLACE, _RELEASE)}
    profiles = cycle(one.name for one in simulated_profiles(""))

    def preview(kind: str) -> None:
        profile = next(profiles)
        timed[kind].append(timed_us(lambda: bench.preview(profile)))

    for _ in range(_WARM_UP):
        bench.echo()
        bench.preview(next(profiles))
    for _ in range(calls):
        timed[_ECHO].append(timed_us(bench.echo))
        preview(_WARM)
        on_call()
    for _ in range(places):
        timed[_ECHO].append(timed_us(bench.echo))
        timed[_PLACE].append(timed_us(lambda: bench.place("extra", pid, "sim-llm")))
        preview(_COLD)
        timed[_RELEASE].append(timed_us(lambda: bench.release("extra")))
        preview(_COLD)
        on_call()
    return timed


def measure(
    daemon: DaemonProcess, *, calls: int, places: int, populations: Sequence[int] = _POPULATIONS
) -> tuple[dict[int, dict[str, list[float]]], int]:
    """Time calls with more and more workloads placed; gives microseconds by population, and peak memory in bytes."""
    kinds = [one.name for one in simulated_profiles("")]
    names: list[str] = []
    found = {}
    with (
        grpc.insecure_channel(f"unix:{daemon.socket}") as channel,
        ExitStack() as sleeping,
        Progress(transient=True) as progress,
    ):

        def sleeper() -> int:
            process = sleeping.enter_context(subprocess.Popen(["sleep", "3600"]))
            sleeping.callback(process.terminate)
            return process.pid

        bench = Bench(channel)
        extra = sleeper()
        task = progress.add_task("calls", total=len(populations) * (calls + places))
        for population in populations:
            while len(names) < population:
                names.append(f"resident-{len(names)}")
                bench.place(names[-1], sleeper(), kinds[len(names) % len(kinds)])
            progress.update(task, description=f"{population} placed")
            found[population] = time_calls(
                bench, extra, calls=calls, places=places, on_call=lambda: progress.advance(task)
            )
        peak_bytes = daemon.peak_memory_bytes()
        for name in names:
            bench.release(name)
    return found, peak_bytes


def report(found: dict[int, dict[str, list[float]]], peak_bytes: int) -> bool:
    """Print the figures; tells whether the marks hold."""
    table = Table(
        "placed", "call", "calls", "p50 µs", "p99 µs", "p50 / echo p50", title="Python client over the Unix socket"
    )
    worst = dict.fromkeys((_WARM, _COLD), 0.0)
    for population, timed in found.items():
        for call, values in timed.items():
            multiple = median(values) / median(timed[_ECHO])
            if call in worst:
                worst[call] = max(worst[call], multiple)
            table.add_row(str(population), call, *cells(values), f"{multiple:.2f}")
    console = Console(highlight=False)
    console.print(table)
    console.print("profiles and training data: simulated; processes, cgroups, calls: real")
    for call, multiple in worst.items():
        console.print(f"{call}, p50: at most {multiple:.2f} times the echo (mark: {_ECHO_MULTIPLE:g})")
    console.print(f"peak memory of the daemon: {peak_bytes / 1e6:.0f} MB (mark: {_MEMORY_LIMIT_BYTES / 1e6:.0f})")
    return max(worst.values()) <= _ECHO_MULTIPLE and peak_bytes < _MEMORY_LIMIT_BYTES


def main(calls: int = _CALLS, places: int = _PLACES) -> None:
    """Time the daemon's calls with 1, 16 and 64 workloads placed; exit code 1 when a mark is missed."""
    with tempfile.TemporaryDirectory(prefix="cotenant-bench-") as folder:
        state = Path(folder) / "state"
        state.mkdir(mode=0o700)
        prepare(state)
        with DaemonProcess(state) as daemon:
            found, peak_bytes = measure(daemon, calls=calls, places=places)
    sys.exit(0 if report(found, peak_bytes) else 1)


if __name__ == "__main__":
    typer.run(main)
