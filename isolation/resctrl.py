"""Give threads ways of cache and memory bandwidth by resctrl groups of our own, and give them back."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from isolation.cgroup import FAMILY_NAME, check_name, is_of_daemon
from isolation.errors import ApplyFailed, IsolationError, ResctrlRefused, ResctrlVanished, SpecInvalid
from isolation.kernelfs import KernelFiles
from isolation.process import ThreadId, start_of
from isolation.resctrl_files import DEFAULT, ResctrlFiles, control_of
from isolation.resctrl_homes import ThreadHomes, ThreadsNow
from isolation.resctrl_info import ResctrlInfo
from isolation.resctrl_lock import FolderLocks
from isolation.resctrl_mask import WayMask
from isolation.resctrl_overview import Overviews
from isolation.resctrl_schemata import Schemata
from isolation.steps import BUDGET_S, PASSES, Steps
from isolation.undo import Applied, Drift, Released, ResctrlUndo, ThreadHome

_SEPARATOR = ":"  # no sign of a name, so that the groups of one daemon are not taken for those of another


class ResctrlGroups:
    """Control groups `MOUNT/PREFIX:NAME`: neither the default group nor anybody else's is changed.

    Classes of service are few, so workloads with equal wishes share a group, named after the first of them; who wishes
    something else then leaves it. Which group a workload is in, the kernel alone remembers. Taking back a failed
    placement does not wait for the lock: to give back must not depend on a neighbour.
    """

    def __init__(
        self,
        mount: str,
        read_info: Callable[[], ResctrlInfo],
        *,
        files: KernelFiles,
        locks: FolderLocks,
        prefix: str = FAMILY_NAME,
        proc_root: str = "/proc",
    ) -> None:
        """`read_info` is called for every placement: a mount with other options has other units and limits."""
        self._resctrl = ResctrlFiles(mount, files=files, locks=locks)
        self._read_info = read_info
        self._files = files
        self._prefix = f"{check_name(prefix)}{_SEPARATOR}"
        self._proc = proc_root
        self.overviews = Overviews(self._resctrl, read_info)
        self._homes = ThreadHomes(self._resctrl, files=files, proc_root=proc_root)
        self._seen: dict[str, frozenset[ThreadId]] = {}  # by placement: the threads that were in its group

    def snapshot(self, name: str, threads: ThreadsNow) -> ResctrlUndo:
        """Record where every thread is; raises ResctrlRefused for one that is in a group of ours."""
        self._resctrl.check_mounted()
        now = threads()
        where = self._resctrl.whereabouts()  # after the listing
        for thread in now:
            if self._is_family(group := where.get(thread.tid, DEFAULT)):
                raise ResctrlRefused(f"thread {thread.tid} is in resctrl group {group!r}; release that placement first")
        return ResctrlUndo(
            group=self._folder(name),
            threads=tuple(
                ThreadHome(tid=one.tid, starttime_ticks=one.starttime_ticks, group=where.get(one.tid, DEFAULT))
                for one in now
            ),
        )

    def place(
        self, threads: ThreadsNow, wish: Schemata, undo: ResctrlUndo, steps: Steps, *, alone: bool = False
    ) -> Applied:
        """Make group and schemata so, read them back, only then move every thread in.

        alone = not in a group with others, even if they wish the same. Zero writes when it is so already. The caller
        takes the steps back when this raises.
        """
        self.overviews.drop()
        info = self._checked(wish)
        with self._resctrl.locked():
            left = self._used_by(undo, threads)
            group = self._fitting(left, threads, wish, undo, info=info, steps=steps, alone=alone)
            missed = self._gather(group, threads, steps)
            inside = self._resctrl.tasks(group)
            held = sum(thread.tid in inside for thread in threads())
            self._confirm(group, wish, info)  # nobody changed it while the threads moved
            self._seen[undo.group] = frozenset(thread for thread in threads() if thread.tid in inside)
            for one in left:
                if one != group and not self._resctrl.tasks(one):
                    self._drop(one, steps, info)
        return Applied(threads=held, missed=missed, writes=steps.writes)

    def leave(self, threads: ThreadsNow, undo: ResctrlUndo, steps: Steps) -> None:
        """Send every thread home and drop the groups that are empty then; the caller takes it back when this raises.

        Zero writes, and no lock is taken, when no thread is in a group of ours. Raises ApplyFailed.
        """
        self._resctrl.check_mounted()
        if not self._used_by(undo, threads):
            return
        self.overviews.drop()
        info = self._read_info()
        with self._resctrl.locked():
            left = self._used_by(undo, threads)
            self._homes.leave(undo, left, threads, steps)
            for group in left:
                if not self._resctrl.tasks(group):
                    self._drop(group, steps, info)

    def holds(self, undo: ResctrlUndo, threads: ThreadsNow) -> bool:
        """Tell whether anything of this placement is in resctrl now, or should go back to where it was there."""
        return bool(self._used_by(undo, threads)) or bool(self._homes.strayed(undo))

    def foreign(self) -> int:
        """Count the control groups that are not ours."""
        return sum(not self._is_ours(one) for one in self._resctrl.groups())

    def verify(self, threads: ThreadsNow, wish: Schemata, undo: ResctrlUndo) -> tuple[Drift, ...]:
        """Compare groups and threads with the wish; changes nothing."""
        now = threads()
        try:
            seen = self.overviews.latest()
            if not all(self._is_ours(seen.control(one)) for one in now):  # born or moved since, or lost indeed
                seen = self.overviews.anew()
            held = {
                group: wish.missing_in(seen.schemata(group), seen.info.rounding)
                for group in sorted({seen.control(one) for one in now})
                if self._is_ours(group)
            }
            lost = [one for one in now if seen.control(one) not in held and self._homes.is_same(one)]
        except ResctrlVanished as cause:
            return (Drift(path=self._resctrl.mount, expected=f"schemata {str(wish)!r}", found=str(cause)),)
        if lost and not held and not self._resctrl.exists(undo.group):
            told = "somebody removed the group; its threads fell to the default group"
            return (Drift(path=f"{self._resctrl.mount}/{undo.group}", expected=f"schemata {str(wish)!r}", found=told),)
        drifts = [
            Drift(path=f"{self._resctrl.mount}/{group}/schemata", expected=str(wish), found=told)
            for group, differences in held.items()
            for told in differences
        ]
        home = next(iter(held), undo.group)
        drifts += [
            Drift(
                tid=one.tid,
                expected=f"resctrl group {home!r}",
                found=f"group {seen.group(one)!r}",
                blameless=seen.group(one) == DEFAULT and one not in self._seen.get(undo.group, ()),
            )
            for one in lost
        ]
        outside = set(lost)
        self._seen[undo.group] = frozenset(one for one in now if one not in outside) | self._stayed(undo, outside)
        return tuple(drifts)

    def _stayed(self, undo: ResctrlUndo, outside: set[ThreadId]) -> frozenset[ThreadId]:
        """Return those outside that were inside once: they stay known as such while they live."""
        return self._seen.get(undo.group, frozenset()) & outside

    def release(self, undo: ResctrlUndo, threads: ThreadsNow, *, shared: bool = False) -> Released:
        """Send every thread to where it was, remove the group unless others are in it; safe to repeat.

        shared = other placements may use a group of this one, so who stays in it is no stranger. Raises ResctrlBusy
        before anything is changed.
        """
        self.overviews.drop()
        try:
            with self._resctrl.locked():
                used = self._used_by(undo, threads)
                left_over = self._homes.send_back(undo, used, threads, alone=not shared)
                for group in used:
                    left_over += self._remove(group, shared=shared)
                where = self._resctrl.whereabouts()
        except ResctrlVanished as cause:  # with it went all groups: every thread is in none
            left_over, where = [str(cause)] if any(one.group for one in undo.threads) else [], {}
        self._seen.pop(undo.group, None)
        living = [one for one in undo.threads if self._homes.is_same(one)]
        restored = sum(where.get(one.tid, DEFAULT) == one.group for one in living)
        return Released(restored=restored, gone=len(undo.threads) - len(living), left_over=tuple(left_over))

    def neighbours(self, wish: Schemata) -> tuple[str, ...]:
        """Return groups of other tools that may use some of the same ways; the default group always may."""
        found = []
        for group in self._resctrl.groups():
            if self._is_ours(group):
                continue
            held = {entry[:2]: entry[2] for entry in self._resctrl.schemata(group).entries}
            for name, domain, amount in wish.entries:
                other = held.get((name, domain))
                if isinstance(amount, WayMask) and isinstance(other, WayMask) and (amount & other).bits:
                    found.append(group)
                    break
        return tuple(found)

    def names(self) -> tuple[str, ...]:
        """Return the names of our groups that exist now."""
        return tuple(one.removeprefix(self._prefix) for one in self._resctrl.groups() if self._is_ours(one))

    def remove_empty(self) -> tuple[str, ...]:
        """Remove our groups that hold no thread, such as a crash leaves; return what could not be done."""
        if not self.names():
            return ()
        self.overviews.drop()
        with self._resctrl.locked():
            empty = [one for one in map(self._folder, self.names()) if not self._resctrl.tasks(one)]
            return tuple(told for one in empty for told in self._remove(one, shared=False))

    def schemata(self, name: str) -> Schemata:
        """Return what one of our groups may use."""
        return self._resctrl.schemata(self._folder(name))

    def members(self, name: str) -> tuple[int, ...]:
        """Return the tids in one of our groups, lowest first."""
        return tuple(sorted(self._resctrl.tasks(self._folder(name))))

    def _folder(self, name: str) -> str:
        own, colon, number = name.partition(_SEPARATOR)
        return f"{self._prefix}{check_name(own)}{colon}{number}"

    def _is_ours(self, group: str) -> bool:
        return group.startswith(self._prefix)

    def _is_family(self, group: str) -> bool:
        owner, separator, _ = group.partition(_SEPARATOR)
        return bool(separator) and is_of_daemon(owner, self._prefix.removesuffix(_SEPARATOR))

    def _checked(self, wish: Schemata) -> ResctrlInfo:
        self._resctrl.check_mounted()
        info = self._read_info()
        if reasons := info.misfits(wish):
            raise SpecInvalid(f"resctrl at {self._resctrl.mount!r} cannot hold {str(wish)!r}: {'; '.join(reasons)}")
        return info

    def _fitting(
        self,
        ours: list[str],
        threads: ThreadsNow,
        wish: Schemata,
        undo: ResctrlUndo,
        *,
        info: ResctrlInfo,
        steps: Steps,
        alone: bool,
    ) -> str:
        """Return a group that holds the wish: the present one, one of equal wish, the present one changed, a new one.

        The present one is changed only if nobody else is in it.
        """
        others = sorted(one for one in self._resctrl.groups() if self._is_ours(one) and one not in ours)
        shareable = [one for one in ours if not self._strangers(one, threads)] if alone else [*ours, *others]
        for group in shareable:
            if not wish.missing_in(self._resctrl.schemata(group), info.rounding):
                return group
        for group in ours:
            if not self._strangers(group, threads):
                self._set(group, wish, steps, info, fresh=False)
                return group
        group = self._unused(undo.group)
        steps.do(
            f"make resctrl group {group!r}",
            partial(self._resctrl.make, group),
            partial(self._discard, group, undo, threads),
        )
        self._set(group, wish, steps, info, fresh=True)
        return group

    def _drop(self, group: str, steps: Steps, info: ResctrlInfo) -> None:
        """Remove a group of ours that became empty: its class of service is wanted elsewhere."""
        earlier = self._resctrl.schemata(group)

        def back() -> None:
            self._resctrl.make(group)
            self._resctrl.set_schemata(group, earlier)
            self._confirm(group, earlier, info)

        steps.do(f"remove resctrl group {group!r}", partial(self._resctrl.remove, group), back)

    def _used_by(self, undo: ResctrlUndo, threads: ThreadsNow) -> list[str]:
        """Return our groups in which threads of the workload are, and its own one if that exists, which comes first."""
        where = self._resctrl.whereabouts()
        known = {tid: control_of(group) for tid, group in where.items() if self._is_ours(group)}
        found = {known[one.tid] for one in threads() if one.tid in known}
        found |= {known[one.tid] for one in undo.threads if one.tid in known and self._homes.is_same(one)}
        if self._resctrl.exists(undo.group):
            found.add(undo.group)
        return sorted(found, key=lambda group: (group != undo.group, group))

    def _strangers(self, group: str, threads: ThreadsNow) -> list[int]:
        """Return the living tids in a group that are not of this workload."""
        inside = self._resctrl.tasks(group)
        own = {one.tid for one in threads()}  # after the tasks: a thread born since then must not look strange
        strange = sorted(inside - own)
        return [tid for tid in strange if start_of(tid, files=self._files, proc_root=self._proc) is not None]

    def _unused(self, group: str) -> str:
        """Return the name for a new group: others may still share the one of this name."""
        taken = set(self._resctrl.groups())
        names = (group, *(f"{group}{_SEPARATOR}{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)

    def _set(self, group: str, wish: Schemata, steps: Steps, info: ResctrlInfo, *, fresh: bool) -> None:
        """Write what differs and read it back."""
        before = self._resctrl.schemata(group)
        changes = wish.rounded(info.rounding).changes_from(before)
        if not changes.entries:
            return
        keys = {entry[:2] for entry in changes.entries}
        earlier = Schemata(tuple(entry for entry in before.entries if entry[:2] in keys))
        steps.do(
            f"write {str(changes)!r} to the schemata of resctrl group {group!r}",
            partial(self._resctrl.set_schemata, group, changes),
            partial(self._take_back, group, None if fresh else earlier, info),
        )
        self._confirm(group, wish, info)

    def _take_back(self, group: str, earlier: Schemata | None, info: ResctrlInfo) -> None:
        if earlier is not None and self._resctrl.exists(group):  # None: removing the group is enough
            self._resctrl.set_schemata(group, earlier)
            self._confirm(group, earlier, info)

    def _confirm(self, group: str, wish: Schemata, info: ResctrlInfo) -> None:
        if told := wish.missing_in(self._resctrl.schemata(group), info.rounding):
            raise ApplyFailed(
                f"resctrl group {group!r} does not hold what the kernel accepted: {'; '.join(told)}; somebody else"
                " changes it, or the kernel did not do it"
            )

    def _gather(self, group: str, threads: ThreadsNow, steps: Steps) -> tuple[int, ...]:
        """Move threads in until a pass finds none outside; return those still outside after the last pass."""
        moved: set[ThreadId] = set()
        limit_s = time.monotonic() + BUDGET_S
        for _ in range(PASSES):
            outside = self._outside(group, threads)
            if not outside:
                return ()
            where = self._resctrl.whereabouts()
            for thread in outside:
                if time.monotonic() > limit_s:
                    return tuple(one.tid for one in self._outside(group, threads))
                if thread in moved:
                    raise ApplyFailed(
                        f"the kernel accepted thread {thread.tid} into resctrl group {group!r}, yet it is outside:"
                        " somebody else moves it, or the kernel did not do it"
                    )
                moved.add(thread)
                self._move(thread, group, where.get(thread.tid, DEFAULT), steps)
        return tuple(thread.tid for thread in self._outside(group, threads))

    def _outside(self, group: str, threads: ThreadsNow) -> list[ThreadId]:
        now = threads()
        members = self._resctrl.tasks(group)  # after the listing: a thread born in the group must not look lost
        return [one for one in now if one.tid not in members and self._homes.is_same(one)]

    def _move(self, thread: ThreadId, group: str, earlier: str, steps: Steps) -> None:
        def back() -> None:
            if not self._homes.is_same(thread):
                return
            try:
                self._resctrl.attach(earlier, thread.tid)
            except ResctrlVanished:
                if earlier != DEFAULT:  # unmounting sends everybody to the default group, which is home then
                    raise

        try:
            what = f"move thread {thread.tid} into resctrl group {group!r}"
            steps.do(what, partial(self._resctrl.attach, group, thread.tid), back)
        except ProcessLookupError:  # it ended; the next pass no longer finds it
            return

    def _discard(self, group: str, undo: ResctrlUndo, threads: ThreadsNow) -> None:
        """Take back the making of a group; threads born in it since then leave it first."""
        if left_over := [
            *self._homes.send_back(undo, [group], threads, alone=True),
            *self._remove(group, shared=False),
        ]:
            raise ApplyFailed("; ".join(left_over))

    def _remove(self, group: str, *, shared: bool) -> list[str]:
        """Remove our group if nobody is in it: the kernel would send them to the default group without a word."""
        if not self._resctrl.exists(group):
            return []
        if tids := self._resctrl.tasks(group):
            told = f"resctrl group {group!r} stays: it holds {len(tids)} threads of others, such as {min(tids)}"
            return [] if shared else [told]
        try:
            self._resctrl.remove(group)
        except IsolationError as cause:
            return [str(cause)]
        return [f"resctrl group {group!r} is still there after its removal"] if self._resctrl.exists(group) else []
