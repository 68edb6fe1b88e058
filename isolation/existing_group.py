"""Confine an existing cgroup; its tasks stay in it. Acts on v1 and v2.

By its own cpuset files, or where it is the group of a systemd unit by the unit's properties (v2).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from isolation.cgroup import CpusetGroups, is_of_daemon, resolve
from isolation.cpuset import CpuSet, IdSet
from isolation.errors import ApplyFailed, CgroupRefused, CgroupVanished
from isolation.kernelfs import KernelFiles
from isolation.process import allowed_cpus, process_of
from isolation.regroup import set_groups
from isolation.spec import IsolationSpec
from isolation.steps import Steps, explain
from isolation.systemd import KINDS, Kind
from isolation.undo import Applied, Drift, Mechanism, Released, Undo, UnitState
from isolation.unit_cpuset import UnitCpuset, Units

_PARTITION = "cpuset.cpus.partition"
_PARTITIONS = frozenset({"root", "isolated"})


class ExistingGroup:
    """Changes cpuset.cpus and cpuset.mems of the group, on v1 also of the groups in it, which must fit."""

    def __init__(
        self, groups: CpusetGroups, *, prefix: str, files: KernelFiles, proc_root: str, units: Units | None = None
    ) -> None:
        self._groups = groups
        self._unit = UnitCpuset(groups, units)
        self._v1 = groups.hierarchy.version == 1
        self._prefix = prefix
        self._files = files
        self._proc = proc_root

    def snapshot(self, path: str) -> Undo:
        """Record all that apply may change; raises CgroupRefused for our own groups."""
        group = resolve(self._groups, path)
        if is_of_daemon(group.split("/")[1], self._prefix):
            raise CgroupRefused(f"cgroup_path {path!r} is a group of a cotenant daemon; name the processes instead")
        unit = self._unit.state(group)
        files, inodes = [], []
        for one in self._tree(group):
            inode = self._groups.inode(one)
            if inode is None:
                raise CgroupVanished(f"cgroup_path {path!r} vanished: no group {one!r} any more")
            inodes.append((one, inode))
            for kind in KINDS:
                text = self._unit.text(one, kind) if unit else self._text(one, kind, path)
                files.append((f"{one}/cpuset.{kind}", text))
        mechanism = Mechanism.CGROUP_V1 if self._v1 else Mechanism.CGROUP_V2
        return Undo(mechanism=mechanism, group=None, files=tuple(files), inodes=tuple(inodes), unit=unit)

    def place(self, path: str, spec: IsolationSpec, undo: Undo, steps: Steps) -> Applied:
        """Write the wish, read back the files and every thread; raises CgroupVanished for another group of the path."""
        group = self._resolve(path, undo)
        if (kind_of := self._partition(group)) in _PARTITIONS:
            raise CgroupRefused(
                f"cgroup_path {path!r} is a {kind_of!r} partition: what it is given, all other groups lose;"
                f" make it a plain one with `echo member > {self._groups.hierarchy.mount}{group}/{_PARTITION}`"
            )
        wishes = _wishes(spec)
        if undo.unit:
            self._unit.place(undo.unit.name, group, wishes, steps)
        else:
            for kind, wished in wishes.items():
                wanted = {one: self._fitted(one, kind, wished, group) for one in self._tree(group)}
                set_groups(self._groups, kind, wanted, steps)
        inside, narrowed = 0, []
        for tid, found in self._threads(group):
            inside += 1
            if found != spec.cpus:
                narrowed.append(tid)
        if drifts := self._drifts(group, spec):
            told = "; ".join(
                f"{drift.path or drift.tid!r}: wished {drift.expected}, is {drift.found}" for drift in drifts
            )
            raise ApplyFailed(f"the kernel did not grant what it accepted: {told}")
        self._resolve(path, undo)
        return Applied(threads=inside, narrowed=tuple(narrowed), writes=steps.writes)

    def verify(self, path: str, spec: IsolationSpec, undo: Undo) -> tuple[Drift, ...]:
        """Compare files and threads with the wish; changes nothing."""
        try:
            return tuple(self._drifts(self._resolve(path, undo), spec))
        except CgroupVanished as cause:
            return (Drift(path=path, expected=f"cpus {spec.cpus}", found=str(cause)),)

    def release(self, undo: Undo) -> Released:
        """Write the earlier sets back; on v2, for an empty one with tasks inside, all that the machine can have."""
        if undo.unit:
            return self._release_unit(undo, undo.unit)
        left_over: list[str] = []
        gone = 0
        for kind in reversed(KINDS):
            wanted = {}
            for path, text in undo.files:
                group, _, name = path.rpartition("/")
                if name == f"cpuset.{kind}":
                    if undo.is_of(group, self._groups.inode(group)):
                        wanted[group] = IdSet.parse(text)
                    else:
                        gone += 1
            try:
                set_groups(self._groups, kind, wanted, Steps())
            except (ApplyFailed, OSError) as cause:
                told = explain(cause) if isinstance(cause, OSError) else str(cause)
                left_over.append(f"cpuset.{kind} of {', '.join(wanted)} not restored: {told}")
        return Released(restored=len(undo.files) - gone, gone=gone, left_over=tuple(left_over))

    def _release_unit(self, undo: Undo, unit: UnitState) -> Released:
        """Give the unit its properties back, also when its group is gone: they would meet its next start."""
        texts = dict(undo.files)
        group = undo.existing or ""
        try:
            found = self._unit.release(unit, group, {kind: texts[f"{group}/cpuset.{kind}"] for kind in KINDS})
        except ApplyFailed as cause:
            found = (str(cause),)
        if found is None or not self._groups.exists(group):
            return Released(restored=0, gone=len(undo.files), left_over=found or ())
        return Released(restored=len(undo.files) - len(found), gone=0, left_over=found)

    def processes(self, path: str) -> tuple[int, ...]:
        """Return the pids of all processes in the group and in the groups in it, lowest first."""
        return tuple(sorted({pid for pid, _ in self._tasks(resolve(self._groups, path))}))

    def is_there(self, undo: Undo) -> bool:
        """Tell whether the very group that was recorded still exists; reads nothing but its inode."""
        return undo.existing is not None and undo.is_of(undo.existing, self._groups.inode(undo.existing))

    def members(self, path: str, undo: Undo) -> tuple[int, ...]:
        """Return the tids in the group and in the groups in it; raises CgroupVanished for another one of the path."""
        return tuple(tid for tid, _ in self._threads(self._resolve(path, undo)))

    def _resolve(self, path: str, undo: Undo) -> str:
        """Return the recorded group; one that was removed and made anew since is another workload's."""
        group = resolve(self._groups, path)
        if not undo.is_of(group, self._groups.inode(group)):
            raise CgroupVanished(
                f"cgroup_path {path!r} was removed and made anew since it was placed: another workload; place it anew"
            )
        return group

    def _partition(self, group: str) -> str:
        """Return what kind of partition a v2 group is; one that the kernel calls invalid is a plain group."""
        try:
            return "" if self._v1 else self._groups.read(group, _PARTITION)
        except FileNotFoundError:  # kernels before 4.20
            return ""

    def _tree(self, group: str) -> list[str]:
        """Return the group and, on v1 where children must fit their parents, all groups in it."""
        found = [group]
        if self._v1:
            for one in found:
                found.extend(self._groups.children(one))
        return found

    def _text(self, one: str, kind: Kind, path: str) -> str:
        try:
            return self._groups.read(one, f"cpuset.{kind}")
        except FileNotFoundError as cause:
            control = f"{self._groups.hierarchy.mount}{one.rpartition('/')[0]}/cgroup.subtree_control"
            raise CgroupRefused(
                f"cgroup_path {path!r} has no cpuset.{kind}; enable it with `echo +cpuset > {control}`"
            ) from cause

    def _fitted(self, one: str, kind: str, wished: IdSet, group: str) -> IdSet:
        """Return the wish for the group itself, and what of it fits an inner group."""
        now = IdSet.parse(self._groups.read(one, f"cpuset.{kind}"))
        wish = IdSet(wished.mask)
        if one == group or not now:
            return wish if one == group else now
        return now & wish or wish

    def _threads(self, group: str) -> list[tuple[int, CpuSet]]:
        found = []
        for pid, tid in self._tasks(group):
            cpus = allowed_cpus(pid, tid, files=self._files, proc_root=self._proc)
            if cpus is not None:
                found.append((tid, cpus))
        return found

    def _tasks(self, group: str) -> Iterator[tuple[int, int]]:
        """Yield (pid, tid) of the living threads in the group and in the groups in it, which may go meanwhile."""
        waiting = [group]
        for one in waiting:
            try:
                inner, tids = self._groups.children(one), self._groups.members(one)
            except OSError as cause:
                if one == group or cause.errno not in {errno.ENOENT, errno.ENODEV}:
                    raise
                continue
            waiting.extend(inner)
            for tid in sorted(tids):
                pid = process_of(tid, files=self._files, proc_root=self._proc)
                if pid is not None:
                    yield pid, tid

    def _drifts(self, group: str, spec: IsolationSpec) -> list[Drift]:
        partition = self._partition(group)
        why = f" ({partition})" if " invalid" in partition else ""  # it is a plain group again, with other CPUs
        drifts = [
            Drift(path=f"{group}/cpuset.{kind}", expected=str(wished), found=(found or "none") + why)
            for kind, wished in _wishes(spec).items()
            if (found := self._granted(group, kind)) != str(wished)
        ]
        drifts += [
            Drift(tid=tid, expected=f"cpus {spec.cpus}", found=f"cpus {found}")
            for tid, found in self._threads(group)
            if not found <= spec.cpus
        ]
        if partition in _PARTITIONS:
            drifts.append(Drift(path=f"{group}/{_PARTITION}", expected="member", found=partition))
        return drifts

    def _granted(self, group: str, kind: Kind) -> str:
        """Return what holds; "" where somebody has turned the controller off, which leaves the group without."""
        try:
            return self._groups.granted(group, kind)
        except FileNotFoundError:
            if not self._groups.exists(group):
                raise
            return ""


def _wishes(spec: IsolationSpec) -> dict[Kind, IdSet]:
    """Return what is wished, memory nodes first."""
    wishes: dict[Kind, IdSet] = {} if spec.mems is None else {"mems": spec.mems}
    return wishes | {"cpus": spec.cpus}
