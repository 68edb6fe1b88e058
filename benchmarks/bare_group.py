"""What placing costs at least: the bare system calls on a cpuset group, written by hand and in order."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from dataclasses import dataclass

_CHUNK_BYTES = 65536  # one page at a time is what lists come in: enough for some hundred threads


class BareGroup:
    """Confines one process with all its threads in a group, and gives it back.

    Done, since no correct tool can do without: hold a pidfd, compare the start time of the process, take over the
    memory nodes of its group, make the group, write mems and cpus, read back what was granted, move the process,
    list its threads, read the members of the group and the status of each thread, ask the pidfd. Giving back: read the
    members, move the process, compare the start time of each thread (the CPUs it had are those of that very thread, and
    a tid may have been given away in the hours since), read its status, remove the group, which fails while anybody is
    inside.

    Not done, though the enforcer does it each time: look for children, look where the process is for the case that a
    later step fails, look whether the parent group has what is wished and whether the group exists already, remove the
    parent group with the last of its groups, take anything back, survive processes that end or bear threads meanwhile.
    """

    def __init__(self, mount: str, *, version: int, home: str, origin: str) -> None:
        """`home` is a folder below the mount that exists; `origin` is the group where the process is now."""
        self._path = f"{mount}{home}/bare"
        self._origin = mount + origin.rstrip("/")
        self._members = f"{self._path}/{'tasks' if version == 1 else 'cgroup.threads'}"
        self._effective = "" if version == 1 else ".effective"

    def apply(self, process: Process, cpus: str) -> None:
        """Confine the process to CPUs; raises RuntimeError when what is read back differs."""
        wished = cpus.encode()
        handle = os.pidfd_open(process.pid)
        try:
            _compare_start(f"/proc/{process.pid}", process.starts_ticks[process.pid])
            mems = _read(f"{self._origin}/cpuset.mems{self._effective}").strip()
            os.mkdir(self._path)  # noqa: PTH102 - timed: no object around it
            _write(f"{self._path}/cpuset.mems", mems)
            _write(f"{self._path}/cpuset.cpus", wished)
            _expect(_read(f"{self._path}/cpuset.cpus{self._effective}").strip(), wished)
            _write(f"{self._path}/cgroup.procs", b"%d" % process.pid)
            tids = [int(tid) for tid in os.listdir(f"/proc/{process.pid}/task")]  # noqa: PTH208 - timed
            members = frozenset(int(tid) for tid in _read(self._members).split())
            for tid in tids:
                _expect(tid in members, wished=True)
                _expect(_allowed(process.pid, tid), wished)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            _expect(poll.poll(0), [])
        finally:
            os.close(handle)

    def release(self, process: Process, cpus: str) -> None:
        """Put the process back, where all its threads had these CPUs."""
        tids = [int(tid) for tid in _read(self._members).split()]
        _write(f"{self._origin}/cgroup.procs", b"%d" % process.pid)
        for tid in tids:
            _compare_start(f"/proc/{process.pid}/task/{tid}", process.starts_ticks[tid])
            _expect(_allowed(process.pid, tid), cpus.encode())
        os.rmdir(self._path)  # noqa: PTH106 - timed


@dataclass(frozen=True, slots=True)
class Process:
    """The process to confine, and when each of its threads was started, in clock ticks since boot."""

    pid: int
    starts_ticks: Mapping[int, int]  #: by tid


def _compare_start(folder: str, wished_ticks: int) -> None:
    stat = _read(f"{folder}/stat")
    _expect(int(stat[stat.rindex(b")") + 2 :].split(maxsplit=20)[19]), wished_ticks)


def _allowed(pid: int, tid: int) -> bytes:
    status = _read(f"/proc/{pid}/task/{tid}/status")
    start = status.index(b"\nCpus_allowed_list:\t") + 20
    return status[start : status.index(b"\n", start)]


def _expect(found: object, wished: object) -> None:
    if found != wished:
        raise RuntimeError(f"the kernel says {found!r}, wished was {wished!r}: does somebody else move the process?")


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    finally:
        os.close(descriptor)


def _write(path: str, text: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)
