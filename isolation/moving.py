"""Move processes into a cpuset group and back to where each thread came from."""

from __future__ import annotations

import errno
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from isolation.cgroup import CpusetGroups
from isolation.cpuset import CpuSet
from isolation.errors import ApplyFailed
from isolation.kernelfs import AffinityCalls, KernelFiles
from isolation.process import (
    ProcessIdentity,
    allowed_cpus,
    family,
    process_of,
    read_stat,
    thread_ids,
    threads,
)
from isolation.steps import Steps, explain
from isolation.undo import ThreadState, Undo

_PASSES = 10  #: more than any program needed that was measured; what is outside then is reported as missed
_MANY = 64  #: threads of one process whose files cost as much as the list of a group with some thousand threads
#: The group is gone, has no CPUs any more, or became one that takes no tasks.
_HOME_IS_LOST = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOSPC, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The last look at a placement: its threads by process, and those of them that live outside of its group."""

    threads: Mapping[int, tuple[int, ...]]
    missed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Homes:
    known: Mapping[int, ThreadState]  #: by tid
    shared: Mapping[int, str]  #: by pid, where all its threads were: so is whoever joined them since then

    @classmethod
    def of(cls, undo: Undo) -> Self:
        known = {state.tid: state for state in undo.threads}
        by_pid: dict[int, set[str | None]] = {}
        for state in undo.threads:
            by_pid.setdefault(state.pid, set()).add(state.cgroup)
        shared = {pid: home for pid, (home, *more) in by_pid.items() if pid in known and home is not None and not more}
        return cls(known, shared)


class Mover:
    """Knows which threads belong to a placement, and takes them in and out of its group."""

    def __init__(self, groups: CpusetGroups, *, files: KernelFiles, affinity: AffinityCalls, proc_root: str) -> None:
        self._groups = groups
        self._files = files
        self._affinity = affinity
        self._proc = proc_root

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
        """Move threads in until a pass finds none outside, or give up; fresh = the group was made just now.

        Into a fresh group the named processes go unseen, and only then are their families looked through: whoever
        they bear from then on is born inside.
        """
        moved: set[int] = set()  # pids moved as a whole
        single: set[int] = set()  # tids moved one by one, because moving their process left them out
        passes = 0
        while True:
            blind = fresh and passes == 0
            listed = self._named(processes) if blind else self._family(processes, _origins(undo), undo.threads)
            # after the listing: a thread born in the group must not look lost
            members = frozenset() if blind else self._groups.members(group)
            outside = self._outside(listed, members, moved)
            if passes == _PASSES or not (blind or outside):
                lost = ((pid, tid) for pid, tids in outside.items() for tid in tids)
                return Gathered(threads=listed, missed=tuple(tid for pid, tid in lost if self.is_alive(pid, tid)))
            passes += 1
            for pid, tids in outside.items():
                if pid not in moved:
                    moved.add(pid)
                    act = partial(self._groups.attach_process, group, pid)
                    self._move(f"move process {pid} into group {group!r}", act, pid, tids, steps)
                    continue
                for tid in tids:
                    if tid in single or self._groups.hierarchy.version == 2:
                        raise ApplyFailed(
                            f"the kernel accepted thread {tid} of process {pid} into group {group!r}, yet it is outside"
                        )
                    single.add(tid)
                    act = partial(self._groups.attach_thread, group, tid)
                    self._move(f"move thread {tid} into group {group!r}", act, pid, (tid,), steps)

    def empty(self, group: str, undo: Undo) -> list[str]:
        """Send every thread in the group home; return a sentence for each that could not go to its own home."""
        left_over: dict[str, None] = {}
        inside: frozenset[int] = frozenset()
        homes = _Homes.of(undo)
        for _ in range(_PASSES):
            try:
                members = self._groups.members(group)
            except FileNotFoundError:
                members = frozenset()
            found = self._by_process(members, undo)
            if not found:
                return list(left_over)
            if members == inside:  # nobody left: trying again would not help
                break
            inside = members
            for pid, tids in found.items():
                shared = homes.shared.get(pid)
                of_tid = {tid: shared or self._home_of(pid, tid, homes) for tid in tids}
                left_over.update((told, None) for told in self._send_home(pid, of_tid))
        return [*left_over, f"group {group!r} still holds threads, such as {min(members)}"]

    def restore(self, undo: Undo) -> tuple[int, list[str]]:
        """Give threads that are home their earlier CPUs; return how many live still, and what could not be done."""
        alive = 0
        left_over = []
        for state in undo.threads:
            if self.is_same(state):
                alive += 1
                left_over += self._restore_mask(state)
        return alive, left_over

    def _restore_mask(self, state: ThreadState) -> list[str]:
        """Give back the CPUs, if moving the thread (kernels before 6.2) or it itself changed them."""
        now = self._allowed(state.pid, state.tid)
        if now is None or now == state.cpus or self._groups.group_of(state.pid, state.tid) != state.cgroup:
            return []
        try:
            self._affinity.set(state.tid, state.cpus)
        except ProcessLookupError:
            return []
        except OSError as cause:
            return [f"thread {state.tid} of process {state.pid} could not get back CPUs {state.cpus}: {explain(cause)}"]
        now = self._allowed(state.pid, state.tid)
        if now is None or now == state.cpus:
            return []
        return [f"thread {state.tid} of process {state.pid} may run on {now}, earlier on {state.cpus}"]

    def is_alive(self, pid: int, tid: int) -> bool:
        """Tell whether the thread runs; one that is ending is in no group any more, which is no escape."""
        return read_stat(tid, files=self._files, proc_root=f"{self._proc}/{pid}/task") is not None

    def _allowed(self, pid: int, tid: int) -> CpuSet | None:
        return allowed_cpus(pid, tid, files=self._files, proc_root=self._proc)

    def _named(self, processes: Iterable[ProcessIdentity]) -> dict[int, tuple[int, ...]]:
        return {one.pid: thread_ids(one.pid, files=self._files, proc_root=self._proc) for one in processes}

    def _family(
        self, processes: Iterable[ProcessIdentity], origins: set[str | None], known: tuple[ThreadState, ...]
    ) -> dict[int, tuple[int, ...]]:
        """Return the tids of named processes and of those descendants whom nobody had put into another cpuset group."""
        found: dict[int, tuple[int, ...]] = {}
        leaders = {state.tid: state for state in known if state.tid == state.pid}
        for process in processes:
            for pid, tids in family(process.pid, files=self._files, proc_root=self._proc).items():
                recorded = pid in leaders and pid != process.pid and self.is_same(leaders[pid])
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

    def _move(self, what: str, act: Callable[[], None], pid: int, tids: tuple[int, ...], steps: Steps) -> None:
        before = self._groups_of(pid, tids)
        try:
            steps.do(what, act, partial(self._send, pid, before))
        except ProcessLookupError:  # it ended; the next pass no longer finds it
            return

    def _groups_of(self, pid: int, tids: tuple[int, ...]) -> dict[int, str]:
        """Return where living threads of a process are: of many, mostly by the one list of the group of the first."""
        found: dict[int, str] = {}
        first = self._groups.group_of(pid, tids[0]) if len(tids) >= _MANY else None
        if first is not None:
            try:
                together = self._groups.members(first)
            except OSError:  # that group went meanwhile, and they with it to another one
                together = frozenset()
            found = {tid: first for tid in tids if tid in together}
        for tid in tids:
            if tid not in found and (where := self._groups.group_of(pid, tid)) is not None:
                found[tid] = where
        return found

    def _send(self, pid: int, homes: Mapping[int, str]) -> None:
        """Put threads of one process where the mapping says; raises OSError at the first that cannot go there."""
        leader = homes.get(pid)
        if leader is not None:
            self._groups.attach_process(leader, pid)
        for tid, home in homes.items():
            if home != leader:
                try:
                    self._groups.attach_thread(home, tid)
                except ProcessLookupError:  # this one ended, the others go on
                    continue

    def _send_home(self, pid: int, homes: Mapping[int, str]) -> list[str]:
        try:
            self._send(pid, homes)
        except ProcessLookupError:
            return []
        except OSError as cause:
            if cause.errno in _HOME_IS_LOST:
                return [self._send_higher(pid, homes, explain(cause))]
            return [f"process {pid} could not go back to its groups {sorted(set(homes.values()))}: {explain(cause)}"]
        return []

    def _send_higher(self, pid: int, homes: Mapping[int, str], why: str) -> str:
        """Put a process that cannot go home into the nearest group above its home that takes it."""
        home = homes.get(pid, next(iter(homes.values())))
        above = home
        while above != "/":
            above = above.rpartition("/")[0] or "/"
            try:
                self._groups.attach_process(above, pid)
            except OSError as cause:
                why = explain(cause)
                continue
            return f"process {pid} could not go back to group {home!r} and is in {above!r} now ({why})"
        return f"process {pid} could not go back to group {home!r} ({why})"

    def _by_process(self, members: frozenset[int], undo: Undo) -> dict[int, list[int]]:
        """Sort living threads by process; those of the record need no look at each."""
        found: dict[int, list[int]] = {}
        rest = set(members)
        for pid in dict.fromkeys(state.pid for state in undo.threads if state.tid in members):
            if tids := [tid for tid in thread_ids(pid, files=self._files, proc_root=self._proc) if tid in rest]:
                found[pid] = tids
                rest.difference_update(tids)
        for tid in sorted(rest):
            owner = process_of(tid, files=self._files, proc_root=self._proc)
            if owner is not None:
                found.setdefault(owner, []).append(tid)
        return found

    def _home_of(self, pid: int, tid: int, homes: _Homes) -> str:
        """Return where a thread came from; one born later goes where its process, or the process' parent, was."""
        own = homes.known.get(tid)
        if own is not None and own.cgroup is not None and self.is_same(own):
            return own.cgroup
        seen: set[int] = set()
        while pid > 1 and pid not in seen:
            seen.add(pid)
            leader = homes.known.get(pid)
            if leader is not None and leader.cgroup is not None:
                return leader.cgroup
            stat = read_stat(pid, files=self._files, proc_root=self._proc)
            pid = 0 if stat is None else stat.ppid
        return next((state.cgroup for state in homes.known.values() if state.cgroup is not None), "/")

    def is_same(self, state: ThreadState) -> bool:
        """Tell whether the tid is still that very thread, alive."""
        now = read_stat(state.tid, files=self._files, proc_root=f"{self._proc}/{state.pid}/task")
        return now is not None and now.starttime_ticks == state.starttime_ticks


def _origins(undo: Undo) -> set[str | None]:
    """Return the groups whose descendants belong to the placement: its own, and those it came from."""
    return {undo.group, *(state.cgroup for state in undo.threads)}
