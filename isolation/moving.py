"""Move processes into a cpuset group and back to where each thread came from."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Self

from isolation.cgroup import CpusetGroups, parent_of
from isolation.cpuset import CpuSet
from isolation.earlier_masks import EarlierMasks
from isolation.errors import ApplyFailed
from isolation.kernelfs import AffinityCalls, KernelFiles
from isolation.process import (
    ProcessIdentity,
    allowed_cpus,
    family,
    process_of,
    read_stat,
    start_of,
    thread_ids,
    threads,
)
from isolation.requested_masks import MaskKeeper
from isolation.steps import BUDGET_S, PASSES, Steps, explain
from isolation.undo import ThreadState, Undo

_WAITS = 50  #: looks at a group where everybody is exiting; freeing much memory takes a process that long
_WAIT_S = 0.01
#: The group is gone, has no CPUs any more, or became one that takes no tasks.
_HOME_IS_LOST = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOSPC, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The last look at a placement: its threads by process, and those of them that live outside of its group."""

    threads: Mapping[int, tuple[int, ...]]
    missed: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """The record of an Undo, to be asked by tid and by pid."""

    known: Mapping[int, ThreadState]
    threads: Mapping[int, Sequence[int]]  #: tids by pid

    @classmethod
    def of(cls, undo: Undo) -> Self:
        threads: dict[int, list[int]] = {}
        for state in undo.threads:
            threads.setdefault(state.pid, []).append(state.tid)
        return cls(known={state.tid: state for state in undo.threads}, threads=threads)

    def homes(self, pid: int, tids: Iterable[int]) -> dict[int, str]:
        """Return where threads of the process were, of those that are known."""
        states = ((tid, self.known.get(tid)) for tid in tids)
        return {tid: one.cgroup for tid, one in states if one and one.pid == pid and one.cgroup is not None}

    def shared_home(self, pid: int) -> str | None:
        """Return where the process was with all its threads, so where any thread of it belongs; None = unknown."""
        homes = {self.known[tid].cgroup for tid in self.threads.get(pid, ())}
        return next(iter(homes)) if pid in self.known and len(homes) == 1 else None


class Mover:
    """Knows which threads belong to a placement, and takes them in and out of its group."""

    def __init__(
        self,
        groups: CpusetGroups,
        *,
        files: KernelFiles,
        affinity: AffinityCalls,
        proc_root: str,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """After `budget_s` a gathering ends, so that nobody else waits for long; who is outside then is missed."""
        self._groups = groups
        self._files = files
        self._proc = proc_root
        self._earlier = EarlierMasks(files=files, affinity=affinity, proc_root=proc_root)
        self._budget_s = budget_s
        self._clock = clock
        self.masks = MaskKeeper(groups, files=files, affinity=affinity, proc_root=proc_root)

    def states(self, process: ProcessIdentity) -> list[ThreadState]:
        """Record every thread of the process and of the descendants that share its group."""
        found = []
        origin = self._groups.group_of(process.pid, process.pid)
        for pid in self._family((process,), {origin}, ()):
            for thread in threads(pid, files=self._files, proc_root=self._proc):
                cgroup = self._groups.group_of(pid, thread.tid)
                cpus = self._allowed(pid, thread.tid)
                if cgroup is not None and cpus is not None:
                    tid, ticks = thread.tid, thread.starttime_ticks
                    found.append(ThreadState(tid=tid, starttime_ticks=ticks, pid=pid, cgroup=cgroup, cpus=cpus))
        return found

    def living(self, processes: Iterable[ProcessIdentity], undo: Undo) -> Iterator[tuple[int, int, CpuSet]]:
        """Yield (pid, tid, CPUs it may run on) for every living thread of the placement."""
        return self.allowed(self._family(processes, _origins(undo), undo.threads))

    def allowed(self, listed: Mapping[int, Iterable[int]]) -> Iterator[tuple[int, int, CpuSet]]:
        """Yield (pid, tid, CPUs it may run on) for those of the listed threads that live."""
        for pid, tids in listed.items():
            for tid in tids:
                found = self._allowed(pid, tid)
                if found is not None:
                    yield pid, tid, found

    def gather(
        self, processes: tuple[ProcessIdentity, ...], group: str, undo: Undo, steps: Steps, *, fresh: bool
    ) -> Gathered:
        """Move threads in until a pass finds none outside or the time is over; fresh = the group was made just now.

        Into a fresh group the named processes go first, and only then are their families looked through: whoever they
        bear from then on is born inside.
        """
        end_s = self._clock() + self._budget_s
        moved: set[int] = set()  # pids moved as a whole
        single: set[int] = set()  # tids moved one by one, because moving their process left them out
        record = _Record.of(undo)
        if fresh:
            for process in processes:
                if tids := record.threads.get(process.pid):
                    self._move_process(process.pid, tids, group, record, steps)
                    moved.add(process.pid)
        passes = 0
        while True:
            listed = self._family(processes, _origins(undo), undo.threads)
            # after the listing: a thread born in the group must not look lost
            outside = self._outside(listed, self._groups.members(group), moved)
            if passes == PASSES or not outside or self._clock() > end_s:
                lost = ((pid, tid) for pid, tids in outside.items() for tid in tids)
                return Gathered(threads=listed, missed=frozenset(tid for pid, tid in lost if self.is_alive(pid, tid)))
            passes += 1
            for pid, tids in takewhile(lambda _: self._clock() <= end_s, outside.items()):
                if pid not in moved:
                    self._move_process(pid, tids, group, record, steps)
                    moved.add(pid)
                    continue
                for tid in tids:
                    if tid in single or self._groups.hierarchy.version == 2:
                        raise ApplyFailed(
                            f"the kernel accepted thread {tid} of process {pid} into group {group!r}, yet it is outside"
                        )
                    single.add(tid)
                    act = partial(self._groups.attach_thread, group, tid)
                    self._move(f"move thread {tid} into group {group!r}", act, pid, self._places(pid, (tid,)), steps)

    def dissolve(self, group: str, undo: Undo) -> list[str]:
        """Send every thread in the group home and remove it; return a sentence for each thing that could not be done.

        A group that holds other groups stays.
        """
        left_over: dict[str, None] = {}
        inside: frozenset[int] = frozenset()
        record = _Record.of(undo)
        passes = waits = 0
        while passes < PASSES:
            try:
                members = self._groups.members(group)
            except FileNotFoundError:
                return list(left_over)
            found = self._by_process(members, record)
            if members and members == inside:  # nobody left: trying again helps only where all of them are exiting
                if waits == _WAITS or any(self.is_alive(pid, tid) for pid, tids in found.items() for tid in tids):
                    break
                waits += 1
                time.sleep(_WAIT_S)
            else:
                passes += 1
            inside = members
            left_over.update((told, None) for told in self._send_all(found, record))
            try:
                self._groups.remove(group)  # the kernel's own proof that nobody is inside
            except FileNotFoundError:
                return list(left_over)
            except OSError as cause:
                if members and cause.errno == errno.EBUSY:  # somebody was born, could not go, or is exiting
                    continue
                return [*left_over, *self.why_kept(group, cause)]
            return list(left_over)
        return [*left_over, f"group {group!r} still holds threads, such as {min(members)}"]

    def fetch(self, above: str, undo: Undo) -> list[str]:
        """Send home those of the placement in the group above ours, where the kernel puts whoever lost all CPUs (v1).

        They are the record's processes and their descendants; everybody there, once no placement has a group in it.
        Returns a sentence for each thing that could not be done.
        """
        left_over: dict[str, None] = {}
        record = _Record.of(undo)
        for _ in range(PASSES):
            try:
                found = self._by_process(self._groups.members(above), record)
                if found and self._groups.children(above):
                    leaders = [
                        pid
                        for pid in record.threads
                        if pid in record.known and self._earlier.is_same(record.known[pid])
                    ]
                    ours = {one for pid in leaders for one in family(pid, files=self._files, proc_root=self._proc)}
                    found = {pid: tids for pid, tids in found.items() if pid in ours}
            except FileNotFoundError:
                break
            if not found:
                break
            left_over.update((told, None) for told in self._send_all(found, record))
        return list(left_over)

    def why_kept(self, group: str, cause: OSError) -> list[str]:
        """Say why a group could not be removed; nothing when it holds other groups."""
        if cause.errno == errno.EBUSY and self._groups.children(group):
            return []
        return [f"group {group!r} could not be removed: {explain(cause)}"]

    def restore(self, undo: Undo) -> tuple[int, list[str]]:
        """Give threads that are home their earlier CPUs; return how many live still, and what could not be done."""
        alive = 0
        left_over: list[str] = []
        for state in undo.threads:
            if self._earlier.is_same(state):
                alive += 1
                # moving the thread (kernels before 6.2), or the thread itself, may have changed them
                changed = self._allowed(state.pid, state.tid) not in {None, state.cpus}
                if changed and self._groups.group_of(state.pid, state.tid) == state.cgroup:
                    left_over += self._earlier.give_back(state, state.cpus)
        return alive, left_over

    def is_alive(self, pid: int, tid: int) -> bool:
        """Tell whether the thread runs; one that is ending is in no group any more, which is no escape."""
        return start_of(tid, files=self._files, proc_root=f"{self._proc}/{pid}/task") is not None

    def _allowed(self, pid: int, tid: int) -> CpuSet | None:
        return allowed_cpus(pid, tid, files=self._files, proc_root=self._proc)

    def _family(
        self, processes: Iterable[ProcessIdentity], origins: set[str | None], known: tuple[ThreadState, ...]
    ) -> dict[int, tuple[int, ...]]:
        """Return the tids of named processes and of those descendants whom nobody had put into another cpuset group."""
        found: dict[int, tuple[int, ...]] = {}
        leaders = {state.tid: state for state in known if state.tid == state.pid}
        for process in processes:
            for pid, tids in family(process.pid, files=self._files, proc_root=self._proc).items():
                recorded = pid in leaders and pid != process.pid and self._earlier.is_same(leaders[pid])
                if recorded or pid == process.pid or self._groups.group_of(pid, pid) in origins:
                    found[pid] = tids
        return found

    def _outside(
        self, listed: Mapping[int, tuple[int, ...]], members: frozenset[int], moved: Container[int]
    ) -> dict[int, tuple[int, ...]]:
        """Return living threads that are not in the group, by process; all others too of one that was not moved yet."""
        outside = {}
        for pid, tids in listed.items():
            lost = tuple(tid for tid in tids if tid not in members)
            if pid in moved:
                lost = tuple(tid for tid in lost if self.is_alive(pid, tid))
            elif not any(self.is_alive(pid, tid) for tid in lost):
                continue
            if lost:
                outside[pid] = lost
        return outside

    def _move_process(self, pid: int, tids: Iterable[int], group: str, record: _Record, steps: Steps) -> None:
        """Move a process whole. While it is where the record has it, so are its threads that the record knows."""
        leader = record.known.get(pid)
        where = self._groups.group_of(pid, pid)
        recorded = leader is not None and where is not None and leader.cgroup == where
        before = record.homes(pid, tids) if recorded else {}
        before |= self._places(pid, (tid for tid in tids if tid not in before))
        act = partial(self._groups.attach_process, group, pid)
        self._move(f"move process {pid} into group {group!r}", act, pid, before, steps)

    def _move(self, what: str, act: Callable[[], None], pid: int, before: Mapping[int, str], steps: Steps) -> None:
        try:
            steps.do(what, act, partial(self._send, pid, before))
        except ProcessLookupError:  # it ended; the next pass no longer finds it
            return

    def _places(self, pid: int, tids: Iterable[int]) -> dict[int, str]:
        return {tid: where for tid in tids if (where := self._groups.group_of(pid, tid)) is not None}

    def _send(self, pid: int, homes: Mapping[int, str]) -> None:
        """Put threads of one process where the mapping says; raises OSError at the first that cannot go there."""
        leader = homes.get(pid)
        if leader is None and self._groups.hierarchy.version == 2:  # it moves as a whole, also without its first
            leader = next(iter(homes.values()))
        if leader is not None:
            self._groups.attach_process(leader, pid)
        for tid, home in homes.items():
            if home != leader:
                try:
                    self._groups.attach_thread(home, tid)
                except ProcessLookupError:  # this one ended, the others go on
                    continue

    def _send_all(self, found: Mapping[int, Sequence[int]], record: _Record) -> Iterator[str]:
        """Send threads, given by process, where they came from; yield a sentence for each that could not go."""
        for pid, tids in found.items():
            shared = record.shared_home(pid)
            yield from self._send_home(pid, {tid: shared or self._home_of(pid, tid, record) for tid in tids})

    def _send_home(self, pid: int, homes: Mapping[int, str]) -> list[str]:
        try:
            self._send(pid, homes)
        except ProcessLookupError:
            return []
        except OSError as cause:
            if not any(self.is_alive(pid, tid) for tid in homes):  # it is exiting, and goes nowhere any more
                return []
            if cause.errno in _HOME_IS_LOST:
                return [self._send_higher(pid, homes, explain(cause))]
            return [f"process {pid} could not go back to its groups {sorted(set(homes.values()))}: {explain(cause)}"]
        return []

    def _send_higher(self, pid: int, homes: Mapping[int, str], why: str) -> str:
        """Put a process that cannot go home into the nearest group above its home that takes it."""
        home = homes.get(pid, next(iter(homes.values())))
        above = home
        while above != "/":
            above = parent_of(above)
            try:
                self._groups.attach_process(above, pid)
            except OSError as cause:
                why = explain(cause)
                continue
            return f"process {pid} could not go back to group {home!r} and is in {above!r} now ({why})"
        return f"process {pid} could not go back to group {home!r} ({why})"

    def _by_process(self, members: frozenset[int], record: _Record) -> dict[int, list[int]]:
        """Sort living threads by process; those of the record need no look at each."""
        found = {pid: [pid] for pid in record.threads if pid in members}
        rest = set(members.difference(found))
        for pid in record.threads if rest else ():
            tids = [tid for tid in thread_ids(pid, files=self._files, proc_root=self._proc) if tid in rest]
            if tids:
                found[pid] = found.get(pid, []) + tids
                rest.difference_update(tids)
        for tid in sorted(rest):
            owner = process_of(tid, files=self._files, proc_root=self._proc)
            if owner is not None:
                found.setdefault(owner, []).append(tid)
        return found

    def _home_of(self, pid: int, tid: int, record: _Record) -> str:
        """Return where a thread came from; one born later goes where its process, or the process' parent, was."""
        own = record.known.get(tid)
        if own is not None and own.cgroup is not None and self._earlier.is_same(own):
            return own.cgroup
        seen: set[int] = set()
        while pid > 1 and pid not in seen:
            seen.add(pid)
            leader = record.known.get(pid)
            if leader is not None and leader.cgroup is not None:
                return leader.cgroup
            stat = read_stat(pid, files=self._files, proc_root=self._proc)
            pid = 0 if stat is None else stat.ppid
        return next((state.cgroup for state in record.known.values() if state.cgroup is not None), "/")


def _origins(undo: Undo) -> set[str | None]:
    """Return the groups whose descendants belong to the placement: its own, the one above, and those it came from.

    Nobody is put into the one above, but the kernel moves tasks up there when their group loses its last CPU (v1).
    """
    above = parent_of(undo.group) if undo.group else None
    return {undo.group, above, *(state.cgroup for state in undo.threads)}
