"""The part of a placement that resctrl holds: a class of service with cache ways and bandwidth.

Classes are few, and resctrl may go at any time. So a placement goes without where there is no class for it, and says
so; only what the kernel refuses or does not do undoes the whole placement.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from isolation.errors import ApplyFailed, OutOfClosids, OutOfRmids, ResctrlVanished, SpecInvalid
from isolation.kernelfs import HOST_FILES
from isolation.resctrl import ResctrlGroups
from isolation.resctrl_homes import ThreadsNow
from isolation.resctrl_info import ResctrlInfo, find_resctrl, read_resctrl
from isolation.resctrl_lock import HOST_LOCKS
from isolation.resctrl_schemata import Schemata
from isolation.resctrl_wish import must_be_alone, schemata_of
from isolation.spec import IsolationSpec
from isolation.steps import Steps
from isolation.undo import Applied, Drift, Released, ResctrlUndo

_USUAL_MOUNT = Path("/sys/fs/resctrl")
_GOES_WITHOUT = (OutOfClosids, OutOfRmids, ResctrlVanished)


class ServiceClasses:
    """Gives a placement its class, checks it, and takes it back."""

    def __init__(self, groups: ResctrlGroups, read_info: Callable[[], ResctrlInfo]) -> None:
        """`read_info` raises ResctrlVanished while nothing is mounted."""
        self._groups = groups
        self._read_info = read_info

    def controls(self) -> ResctrlInfo | None:
        """Return what can be controlled now; None = no resctrl is mounted."""
        try:
            return replace(self._read_info(), foreign_groups=self._groups.foreign())
        except ResctrlVanished:
            return None

    def snapshot(self, name: str, threads: ThreadsNow) -> ResctrlUndo | None:
        """Record where the threads are; None = no resctrl is mounted. Raises ResctrlRefused."""
        try:
            return self._groups.snapshot(name, threads)
        except ResctrlVanished:
            return None

    def place(
        self, threads: ThreadsNow, spec: IsolationSpec, undo: ResctrlUndo | None, applied: Applied, steps: Steps
    ) -> Applied:
        """Add the wished class to what was applied already, or take the present one away if none is wished."""
        if undo is None:
            told = "there was no resctrl when it was placed; release it and place it again" if spec.wants_class else ""
            return replace(applied, class_refused=told) if told else applied
        if not spec.wants_class:
            return self._leave(threads, undo, applied, steps)
        mark = steps.mark
        try:
            wish = schemata_of(spec, self._read_info())
            found = self._groups.place(threads, wish, undo, steps, alone=must_be_alone(spec))
            overlapping = self._groups.neighbours(_divided(wish, spec))
        except _GOES_WITHOUT as cause:
            if failures := steps.undo_to(mark):
                raise ApplyFailed(f"{cause}; and undoing failed too: {'; '.join(failures)}") from cause
            return replace(self._leave(threads, undo, applied, steps), class_refused=str(cause))
        missed = dict.fromkeys((*applied.missed, *found.missed))
        return replace(applied, missed=tuple(missed), writes=steps.writes, overlapping=overlapping)

    def verify(self, threads: ThreadsNow, spec: IsolationSpec, undo: ResctrlUndo | None) -> tuple[Drift, ...]:
        """Compare the class with the wish; changes nothing."""
        if undo is None or not spec.wants_class:
            return ()
        try:
            wish = schemata_of(spec, self._groups.overviews.info())
        except (ResctrlVanished, SpecInvalid) as cause:
            went = isinstance(cause, SpecInvalid)  # a cache without CPUs, or a mount with other options: plan anew
            return (Drift(path="resctrl", expected="cache ways and bandwidth", found=str(cause), blameless=went),)
        return self._groups.verify(threads, wish, undo)

    def looking_once(self) -> AbstractContextManager[None]:
        """Let verify read the groups once for all placements, and again when one is changed or seems to have moved."""
        return self._groups.overviews.kept()

    def release(self, undo: ResctrlUndo | None, threads: ThreadsNow, *, shared: bool) -> tuple[str, ...]:
        """Send the threads to the groups they came from; return a sentence about each thing that is left over."""
        if undo is None:
            return ()
        return self._released(undo, threads, shared=shared).left_over

    def remove_empty(self) -> tuple[str, ...]:
        """Remove groups of ours that hold no thread; return what could not be done."""
        try:
            return self._groups.remove_empty()
        except ResctrlVanished:
            return ()

    def _released(self, undo: ResctrlUndo, threads: ThreadsNow, *, shared: bool) -> Released:
        try:
            if not self._groups.holds(undo, threads):
                return Released(restored=0, gone=0)
        except ResctrlVanished:
            return Released(restored=0, gone=0)
        return self._groups.release(undo, threads, shared=shared)

    def _leave(self, threads: ThreadsNow, undo: ResctrlUndo, applied: Applied, steps: Steps) -> Applied:
        try:
            self._groups.leave(threads, undo, steps)
        except ResctrlVanished:  # with it went all classes
            return applied
        return replace(applied, writes=steps.writes)


def _divided(wish: Schemata, spec: IsolationSpec) -> Schemata:
    """Return the entries that the wish restricts: what is left whole may overlap."""
    caches = {(f"L{one.level}", one.cache_id) for one in spec.cache_ways}
    return Schemata(tuple(entry for entry in wish.entries if (entry[0][:2], entry[1]) in caches))


def host_classes(prefix: str) -> ServiceClasses | None:
    """Use this host's resctrl, mounted now or later; None = this kernel has none, or it is not ours to write."""
    found = find_resctrl()
    mount = _USUAL_MOUNT if found is None else found.path
    if not os.access(mount, os.W_OK):
        return None

    def read_info() -> ResctrlInfo:
        now = find_resctrl()
        if now is None or now.path != mount:
            raise ResctrlVanished(
                f"no resctrl is mounted at {str(mount)!r}; mount it with `mount -t resctrl resctrl {mount}`"
            )
        return read_resctrl(now.path, now.options)

    groups = ResctrlGroups(str(mount), read_info, files=HOST_FILES, locks=HOST_LOCKS, prefix=prefix)
    return ServiceClasses(groups, read_info)
