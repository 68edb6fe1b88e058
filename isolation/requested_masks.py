"""What threads in groups below the top asked for themselves, kept while the cpuset controller is switched there (v2).

Before Linux 6.2, enabling or disabling it in the top's cgroup.subtree_control makes all threads below, whoever they
belong to, forget the CPUs they asked for (taskset, sched_setaffinity).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from isolation.cgroup import CpusetGroups
from isolation.cpuset import CpuSet
from isolation.errors import CgroupRefused
from isolation.kernelfs import AffinityCalls, KernelFiles
from isolation.process import ThreadId, allowed_cpus, start_of, thread_ids
from isolation.steps import PASSES, explain


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """The CPUs of one thread that may not run on all of the top's."""

    pid: int
    cpus: CpuSet  #: Cpus_allowed_list


class MaskKeeper:
    """Records such masks of the whole system, and gives back those that were lost."""

    def __init__(self, groups: CpusetGroups, *, files: KernelFiles, affinity: AffinityCalls, proc_root: str) -> None:
        self._groups = groups
        self._files = files
        self._affinity = affinity
        self._proc = proc_root

    def record(self) -> dict[ThreadId, Requested]:
        """Look at every thread of the system, until nobody is new; whoever may run everywhere has nothing to lose."""
        top = CpuSet.parse(self._groups.granted("/", "cpus"))
        seen: set[int] = set()
        found: dict[ThreadId, Requested] = {}
        for _ in range(PASSES):  # whoever is born while we look is found by the next one
            new = [(pid, tid) for pid, tid in self._threads() if tid not in seen]
            if not new:
                break
            seen.update(tid for _, tid in new)
            for pid, tid in new:
                cpus = allowed_cpus(pid, tid, files=self._files, proc_root=self._proc)
                if cpus is not None and not top <= cpus and self._is_below(pid, tid):
                    ticks = self._start(pid, tid)
                    if ticks is not None:
                        found[ThreadId(tid=tid, starttime_ticks=ticks)] = Requested(pid=pid, cpus=cpus)
        return found

    def give_back(self, recorded: Mapping[ThreadId, Requested]) -> list[str]:
        """Narrow every thread that may run on more than was recorded; return a sentence for each that stays so."""
        left_over = []
        for thread, asked in recorded.items():
            why = ""
            if not self._is_wider(thread, asked):
                continue
            try:
                self._affinity.set(thread.tid, asked.cpus)
            except ProcessLookupError:
                continue
            except OSError as cause:
                why = f" ({explain(cause)})"
            if self._is_wider(thread, asked):
                left_over.append(
                    f"thread {thread.tid} of process {asked.pid} had asked for CPUs {asked.cpus}, which this kernel"
                    f" forgot, and could not get them back{why}"
                )
        return left_over

    def _threads(self) -> Iterator[tuple[int, int]]:
        for name in self._files.folders(self._proc):
            if name.isdecimal():
                for tid in thread_ids(int(name), files=self._files, proc_root=self._proc):
                    yield int(name), tid

    def _is_below(self, pid: int, tid: int) -> bool:
        """Tell whether the thread is in a group below the top; one outside of the mount is in none."""
        try:
            return self._groups.group_of(pid, tid) not in {None, "/"}
        except CgroupRefused:
            return False

    def _is_wider(self, thread: ThreadId, asked: Requested) -> bool:
        now = allowed_cpus(asked.pid, thread.tid, files=self._files, proc_root=self._proc)
        return (
            now is not None and not now <= asked.cpus and self._start(asked.pid, thread.tid) == thread.starttime_ticks
        )

    def _start(self, pid: int, tid: int) -> int | None:
        return start_of(tid, files=self._files, proc_root=f"{self._proc}/{pid}/task")
