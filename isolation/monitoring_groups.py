"""Watch threads by resctrl without changing what they may use: monitoring groups below whatever group they are in.

`MOUNT/mon_groups/PREFIX:NAME` and `MOUNT/CONTROL/mon_groups/PREFIX:NAME`; removing one sends its threads to the control
group above, which is where they were. Each costs a monitoring id (RMID), of which there are few: OutOfRmids means going
without. Threads that another tool monitors stay with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from isolation.cgroup import FAMILY_NAME, check_name
from isolation.errors import ApplyFailed, IsolationError, OutOfClosids, OutOfRmids
from isolation.kernelfs import KernelFiles
from isolation.process import ThreadId
from isolation.resctrl_files import DEFAULT, ResctrlFiles, control_of
from isolation.resctrl_homes import ThreadsNow
from isolation.resctrl_lock import FolderLocks
from isolation.resctrl_monitor import MonitorReading, read_monitor
from isolation.steps import PASSES, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Which groups count a workload now, and how completely."""

    groups: tuple[str, ...]
    threads: int
    missed: tuple[int, ...] = ()  #: tids born faster than they could be moved
    foreign: tuple[int, ...] = ()  #: tids in monitoring groups of others


class MonitoringGroups:
    """Makes, fills and removes monitoring groups of ours; no control group and nobody else's group is changed."""

    def __init__(self, mount: str, *, files: KernelFiles, locks: FolderLocks, prefix: str = FAMILY_NAME) -> None:
        self._resctrl = ResctrlFiles(mount, files=files, locks=locks)
        self._files = files
        self._prefix = f"{check_name(prefix)}:"

    def watch(self, name: str, threads: ThreadsNow) -> Watch:
        """Put every thread into a monitoring group of the control group it is in; again is harmless, and catches up.

        Raises OutOfRmids, ResctrlVanished, ResctrlBusy or ApplyFailed, everything taken back then.
        """
        steps = Steps()
        try:
            with self._resctrl.locked():
                return self._gather(self._folder(name), threads, steps)
        except (IsolationError, OSError) as cause:
            if failures := steps.undo_all():
                raise ApplyFailed(f"{cause}; and {'; '.join(failures)}") from cause
            raise

    def unwatch(self, name: str) -> None:
        """Remove the groups of this workload: its threads fall to the control groups above. Safe to repeat."""
        with self._resctrl.locked():
            for group in self._groups(self._folder(name)):
                self._resctrl.remove(group)

    def names(self) -> tuple[str, ...]:
        """Return the names that are watched now, such as a crash leaves."""
        found = {one.rpartition("/")[2] for one in self._all() if one.rpartition("/")[2].startswith(self._prefix)}
        return tuple(sorted(one.removeprefix(self._prefix) for one in found))

    def readings(self, name: str) -> tuple[MonitorReading, ...]:
        """Return what was measured of this workload, by domain; None where one of its groups does not tell."""
        by_domain: dict[tuple[str, int], list[MonitorReading]] = {}
        groups = self._groups(self._folder(name))
        for group in groups:
            for one in read_monitor(Path(self._resctrl.mount) / group):
                by_domain.setdefault((one.resource, one.domain), []).append(one)
        return tuple(
            MonitorReading(
                resource=resource,
                domain=domain,
                llc_occupancy_bytes=_total([one.llc_occupancy_bytes for one in found], len(groups)),
                mbm_total_bytes=_total([one.mbm_total_bytes for one in found], len(groups)),
                mbm_local_bytes=_total([one.mbm_local_bytes for one in found], len(groups)),
            )
            for (resource, domain), found in sorted(by_domain.items())
        )

    def _gather(self, folder: str, threads: ThreadsNow, steps: Steps) -> Watch:
        moved: set[ThreadId] = set()
        for _ in range(PASSES):
            now = threads()
            where = self._resctrl.whereabouts()  # after the listing: a thread born inside must not look lost
            at = {one: where.get(one.tid, DEFAULT) for one in now}
            outside = [one for one, group in at.items() if group == control_of(group)]
            foreign = tuple(
                one.tid for one, group in at.items() if group != control_of(group) and not _is(group, folder)
            )
            inside = {group for group in at.values() if _is(group, folder)}
            if not outside:
                held = len(now) - len(foreign)
                return Watch(groups=tuple(sorted(inside)), threads=held, foreign=foreign)
            for one in outside:
                if one in moved:
                    raise ApplyFailed(
                        f"the kernel accepted thread {one.tid} into monitoring group {folder!r}, yet it is outside:"
                        " somebody else moves it, or the kernel did not do it"
                    )
                moved.add(one)
                self._move(one, at[one], folder, steps)
        return Watch(
            groups=self._groups(folder), threads=len(now) - len(outside), missed=tuple(one.tid for one in outside)
        )

    def _move(self, thread: ThreadId, control: str, folder: str, steps: Steps) -> None:
        group = f"{control}/mon_groups/{folder}".lstrip("/")
        if group not in self._groups(folder):
            steps.do(
                f"make monitoring group {group!r}", partial(self._make, group), partial(self._resctrl.remove, group)
            )
        try:
            what = f"move thread {thread.tid} into monitoring group {group!r}"
            steps.do(what, partial(self._attach, group, thread.tid), partial(self._resctrl.attach, control, thread.tid))
        except ProcessLookupError:  # it ended; the next pass no longer finds it
            return

    def _attach(self, group: str, tid: int) -> None:
        """Write the tid to the monitoring group alone: the control group it is in already."""
        self._files.write(f"{self._resctrl.mount}/{group}/tasks", str(tid))

    def _make(self, group: str) -> None:
        try:
            self._resctrl.make(group)
        except OutOfClosids as cause:
            raise OutOfRmids(
                f"cannot make monitoring group {group!r}: no monitoring id is left; remove a group, or go without"
            ) from cause

    def _folder(self, name: str) -> str:
        return f"{self._prefix}{check_name(name)}"

    def _groups(self, folder: str) -> tuple[str, ...]:
        return tuple(one for one in self._all() if _is(one, folder))

    def _all(self) -> list[str]:
        """Return all monitoring groups, by their path below the mount."""
        return [one for control in (DEFAULT, *self._resctrl.groups()) for one in self._resctrl.monitored(control)]


def _is(group: str, folder: str) -> bool:
    return group.endswith(f"mon_groups/{folder}")


def _total(values: list[int | None], expected: int) -> int | None:
    known = [one for one in values if one is not None]
    return sum(known) if known and len(known) == expected else None
