"""Confine processes thread by thread with their affinity masks: needs no cgroup and no privilege."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from isolation.cpuset import CpuSet
from isolation.earlier_masks import EarlierMasks
from isolation.errors import ApplyFailed, ProcessGone
from isolation.kernelfs import AffinityCalls, KernelFiles
from isolation.process import ProcessIdentity, allowed_cpus, family, read_stat, threads
from isolation.spec import IsolationSpec
from isolation.steps import BUDGET_S, PASSES, Steps
from isolation.undo import Applied, Drift, Mechanism, Released, ThreadState, Undo

_CHUNK = 256  #: threads set between two looks at the clock


class ThreadAffinity:
    """Sets the mask of each thread; children and threads born later inherit it from their creator."""

    def __init__(
        self,
        *,
        files: KernelFiles,
        affinity: AffinityCalls,
        proc_root: str,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """After `budget_s` a placing ends, so that nobody else waits for long; the threads left are missed."""
        self._budget_s = budget_s
        self._clock = clock
        self._files = files
        self._affinity = affinity
        self._proc = proc_root
        self._earlier = EarlierMasks(files=files, affinity=affinity, proc_root=proc_root)

    def snapshot(self, processes: tuple[ProcessIdentity, ...]) -> Undo:
        """Record the mask of every thread."""
        found: dict[int, ThreadState] = {}
        for process in processes:
            mine = {state.tid: state for state in self._states((process,))}
            if not mine:
                raise ProcessGone(f"process {process.pid} ({process.comm!r}) has ended", pid=process.pid)
            found |= mine
        return Undo(mechanism=Mechanism.AFFINITY, group=None, threads=tuple(found.values()))

    def place(
        self,
        processes: tuple[ProcessIdentity, ...],
        spec: IsolationSpec,
        undo: Undo,
        steps: Steps,
        *,
        previous: IsolationSpec | None,
    ) -> Applied:
        """Set every thread that may run elsewhere, until a pass finds none; masks within the wish are left alone.

        previous is the wish that held before: threads that carry exactly what it gave them get the new one, also when
        that is wider. Threads that the time does not suffice for are reported as missed; placing again goes on.
        """
        end_s = self._clock() + self._budget_s
        known = {state.tid: state for state in undo.threads}
        named = {process.pid for process in processes}
        done: set[tuple[int, int]] = set()
        refused: dict[int, str] = {}
        for _ in range(PASSES):
            waiting = [
                (state, wanted)
                for state in self._states(processes)
                if state.tid not in refused
                and state.cpus != (wanted := self._wanted(state, spec, known))
                and (not state.cpus <= spec.cpus or (previous and state.cpus == self._wanted(state, previous, known)))
            ]
            if not waiting:
                break
            for number, (state, wanted) in enumerate(waiting):
                if number % _CHUNK == _CHUNK - 1 and self._clock() > end_s:
                    break
                if (state.tid, state.starttime_ticks) in done:
                    raise ApplyFailed(
                        f"thread {state.tid} of process {state.pid} may run on {state.cpus} after it was put on"
                        f" {wanted}: its cpuset allows no less, or somebody else changes it"
                    )
                done.add((state.tid, state.starttime_ticks))
                self._set(state, wanted, steps, refused, named=named)
            if self._clock() > end_s:
                break
        after = list(self._states(processes))
        return Applied(
            threads=sum(state.cpus <= spec.cpus for state in after),
            narrowed=tuple(state.tid for state in after if state.cpus <= spec.cpus and state.cpus != spec.cpus),
            missed=tuple(state.tid for state in after if not state.cpus <= spec.cpus),
            writes=steps.writes,
            mems_applied=spec.mems is None,
        )

    def verify(self, processes: tuple[ProcessIdentity, ...], spec: IsolationSpec) -> tuple[Drift, ...]:
        """Compare every thread with the wish; changes nothing."""
        return tuple(
            Drift(tid=state.tid, expected=f"cpus {spec.cpus}", found=f"cpus {state.cpus}")
            for state in self._states(processes)
            if not state.cpus <= spec.cpus
        )

    def release(self, undo: Undo) -> Released:
        """Give every thread its earlier mask; threads born since then get the one of their main thread.

        A later thread that pinned itself, so that it differs from its main thread now, keeps what it chose.
        """
        left_over: dict[str, None] = {}
        known = {state.tid: state for state in undo.threads}
        ours = sorted({state.pid for state in undo.threads if self._earlier.is_same(state)})
        placed = {state.tid: state.cpus for pid in ours for state in self._of_process(pid)}
        restored = 0
        for earlier in undo.threads:
            if self._earlier.is_same(earlier):
                restored += 1
                left_over.update((told, None) for told in self._restore(earlier, earlier.cpus))
        for _ in range(PASSES):  # a thread not yet restored may bear one more meanwhile
            born = [
                (state, main.cpus)
                for pid in dict.fromkeys(one for pid in ours for one in self._family(pid))
                for state in self._of_process(pid)
                if state.tid not in known or known[state.tid].starttime_ticks != state.starttime_ticks
                if (main := self._nearest(pid, known)) is not None
                if state.cpus == placed.get(main.tid, state.cpus) != main.cpus
            ]
            if not born:
                break
            for state, cpus in born:
                left_over.update((told, None) for told in self._restore(state, cpus))
        return Released(restored=restored, gone=len(undo.threads) - restored, left_over=tuple(left_over))

    def _states(self, processes: Iterable[ProcessIdentity]) -> Iterator[ThreadState]:
        pids: dict[int, None] = {}
        for process in processes:
            pids.update((pid, None) for pid in self._family(process.pid))
        for pid in pids:
            yield from self._of_process(pid)

    def _family(self, pid: int) -> Iterable[int]:
        return family(pid, files=self._files, proc_root=self._proc)

    def _of_process(self, pid: int) -> Iterator[ThreadState]:
        for thread in threads(pid, files=self._files, proc_root=self._proc):
            cpus = allowed_cpus(pid, thread.tid, files=self._files, proc_root=self._proc)
            if cpus is not None:
                ticks = thread.starttime_ticks
                yield ThreadState(tid=thread.tid, starttime_ticks=ticks, pid=pid, cgroup=None, cpus=cpus)

    def _wanted(self, state: ThreadState, spec: IsolationSpec, known: dict[int, ThreadState]) -> CpuSet:
        """Cut the thread's own mask to the wish, as the kernel does for cpusets; nothing in common = the wish."""
        earlier = known.get(state.tid)
        if earlier is None or earlier.starttime_ticks != state.starttime_ticks:
            earlier = self._nearest(state.pid, known) or state
        return earlier.cpus & spec.cpus or spec.cpus

    def _nearest(self, pid: int, known: dict[int, ThreadState]) -> ThreadState | None:
        """Return the earlier state of the process' main thread, or of its nearest recorded ancestor."""
        seen: set[int] = set()
        while pid > 1 and pid not in seen:
            seen.add(pid)
            if pid in known:
                return known[pid]
            stat = read_stat(pid, files=self._files, proc_root=self._proc)
            pid = 0 if stat is None else stat.ppid
        return None

    def _set(
        self, state: ThreadState, wanted: CpuSet, steps: Steps, refused: dict[int, str], *, named: set[int]
    ) -> None:
        try:
            steps.do(
                f"set thread {state.tid} of process {state.pid} to CPUs {wanted}",
                partial(self._affinity.set, state.tid, wanted),
                partial(self._affinity.set, state.tid, state.cpus),
            )
        except ProcessLookupError:  # it ended
            return
        except ApplyFailed as cause:
            if state.pid in named or getattr(cause.__cause__, "errno", None) != errno.EPERM:
                raise
            refused[state.tid] = str(cause)  # a descendant of another user: reported as missed

    def _restore(self, state: ThreadState, cpus: CpuSet) -> list[str]:
        now = allowed_cpus(state.pid, state.tid, files=self._files, proc_root=self._proc)
        return [] if now in {None, cpus} else self._earlier.give_back(state, cpus)
