"""Ordinary neighbours of an agent: one process, one thread, one resource each, told through the progress hook.

python -m benchmarks.workloads cpu|memory|latency|io [--bytes SIZE] [--seconds S] [--seed N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import math
import mmap
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError, ScratchUnusable, WorkloadInvalid
from benchmarks.stopping import Stop, positive_seconds
from isolation.topology import read_topology
from profiler.progress import ProgressWriter

LATE_S = 0.25  #: within which every workload of our own writes a line
_LINE_BYTES = 64
_ASSUMED_LLC_BYTES = 32 << 20
_SIZE = re.compile(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_CPU_BUFFER_BYTES = 16 << 10  # half of the smallest first-level cache in use
_COPY_BYTES = 2 << 20  # one step; below the size from which memcpy goes around the caches
_GATHER_CHAINS = 4096
_IO_BLOCK_BYTES = 256 << 10
_IO_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A command line that reports its work through $COTENANT_PROGRESS."""

    name: str
    argv: tuple[str, ...]
    unit: str  #: of "work"
    description: str
    replays: bool = False  #: stands still at SIGTSTP when its step is over, and begins anew when continued
    late_s: float = LATE_S  #: how long past a window's end to wait for its next line, so that the end is covered


def catalogue() -> tuple[Workload, ...]:
    """Give the workloads that come with this package."""
    python = (sys.executable, "-P", "-m")  # -P: no module from whatever folder we are called in
    kinds = (
        ("cpu", "bytes", "SHA-256 over a buffer in the first-level cache"),
        ("memory", "bytes", "streaming copy between two arrays, each four times the last-level cache"),
        ("latency", "loads", "dependent random loads over half of the last-level cache"),
        ("io", "bytes", "blocks written, forced to the disk and read back"),
    )
    return (
        *(
            Workload(name=name, argv=(*python, "benchmarks.workloads", name), unit=unit, description=text)
            for name, unit, text in kinds
        ),
        Workload(
            name="agent",
            argv=(*python, "benchmarks.agents", "--kind", "simple", "--threads", "1"),
            unit="tokens",
            description="llama.cpp on one thread, nearly continuous decoding",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a workload may be told; no size = relative to the last-level cache."""

    size_bytes: int | None
    seed: int
    folder: Path


def run_cpu(options: Options, stop: Stop, progress: ProgressWriter) -> None:
    """Compute in registers and the first-level cache."""
    size_bytes = options.size_bytes or _CPU_BUFFER_BYTES
    data = random.Random(options.seed).randbytes(size_bytes)  # noqa: S311 - any bytes do
    while not stop.reached():
        for _ in range(max(1, (1 << 20) // size_bytes)):  # about half a millisecond
            hashlib.sha256(data).digest()
            progress.add(size_bytes)


def run_memory(options: Options, stop: Stop, progress: ProgressWriter) -> None:
    """Copy one array to the other, round and round; `--bytes` is the size of each."""
    np = _single_threaded_numpy()
    size_bytes = options.size_bytes or 4 * llc_bytes()
    _check_fits(2 * size_bytes)
    source = np.full(size_bytes, 1, dtype=np.uint8)
    target = np.zeros_like(source)
    target.fill(2)  # first touch, so that no page is made during the measurement
    step_bytes = min(_COPY_BYTES, size_bytes)
    while True:
        for start in range(0, size_bytes, step_bytes):
            part = source[start : start + step_bytes]
            target[start : start + step_bytes] = part
            progress.add(part.nbytes)
            if stop.reached():
                return


def run_latency(options: Options, stop: Stop, progress: ProgressWriter) -> None:
    """Follow chains of pointers, one to a cache line, over `--bytes` in random order."""
    np = _single_threaded_numpy()
    lines = (options.size_bytes or llc_bytes() // 2) // _LINE_BYTES
    chains = min(_GATHER_CHAINS, lines // 2)
    if chains < 1:
        raise WorkloadInvalid(f"latency: --bytes {options.size_bytes} is below two cache lines of {_LINE_BYTES} bytes")
    _check_fits(lines * _LINE_BYTES)
    words = _LINE_BYTES // np.dtype(np.intp).itemsize
    order = np.random.default_rng(options.seed).permutation(lines) * words
    memory = np.zeros(lines * words, dtype=np.intp)
    memory[order] = np.roll(order, -1)  # one cycle through all lines
    here, there = order[:: lines // chains][:chains].copy(), np.empty(chains, dtype=np.intp)
    del order
    while not stop.reached():
        np.take(memory, here, out=there, mode="wrap")  # without a mode numpy copies `out` first
        here, there = there, here
        progress.add(chains)


def run_io(options: Options, stop: Stop, progress: ProgressWriter) -> None:
    """Write blocks, force each to the disk, read it back from there; around the page cache where possible."""
    size_bytes = options.size_bytes or _IO_FILE_BYTES
    if size_bytes < _IO_BLOCK_BYTES:
        raise WorkloadInvalid(f"io: --bytes {size_bytes} is below one block of {_IO_BLOCK_BYTES} bytes")
    written, read = (mmap.mmap(-1, _IO_BLOCK_BYTES) for _ in range(2))  # page-aligned, as O_DIRECT wants
    written.write(random.Random(options.seed).randbytes(_IO_BLOCK_BYTES))  # noqa: S311 - any bytes do
    try:
        with tempfile.TemporaryFile(dir=options.folder, buffering=0) as file:  # no name: nothing can be left behind
            handle = file.fileno()
            direct = _bypass_page_cache(handle)
            while True:
                for start in range(0, size_bytes - _IO_BLOCK_BYTES + 1, _IO_BLOCK_BYTES):
                    os.pwritev(handle, [written], start)
                    os.fdatasync(handle)
                    progress.add(_IO_BLOCK_BYTES)
                    if not direct:
                        os.posix_fadvise(handle, start, _IO_BLOCK_BYTES, os.POSIX_FADV_DONTNEED)
                    os.preadv(handle, [read], start)
                    progress.add(_IO_BLOCK_BYTES)
                    if stop.reached():
                        return
    except OSError as error:
        raise ScratchUnusable(
            f"io: a scratch file of {size_bytes} bytes in {str(options.folder)!r} failed: {error}; "
            "name a writable folder on a disk with --folder"
        ) from error


def _bypass_page_cache(handle: int) -> bool:
    """Switch to O_DIRECT: copying through the page cache would take half a CPU, and waiting is the point here."""
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: this file system cannot
            raise
        return False
    return True


KINDS: dict[str, Callable[[Options, Stop, ProgressWriter], None]] = {
    "cpu": run_cpu,
    "memory": run_memory,
    "latency": run_latency,
    "io": run_io,
}


def parse_size(text: str) -> int:
    """Read "4096", "64K" or "64KiB"; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    size_bytes = int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ") if match else 0
    if not 1 <= size_bytes < 1 << 50:
        raise WorkloadInvalid(f"size {text!r} is not a number of bytes above 0 such as 4096, 64KiB or 2G")
    return size_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one workload; 0 = ended by time or signal, 2 = an argument cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workloads", description="One traditional workload.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--bytes", type=_size_argument, help="working set, such as 64MiB; default: relative to the LLC")
    parser.add_argument("--seconds", type=positive_seconds, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="io: on a disk, not in memory")  # noqa: S108 - the file has no name
    given = parser.parse_args(arguments)
    stop = Stop(given.seconds)
    stop.install()
    options = Options(size_bytes=given.bytes, seed=given.seed, folder=given.folder)
    try:
        KINDS[given.kind](options, stop, ProgressWriter.from_environment())
    except BenchmarkError as error:
        sys.stderr.write(f"workload: {error}\n")
        return 2
    return 0


def llc_bytes() -> int:
    """Give the size of the largest last-level cache we may run in; a stated guess where the kernel hides it."""
    topology = read_topology()
    sizes = [domain.size_bytes for domain in topology.llc_domains if domain.cpus & topology.usable]
    known = [size for size in sizes if size is not None]
    if not known:
        sys.stderr.write(
            f"workload: the size of the last-level cache is unknown, assuming {_ASSUMED_LLC_BYTES} bytes\n"
        )
        return _ASSUMED_LLC_BYTES
    return max(known)


def _check_fits(wanted_bytes: int) -> None:
    """Refuse what would push the host into swapping: that measures something else."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if match and wanted_bytes > int(match[1]) * 1024 // 2:
        raise WorkloadInvalid(
            f"a working set of {wanted_bytes} bytes is more than half of the {int(match[1]) * 1024} available; "
            "name a smaller one with --bytes"
        )


def _single_threaded_numpy() -> Any:
    """Load numpy without its pool of BLAS threads, which would show up as ours."""
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    import numpy as np  # noqa: PLC0415 - only after the environment is set; cpu and io start without it

    return np


def _size_argument(text: str) -> int:
    try:
        return parse_size(text)
    except WorkloadInvalid as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
