"""Loops over memory of a chosen size, which calibration and probes are made of.

numpy is no bottleneck here: streaming and independent random reads ran within a tenth of compiled C at every size from
1 MiB up. What it cannot do is wait for one load before the next; that one loop is compiled where a compiler is found.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 64
_WORDS = LINE_BYTES // np.dtype(np.intp).itemsize
_CHAINS = 4096  # loads in flight in one call; the CPU decides how many of them really are
_LINES_A_STEP = 16_384
_STREAM_STEP_BYTES = 2 << 20
_COMPILE_LIMIT_S = 20
_SOURCE = (
    "#include <stddef.h>\nsize_t chase(const size_t *m, size_t at, size_t n) { while (n--) at = m[at]; return at; }\n"
)


class Kernel(Protocol):
    """A loop cut into steps of some ten microseconds to a millisecond."""

    def step(self) -> int:
        """Do one step; gives the units done: bytes or loads."""


def allocate(size_bytes: int) -> NDArray[np.intp]:
    """Give zeroed words in huge pages where the kernel grants them, so that address translation is not measured."""
    memory = mmap.mmap(-1, size_bytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    words = np.frombuffer(memory, dtype=np.intp)[: size_bytes // 8]
    words[:] = 0
    return words


def cycle(size_bytes: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give memory whose lines point at each other in one random cycle, and the order of that cycle (word indices)."""
    lines = max(2, size_bytes // LINE_BYTES)
    order = np.random.default_rng(1).permutation(lines).astype(np.intp) * _WORDS
    memory = allocate(lines * LINE_BYTES)
    memory[order] = np.roll(order, -1)
    return memory, order


class Streaming:
    """Reads all words one after the other, round and round; units are bytes."""

    def __init__(self, size_bytes: int) -> None:
        self._words = allocate(max(LINE_BYTES, size_bytes))
        self._step = min(len(self._words), _STREAM_STEP_BYTES // 8)
        self._rounds = max(1, _STREAM_STEP_BYTES // 8 // self._step)
        self._at = 0

    def step(self) -> int:
        """Read two mebibytes."""
        for _ in range(self._rounds):
            if self._at + self._step > len(self._words):
                self._at = 0
            self._words[self._at : self._at + self._step].max()
            self._at += self._step
        return self._rounds * self._step * 8


class RandomReads:
    """Follows thousands of chains at a time, so that many loads are in flight; units are loads of one line each."""

    def __init__(self, size_bytes: int) -> None:
        self._memory, order = cycle(size_bytes)
        chains = min(_CHAINS, len(order) // 2)
        self._here = order[:: len(order) // chains][:chains].copy()
        self._there = np.empty_like(self._here)
        self._rounds = max(1, _LINES_A_STEP // chains)

    def step(self) -> int:
        """Read some sixteen thousand lines."""
        for _ in range(self._rounds):
            np.take(self._memory, self._here, out=self._there, mode="wrap")  # without a mode numpy copies `out` first
            self._here, self._there = self._there, self._here
        return self._rounds * len(self._here)


class DependentLoads:
    """Follows one chain, each load waiting for the one before; units are loads."""

    def __init__(self, library: ctypes.CDLL, size_bytes: int) -> None:
        self._library = library
        self._memory, _order = cycle(size_bytes)
        self._pointer = ctypes.c_void_p(self._memory.ctypes.data)
        self._at = 0

    def step(self) -> int:
        """Do four thousand loads."""
        self._at = self._library.chase(self._pointer, ctypes.c_size_t(self._at), ctypes.c_size_t(_CHAINS))
        return _CHAINS


def compile_loads() -> ctypes.CDLL | str:
    """Compile the loop of DependentLoads, or say why that is not possible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "the time of one load is unknown: no C compiler found (Debian: apt-get install gcc)"
    with tempfile.TemporaryDirectory(prefix="cotenant-loads-") as temporary:
        source, target = Path(temporary, "loads.c"), Path(temporary, "loads.so")
        source.write_text(_SOURCE)
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(source)]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMPILE_LIMIT_S)
            library = ctypes.CDLL(str(target))
        except (subprocess.SubprocessError, OSError) as error:
            words = getattr(error, "stderr", None) or str(error)
            return f"the time of one load is unknown: {compiler!r} failed: {words.strip().splitlines()[-1][:200]}"
    library.chase.restype = ctypes.c_size_t
    return library


def unit_times_s(kernel: Kernel, seconds: float) -> list[float]:
    """Run steps for so long; gives CPU seconds of this thread per unit, one value a step, at least five.

    CPU time, not wall time: whoever else uses this CPU then costs only what he does to the caches.
    """
    times: list[float] = []
    until_s = time.monotonic() + seconds
    while len(times) < 5 or time.monotonic() < until_s:
        started_ns = time.thread_time_ns()
        units = kernel.step()
        times.append((time.thread_time_ns() - started_ns) / 1e9 / units)
    return times
