"""Move processes into a cpuset group and back to where each thread came from."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from isolation.cgroup import CpusetGroups
from isolation.cpuset import CpuSet
from isolation.errors import ApplyFailed
from isolation.kernelfs import AffinityCalls, KernelFiles
from isolation.process import ProcessIdentity, allowed_cpus, family, read_stat, read_status, thread_ids, threads
from isolation.steps import Steps, explain
from isolation.undo import ThreadState, Undo

_PASSES = 10  #: more than any program needed that was measured; what is outside then is reported as missed
#: The group is gone, has no CPUs any more, or became one that takes no tasks.
_HOME_IS_LOST = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOSPC, errno.EOPNOTSUPP})


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
        for pid in self._family(processes, _origins(undo), undo.threads):
            for tid in thread_ids(pid, files=self._files, proc_root=self._proc):
                found = self._allowed(pid, tid)
                if found is not None:
                    yield pid, tid, found

    def gather(self, processes: tuple[ProcessIdentity, ...], group: str, undo: Undo, steps: Steps) -> tuple[int, ...]:
        """Move threads in until a pass finds none outside; return those still outside after the last pass."""
        moved: set[int] = set()  # pids moved as a whole
        single: set[int] = set()  # tids moved one by one, because moving their process left them out
        for _ in range(_PASSES):
            outside = self._outside(processes, group, undo)
            if not outside:
                return ()
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
        return tuple(tid for tids in self._outside(processes, group, undo).values() for tid in tids)

    def empty(self, group: str, undo: Undo) -> list[str]:
        """Send every thread in the group home; return a sentence for each that could not go to its own home."""
        left_over: dict[str, None] = {}
        inside: frozenset[int] = frozenset()
        for _ in range(_PASSES):
            members = self._groups.members(group) if self._groups.exists(group) else frozenset()
            homes: dict[int, dict[int, str]] = {}
            for tid in sorted(members):
                pid = self._process_of(tid)
                if pid is not None:
                    homes.setdefault(pid, {})[tid] = self._home_of(pid, tid, undo)
            if not homes:
                return list(left_over)
            if members == inside:  # nobody left: trying again would not help
                break
            inside = members
            for pid, of_tid in homes.items():
                left_over.update((told, None) for told in self._send_home(pid, of_tid))
        return [*left_over, f"group {group!r} still holds threads, such as {min(members)}"]

    def restore_mask(self, state: ThreadState) -> list[str]:
        """Give a thread that is home its earlier CPUs, if moving it (kernels before 6.2) or itself changed them."""
        now = self._allowed(state.pid, state.tid)
        if now is None or now == state.cpus:
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

    def is_home(self, state: ThreadState) -> bool | None:
        """Tell whether the thread is in its earlier group; None = it has ended."""
        return self._groups.group_of(state.pid, state.tid) == state.cgroup if self.is_same(state) else None

    def is_alive(self, pid: int, tid: int) -> bool:
        """Tell whether the thread runs; one that is ending is in no group any more, which is no escape."""
        return read_stat(tid, files=self._files, proc_root=f"{self._proc}/{pid}/task") is not None

    def _allowed(self, pid: int, tid: int) -> CpuSet | None:
        return allowed_cpus(pid, tid, files=self._files, proc_root=self._proc)

    def _family(
        self, processes: Iterable[ProcessIdentity], origins: set[str | None], known: tuple[ThreadState, ...]
    ) -> tuple[int, ...]:
        """Return named processes and those descendants that nobody had put into a cpuset group of their own."""
        found: dict[int, None] = {}
        leaders = {state.tid: state for state in known if state.tid == state.pid}
        for process in processes:
            for pid in family(process.pid, files=self._files, proc_root=self._proc):
                recorded = pid in leaders and self.is_same(leaders[pid])
                if recorded or pid == process.pid or self._groups.group_of(pid, pid) in origins:
                    found[pid] = None
        return tuple(found)

    def _outside(self, processes: Iterable[ProcessIdentity], group: str, undo: Undo) -> dict[int, tuple[int, ...]]:
        """Return the living threads that are not in the group, by process."""
        listed = {
            pid: thread_ids(pid, files=self._files, proc_root=self._proc)
            for pid in self._family(processes, _origins(undo), undo.threads)
        }
        members = self._groups.members(group)  # after the listing: a thread born in the group must not look lost
        outside = {}
        for pid, tids in listed.items():
            lost = tuple(tid for tid in tids if tid not in members and self.is_alive(pid, tid))
            if lost:
                outside[pid] = lost
        return outside

    def _move(self, what: str, act: Callable[[], None], pid: int, tids: tuple[int, ...], steps: Steps) -> None:
        before = {tid: where for tid in tids if (where := self._groups.group_of(pid, tid)) is not None}
        try:
            steps.do(what, act, partial(self._send, pid, before))
        except ProcessLookupError:  # it ended; the next pass no longer finds it
            return

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

    def _process_of(self, tid: int) -> int | None:
        try:
            return int(read_status(f"{self._proc}/{tid}/status", files=self._files)["Tgid"])
        except (FileNotFoundError, ProcessLookupError):
            return None

    def _home_of(self, pid: int, tid: int, undo: Undo) -> str:
        """Return where a thread came from; one born later goes where its process, or the process' parent, was."""
        known = {state.tid: state for state in undo.threads}
        own = known.get(tid)
        if own is not None and own.cgroup is not None and self.is_same(own):
            return own.cgroup
        seen: set[int] = set()
        while pid > 1 and pid not in seen:
            seen.add(pid)
            leader = known.get(pid)
            if leader is not None and leader.cgroup is not None:
                return leader.cgroup
            stat = read_stat(pid, files=self._files, proc_root=self._proc)
            pid = 0 if stat is None else stat.ppid
        return next((state.cgroup for state in undo.threads if state.cgroup is not None), "/")

    def is_same(self, state: ThreadState) -> bool:
        """Tell whether the tid is still that very thread, alive."""
        now = read_stat(state.tid, files=self._files, proc_root=f"{self._proc}/{state.pid}/task")
        return now is not None and now.starttime_ticks == state.starttime_ticks


def _origins(undo: Undo) -> set[str | None]:
    """Return the groups whose descendants belong to the placement: its own, and those it came from."""
    return {undo.group, *(state.cgroup for state in undo.threads)}
