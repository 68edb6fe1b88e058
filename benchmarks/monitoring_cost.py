"""What watching costs: the daemon with and without it, and workloads that are watched beside those that are not.

    python -m benchmarks.monitoring_cost [--seconds S] [--rounds N]

The daemon: CPU time and memory of one that watches sixteen processes each second and of one that does not, in turns.
The workload: its own rate while every source reads it (counters of its threads where there are any, /proc, pressure, a
turn of the monitor each second) and while none does, in slices A B A B A, each B against the A before and after it.
The limits are 1 % of a core, 5 MB and 1 % of speed. Ends with 1 if one of them is missed.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client
from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.command import PinnedCommand
from profiler.counters import HARDWARE, STALLS, Counters, Event
from profiler.errors import CountersUnavailable
from profiler.host_costs import bracketed
from profiler.monitoring import Monitor, Watched
from profiler.probes import probe_command
from profiler.procfs import cpu_times_s

_WORKLOADS = 16
_CPU_LIMIT, _MEMORY_LIMIT_BYTES, _SPEED_LIMIT = 0.01, 5e6, 0.01
_SETTLE_S = 2.0
_SOFTWARE = (Event.TASK_CLOCK_NS, Event.CONTEXT_SWITCHES, Event.PAGE_FAULTS)
_PROGRAM = "import time\nwhile True: time.sleep(0.05)"


def daemon_cost(folder: Path, *, watching: bool, seconds: float) -> tuple[float, float]:
    """Place sixteen processes by a daemon of our own; gives its CPU seconds per second and its resident bytes."""
    os.environ["COTENANT_MONITOR_S"] = "1" if watching else "0"
    with ExitStack() as stack:
        children = []
        for _ in range(_WORKLOADS):
            child = stack.enter_context(subprocess.Popen([sys.executable, "-S", "-c", _PROGRAM]))
            stack.callback(child.kill)
            children.append(child)
        daemon = stack.enter_context(DaemonProcess(folder, "--metrics", "127.0.0.1:0"))
        client = stack.enter_context(Client(daemon.socket))
        for number, child in enumerate(children):
            client.place(f"w{number}", pids=[child.pid], cpus=1, allow_best_effort=True)
            stack.callback(client.release, f"w{number}")
        time.sleep(_SETTLE_S)
        before_s, started_s = sum(cpu_times_s(daemon.pid)), time.monotonic()
        time.sleep(seconds)
        used_s = sum(cpu_times_s(daemon.pid)) - before_s
        return used_s / (time.monotonic() - started_s), _resident_bytes(daemon.pid)


def observer_effect(folder: Path, *, slice_s: float, rounds: int) -> list[float]:
    """Give rate alone / rate watched of a workload in the cache, once for each round."""
    cpu = list(read_topology().usable)[-1]
    command = probe_command("reader", 1 << 20)
    with PinnedCommand(command, CpuSet.of([cpu]), folder) as workload:
        while workload.poll() and workload.progress.covered_s is None:
            time.sleep(0.05)
        time.sleep(1.0)
        rates = [_rate(workload, slice_s, watched=bool(number % 2)) for number in range(2 * rounds + 1)]
        return [around / during for during, around in bracketed(rates)]


def _rate(workload: PinnedCommand, slice_s: float, *, watched: bool) -> float:
    """Give work per second of CPU time: whoever else uses its CPU is not what is asked about."""
    pids = workload.family()
    monitor = Monitor()
    with ExitStack() as stack:
        if watched:
            stack.callback(monitor.close)
            for events in (HARDWARE, _SOFTWARE):
                try:
                    stack.enter_context(Counters(pids, events, also=STALLS if events == HARDWARE else ()))
                except CountersUnavailable:
                    continue
        time.sleep(0.05)
        used_s = sum(_scheduled_s(pid) for pid in pids)
        started_s = time.monotonic()
        while (left_s := started_s + slice_s - time.monotonic()) > 0:
            if watched:
                monitor.turn({"workload": Watched(pids=tuple(pids))})
            time.sleep(min(1.0, left_s))
        used_s = sum(_scheduled_s(pid) for pid in pids) - used_s
        ended_s = time.monotonic()
        time.sleep(0.1)
        workload.poll()
        done = workload.progress.work_at(ended_s) - workload.progress.work_at(started_s)
        return done / used_s if used_s > 0 else math.nan


def _scheduled_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _resident_bytes(pid: int) -> float:
    return float(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether the limits were kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monitoring_cost", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cotenant-watching-") as temporary:
        costs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for number in range(2 * chosen.rounds):
            watching = bool(number % 2)
            folder = Path(temporary, f"state-{number}")
            costs[watching].append(daemon_cost(folder, watching=watching, seconds=chosen.seconds))
        slowdowns = observer_effect(Path(temporary), slice_s=chosen.seconds / 5, rounds=4 * chosen.rounds)
    cpu = {key: statistics.median(one for one, _ in found) for key, found in costs.items()}
    memory = {key: statistics.median(one for _, one in found) for key, found in costs.items()}
    rows = (
        ("daemon, CPU of one core", cpu[False], cpu[True], cpu[True] - cpu[False], _CPU_LIMIT, ".3%"),
        (
            "daemon, resident MB",
            memory[False] / 1e6,
            memory[True] / 1e6,
            (memory[True] - memory[False]) / 1e6,
            _MEMORY_LIMIT_BYTES / 1e6,
            ".2f",
        ),
        (
            "workload, CPU time for its work",
            1.0,
            statistics.median(slowdowns),
            statistics.median(slowdowns) - 1,
            _SPEED_LIMIT,
            ".3%",
        ),
    )
    table = Table("", "not watched", "watched", "difference", "limit", "kept")
    for name, without, watched, difference, limit, form in rows:
        table.add_row(
            name, *(format(one, form) for one in (without, watched, difference, limit)), str(difference < limit)
        )
    Console(width=110).print(table)
    ends = f"{min(slowdowns) - 1:+.2%} to {max(slowdowns) - 1:+.2%}"
    Console(width=110).print(f"workload, {len(slowdowns)} pairs: {ends}; {_WORKLOADS} workloads watched each second")
    return 0 if all(difference < limit for _, _, _, difference, limit, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
