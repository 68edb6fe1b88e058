"""Real processes whose memory is on a node of the test's choice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.fakes.children import end_group

_PROGRAM = """
import ctypes, mmap, os, platform, sys, time
size, node, shared, path = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
def policy(mode, nodes):
    number = {"x86_64": 238, "aarch64": 237, "riscv64": 237}[platform.machine()]  # set_mempolicy
    mask = ctypes.byref(ctypes.c_ulong(nodes)) if nodes else None
    if libc.syscall(number, mode, mask, 64 if nodes else 0):
        raise OSError(ctypes.get_errno(), "set_mempolicy")
policy(2, 1 << node)  # MPOL_BIND
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
memory.madvise(mmap.MADV_DONTNEED, size - mmap.PAGESIZE, mmap.PAGESIZE)
if path:
    with open(path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    for at in range(0, len(mapped), mmap.PAGESIZE):
        mapped[at] = 1
policy(0, 0)
if shared and os.fork() == 0:
    time.sleep(600)
print(hex(address), flush=True)
time.sleep(600)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProcess:
    """A process with a row of pages; the last one is not present."""

    pid: int
    address: int


@contextmanager
def memory_process(size_bytes: int, node: int, *, shared: bool = False, path: str = "") -> Iterator[MemoryProcess]:
    """Run one; shared = a child has the same pages mapped. With a path, every page of that file is written there."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(size_bytes), str(node), str(int(shared)), path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        try:
            yield MemoryProcess(pid=process.pid, address=int(process.stdout.readline(), 16))
        finally:
            end_group(process.pid)
            process.wait(10)
