"""Programs of known behaviour that run beside a workload, each on one CPU, until they are killed.

    python -m profiler.probes pressure --bytes N [--share S]   copies between two arrays that hold N bytes together
    python -m profiler.probes stream --bytes N [--share S]     reads one array from end to end; work is bytes read
    python -m profiler.probes reader --bytes N                 reads lines of one array in random order

With a share they work for that part of each ten milliseconds and sleep for the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from isolation.cpuset import CpuSet
from profiler.command import PinnedCommand
from profiler.errors import WorkloadFailed
from profiler.memory_kernels import LINE_BYTES, Kernel, RandomReads, Streaming, allocate
from profiler.progress import ProgressWriter

_START_LIMIT_S = 20.0
_PERIOD_S = 0.01
_COPY_STEP_BYTES = 2 << 20  # below the size from which memcpy goes around the caches


def probe_command(kind: str, size_bytes: int, *, share: float = 1.0) -> tuple[str, ...]:
    """Give the command line of a probe program."""
    command = (sys.executable, "-P", "-m", "profiler.probes", kind, "--bytes", str(size_bytes))
    return (*command, "--share", str(share))


class Probe(PinnedCommand):
    """One probe program, running on one CPU."""

    def __init__(self, kind: str, cpu: int, size_bytes: int, folder: Path, *, share: float = 1.0) -> None:
        """Start it and wait until it works; raises WorkloadFailed if it does not."""
        folder.mkdir()
        super().__init__(probe_command(kind, size_bytes, share=share), CpuSet.of([cpu]), folder)
        try:
            deadline_s = time.monotonic() + _START_LIMIT_S
            while self.progress.covered_s is None:
                if not self.poll() or time.monotonic() > deadline_s:
                    raise WorkloadFailed(f"the {kind} probe did not start: {self.ended_why()}")
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise


class Copying:
    """Copies the first half of its memory to the second, round and round; units are bytes copied."""

    def __init__(self, size_bytes: int) -> None:
        self._source, self._target = np.split(allocate(max(2 * LINE_BYTES, size_bytes // 16 * 16)), 2)
        self._step = min(len(self._source), _COPY_STEP_BYTES // 8)
        self._at = 0

    def step(self) -> int:
        """Copy two mebibytes, or all where that is less."""
        if self._at + self._step > len(self._source):
            self._at = 0
        part = slice(self._at, self._at + self._step)
        np.copyto(self._target[part], self._source[part])
        self._at += self._step
        return self._step * 8


_KERNELS: dict[str, Callable[[int], Kernel]] = {"pressure": Copying, "stream": Streaming, "reader": RandomReads}


def run(kernel: Kernel, share: float, writer: ProgressWriter) -> None:
    """Work for a share of each period, for ever."""
    while True:
        started_s = time.monotonic()
        while time.monotonic() - started_s < share * _PERIOD_S:
            writer.add(kernel.step())
        if share < 1:
            time.sleep(max(0.0, started_s + _PERIOD_S - time.monotonic()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one probe program until it is killed."""
    parser = argparse.ArgumentParser(prog="python -m profiler.probes")
    parser.add_argument("kind", choices=_KERNELS)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    chosen = parser.parse_args(arguments)
    if not 2**16 <= chosen.bytes <= 2**34:
        parser.error(f"--bytes is {chosen.bytes}, must be 65536 to 17179869184")
    if not 0.01 <= chosen.share <= 1:
        parser.error(f"--share is {chosen.share}, must be 0.01 to 1")
    run(_KERNELS[chosen.kind](chosen.bytes), chosen.share, ProgressWriter.from_environment())


if __name__ == "__main__":
    main()
