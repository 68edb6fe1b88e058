"""Threads as they were recorded: known again, and let run where they ran."""

from __future__ import annotations

from isolation.cpuset import CpuSet
from isolation.kernelfs import AffinityCalls, KernelFiles
from isolation.process import allowed_cpus, start_of
from isolation.steps import explain
from isolation.undo import ThreadState


class EarlierMasks:
    """Gives threads back the CPUs they had."""

    def __init__(self, *, files: KernelFiles, affinity: AffinityCalls, proc_root: str) -> None:
        self._files = files
        self._affinity = affinity
        self._proc = proc_root

    def is_same(self, state: ThreadState) -> bool:
        """Tell whether the tid is still that very thread, alive."""
        now = start_of(state.tid, files=self._files, proc_root=f"{self._proc}/{state.pid}/task")
        return now == state.starttime_ticks

    def give_back(self, state: ThreadState, cpus: CpuSet) -> list[str]:
        """Set a thread's mask and read it back; say what could not be done, which is nothing for one that ended."""
        try:
            self._affinity.set(state.tid, cpus)
        except ProcessLookupError:
            return []
        except OSError as cause:
            return [f"thread {state.tid} of process {state.pid} could not get back CPUs {cpus}: {explain(cause)}"]
        now = allowed_cpus(state.pid, state.tid, files=self._files, proc_root=self._proc)
        if now in {None, cpus} or not self.is_same(state):
            return []
        return [f"thread {state.tid} of process {state.pid} may run on {now}, not {cpus} as before"]
