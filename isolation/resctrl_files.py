"""The files of a mounted resctrl: make, set, fill and remove groups, each error by its meaning. Knows no placement."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from isolation.errors import ApplyFailed, OutOfClosids, OutOfRmids, ResctrlBusy, ResctrlVanished, SchemataRejected
from isolation.kernelfs import KernelFiles
from isolation.resctrl_lock import FolderLocks
from isolation.resctrl_schemata import Schemata

DEFAULT = ""  #: the group of everything that nobody placed: the mounted folder itself
_LOCK_LIMIT_S = 2.0
_NO_GROUPS = frozenset({"info", "mon_data", "mon_groups"})
_MAYBE_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EPERM})  #: the bare folder below the mount takes no groups
_MEANING = {
    errno.E2BIG: "the text is longer than a page",
    errno.EACCES: "no permission; run as root",
    errno.EINVAL: "not what this group takes",
    errno.EPERM: "not permitted here; run as root, is resctrl still mounted?",
    errno.EROFS: "resctrl is mounted read-only here",
}


class ResctrlFiles:
    """Groups by their folder below the mount: DEFAULT, "name", and for monitoring "name/mon_groups/other"."""

    def __init__(self, mount: str, *, files: KernelFiles, locks: FolderLocks) -> None:
        self.mount = mount.rstrip("/")
        self._files = files
        self._locks = locks

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other tools that ask for the lock away; raises ResctrlBusy, ResctrlVanished."""
        waited = False  # a TimeoutError from within is not about the lock
        try:
            with self._locks.held(self.mount, _LOCK_LIMIT_S):
                waited = True
                self.check_mounted()
                yield
        except TimeoutError as cause:
            if waited:
                raise
            raise ResctrlBusy(
                f"another program has held the lock (flock) of {self.mount!r} for more than {_LOCK_LIMIT_S} s; find it"
                f" with `lsof {self.mount}`, or try again"
            ) from cause
        except FileNotFoundError as cause:
            if waited:
                raise
            raise self._unmounted() from cause
        except OSError as cause:
            if waited:
                raise
            raise self._refused(f"lock {self.mount!r}", cause) from cause

    def check_mounted(self) -> None:
        """Raise ResctrlVanished when no resctrl is mounted any more."""
        if not self.exists(DEFAULT):
            raise self._unmounted()

    def exists(self, group: str) -> bool:
        """Tell whether there is such a control group."""
        try:
            self._files.read(self._path(group, "schemata"))
        except OSError as cause:
            if cause.errno in {errno.ENOENT, errno.ENODEV}:
                return False
            raise self._refused(f"look for resctrl group {group!r}", cause) from cause
        return True

    def groups(self) -> tuple[str, ...]:
        """Return all control groups but the default one."""
        return self._folders(DEFAULT)

    def monitored(self, control: str) -> tuple[str, ...]:
        """Return the monitoring groups in a control group; none where the kernel has no monitoring."""
        inner = f"{control}/mon_groups".lstrip("/")
        return tuple(f"{inner}/{name}" for name in self._folders(inner))

    def make(self, group: str) -> None:
        """Make a control group; raises OutOfClosids, ResctrlBusy."""
        what = f"make resctrl group {group!r}"
        try:
            self._files.mkdir(self._path(group))
        except OSError as cause:
            if cause.errno == errno.ENOSPC:
                raise OutOfClosids(
                    f"cannot {what}: no class of service (or way, or monitoring id) is left{self._hint()}; remove a"
                    " group, share one, or go without"
                ) from cause
            if cause.errno == errno.EBUSY:
                raise OutOfRmids(
                    f"cannot {what}: all free monitoring ids wait for their cache lines to go{self._hint()}; try again"
                    " in some seconds"
                ) from cause
            raise self._error(what, DEFAULT, cause) from cause

    def remove(self, group: str) -> None:
        """Remove a control group; tasks in it fall to the default group, so look first."""
        try:
            self._files.rmdir(self._path(group))
        except FileNotFoundError:  # already gone, which is as wished
            self.check_mounted()
        except OSError as cause:
            raise self._error(f"remove resctrl group {group!r}", group, cause) from cause

    def schemata(self, group: str) -> Schemata:
        """Return what the group may use."""
        try:
            text = self._files.read(self._path(group, "schemata"))
        except OSError as cause:
            raise self._error(f"read the schemata of {group!r}", group, cause) from cause
        return Schemata.parse(text)

    def set_schemata(self, group: str, changes: Schemata) -> None:
        """Write the entries in one call; what is not named stays. The reader has to look what came of it."""
        what = f"write {str(changes)!r} to the schemata of resctrl group {group!r}"
        try:
            self._files.write(self._path(group, "schemata"), str(changes))
        except OSError as cause:
            if cause.errno == errno.EINVAL:
                raise SchemataRejected(
                    f"cannot {what}: EINVAL, though it fits what info/ told{self._hint()}; was resctrl mounted anew, a"
                    " CPU taken offline, or a group made exclusive? Read info/ and plan again"
                ) from cause
            raise self._error(what, group, cause) from cause

    def tasks(self, group: str) -> frozenset[int]:
        """Return the tids in a group; a control group's hold those of its monitoring groups."""
        try:
            return frozenset(map(int, self._files.read(self._path(group, "tasks")).split()))
        except OSError as cause:
            raise self._error(f"read the tasks of {group!r}", group, cause) from cause

    def attach(self, group: str, tid: int) -> None:
        """Move one thread in, and into the monitoring group if that is meant; raises ProcessLookupError if it ended."""
        if tid < 1:
            raise ValueError(f"BUG: tid {tid} must not be written: the kernel would take the writer itself")
        for one in dict.fromkeys((control_of(group), group)):
            try:
                self._files.write(self._path(one, "tasks"), str(tid))
            except ProcessLookupError:
                raise
            except OSError as cause:
                raise self._error(f"move thread {tid} into resctrl group {one!r}", one, cause) from cause

    def whereabouts(self) -> dict[int, str]:
        """Return the group of each thread that is not in the default one, the monitoring group if there is one."""
        found: dict[int, str] = {}
        for control in (DEFAULT, *self.groups()):
            for group in (control, *self.monitored(control)):
                if group == DEFAULT:
                    continue
                try:
                    found.update(dict.fromkeys(self.tasks(group), group))
                except ResctrlVanished:
                    self.check_mounted()  # only that group went, and its threads are told where they are now
        return found

    def _folders(self, folder: str) -> tuple[str, ...]:
        try:
            names = self._files.folders(self._path(folder))
        except FileNotFoundError:  # no monitoring, or no such group any more
            return ()
        except OSError as cause:
            raise self._error(f"list the groups in {folder!r}", folder, cause) from cause
        return tuple(name for name in names if name not in _NO_GROUPS)

    def _hint(self) -> str:
        """Return the kernel's own sentence about its last command: maybe another one's, so never decide by it."""
        try:
            text = self._files.read(self._path("info", "last_cmd_status")).strip()
        except OSError:  # an older kernel; the error number has told what happened
            return ""
        return "" if text in {"", "ok"} else f" (the kernel's last words, maybe about another command: {text!r})"

    def _error(self, what: str, group: str, cause: OSError) -> ApplyFailed | ResctrlVanished:
        if cause.errno in _MAYBE_GONE and not self.exists(DEFAULT):
            return self._unmounted()
        if cause.errno in {errno.ENOENT, errno.ENODEV} and group != DEFAULT:
            return ResctrlVanished(f"cannot {what}: somebody removed the group; its threads fell to the default group")
        return self._refused(what, cause)

    def _refused(self, what: str, cause: OSError) -> ApplyFailed:
        name = errno.errorcode.get(cause.errno or 0, str(cause.errno))
        meaning = _MEANING.get(cause.errno or 0, cause.strerror or "no reason given")
        return ApplyFailed(f"cannot {what}: {name}: {meaning}{self._hint()}")

    def _unmounted(self) -> ResctrlVanished:
        return ResctrlVanished(
            f"no resctrl is mounted at {self.mount!r} any more: all groups, ways and limits ended with it; mount it"
            f" with `mount -t resctrl resctrl {self.mount}` and place again"
        )

    def _path(self, group: str, name: str = "") -> str:
        return "/".join(filter(None, (self.mount, group, name)))


def control_of(group: str) -> str:
    """Return the control group that a group is, or lies in for monitoring."""
    control, monitoring, _ = group.partition("mon_groups/")
    return control.rstrip("/") if monitoring else group
