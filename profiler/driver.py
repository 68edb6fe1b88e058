"""What loads a server while it is measured, from CPUs of its own, and tells how much it got done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from isolation.cpuset import CpuSet
from isolation.topology import Topology
from profiler.command import PinnedCommand
from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.progress import ProgressWriter
from profiler.token_stream import CompletionEndpoint

_TURNS = 1_000_000  # it is ended when the measurement is over
_OUTPUT_TOKENS = 128
_PAUSE_S = 0.1

#: Tells why a server is not ready yet; empty = it is.
Readiness = Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A load generator; it is started when the workload is ready."""

    command: tuple[str, ...]
    cpus: CpuSet
    ready: Callable[[PinnedCommand, float], None]  #: waits so many seconds at most; raises WorkloadFailed


def driver_cpus(topology: Topology, taken: CpuSet, count: int = 1) -> CpuSet:
    """Choose CPUs for a load generator that are not the server's; raises RecordInvalid if there are too few."""
    free = list(topology.usable - taken)
    if len(free) < count:
        raise RecordInvalid(
            f"the load generator needs {count} CPUs besides {taken}, which the server has; usable here are "
            f"{topology.usable}: give the server fewer with --cpus"
        )
    return CpuSet.of(free[:count])


def token_driver(url: str, cpus: CpuSet) -> Driver:
    """Ask an OpenAI-compatible endpoint again and again; it is ready when it has answered once."""
    endpoint = CompletionEndpoint(url, timeout_s=10.0)

    def answers() -> str:
        try:
            endpoint.ask("Hello", output_tokens=1, progress=ProgressWriter(None))
        except WorkloadFailed as error:  # still loading, or not there
            return str(error)
        return ""

    command = (sys.executable, "-P", "-m", "profiler.token_stream", url)
    options = ("--turns", str(_TURNS), "--output-tokens", str(_OUTPUT_TOKENS))
    return Driver(
        command=command + options, cpus=cpus, ready=lambda server, limit_s: await_ready(server, answers, limit_s)
    )


def await_ready(server: PinnedCommand, readiness: Readiness, limit_s: float) -> None:
    """Ask until the server is ready; raises WorkloadFailed, with its last words, if it ends or stays unready."""
    start_s = time.monotonic()
    while why := readiness():
        if server.wait(_PAUSE_S):
            raise WorkloadFailed(f"{server.ended_why()}, before it was ready")
        if time.monotonic() - start_s > limit_s:
            raise WorkloadFailed(f"the server was not ready within {limit_s:g} s: {why}{server.last_words()}")
