"""Which processes a placement means: refused when they belong to another one, followed when they fork. Only reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from isolation.enforcer import Enforcer, Mechanism, Target, ThreadState, Undo
from isolation.errors import CgroupVanished, ProcessGone, ProcessRefused
from isolation.kernelfs import KernelFiles
from isolation.process import ProcessIdentity, family, identify, read_stat, read_status, still, thread_ids
from scheduler.errors import RequestInvalid, Violation
from scheduler.held import Held
from scheduler.placement import WorkloadRequest


class Targets:
    """Reads processes and groups for the writer; changes nothing."""

    def __init__(self, *, enforcer: Enforcer, allowed_uids: frozenset[int] | None, files: KernelFiles) -> None:
        """None for `allowed_uids` = any user."""
        self._enforcer = enforcer
        self._allowed_uids = allowed_uids
        self._files = files

    def identify(self, request: WorkloadRequest, live: Mapping[str, Held]) -> Target:
        """Say who is meant; raises RequestInvalid for a process that a live placement names."""
        taken = {process.pid: name for name, held in tuple(live.items()) for process in held.target.processes}
        for pid in request.pids:
            if owner := taken.get(pid):
                raise _refused("pids.pids", f"{pid} belongs to placement {owner!r}; release that first")
        processes = tuple(identify(pid, allowed_uids=self._allowed_uids, files=self._files) for pid in request.pids)
        if request.cgroup_path is not None:
            self._check_members(request.cgroup_path)
        return Target(processes=processes, cgroup_path=request.cgroup_path)

    def _check_members(self, cgroup_path: str) -> None:
        """Hold every process of a cgroup to the rules for named ones; raises ProcessRefused for the first that fails.

        Otherwise naming the group of init, of the daemon or of another user would get round them.
        """
        for pid in self._enforcer.processes_in(cgroup_path):
            try:
                identify(pid, allowed_uids=self._allowed_uids, files=self._files, named=False)
            except ProcessGone:
                continue

    def refuse_overlap(self, target: Target, undo: Undo, live: Mapping[str, Held]) -> None:
        """Raise RequestInvalid when a live placement holds kin of the processes, or one's group lies in the other's.

        Each would take what the other changed for the earlier state. Kin that somebody had put into another cpuset
        group than theirs is not theirs to move, so it may be placed on its own.
        """
        mine = _groups_of(undo)
        for name, held in live.items():
            theirs = _groups_of(held.undo)
            shared = [one for one in mine for other in theirs if _within(one, other)]
            if target.cgroup_path is not None:
                shared += [one for one in theirs for other in mine if _within(one, other)]
            if not shared or (target.processes and held.target.processes):
                continue
            if target.processes:
                told = f"a thread of these is in cgroup {shared[0]!r}, which belongs to placement {name!r}"
                raise _refused("pids.pids", f"{told}; release that first")
            told = f"{target.cgroup_path!r} and placement {name!r} meet in cgroup {shared[0]!r}"
            raise _refused("cgroup_path", f"{told}; release that first")
        if target.processes:
            kin = {name: held for name, held in live.items() if mine & _groups_of(held.undo) or not mine}
            self._refuse_kin(target.processes, kin)

    def _refuse_kin(self, processes: Iterable[ProcessIdentity], live: Mapping[str, Held]) -> None:
        owners = {key: name for name, held in live.items() for key in _processes_of(held)}
        for process in processes if owners else ():
            for pid in (*family(process.pid, files=self._files), *self._ancestors(process.pid)):
                stat = read_stat(pid, files=self._files)
                owner = None if stat is None else owners.get((pid, stat.starttime_ticks))
                if stat is not None and owner is not None:
                    told = f"{process.pid} is of one family with process {pid} ({stat.comm!r}) of placement {owner!r}"
                    raise _refused("pids.pids", f"{told}; release that first, or place them together")

    def refreshed(self, held: Held) -> Held | None:
        """Give what is held with the processes of now; None = nobody is left.

        A worker whose parents have ended is named from then on, so that it is checked, moved and restored like the
        process that started it.
        """
        if held.target.cgroup_path is not None:
            if held.undo.mechanism is not self._enforcer.mechanism:
                return held  # a daemon that uses no cgroups cannot tell
            return held if self._enforcer.is_there(held.undo) else None
        alive = [one for one in held.target.processes if still(one, files=self._files)]
        kin: dict[int, None] = {}
        for process in alive:
            kin.update(dict.fromkeys(family(process.pid, files=self._files)))
        if held.undo.mechanism is Mechanism.AFFINITY:
            known = {state.tid: state for state in (*held.undo.threads, *held.born) if state.tid == state.pid}
            strays = [pid for pid, state in known.items() if pid not in kin and self._is_same(state)]
            held = self._with_born(held, [*kin, *strays], known)
        else:
            strays = self._strays(held, kin)
        adopted = [*self._identified(strays)]
        if not adopted:
            return held if alive or strays else None
        pids = {one.pid for one in adopted}
        orphans = tuple(state for state in held.born if state.pid in pids)
        return replace(
            held,
            target=replace(held.target, processes=(*alive, *adopted)),
            undo=replace(held.undo, threads=(*held.undo.threads, *orphans)),
            born=tuple(state for state in held.born if state.pid not in pids),
        )

    def _strays(self, held: Held, kin: Iterable[int]) -> list[int]:
        """Return the living processes in a group of ours that are no descendants of those named."""
        if held.undo.mechanism is not self._enforcer.mechanism or held.undo.group is None:
            return []
        try:
            members = set(self._enforcer.members(held.undo.group.rpartition("/")[2]))
        except CgroupVanished:
            return []
        for pid in kin:
            members.difference_update(thread_ids(pid, files=self._files))
        found: dict[int, None] = {}
        for tid in sorted(members):
            try:
                pid = int(read_status(f"/proc/{tid}/status", files=self._files)["Tgid"])
            except (FileNotFoundError, ProcessLookupError):  # it ended
                continue
            if read_stat(pid, files=self._files) is not None:
                found[pid] = None
        return list(found)

    def _with_born(self, held: Held, pids: Iterable[int], known: Mapping[int, ThreadState]) -> Held:
        """Note descendants with the CPUs of their nearest noted ancestor, from whom they inherited the earlier mask."""
        states = {pid: state for pid, state in known.items() if self._is_same(state)}
        for pid in pids:  # parents come before their children
            stat = None if pid in states else read_stat(pid, files=self._files)
            if stat is None:
                continue
            above = next((one for one in self._ancestors(pid) if one in states), None)
            if above is not None:
                cpus = states[above].cpus
                ticks = stat.starttime_ticks
                states[pid] = ThreadState(tid=pid, starttime_ticks=ticks, pid=pid, cgroup=None, cpus=cpus)
        before = set(held.undo.threads)
        return replace(held, born=tuple(state for state in states.values() if state not in before))

    def _identified(self, pids: Iterable[int]) -> Iterator[ProcessIdentity]:
        for pid in pids:
            try:  # of whichever user: it was confined together with its parent
                yield identify(pid, allowed_uids=None, files=self._files)
            except ProcessRefused:  # it ended, or lives in a container, where only its parent could be named
                continue

    def _ancestors(self, pid: int) -> Iterator[int]:
        """Yield the parents, nearest first, without init."""
        seen: set[int] = set()
        while (stat := read_stat(pid, files=self._files)) is not None and stat.ppid > 1 and stat.ppid not in seen:
            pid = stat.ppid
            seen.add(pid)
            yield pid

    def _is_same(self, state: ThreadState) -> bool:
        stat = read_stat(state.pid, files=self._files)
        return stat is not None and stat.starttime_ticks == state.starttime_ticks


def _processes_of(held: Held) -> Iterator[tuple[int, int]]:
    """Yield (pid, start time) of every process a placement is known to hold."""
    for process in held.target.processes:
        yield process.pid, process.starttime_ticks
    for state in (*held.undo.threads, *held.born):
        if state.tid == state.pid:
            yield state.pid, state.starttime_ticks


def _groups_of(undo: Undo) -> set[str]:
    """Return the groups an earlier state speaks of: those whose files are changed, or where the threads came from."""
    return {path.rpartition("/")[0] for path, _ in undo.files} | {one.cgroup for one in undo.threads if one.cgroup}


def _within(group: str, other: str) -> bool:
    return group == other or group.startswith(f"{other}/")


def _refused(field: str, problem: str) -> RequestInvalid:
    return RequestInvalid((Violation(f"workload.{field}", problem),))
