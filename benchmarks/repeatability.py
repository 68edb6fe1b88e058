"""Profiles each workload twice in a row and tells how far the two differ: what does not mark itself must repeat.

    python -m benchmarks.repeatability [NAME...] [--cpu N] [--no-probes]

NAME is a built-in workload or an entry of `cotenant catalogue`; without one, all built-ins. Exits with 1 if the median
feature of a pair, or its rate, differs by more than 10 % although neither run marked itself. "second" is the mark that
the second gets beside the first when it is stored (profiler/comparison.py has the rule); what did not repeat is named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.workloads import catalogue
from isolation.cpuset import CpuSet
from isolation.topology import Topology, read_topology
from profiler.catalogue import read_catalogue
from profiler.collector import collect
from profiler.comparison import (
    REPEATABLE_RATIO,
    beside_the_last,
    median_difference,
    rate_difference,
    unrepeated,
)
from profiler.errors import ProfilerError
from profiler.interruption import ended_by_signals
from profiler.records import Quality, WorkloadProfile
from profiler.staging import staged


def profile_once(name: str, cpus: CpuSet, topology: Topology, *, probes: bool) -> WorkloadProfile:
    """Profile a built-in or a catalogue entry by its name; raises ProfilerError if that fails."""
    built_in = {one.name: one for one in catalogue()}
    if name in built_in:
        return collect(name, built_in[name].argv, cpus=cpus, probes=probes)
    entry = read_catalogue()[name]
    with staged(entry, cpus, topology) as ready:
        return collect(name, ready.command, cpus=cpus, probes=probes, metric=entry.metric, driver=ready.driver)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each workload."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repeatability")
    parser.add_argument("names", nargs="*", default=[one.name for one in catalogue()])
    parser.add_argument("--cpu", type=int, default=None)
    parser.add_argument("--no-probes", action="store_true")
    given = parser.parse_args(arguments)
    topology = read_topology()
    known = {one.name for one in catalogue()} | set(read_catalogue())
    if unknown := set(given.names) - known:
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(sorted(known))}")
    cpus = CpuSet.of(list(topology.usable)[-1:] if given.cpu is None else [given.cpu])
    failed = False
    columns = f"{'workload':<12}{'seconds each':>14}{'median feature':>16}{'rate':>9}"
    sys.stdout.write(f"{columns}  {'marked itself':<18}{'second':<10}did not repeat\n")
    with ended_by_signals():
        for name in given.names:
            start_s = time.monotonic()
            try:
                first, second = (profile_once(name, cpus, topology, probes=not given.no_probes) for _ in range(2))
            except ProfilerError as error:
                sys.stdout.write(f"{name:<12}{error}\n")
                continue
            each_s = (time.monotonic() - start_s) / 2
            apart = median_difference(first.features, second.features)
            rate = rate_difference(first.features, second.features)
            marked = {one.quality for one in (first, second)} - {Quality.STABLE}
            missed = not marked and (apart > REPEATABLE_RATIO or rate > REPEATABLE_RATIO)
            failed = failed or missed
            told = ", ".join(sorted(marked)) or ("MISSED" if missed else "no")
            mark = beside_the_last(first, second).quality
            others = ", ".join(f"{one} {far:.0%}" for one, far in unrepeated(first.features, second.features))
            line = f"{name:<12}{each_s:>14.1f}{apart:>16.1%}{rate:>9.1%}  {told:<18}{mark:<10}{others or 'nothing'}\n"
            sys.stdout.write(line)
            sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
