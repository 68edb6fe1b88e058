"""Send threads back to the resctrl groups they came from; those born since go where their family came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from isolation.errors import ApplyFailed, ResctrlVanished
from isolation.kernelfs import KernelFiles
from isolation.process import ThreadId, process_of, read_stat, start_of
from isolation.resctrl_files import DEFAULT, ResctrlFiles, control_of
from isolation.steps import PASSES, Steps
from isolation.undo import ResctrlUndo, ThreadHome

ThreadsNow = Callable[[], tuple[ThreadId, ...]]  #: lists the living threads of a workload, anew at each call


class ThreadHomes:
    """Knows where each thread of a workload came from."""

    def __init__(self, resctrl: ResctrlFiles, *, files: KernelFiles, proc_root: str) -> None:
        self._resctrl = resctrl
        self._files = files
        self._proc = proc_root

    def leave(self, undo: ResctrlUndo, groups: Iterable[str], threads: ThreadsNow, steps: Steps) -> None:
        """Take the workload's threads out of the groups, each a step that can be taken back; raises ApplyFailed."""
        for group in groups:
            for _ in range(PASSES):
                homes = self._homes(group, undo, threads, alone=False)
                if not homes:
                    break
                for tid, home in homes.items():
                    there = home if self._resctrl.exists(control_of(home)) else DEFAULT
                    with suppress(ProcessLookupError):  # it ended
                        for one in dict.fromkeys((control_of(there), there)):  # a monitoring group is two steps away
                            steps.do(
                                f"move thread {tid} out of resctrl group {group!r}",
                                partial(self._resctrl.attach, one, tid),
                                partial(self._resctrl.attach, group, tid),
                            )
            else:
                raise ApplyFailed(f"resctrl group {group!r} does not let go of threads such as {min(homes)}")

    def send_back(self, undo: ResctrlUndo, groups: Iterable[str], threads: ThreadsNow, *, alone: bool) -> list[str]:
        """Take the workload's threads out; return a sentence for each that could not go to its own home.

        alone = nobody else of ours can be in these groups, so whoever descends from the workload is of it.
        """
        told: dict[int, str] = {}
        earlier: dict[int, str] = {}
        for _ in range(PASSES):
            homes = self.strayed(undo)
            for group in groups:
                if self._resctrl.exists(group):
                    homes |= self._homes(group, undo, threads, alone=alone)
            if not homes or homes == earlier:  # done, or nobody moved: trying again would not help
                break
            earlier = homes
            for tid, home in homes.items():
                told[tid] = self._send_home(tid, home)
        else:
            return [f"resctrl groups {', '.join(groups)} get new threads faster than they can leave"]
        for tid, home in homes.items():
            told[tid] = told[tid] or f"thread {tid} went back to resctrl group {home!r} and is not there"
        return list(filter(None, told.values()))

    def strayed(self, undo: ResctrlUndo) -> dict[int, str]:
        """Return the homes of threads that are neither in our group nor home.

        They fell to the default group when somebody removed ours, or came no farther than to the control group above
        their monitoring group. Where others put a thread, it stays.
        """
        guests = [one for one in undo.threads if one.group != DEFAULT and self.is_same(one)]
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

    def _homes(self, group: str, undo: ResctrlUndo, threads: ThreadsNow, *, alone: bool) -> dict[int, str]:
        """Return where each thread of the workload in a group of ours came from; strangers are left out."""
        now = {thread.tid for thread in threads()}
        known = {one.tid: one.group for one in undo.threads if self.is_same(one)}
        common = next((one.group for one in undo.threads), DEFAULT)
        found = {}
        for tid in sorted(self._resctrl.tasks(group)):
            home = known.get(tid)
            if home is None and (alone or tid in now):
                home = self._inherited(tid, known)
            if home is None and tid in now:
                home = common
            if home is not None:
                found[tid] = home
        return found

    def _inherited(self, tid: int, known: Mapping[int, str]) -> str | None:
        """Return the home of the process that a thread belongs to or descends from; None = it is a stranger."""
        pid = process_of(tid, files=self._files, proc_root=self._proc) or 0
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

    def is_same(self, thread: ThreadId | ThreadHome) -> bool:
        """Tell whether the tid is still that very thread, alive."""
        return start_of(thread.tid, files=self._files, proc_root=self._proc) == thread.starttime_ticks
