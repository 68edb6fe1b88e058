"""The seam to the kernel: files of cgroup and proc, thread affinity, process handles. Knows no meaning of any."""

from __future__ import annotations

import errno
import os
import select
from typing import Protocol

from isolation.cpuset import CpuSet

_CHUNK_BYTES = 65536


class KernelFiles(Protocol):
    """Kernel files by absolute path; every method raises OSError."""

    def read(self, path: str) -> str:
        """Return the whole content; bytes that are no UTF-8 are kept as surrogates."""
        ...

    def write(self, path: str, text: str) -> None:
        """Hand over the whole text in one system call: the kernel takes one command per call."""
        ...

    def mkdir(self, path: str) -> None:
        """Create one folder."""
        ...

    def rmdir(self, path: str) -> None:
        """Remove one folder; in cgroupfs its files go with it."""
        ...

    def folders(self, path: str) -> tuple[str, ...]:
        """Return the names of the real folders directly below, sorted; symbolic links do not count."""
        ...


class GroupFiles(KernelFiles, Protocol):
    """Files of cgroups, whose folders may be removed and made anew under the same name."""

    def inode(self, path: str) -> int:
        """Return the number that tells a folder from a later one of the same path; raises OSError."""
        ...


class AffinityCalls(Protocol):
    """sched_getaffinity and sched_setaffinity of one thread; both raise OSError."""

    def get(self, tid: int) -> CpuSet:
        """Return the CPUs the thread may run on now."""
        ...

    def set(self, tid: int, cpus: CpuSet) -> None:
        """Set the thread's own mask; the kernel silently cuts it to the thread's cpuset."""
        ...


class ProcessHandles(Protocol):
    """pidfds: the only proof that a pid was not given to another process while we worked."""

    def open(self, pid: int) -> int:
        """Return a handle; raises OSError (ESRCH = no such process)."""
        ...

    def alive(self, handle: int) -> bool:
        """Tell whether the process behind the handle still runs; a zombie does not."""
        ...

    def close(self, handle: int) -> None:
        """Give the handle back."""
        ...


class HostFiles:
    """The files of this host."""

    def read(self, path: str) -> str:
        """Return the whole content: a third of what open() takes, which asks the file more than its content."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
            while data and (more := os.read(descriptor, _CHUNK_BYTES)):  # lists come a page at a time
                data += more
        except OSError as cause:  # names the file only when it cannot be opened
            raise OSError(cause.errno, cause.strerror, path) from cause
        finally:
            os.close(descriptor)
        return data.decode("utf-8", "surrogateescape")

    def write(self, path: str, text: str) -> None:
        """Write in one system call; a short one is an error, since the rest would be another command."""
        data = text.encode()
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
        except OSError as cause:
            raise OSError(cause.errno, cause.strerror, path) from cause
        finally:
            os.close(descriptor)
        if written != len(data):
            raise OSError(errno.EIO, f"kernel took {written} of {len(data)} bytes", path)

    def mkdir(self, path: str) -> None:
        """Create one folder."""
        os.mkdir(path)  # noqa: PTH102 - paths are kernel text here

    def rmdir(self, path: str) -> None:
        """Remove one folder."""
        os.rmdir(path)  # noqa: PTH106 - paths are kernel text here

    def folders(self, path: str) -> tuple[str, ...]:
        """Return the names of the real folders directly below."""
        with os.scandir(path) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False)))

    def inode(self, path: str) -> int:
        """Return the inode number, which is the cgroup's id: cgroupfs gives none twice in its 32 or 64 bits."""
        return os.stat(path).st_ino  # noqa: PTH116 - paths are kernel text here


class HostAffinity:
    """The affinity calls of this host."""

    def get(self, tid: int) -> CpuSet:
        """Return the CPUs the thread may run on now."""
        return CpuSet.of(os.sched_getaffinity(tid))

    def set(self, tid: int, cpus: CpuSet) -> None:
        """Set the thread's own mask."""
        os.sched_setaffinity(tid, cpus)


class HostHandles:
    """pidfds of this host."""

    def open(self, pid: int) -> int:
        """Return a pidfd."""
        return os.pidfd_open(pid)

    def alive(self, handle: int) -> bool:
        """Tell whether the process still runs: its pidfd turns readable when it ends."""
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return not poll.poll(0)

    def close(self, handle: int) -> None:
        """Close the pidfd."""
        os.close(handle)


HOST_FILES = HostFiles()  #: without state, so one is enough
HOST_AFFINITY = HostAffinity()
HOST_HANDLES = HostHandles()
