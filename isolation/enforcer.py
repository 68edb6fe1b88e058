"""Make wishes true in the kernel: apply, read back, undo on failure, restore on release. The one door to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import assert_never

from isolation.affinity import ThreadAffinity
from isolation.cgroup import CpusetGroups, CpusetHierarchy, find_hierarchy
from isolation.cpuset import NodeSet
from isolation.errors import (
    ApplyFailed,
    CgroupRefused,
    CgroupVanished,
    IsolationError,
    MechanismMissing,
    ProcessGone,
    SchemataRejected,
    UndoFailed,
)
from isolation.existing_group import ExistingGroup
from isolation.holding import Held, ProcessHolder
from isolation.kernelfs import (
    HOST_AFFINITY,
    HOST_FILES,
    HOST_HANDLES,
    AffinityCalls,
    GroupFiles,
    ProcessHandles,
)
from isolation.memory_nodes import MemoryNodes
from isolation.moving import Mover
from isolation.own_group import OwnGroup
from isolation.page_migration import MigrationReport
from isolation.process import ThreadId, family, identify, start_of
from isolation.resctrl_info import ResctrlInfo
from isolation.service_class import ServiceClasses, host_classes
from isolation.spec import IsolationSpec
from isolation.steps import Steps, explain
from isolation.systemd import Systemd
from isolation.topology import Topology
from isolation.undo import Applied, Drift, Mechanism, Released, Target, ThreadState, Undo
from isolation.unit_cpuset import Units

__all__ = ["Applied", "Drift", "Enforcer", "Mechanism", "Released", "Target", "ThreadState", "Undo"]


class Enforcer:
    """Confines targets to CPUs and memory nodes. Not for several threads at once: it has one caller, the writer.

    Daemons with different prefixes share a host without touching each other's groups.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        files: GroupFiles,
        affinity: AffinityCalls,
        handles: ProcessHandles,
        hierarchy: CpusetHierarchy | None,
        mechanism: Mechanism,
        classes: ServiceClasses | None = None,
        units: Units | None = None,
        memory: MemoryNodes | None = None,
        prefix: str = "cotenant",
        proc_root: str = "/proc",
    ) -> None:
        """Without `classes` there are no cache ways and no bandwidth; they need cgroups as well.

        Without `units` no group is systemd's; without `memory` nobody asks what binding to memory nodes would move.
        """
        self.mechanism = mechanism
        self.topology = topology  #: as it is now; a new one may be set when CPUs came or went
        self._files = files
        self._holder = ProcessHolder(files=files, handles=handles, proc_root=proc_root)
        self._proc = proc_root
        self._affinity = ThreadAffinity(files=files, affinity=affinity, proc_root=proc_root)
        self._own: OwnGroup | None = None
        self._existing: ExistingGroup | None = None
        self._classes = None if mechanism is Mechanism.AFFINITY else classes
        self._memory = memory
        if mechanism is not Mechanism.AFFINITY:
            if hierarchy is None or hierarchy.version != (1 if mechanism is Mechanism.CGROUP_V1 else 2):
                raise MechanismMissing(f"{mechanism} needs a cpuset hierarchy of that version; found {hierarchy}")
            groups = CpusetGroups(hierarchy, files=files, proc_root=proc_root)
            mover = Mover(groups, files=files, affinity=affinity, proc_root=proc_root)
            self._own = OwnGroup(groups, mover, prefix=prefix)
            self._existing = ExistingGroup(groups, prefix=prefix, files=files, proc_root=proc_root, units=units)

    @classmethod
    def for_host(
        cls,
        topology: Topology,
        *,
        mechanism: Mechanism | None = None,
        prefix: str = "cotenant",
        migration_bytes_per_s: int = 0,
    ) -> Enforcer:
        """Use this host's kernel: cpuset groups where we may write them, else affinity of own processes.

        Raises MechanismMissing when a mechanism is demanded that is not there.
        """
        hierarchy = find_hierarchy()
        usable = hierarchy is not None and hierarchy.refusal is None and os.access(hierarchy.mount, os.W_OK)
        found = Mechanism.AFFINITY
        if hierarchy is not None and usable:
            found = Mechanism.CGROUP_V1 if hierarchy.version == 1 else Mechanism.CGROUP_V2
        if mechanism is not None and mechanism not in {found, Mechanism.AFFINITY}:
            if hierarchy is None:
                why = "no cpuset controller is mounted"
            elif usable:
                why = f"cpusets are cgroup v{hierarchy.version} here"
            else:
                why = hierarchy.refusal or f"{hierarchy.mount!r} cannot be written; run as root; is it read-only?"
            raise MechanismMissing(f"mechanism {str(mechanism)!r} is not available: {why}")
        if not hasattr(os, "sched_setaffinity"):
            raise MechanismMissing("this system has neither cpuset cgroups nor sched_setaffinity; Linux is needed")
        return cls(
            topology,
            files=HOST_FILES,
            affinity=HOST_AFFINITY,
            handles=HOST_HANDLES,
            hierarchy=hierarchy if usable else None,
            mechanism=mechanism or found,
            classes=host_classes(prefix),
            units=Systemd.for_host(),
            memory=MemoryNodes(
                files=HOST_FILES,
                binding_moves_pages=(mechanism or found) is Mechanism.CGROUP_V2,
                migration_bytes_per_s=migration_bytes_per_s,
            ),
            prefix=prefix,
        )

    @property
    def migration_bytes_per_s(self) -> int:
        """How much memory may be moved to a placement's nodes; 0 = none."""
        return self._memory.migration_bytes_per_s if self._memory else 0

    def migrate(self, target: Target, nodes: NodeSet, budget_bytes: int) -> MigrationReport | None:
        """Move some pages of the target's processes to the nodes; None = there is nobody. Raises MemoryShort."""
        with self._reading("migrate memory"), self._holder.hold(target, every=False) as held:
            path = target.cgroup_path
            pids = self._pids(held) if path is None else self._existing_group().processes(path)
            found = []
            for pid in pids:
                with suppress(ProcessGone):
                    found.append(identify(pid, allowed_uids=None, files=self._files, proc_root=self._proc))
            return self._memory.migrate(found, nodes, budget_bytes) if self._memory and found else None

    def controls(self) -> ResctrlInfo | None:
        """Return what resctrl offers now; None = it is not mounted, or not ours to write."""
        return self._classes.controls() if self._classes else None

    def snapshot(self, name: str, target: Target) -> Undo:
        """Read everything that is needed to restore the exact state of now, before anything is written."""
        with self._reading(f"record the state of {name!r}"), self._holder.hold(target, every=True) as held:
            if target.cgroup_path is not None:
                undo = self._existing_group().snapshot(target.cgroup_path)
            elif self._own:
                undo = self._own.snapshot(name, held.processes)
            else:
                undo = self._affinity.snapshot(held.processes)
            if self._classes is None:
                return undo
            return replace(undo, resctrl=self._classes.snapshot(name, partial(self._threads, target.cgroup_path, undo)))

    def apply(
        self, name: str, target: Target, spec: IsolationSpec, undo: Undo, *, previous: IsolationSpec | None = None
    ) -> Applied:
        """Confine the target and read it back; zero writes when it is so already.

        previous is the wish that was applied last, if another one: only affinity needs it, to widen. Raises
        ApplyFailed or CgroupVanished after everything was taken back, UndoFailed if that went wrong too, ProcessGone
        or ProcessReused when no process of the target is left.
        """
        spec.check(self.topology)
        with self._reading(f"place {name!r}"), self._holder.hold(target, every=False) as held:
            spec, unbound = self._bound(target, held, spec)
            steps = Steps()
            try:
                if target.cgroup_path is not None:
                    applied = self._existing_group().place(target.cgroup_path, spec, undo, steps)
                elif self._own:
                    applied = self._own.place(held.processes, spec, undo, steps)
                else:
                    applied = self._affinity.place(held.processes, spec, undo, steps, previous=previous)
                applied = self._class(target, spec, undo, applied, steps)
                lost = self._holder.lost(held)
                if lost is not None:
                    raise lost
            except Exception as cause:
                raise self._taken_back(name, self._holder.lost(held) or cause, steps, undo) from cause
            except BaseException as signal:  # Ctrl-C or a stop: leave no half-done work behind
                for failure in steps.undo_all():
                    signal.add_note(failure)
                raise
            return replace(applied, mems_refused=unbound) if unbound else applied

    def verify(self, target: Target, spec: IsolationSpec, undo: Undo) -> tuple[Drift, ...]:
        """Compare wish and kernel; processes that have ended are no drift (see process.still)."""
        drifts = self._verify_cpus(target, spec, undo)
        if self._classes is None:
            return drifts
        with self._reading("compare with resctrl"):
            threads = partial(self._threads, target.cgroup_path, undo)
            return drifts + self._classes.verify(threads, spec, undo.resctrl)

    def looking_once(self) -> AbstractContextManager[None]:
        """Let verify read the groups of resctrl once for all placements; what others do meanwhile is seen next time."""
        return self._classes.looking_once() if self._classes else nullcontext()

    def _verify_cpus(self, target: Target, spec: IsolationSpec, undo: Undo) -> tuple[Drift, ...]:
        with self._reading("compare with the kernel"):
            if target.cgroup_path is not None:
                return self._existing_group().verify(target.cgroup_path, spec, undo)
            alive = tuple(process for process in target.processes if self._holder.still(process))
            if not alive:
                return ()
            return self._own.verify(alive, spec, undo) if self._own else self._affinity.verify(alive, spec)

    def release(self, undo: Undo, *, shared: bool = False) -> Released:
        """Restore the state of the snapshot as far as the world still holds it; safe to repeat.

        shared = other placements may be in its resctrl group, so who stays there is no stranger.
        """
        left_over: tuple[str, ...] = ()
        if self._classes is not None:  # first: our cpuset group tells whose threads they are
            with self._reading("release cache ways"):
                threads = partial(self._threads, None, undo)
                left_over = self._classes.release(undo.resctrl, threads, shared=shared)
        released = self._release_cpus(undo)
        return replace(released, left_over=left_over + released.left_over) if left_over else released

    def remove_empty_classes(self) -> tuple[str, ...]:
        """Remove resctrl groups of ours that hold no thread; return what could not be done."""
        with self._reading("remove empty resctrl groups"):
            return self._classes.remove_empty() if self._classes else ()

    def _release_cpus(self, undo: Undo) -> Released:
        with self._reading("release"):
            match undo.mechanism:
                case Mechanism.AFFINITY:
                    return self._affinity.release(undo)
                case Mechanism.CGROUP_V1 | Mechanism.CGROUP_V2:
                    if self._own is None or undo.mechanism is not self.mechanism:
                        raise MechanismMissing(
                            f"this was placed by {str(undo.mechanism)!r}, the daemon now uses {str(self.mechanism)!r};"
                            " start it as it was started then"
                        )
                    return self._own.release(undo) if undo.group else self._existing_group().release(undo)
                case _:
                    assert_never(undo.mechanism)

    def groups(self) -> tuple[str, ...]:
        """Return the names of our groups that exist in the kernel now; none with affinity."""
        with self._reading("list groups"):
            return self._own.names() if self._own else ()

    def members(self, name: str) -> tuple[int, ...]:
        """Return the tids in one of our groups, lowest first."""
        with self._reading(f"list the threads of group {name!r}"):
            return self._own.members(name) if self._own else ()

    def processes_in(self, cgroup_path: str) -> tuple[int, ...]:
        """Return the pids in an existing cgroup and the groups in it, so that policy can look at each."""
        with self._reading(f"list the processes of cgroup {cgroup_path!r}"):
            return self._existing_group().processes(cgroup_path)

    def is_there(self, undo: Undo) -> bool:
        """Tell whether the existing group of a record is still that very one; asks neither resctrl nor systemd."""
        with self._reading(f"look for cgroup {undo.existing!r}"):
            return self._existing_group().is_there(undo)

    def remove_orphan(self, name: str) -> None:
        """Remove a group of ours that holds no task; raises CgroupRefused while it does."""
        with self._reading(f"remove group {name!r}"):
            if self._own:
                self._own.remove_orphan(name)

    def _bound(self, target: Target, held: Held, spec: IsolationSpec) -> tuple[IsolationSpec, str]:
        """Leave the memory nodes out of the wish where binding to them must wait, and say why."""
        if self._memory is None or spec.mems is None or self._own is None:
            return spec, ""
        if target.cgroup_path is not None:
            pids = self._existing_group().processes(target.cgroup_path)
        else:
            pids = self._pids(held)
        return self._memory.bound(held.processes, pids, spec)

    def _pids(self, held: Held) -> tuple[int, ...]:
        """Return the held processes and all their descendants."""
        families = (family(one.pid, files=self._files, proc_root=self._proc) for one in held.processes)
        return tuple(dict.fromkeys(pid for each in families for pid in each))

    def _class(self, target: Target, spec: IsolationSpec, undo: Undo, applied: Applied, steps: Steps) -> Applied:
        if self._classes is None:
            told = "this daemon has no resctrl to write: it needs root and cpuset cgroups" if spec.wants_class else ""
            return replace(applied, class_refused=told) if told else applied
        threads = partial(self._threads, target.cgroup_path, undo)
        return self._classes.place(threads, spec, undo.resctrl, applied, steps)

    def _threads(self, cgroup_path: str | None, undo: Undo) -> tuple[ThreadId, ...]:
        """List the living threads of a placement by the cpuset group they are in; those of the snapshot besides."""
        tids: dict[int, None] = {}
        try:
            if undo.group is not None and self._own:
                tids.update(dict.fromkeys(self._own.members(undo.group.rpartition("/")[2])))
            elif self._existing and (path := cgroup_path or undo.existing):
                tids.update(dict.fromkeys(self._existing.members(path, undo)))
        except (FileNotFoundError, CgroupVanished):  # not made yet, or gone: then the snapshot alone tells
            pass
        now = {tid: start_of(tid, files=self._files, proc_root=self._proc) for tid in tids}
        found = [ThreadId(tid=tid, starttime_ticks=ticks) for tid, ticks in now.items() if ticks is not None]
        for state in undo.threads:
            if state.tid not in tids:
                ticks = start_of(state.tid, files=self._files, proc_root=self._proc)
                if ticks == state.starttime_ticks:
                    found.append(ThreadId(tid=state.tid, starttime_ticks=ticks))
        return tuple(found)

    def _taken_back(self, name: str, cause: Exception, steps: Steps, undo: Undo) -> Exception:
        """Undo all steps; return what to raise."""
        failures = list(steps.undo_all())
        if self._own and undo.group and steps.writes:
            failures += self._own.restore_masks(undo)  # kernels before 6.2 forget masks when a thread is moved
        told = explain(cause) if isinstance(cause, OSError) else str(cause)
        if failures:
            return UndoFailed(f"placing {name!r} failed: {told}; and undoing failed too: {'; '.join(failures)}")
        if isinstance(cause, IsolationError) and not isinstance(cause, ApplyFailed):
            return cause
        if isinstance(cause, SchemataRejected):  # the caller may plan anew with what info/ tells now
            return SchemataRejected(f"placing {name!r} failed and was undone: {told}")
        root = cause if isinstance(cause, OSError) else cause.__cause__
        if isinstance(root, OSError) and root.errno in {errno.ENOENT, errno.ENODEV}:
            return CgroupVanished(f"placing {name!r} failed and was undone: {told}")
        return ApplyFailed(f"placing {name!r} failed and was undone: {told}")

    def _existing_group(self) -> ExistingGroup:
        if self._existing is None:
            raise CgroupRefused("a cgroup_path needs a writable cpuset hierarchy; name the processes instead")
        return self._existing

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn errors of the kernel outside of apply into ours."""
        try:
            yield
        except (FileNotFoundError, ProcessLookupError) as cause:
            raise CgroupVanished(f"cannot {what}: {cause.filename!r} vanished meanwhile; try again") from cause
        except OSError as cause:
            if cause.errno == errno.ENODEV:
                raise CgroupVanished(f"cannot {what}: {cause.filename!r} vanished meanwhile; try again") from cause
            raise ApplyFailed(f"cannot {what}: {explain(cause)} ({cause.filename!r})") from cause
