"""The seam to the kernel's calls about single pages: move_pages, mincore, process_vm_readv, by ctypes."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import stat
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

PAGE_BYTES = mmap.PAGESIZE

#: A status the kernel has not written: it gave up before this page, or could not move it and does not say why.
UNTOLD = -1000

_MOVE_PAGES = {"x86_64": 279, "aarch64": 239, "riscv64": 239}
_MOVE = 2  # MPOL_MF_MOVE: only pages that no other process has mapped
_MOST_RANGES = 1024  # IOV_MAX


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class PageCalls(Protocol):
    """Asks about and moves pages of a process' address space; every method raises OSError."""

    def locate(self, pid: int, addresses: Sequence[int]) -> Sequence[int]:
        """Return the node of each page, or a negative error number: -ENOENT or -EFAULT, by kernel, for none there."""
        ...

    def move(self, pid: int, addresses: Sequence[int], node: int) -> Sequence[int]:
        """Move pages; return what the kernel tells of each: its node, a negative error number, or UNTOLD.

        -EACCES = shared with another process. Raises EACCES when the process' cpuset lacks the node, EPERM, ESRCH.
        """
        ...


class HostPages:
    """move_pages(2) of this host."""

    def __init__(self) -> None:
        self._number = _MOVE_PAGES.get(platform.machine())
        self._libc = _libc()

    def locate(self, pid: int, addresses: Sequence[int]) -> Sequence[int]:
        """Return the node of each page."""
        return self._call(pid, addresses, None)

    def move(self, pid: int, addresses: Sequence[int], node: int) -> Sequence[int]:
        """Move pages that only this process has mapped."""
        return self._call(pid, addresses, node)

    def _call(self, pid: int, addresses: Sequence[int], node: int | None) -> Sequence[int]:
        if self._number is None:
            raise OSError(errno.ENOSYS, f"move_pages has no known number on {platform.machine()}")
        count = len(addresses)
        pages = array("Q", addresses)
        status = array("i", [UNTOLD]) * count
        nodes = None if node is None else array("i", [node]) * count
        result = self._libc.syscall(
            ctypes.c_long(self._number),
            ctypes.c_int(pid),
            ctypes.c_ulong(count),
            ctypes.c_void_p(pages.buffer_info()[0]),
            ctypes.c_void_p(None if nodes is None else nodes.buffer_info()[0]),
            ctypes.c_void_p(status.buffer_info()[0]),
            ctypes.c_int(_MOVE),
        )
        if result < 0:
            raise _error()
        return status


class MappedFilePages:
    """A file of this host, mapped. Its pages are reached through system calls only.

    A plain read of a page that somebody cuts off meanwhile ends the whole process with SIGBUS; the calls return EFAULT.
    """

    def __init__(self, descriptor: int, size_bytes: int, calls: PageCalls) -> None:
        self.size_bytes = size_bytes
        self.pages = -(-size_bytes // PAGE_BYTES)
        self._calls = calls
        self._libc = _libc()
        self._length = (self.pages + 1) * PAGE_BYTES  # one more, which can never be cached: see `told`
        start = self._libc.mmap(
            ctypes.c_void_p(None),
            ctypes.c_size_t(self._length),
            ctypes.c_int(mmap.PROT_READ),
            ctypes.c_int(mmap.MAP_SHARED),
            ctypes.c_int(descriptor),
            ctypes.c_long(0),
        )
        if start == ctypes.c_void_p(-1).value:
            raise _error()
        self._start = int(start)
        # No reading ahead, and looking at a page does not make it look used to the kernel.
        if self._libc.madvise(ctypes.c_void_p(self._start), ctypes.c_size_t(self._length), mmap.MADV_RANDOM):
            raise _error()

    def close(self) -> None:
        """Unmap it."""
        self._libc.munmap(ctypes.c_void_p(self._start), ctypes.c_size_t(self._length))

    def told(self) -> bool:
        """Tell whether mincore(2) tells us the truth: of a file we could not write to, all seems to be cached."""
        return not self._residency(self.pages, 1)[0]

    def cached(self, numbers: range) -> Sequence[bool]:
        """Ask mincore(2), which reads nothing from disk: in one call for a row of pages, else in one for each."""
        if numbers.step == 1:
            return self._residency(numbers.start, len(numbers))
        return [self._residency(number, 1)[0] for number in numbers]

    def nodes(self, numbers: Sequence[int]) -> Sequence[int]:
        """Map the pages, which are in memory already, and ask where they are."""
        addresses = [self._start + number * PAGE_BYTES for number in numbers]
        self._touch(addresses)
        return self._calls.locate(0, addresses)

    def _residency(self, first: int, count: int) -> list[bool]:
        told = (ctypes.c_ubyte * count)()
        start = self._start + first * PAGE_BYTES
        if self._libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(count * PAGE_BYTES), told):
            raise _error()
        return [bool(one & 1) for one in told]

    def _touch(self, addresses: Sequence[int]) -> None:
        """Read one byte of each page; one that is gone leaves up to 1023 behind it unmapped, so their node unknown."""
        sink = (ctypes.c_ubyte * _MOST_RANGES)()
        local = _IoVec(ctypes.addressof(sink), _MOST_RANGES)
        for position in range(0, len(addresses), _MOST_RANGES):
            group = addresses[position : position + _MOST_RANGES]
            remote = (_IoVec * len(group))(*(_IoVec(address, 1) for address in group))
            done = self._libc.process_vm_readv(
                ctypes.c_int(os.getpid()),
                ctypes.byref(local),
                ctypes.c_ulong(1),
                remote,
                ctypes.c_ulong(len(group)),
                ctypes.c_ulong(0),
            )
            if done < 0 and (failed := _error()).errno != errno.EFAULT:
                raise failed


@contextmanager
def file_pages(path: str, calls: PageCalls) -> Iterator[MappedFilePages]:
    """Map a regular file; raises OSError, EINVAL for what is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", path)
        found = MappedFilePages(descriptor, status.st_size, calls)
    finally:
        os.close(descriptor)
    try:
        yield found
    finally:
        found.close()


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    return libc


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


HOST_PAGES = HostPages()  #: without state, so one is enough
