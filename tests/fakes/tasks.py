"""Processes and threads of the fake kernel: how they come and go, and what /proc tells of them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from isolation.cpuset import CpuSet, IdSet


@dataclass(slots=True)
class FakeThread:
    tid: int
    starttime_ticks: int
    group: str
    mask: CpuSet | None  # what it asked for itself
    state: str = "S"
    children: list[int] = field(default_factory=list)
    exiting: bool = False  # still in its group, which it leaves only by ending


@dataclass(slots=True)
class FakeProcess:
    pid: int
    ppid: int
    uid: int
    comm: str
    flags: int
    namespaces: int
    threads: dict[int, FakeThread] = field(default_factory=dict)


class FakeHandles:
    """The pidfds of the fake kernel, and the processes they stand for."""

    def __init__(self) -> None:
        self.processes: dict[int, FakeProcess] = {}
        self._handles: dict[int, FakeProcess] = {}

    def open(self, pid: int) -> int:
        """Return a handle on a process."""
        if pid not in self.processes:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH), str(pid))
        handle = 1000 + len(self._handles)
        self._handles[handle] = self.processes[pid]
        return handle

    def alive(self, handle: int) -> bool:
        """Tell whether the process behind the handle still runs."""
        process = self._handles[handle]
        return self.processes.get(process.pid) is process and process.threads[process.pid].state != "Z"

    def close(self, handle: int) -> None:
        """Give the handle back."""
        assert handle in self._handles

    def _all_tids(self) -> frozenset[int]:
        return frozenset(tid for process in self.processes.values() for tid in process.threads)

    def _find(self, tid: int) -> tuple[FakeProcess, FakeThread]:
        process = next(one for one in self.processes.values() if tid in one.threads)
        return process, process.threads[tid]

    def _leader(self, pid: int) -> FakeThread:
        return self.processes[pid].threads[pid]


class FakeTasks(FakeHandles):
    """Processes that start, fork and end."""

    def __init__(self) -> None:
        super().__init__()
        self._ticks = 1000
        self._next_pid = 100

    def spawn(
        self,
        *,
        pid: int | None = None,
        ppid: int = 1,
        threads: int = 1,
        uid: int = 0,
        comm: str = "app",
        group: str = "/",
        mask: str | None = None,
        flags: int = 0,
        namespaces: int = 1,
    ) -> int:
        """Start a process with that many threads; return its pid."""
        pid = self._fresh() if pid is None else pid
        process = FakeProcess(pid, ppid, uid, comm, flags, namespaces)
        self.processes[pid] = process
        for tid in (pid, *(self._fresh() for _ in range(threads - 1))):
            process.threads[tid] = FakeThread(tid, self._tick(), group, None if mask is None else CpuSet.parse(mask))
        if ppid in self.processes:
            self._leader(ppid).children.append(pid)
        return pid

    def clone(self, tid: int) -> int:
        """Let a thread make another thread of its process; it inherits group and mask."""
        process, thread = self._find(tid)
        born = self._fresh()
        process.threads[born] = FakeThread(born, self._tick(), thread.group, thread.mask)
        return born

    def fork(self, tid: int, comm: str = "child") -> int:
        """Let a thread make a child process; it inherits group and mask."""
        process, thread = self._find(tid)
        pid = self.spawn(ppid=process.pid, uid=process.uid, comm=comm, group=thread.group)
        self._leader(pid).mask = thread.mask
        return pid

    def end(self, pid: int, *, zombie: bool = False) -> None:
        """End a process, or a single thread."""
        process, _ = self._find(pid)
        if pid != process.pid:
            del process.threads[pid]
        elif zombie:
            process.threads = {pid: self._leader(pid)}
            self._leader(pid).state = "Z"
        else:
            del self.processes[pid]
        for other in self.processes.values():
            for thread in other.threads.values():
                thread.children = [child for child in thread.children if child in self.processes]

    def _fresh(self) -> int:
        self._next_pid += 1
        return self._next_pid

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks


def proc_text(
    process: FakeProcess, thread: FakeThread, name: str, *, version: int, allowed: CpuSet, mems: IdSet
) -> str | None:
    """Return one file of /proc/PID/task/TID; None = there is no such file."""
    match name:
        case "stat":
            flags = process.flags | (0x4 if thread.exiting else 0)  # PF_EXITING
            before = f"{thread.tid} ({process.comm}) {thread.state} {process.ppid} 1 1 0 -1 {flags}"
            return f"{before} {' 0' * 12} {thread.starttime_ticks} 0 0\n"
        case "status":
            spaces = "\t".join([str(process.pid)] * process.namespaces)
            uids = "\t".join([str(process.uid)] * 4)
            return (
                f"Name:\t{process.comm}\nState:\t{thread.state} (x)\nTgid:\t{process.pid}\nNSpid:\t{spaces}\n"
                f"Uid:\t{uids}\nCpus_allowed_list:\t{allowed}\n"
                f"Mems_allowed_list:\t{mems}\n"
            )
        case "cgroup":
            return f"3:cpuset:{thread.group}\n" if version == 1 else f"0::{thread.group}\n"
        case "children":
            return " ".join(map(str, thread.children))
    return None
