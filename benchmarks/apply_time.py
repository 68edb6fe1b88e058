"""`python -m benchmarks.apply_time`: what confining and giving back costs, beside the bare system calls it needs.

The bare calls are those of benchmarks/bare_group.py, which says what they do and what they leave out. Both work on the
same process, in the same home folder, which another placement keeps in being; each round times the bare calls, the
enforcer, and the bare calls again, so that what the machine does meanwhile hits both. A multiple is that of one round:
the enforcer's time by the mean of the two around it. The snapshot before and the check after are timed, too, but are
no part of applying. The planner and the journal are not in these figures: benchmarks/latency.py times whole answers.
Where the kernel allows it, all this runs before ordinary processes, for on a busy machine a call that is longer than
the scheduler's slice waits and a shorter one does not. Last, at usual priority, one turn of the reconciler over 200
placements of one thread each that are in order (benchmarks/upkeep.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.bare_group import BareGroup, Process
from benchmarks.errors import WorkloadSilent
from benchmarks.timing import cells, timed_us
from benchmarks.upkeep import time_turns
from isolation.cgroup import CpusetHierarchy, find_hierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer, Mechanism, Target
from isolation.process import identify
from isolation.spec import IsolationSpec
from isolation.topology import Topology, read_topology
from profiler.tokens import quantile

_ROUNDS = 200
_WARM_UP = 5
_THREADS = (1, 16, 128)
_PLACEMENTS = 200
_TURNS = 20
_MULTIPLE = 2.0  # of the bare calls, for the median of apply and of release
_APPLY, _RELEASE = "apply", "release"
_BARE = {_APPLY: "bare calls that apply", _RELEASE: "bare calls that release"}
_OTHERS = ("snapshot", "apply again", "verify")

_SLEEPERS = """
import sys, threading
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def sleepers(threads: int) -> Iterator[int]:
    """Run a process of that many threads that sleep; yields its pid. Raises WorkloadSilent when it does not start."""
    command = [sys.executable, "-I", "-S", "-c", _SLEEPERS, str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy
        try:
            if process.stdout.readline() != b"up\n":
                raise WorkloadSilent(f"a process of {threads} sleeping threads ended with {process.wait()}")
            yield process.pid
        finally:
            process.kill()


@contextmanager
def undisturbed() -> Iterator[bool]:
    """Let no ordinary process interrupt this one (SCHED_FIFO); yields whether the kernel allows it.

    A call longer than the scheduler's slice would else wait for others where a shorter one does not.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Rounds:
    """Times of one size of workload, in microseconds by name, in the order of the rounds."""

    def __init__(self) -> None:
        names = (_APPLY, _RELEASE, *_OTHERS, *_BARE.values())
        self.times_us: dict[str, list[float]] = {name: [] for name in names}

    def multiples(self, name: str) -> list[float]:
        """Return by round: the enforcer's time by the mean of the bare ones before and after it."""
        bare = self.times_us[_BARE[name]]
        around = zip(bare[::2], bare[1::2], strict=True)
        return [2 * own / sum(pair) for own, pair in zip(self.times_us[name], around, strict=True)]


def measure(
    enforcer: Enforcer, hierarchy: CpusetHierarchy, *, home: str, spec: IsolationSpec, threads: int, rounds: int
) -> Rounds:
    """Time that many rounds; `home` is the folder of the enforcer's groups and has to be there."""
    found = Rounds()
    with sleepers(threads) as pid:
        identity = identify(pid, allowed_uids=frozenset({os.getuid()}))
        target = Target(processes=(identity,))
        states = enforcer.snapshot("timed", target).threads
        before = states[0]
        process = Process(pid, {state.tid: state.starttime_ticks for state in states})
        bare = BareGroup(hierarchy.mount, version=hierarchy.version, home=home, origin=before.cgroup or "/")

        def bare_calls() -> None:
            found.times_us[_BARE[_APPLY]].append(timed_us(lambda: bare.apply(process, str(spec.cpus))))
            found.times_us[_BARE[_RELEASE]].append(timed_us(lambda: bare.release(process, str(before.cpus))))

        def enforced() -> None:
            found.times_us["snapshot"].append(timed_us(lambda: enforcer.snapshot("timed", target)))
            undo = enforcer.snapshot("timed", target)
            for name in (_APPLY, "apply again"):
                found.times_us[name].append(timed_us(lambda: enforcer.apply("timed", target, spec, undo)))
            found.times_us["verify"].append(timed_us(lambda: enforcer.verify(target, spec, undo)))
            found.times_us[_RELEASE].append(timed_us(lambda: enforcer.release(undo)))

        for number in range(_WARM_UP + rounds):
            if number == _WARM_UP:
                found = Rounds()
            bare_calls()
            enforced()
            bare_calls()
    return found


def measure_sizes(topology: Topology, *, rounds: int, sizes: Sequence[int] = _THREADS) -> dict[int, Rounds] | None:
    """Time each size of workload, by its threads; None = no cpuset group can be written here."""
    prefix = f"cotenant-bench-{os.getpid()}"
    enforcer, hierarchy = Enforcer.for_host(topology, prefix=prefix), find_hierarchy()
    if hierarchy is None or enforcer.mechanism is Mechanism.AFFINITY:
        return None
    spec = IsolationSpec(cpus=CpuSet.of([min(topology.usable)]))
    found = {}
    with sleepers(1) as keeper, Progress(transient=True) as progress:
        target = Target(processes=(identify(keeper, allowed_uids=frozenset({os.getuid()})),))
        undo = enforcer.snapshot("keeper", target)
        enforcer.apply("keeper", target, spec, undo)
        try:
            for threads in progress.track(sizes, description="applying"):
                found[threads] = measure(
                    enforcer, hierarchy, home=f"/{prefix}", spec=spec, threads=threads, rounds=rounds
                )
        finally:
            enforcer.release(undo)
    return found


def report(found: dict[int, Rounds], title: str) -> bool:
    """Print the figures; tells whether the mark holds for every size."""
    console = Console(highlight=False)
    table = Table("threads", "what", "times", "p50 µs", "p99 µs", "by bare calls", "10 % to 90 %", title=title)
    worst = dict.fromkeys(_BARE, 0.0)
    for threads, rounds in found.items():
        for name in (*_BARE, *_BARE.values(), *_OTHERS):
            times_us = rounds.times_us[name]
            shown = ("", "")
            if name in _BARE:
                multiples = rounds.multiples(name)
                worst[name] = max(worst[name], median(multiples))
                low, high = quantile(multiples, 0.1), quantile(multiples, 0.9)
                shown = (f"{median(multiples):.2f}", f"{low:.2f} to {high:.2f}")
            table.add_row(str(threads), name, *cells(times_us), *shown)
        table.add_section()
    console.print(table)
    for name, multiple in worst.items():
        console.print(f"{name}: at most {multiple:.2f} times the bare calls, median (mark: {_MULTIPLE:g})")
    return max(worst.values()) <= _MULTIPLE


def main(rounds: int = _ROUNDS) -> None:
    """Time apply and release for 1, 16 and 128 threads; exit code 1 when the mark is missed."""
    topology = read_topology()
    with undisturbed() as alone:
        found = measure_sizes(topology, rounds=rounds)
    if found is None:
        sys.stdout.write("apply time: not measured, since no cpuset group can be written here; run as root\n")
        return
    hierarchy = find_hierarchy()
    version = "" if hierarchy is None else f" v{hierarchy.version}"
    if not alone:
        sys.stdout.write(
            "timed at usual priority (SCHED_FIFO was refused): on a busy machine longer calls wait longer\n"
        )
    holds = report(found, f"cgroup{version}")
    times, p50_us, p99_us = cells(time_turns(topology, placements=_PLACEMENTS, turns=_TURNS))
    sys.stdout.write(
        f"a turn over {_PLACEMENTS} placements in order: p50 {p50_us} µs, p99 {p99_us} µs ({times} turns)\n"
    )
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    typer.run(main)
