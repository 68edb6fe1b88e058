"""Give threads ways of cache and memory bandwidth by resctrl groups of our own, and give them back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from isolation.cgroup import FAMILY_NAME, check_name
from isolation.errors import ApplyFailed, IsolationError, ResctrlRefused, ResctrlVanished, SpecInvalid
from isolation.kernelfs import KernelFiles
from isolation.process import ThreadId, read_stat, read_status
from isolation.resctrl_files import DEFAULT, ResctrlFiles, control_of
from isolation.resctrl_info import ResctrlInfo
from isolation.resctrl_lock import FolderLocks
from isolation.resctrl_mask import WayMask
from isolation.resctrl_schemata import Amount, Schemata
from isolation.steps import Steps
from isolation.undo import Applied, Drift, Released, ResctrlUndo, ThreadHome

_PASSES = 10  #: as of the cpuset mover; what is outside then is reported as missed

ThreadsNow = Callable[[], tuple[ThreadId, ...]]  #: lists the living threads of a workload, anew at each call


class ResctrlGroups:
    """Control groups `MOUNT/PREFIX-NAME`: neither the default group nor anybody else's is changed.

    Taking back a failed placement does not wait for the lock: to give back must not depend on a neighbour.
    """

    def __init__(
        self,
        mount: str,
        info: ResctrlInfo,
        *,
        files: KernelFiles,
        locks: FolderLocks,
        prefix: str = FAMILY_NAME,
        proc_root: str = "/proc",
    ) -> None:
        self._resctrl = ResctrlFiles(mount, files=files, locks=locks)
        self._info = info
        self._files = files
        self._prefix = f"{check_name(prefix)}-"
        self._proc = proc_root

    def snapshot(self, name: str, threads: ThreadsNow) -> ResctrlUndo:
        """Record where every thread is; raises ResctrlRefused for one that is in a group of ours."""
        self._resctrl.check_mounted()
        now = threads()
        where = self._resctrl.whereabouts()  # after the listing
        for thread in now:
            if (group := where.get(thread.tid, DEFAULT)).startswith(f"{FAMILY_NAME}-") or self._is_ours(group):
                raise ResctrlRefused(f"thread {thread.tid} is in resctrl group {group!r}; release that placement first")
        return ResctrlUndo(
            group=self._folder(name),
            threads=tuple(
                ThreadHome(tid=one.tid, starttime_ticks=one.starttime_ticks, group=where.get(one.tid, DEFAULT))
                for one in now
            ),
        )

    def place(self, threads: ThreadsNow, wish: Schemata, undo: ResctrlUndo, steps: Steps) -> Applied:
        """Make group and schemata so, read them back, only then move every thread in.

        Zero writes when it is so already. The caller takes the steps back when this raises.
        """
        self._check(wish)
        group = undo.group
        with self._resctrl.locked():
            fresh = not self._resctrl.exists(group)
            if fresh:
                steps.do(
                    f"make resctrl group {group!r}",
                    partial(self._resctrl.make, group),
                    partial(self._discard, undo, threads),
                )
            self._set(group, wish, steps, fresh=fresh)
            missed = self._gather(group, threads, steps)
            inside = self._resctrl.tasks(group)
            held = sum(thread.tid in inside for thread in threads())
            self._confirm(group, wish)  # nobody changed it while the threads moved
        return Applied(threads=held, missed=missed, writes=steps.writes)

    def reshape(self, wishes: Mapping[str, Schemata], steps: Steps) -> None:
        """Change the schemata of several groups of ours, by name: what is taken is taken before it is given.

        Two groups that swap ways overlap for a moment, since no group can be without.
        """
        for wish in wishes.values():
            self._check(wish)
        with self._resctrl.locked():
            for name, wish in sorted(wishes.items()):
                smaller = _smaller(self._resctrl.schemata(self._folder(name)), wish.rounded(self._info.rounding))
                if not self._info.misfits(smaller):
                    self._set(self._folder(name), smaller, steps, fresh=False)
            for name, wish in sorted(wishes.items()):
                self._set(self._folder(name), wish, steps, fresh=False)

    def verify(self, threads: ThreadsNow, wish: Schemata, undo: ResctrlUndo) -> tuple[Drift, ...]:
        """Compare group and threads with the wish; changes nothing."""
        group = undo.group
        path = f"{self._resctrl.mount}/{group}"
        try:
            now = threads()
            differences = wish.missing_in(self._resctrl.schemata(group), self._info.rounding)
            members = self._resctrl.tasks(group)
            lost = [one for one in now if one.tid not in members and self._is_same(one)]
            where = self._resctrl.whereabouts() if lost else {}
        except ResctrlVanished as cause:
            return (Drift(path=path, expected=f"schemata {str(wish)!r}", found=str(cause)),)
        drifts = [Drift(path=f"{path}/schemata", expected=str(wish), found=told) for told in differences]
        drifts += [
            Drift(tid=one.tid, expected=f"resctrl group {group!r}", found=f"group {where.get(one.tid, DEFAULT)!r}")
            for one in lost
        ]
        return tuple(drifts)

    def release(self, undo: ResctrlUndo, threads: ThreadsNow, *, shared: bool = False) -> Released:
        """Send every thread to where it was, remove the group unless others use it; safe to repeat.

        shared = another placement uses the group too, so only the threads of this one leave it. Raises ResctrlBusy
        before anything is changed.
        """
        try:
            with self._resctrl.locked():
                left_over = self._empty(undo, threads)
                if not shared:
                    left_over += self._remove(undo.group)
                where = self._resctrl.whereabouts()
        except ResctrlVanished as cause:  # with it went all groups: every thread is in none
            left_over, where = [str(cause)] if any(one.group for one in undo.threads) else [], {}
        living = [one for one in undo.threads if self._is_same(one)]
        restored = sum(where.get(one.tid, DEFAULT) == one.group for one in living)
        return Released(restored=restored, gone=len(undo.threads) - len(living), left_over=tuple(left_over))

    def names(self) -> tuple[str, ...]:
        """Return the names of our groups that exist now."""
        return tuple(one.removeprefix(self._prefix) for one in self._resctrl.groups() if self._is_ours(one))

    def schemata(self, name: str) -> Schemata:
        """Return what one of our groups may use."""
        return self._resctrl.schemata(self._folder(name))

    def members(self, name: str) -> tuple[int, ...]:
        """Return the tids in one of our groups, lowest first."""
        return tuple(sorted(self._resctrl.tasks(self._folder(name))))

    @property
    def closids_left(self) -> int:
        """How many more groups can be made, those of others counted."""
        return max(self._info.closids - 1 - len(self._resctrl.groups()), 0)

    def _folder(self, name: str) -> str:
        return f"{self._prefix}{check_name(name)}"

    def _is_ours(self, group: str) -> bool:
        return group.startswith(self._prefix)

    def _check(self, wish: Schemata) -> None:
        if reasons := self._info.misfits(wish):
            raise SpecInvalid(f"resctrl at {self._resctrl.mount!r} cannot hold {str(wish)!r}: {'; '.join(reasons)}")

    def _set(self, group: str, wish: Schemata, steps: Steps, *, fresh: bool) -> None:
        """Write what differs and read it back."""
        before = self._resctrl.schemata(group)
        changes = wish.rounded(self._info.rounding).changes_from(before)
        if not changes.entries:
            return
        keys = {entry[:2] for entry in changes.entries}
        earlier = Schemata(tuple(entry for entry in before.entries if entry[:2] in keys))
        steps.do(
            f"write {str(changes)!r} to the schemata of resctrl group {group!r}",
            partial(self._resctrl.set_schemata, group, changes),
            partial(self._take_back, group, None if fresh else earlier),
        )
        self._confirm(group, wish)

    def _take_back(self, group: str, earlier: Schemata | None) -> None:
        if earlier is not None and self._resctrl.exists(group):  # None: removing the group is enough
            self._resctrl.set_schemata(group, earlier)
            self._confirm(group, earlier)

    def _confirm(self, group: str, wish: Schemata) -> None:
        if told := wish.missing_in(self._resctrl.schemata(group), self._info.rounding):
            raise ApplyFailed(
                f"resctrl group {group!r} does not hold what the kernel accepted: {'; '.join(told)}; somebody else"
                " changes it, or the kernel did not do it"
            )

    def _gather(self, group: str, threads: ThreadsNow, steps: Steps) -> tuple[int, ...]:
        """Move threads in until a pass finds none outside; return those still outside after the last pass."""
        moved: set[ThreadId] = set()
        for _ in range(_PASSES):
            outside = self._outside(group, threads)
            if not outside:
                return ()
            where = self._resctrl.whereabouts()
            for thread in outside:
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
        return [one for one in now if one.tid not in members and self._is_same(one)]

    def _move(self, thread: ThreadId, group: str, earlier: str, steps: Steps) -> None:
        def back() -> None:
            if not self._is_same(thread):
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

    def _discard(self, undo: ResctrlUndo, threads: ThreadsNow) -> None:
        """Take back the making of a group; threads born in it since then leave it first."""
        if left_over := [*self._empty(undo, threads), *self._remove(undo.group)]:
            raise ApplyFailed("; ".join(left_over))

    def _remove(self, group: str) -> list[str]:
        """Remove our group if nobody is in it: the kernel would send them to the default group without a word."""
        if not self._resctrl.exists(group):
            return []
        if tids := self._resctrl.tasks(group):
            return [f"resctrl group {group!r} stays: it holds {len(tids)} threads of others, such as {min(tids)}"]
        try:
            self._resctrl.remove(group)
        except IsolationError as cause:
            return [str(cause)]
        return [f"resctrl group {group!r} is still there after its removal"] if self._resctrl.exists(group) else []

    def _empty(self, undo: ResctrlUndo, threads: ThreadsNow) -> list[str]:
        """Send the workload's threads home; return a sentence for each that could not go to its own home."""
        told: dict[int, str] = {}
        earlier: dict[int, str] = {}
        for _ in range(_PASSES):
            homes = self._strayed(undo)
            if self._resctrl.exists(undo.group):
                homes |= self._homes(undo, threads)
            if not homes or homes == earlier:  # done, or nobody moved: trying again would not help
                break
            earlier = homes
            for tid, home in homes.items():
                told[tid] = self._send_home(tid, home)
        else:
            return [f"resctrl group {undo.group!r} gets new threads faster than they can leave it"]
        for tid, home in homes.items():
            told[tid] = told[tid] or f"thread {tid} went back to resctrl group {home!r} and is not there"
        return list(filter(None, told.values()))

    def _strayed(self, undo: ResctrlUndo) -> dict[int, str]:
        """Return the homes of threads that are neither in our group nor home.

        They fell to the default group when somebody removed ours, or came no farther than to the control group above
        their monitoring group. Where others put a thread, it stays.
        """
        guests = [one for one in undo.threads if one.group != DEFAULT and self._is_same(one)]
        if not guests:
            return {}
        where = self._resctrl.whereabouts()
        fallen = not self._resctrl.exists(undo.group)
        found = {}
        for one in guests:
            now = where.get(one.tid, DEFAULT)
            halfway = now != one.group and now == control_of(one.group)
            if halfway or (fallen and now == DEFAULT and self._resctrl.exists(control_of(one.group))):
                found[one.tid] = one.group
        return found

    def _homes(self, undo: ResctrlUndo, threads: ThreadsNow) -> dict[int, str]:
        """Return where each thread of the workload in our group came from; strangers are left out."""
        now = {thread.tid for thread in threads()}
        known = {one.tid: one.group for one in undo.threads if self._is_same(one)}
        common = next((one.group for one in undo.threads), DEFAULT)
        found = {}
        for tid in sorted(self._resctrl.tasks(undo.group)):
            home = known[tid] if tid in known else self._inherited(tid, known)
            if home is None and tid in now:
                home = common
            if home is not None:
                found[tid] = home
        return found

    def _inherited(self, tid: int, known: Mapping[int, str]) -> str | None:
        """Return the home of the process that a thread belongs to or descends from; None = it is a stranger."""
        try:
            pid = int(read_status(f"{self._proc}/{tid}/status", files=self._files)["Tgid"])
        except (FileNotFoundError, ProcessLookupError):
            return None
        seen: set[int] = set()
        while pid > 1 and pid not in seen:
            if pid in known:
                return known[pid]
            seen.add(pid)
            stat = read_stat(pid, files=self._files, proc_root=self._proc)
            pid = 0 if stat is None else stat.ppid
        return None

    def _send_home(self, tid: int, home: str) -> str:
        """Put a thread where it was, or else into the default group; return a sentence if it is not home."""
        try:
            self._resctrl.attach(home, tid)
        except ProcessLookupError:
            return ""
        except ResctrlVanished as cause:
            self._resctrl.check_mounted()
            with suppress(ProcessLookupError):
                self._resctrl.attach(control_of(home) if self._resctrl.exists(control_of(home)) else DEFAULT, tid)
            return f"thread {tid} could not go back to resctrl group {home!r}: {cause}"
        except ApplyFailed as cause:
            return str(cause)
        return ""

    def _is_same(self, thread: ThreadId | ThreadHome) -> bool:
        """Tell whether the tid is still that very thread, alive."""
        now = read_stat(thread.tid, files=self._files, proc_root=self._proc)
        return now is not None and now.starttime_ticks == thread.starttime_ticks


def _smaller(now: Schemata, wish: Schemata) -> Schemata:
    """Return what both the group has and the wish grants."""
    held = {entry[:2]: entry[2] for entry in now.entries}
    found: list[tuple[str, int, Amount]] = []
    for name, domain, amount in wish.entries:
        has = held.get((name, domain), amount)
        if isinstance(amount, WayMask) and isinstance(has, WayMask):
            found.append((name, domain, amount & has))
        elif isinstance(amount, int) and isinstance(has, int):
            found.append((name, domain, min(amount, has)))
    return Schemata(tuple(found))
