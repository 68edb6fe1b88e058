"""A service of the catalogue with its load, as one workload of the experiment.

    python -m benchmarks.service NAME [--seconds S]      NAME as in `cotenant catalogue`

It tells its work through the progress hook, and stands still with all its processes at SIGTSTP. Server and load are one
member: they may use the same CPUs, wherever the isolation puts them.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.stopping import Stop, positive_seconds
from isolation.cpuset import CpuSet
from isolation.errors import IsolationError
from isolation.topology import Topology, read_topology
from profiler.catalogue import Entry, read_catalogue
from profiler.command import PinnedCommand
from profiler.errors import ProfilerError, RecordInvalid, WorkloadFailed
from profiler.metric import parse_metric
from profiler.output import OutputLog
from profiler.progress import ProgressWriter
from profiler.staging import staged

_START_LIMIT_S = 60.0
_POLL_S = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one; 0 = ended by time or signal, 2 = it cannot be run here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description="One service with its load.")
    parser.add_argument("name")
    parser.add_argument("--seconds", type=positive_seconds, default=math.inf)
    parser.add_argument("--seed", type=int, default=0, help="taken and ignored: a service draws its own numbers")
    given = parser.parse_args(arguments)
    stop = Stop(given.seconds)
    stop.install()
    stop.install_parking()
    try:
        run(found_entry(given.name), read_topology(), stop, ProgressWriter.from_environment())
    except (ProfilerError, IsolationError) as error:
        sys.stderr.write(f"service: {error}\n")
        return 2
    return 0


def found_entry(name: str) -> Entry:
    """Find a shipped entry that the experiment can measure; raises RecordInvalid saying why it cannot."""
    entries = read_catalogue()
    if name not in entries:
        raise RecordInvalid(f"{name!r} is no service of the catalogue; there are {', '.join(entries)}")
    entry = entries[name]
    if not parse_metric(entry.metric).reads_output:
        raise RecordInvalid(
            f"{name!r} tells its work by {entry.metric!r}, not while it runs: no window can be measured"
        )
    entry.require()
    return entry


def run(entry: Entry, topology: Topology, stop: Stop, progress: ProgressWriter) -> None:
    """Start it with its load and pass on what it tells; raises WorkloadFailed when either ends."""
    usable = list(topology.usable)
    with ExitStack() as stack:
        cpus = CpuSet.of(usable[: entry.workload.cpus])
        ready = stack.enter_context(staged(entry, cpus, topology, load_apart=False))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cotenant-service-")))
        log = OutputLog(parse_metric(entry.metric))
        server = PinnedCommand(ready.command, topology.usable, folder, output=None if ready.driver is not None else log)
        commands = [stack.enter_context(server)]
        if ready.driver is not None:
            ready.driver.ready(server, _START_LIMIT_S)
            (folder / "load").mkdir()
            load = PinnedCommand(ready.driver.command, topology.usable, folder / "load", output=log)
            commands.append(stack.enter_context(load))
        _pass_on(commands, log, stop, progress)


def _pass_on(commands: Sequence[PinnedCommand], log: OutputLog, stop: Stop, progress: ProgressWriter) -> None:
    passed = 0.0
    while True:
        for command in commands:
            if command.wait(_POLL_S):
                raise WorkloadFailed(command.ended_why())
        log.poll()
        if (covered := log.covered_s) is not None and (work := log.work_at(covered[1])) > passed:
            progress.told(covered[1], work)
            passed = work
        if stop.reached():
            for command in commands:
                command.pause()
            is_to_go_on = stop.park()
            for command in commands:
                command.resume()
            if not is_to_go_on:
                return


if __name__ == "__main__":
    sys.exit(main())
