"""Confine processes in a group of our own, and give them back. Acts on cpuset groups v1 and v2."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from isolation.cgroup import CpusetGroups, check_name, is_of_daemon, parent_of
from isolation.cpuset import CpuSet, IdSet, NodeSet
from isolation.errors import ApplyFailed, CgroupRefused, ProcessGone
from isolation.moving import Mover
from isolation.process import ProcessIdentity, ThreadId
from isolation.regroup import set_groups
from isolation.requested_masks import Requested
from isolation.spec import IsolationSpec
from isolation.steps import Steps
from isolation.undo import Applied, Drift, Mechanism, Released, ThreadState, Undo

_TOLD = 3  #: threads that an error names


class OwnGroup:
    """Groups `/PREFIX/NAME`; nobody else's group is changed."""

    def __init__(self, groups: CpusetGroups, mover: Mover, *, prefix: str) -> None:
        self._groups = groups
        self._mover = mover
        self._v1 = groups.hierarchy.version == 1
        self._home = f"/{check_name(prefix)}"

    def snapshot(self, name: str, processes: tuple[ProcessIdentity, ...]) -> Undo:
        """Record where every thread is now; raises CgroupRefused for a process that is already placed."""
        states: dict[int, ThreadState] = {}
        for process in processes:
            mine = self._mover.states(process)
            if not mine:
                raise ProcessGone(f"process {process.pid} ({process.comm!r}) has ended", pid=process.pid)
            states.update((state.tid, state) for state in mine)
        for state in states.values():
            if is_of_daemon((state.cgroup or "/").split("/")[1], self._home[1:]):
                raise CgroupRefused(
                    f"process {state.pid} is already placed, in group {state.cgroup!r}; release that placement first"
                )
        return Undo(
            mechanism=Mechanism.CGROUP_V1 if self._v1 else Mechanism.CGROUP_V2,
            group=f"{self._home}/{check_name(name)}",
            threads=tuple(states.values()),
        )

    def place(self, processes: tuple[ProcessIdentity, ...], spec: IsolationSpec, undo: Undo, steps: Steps) -> Applied:
        """Make group and settings so, move every thread in, read everything back."""
        group = _group(undo)
        fresh = self._prepare(group, spec, undo, steps)
        gathered = self._mover.gather(processes, group, undo, steps, fresh=fresh)
        inside, narrowed = 0, []
        for pid, tid, found in self._mover.allowed(gathered.threads):
            if tid in gathered.missed:
                continue
            if not found <= spec.cpus:
                raise ApplyFailed(
                    f"thread {tid} of process {pid} may run on {found} after it was put on {spec.cpus} in group"
                    f" {group!r}: somebody else moves it, or the kernel did not do it"
                )
            inside += 1
            if found != spec.cpus:
                narrowed.append(tid)
        return Applied(
            threads=inside, narrowed=tuple(narrowed), missed=tuple(sorted(gathered.missed)), writes=steps.writes
        )

    def verify(self, processes: tuple[ProcessIdentity, ...], spec: IsolationSpec, undo: Undo) -> tuple[Drift, ...]:
        """Compare group and threads with the wish; changes nothing."""
        group = _group(undo)
        if not self._groups.exists(group):
            return (Drift(path=group, expected=f"cpus {spec.cpus}", found="no such group"),)
        drifts = self._group_drift(group, spec)
        living = list(self._mover.living(processes, undo))
        members = self._groups.members(group)  # after the listing: a thread born in the group must not look lost
        for pid, tid, found in living:
            if tid not in members:
                where = self._groups.group_of(pid, tid)
                if where is not None and self._mover.is_alive(pid, tid):
                    drifts.append(Drift(tid=tid, expected=f"group {group}", found=f"group {where}"))
            elif not found <= spec.cpus:
                drifts.append(Drift(tid=tid, expected=f"cpus {spec.cpus}", found=f"cpus {found}"))
        return tuple(drifts)

    def restore_masks(self, undo: Undo) -> list[str]:
        """Give every thread that is back home its earlier CPUs; return what could not be done."""
        return self._mover.restore(undo)[1]

    def release(self, undo: Undo) -> Released:
        """Put every thread back where it was, remove the group; go as far as possible and tell what is left."""
        group = _group(undo)
        left_over = [*self._mover.dissolve(group, undo), *self._leave_home(undo)]
        alive, told = self._mover.restore(undo)
        left_over += told
        return Released(restored=alive, gone=len(undo.threads) - alive, left_over=tuple(left_over))

    def names(self) -> tuple[str, ...]:
        """Return the names of the groups that exist now."""
        if not self._groups.exists(self._home):
            return ()
        return tuple(group.rpartition("/")[2] for group in self._groups.children(self._home))

    def members(self, name: str) -> tuple[int, ...]:
        """Return the tids in one of the groups."""
        return tuple(sorted(self._groups.members(f"{self._home}/{check_name(name)}")))

    def remove_orphan(self, name: str) -> None:
        """Remove a group of ours that no record knows; raises CgroupRefused while it holds a task."""
        group = f"{self._home}/{check_name(name)}"
        try:
            tids = self._groups.members(group)
        except FileNotFoundError:
            return
        if tids:
            raise CgroupRefused(f"group {group!r} still holds {len(tids)} threads, such as {min(tids)}; it stays")
        if left_over := [*self._remove(group), *self._remove(self._home)]:
            raise CgroupRefused("; ".join(left_over))

    def _prepare(self, group: str, spec: IsolationSpec, undo: Undo, steps: Steps) -> bool:
        """Make the group as wished; tell whether it is a new one."""
        mems = self._wanted_mems(spec, undo)
        if self._v1:
            self._prepare_home(spec.cpus, mems, undo, steps)
        else:
            self._delegate("/", steps)
            if not self._groups.exists(self._home):
                self._make(self._home, undo, steps)
            self._delegate(self._home, steps)
        fresh = not self._groups.exists(group)
        if fresh:
            self._make(group, undo, steps)
        set_groups(self._groups, "mems", {group: mems}, steps, fresh=fresh)
        set_groups(self._groups, "cpus", {group: spec.cpus}, steps, fresh=fresh)
        if drifts := self._group_drift(group, spec):
            told = "; ".join(f"{drift.path!r}: wished {drift.expected}, granted {drift.found}" for drift in drifts)
            raise ApplyFailed(f"the kernel did not grant what it accepted: {told}")
        return fresh

    def _make(self, group: str, undo: Undo, steps: Steps) -> None:
        steps.do(f"make group {group!r}", partial(self._groups.make, group), partial(self._discard, group, undo))

    def _delegate(self, parent: str, steps: Steps) -> None:
        """Let children of the top, or of our own home, have cpuset files (v2); threads of others keep their masks."""
        if "cpuset" in self._groups.read(parent, "cgroup.subtree_control").split():
            return
        asked = self._mover.masks.record() if parent == "/" else {}  # below our home there is nobody else
        steps.do(
            f"enable cpuset below group {parent!r}",
            partial(self._groups.write, parent, "cgroup.subtree_control", "+cpuset"),
            partial(self._end_delegation, parent, asked),
        )
        self._give_back(asked)

    def _end_delegation(self, parent: str, asked: Mapping[ThreadId, Requested]) -> None:
        now = {**asked, **self._mover.masks.record()} if parent == "/" else {}
        self._groups.write(parent, "cgroup.subtree_control", "-cpuset")
        self._give_back(now)

    def _give_back(self, asked: Mapping[ThreadId, Requested]) -> None:
        if told := self._mover.masks.give_back(asked):
            more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
            raise ApplyFailed("; ".join(told[:_TOLD]) + more)

    def _prepare_home(self, cpus: CpuSet, mems: NodeSet, undo: Undo, steps: Steps) -> None:
        """Give our home all CPUs and nodes of the top: new groups are empty, and lose CPUs that go offline (v1)."""
        try:
            has_cpus, has_mems = CpuSet.parse(self._groups.read(self._home, "cpuset.cpus")), self._nodes(self._home)
            fresh = False
        except FileNotFoundError:
            self._make(self._home, undo, steps)
            has_cpus, has_mems, fresh = CpuSet(), NodeSet(), True
        if not cpus <= has_cpus:
            top = CpuSet.parse(self._groups.read("/", "cpuset.cpus"))
            set_groups(self._groups, "cpus", {self._home: top}, steps, fresh=fresh)
        if not mems <= has_mems:
            set_groups(self._groups, "mems", {self._home: self._nodes("/")}, steps, fresh=fresh)

    def _wanted_mems(self, spec: IsolationSpec, undo: Undo) -> NodeSet:
        """Return the wish, or else what the processes had; on v2 empty = as the parent has."""
        if spec.mems is not None:
            return spec.mems
        found = NodeSet()
        for earlier in sorted({state.cgroup or "/" for state in undo.threads}):
            found = found | self._nodes(earlier)
        if self._v1 and found:  # always within the top
            return found
        top = self._nodes("/")
        return NodeSet() if not self._v1 and found == top else found & top or top

    def _nodes(self, group: str) -> NodeSet:
        """Return the memory nodes of a group; one that is gone, or has no cpuset (v2), has those of its parent."""
        while True:
            try:
                return NodeSet.parse(self._groups.granted(group, "mems"))
            except FileNotFoundError:
                if group == "/":
                    raise
                group = parent_of(group)

    def _group_drift(self, group: str, spec: IsolationSpec) -> list[Drift]:
        pairs: list[tuple[str, IdSet]] = [("cpus", spec.cpus)]
        if spec.mems is not None:
            pairs.append(("mems", spec.mems))
        return [
            Drift(path=f"{group}/cpuset.{kind}", expected=str(wished), found=found or "none")
            for kind, wished in pairs
            if (found := self._groups.granted(group, kind)) != str(wished)
        ]

    def _discard(self, group: str, undo: Undo) -> None:
        """Take back the making of a group; threads born in it since then leave it first."""
        left_over = self._remove(group) if group == self._home else self._mover.dissolve(group, undo)
        if left_over:
            raise ApplyFailed("; ".join(left_over))

    def _leave_home(self, undo: Undo) -> list[str]:
        """Remove our home if it is empty; who of the placement is in it (v1) goes home first."""
        try:
            self._groups.remove(self._home)  # that it goes proves that nobody is inside
        except FileNotFoundError:
            return []
        except OSError as cause:
            if not self._v1 or cause.errno != errno.EBUSY:
                return self._mover.why_kept(self._home, cause)
            with suppress(FileNotFoundError):
                if self._groups.members(self._home):  # else it holds the groups of others
                    return [*self._mover.fetch(self._home, undo), *self._remove(self._home)]
        return []

    def _remove(self, group: str) -> list[str]:
        """Remove a group; our home stays while other placements use it."""
        try:
            self._groups.remove(group)
        except FileNotFoundError:
            return []
        except OSError as cause:
            return self._mover.why_kept(group, cause)
        return []


def _group(undo: Undo) -> str:
    if undo.group is None:
        raise ValueError("BUG: an undo record of processes names no group")
    return undo.group
