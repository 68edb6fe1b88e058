"""cpuset cgroups: where they are mounted, and the primitive operations on one group. Decides nothing."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Literal

from isolation.cpuset import IdSet
from isolation.errors import CgroupRefused, CgroupVanished
from isolation.kernelfs import HOST_FILES, GroupFiles, KernelFiles

_OTHER_CONTROLLERS = frozenset(
    [
        *("blkio", "cpu", "cpuacct", "devices", "freezer", "hugetlb", "memory"),
        *("misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"),
    ]
)
FAMILY_NAME = "cotenant"  #: every daemon's prefix is this, alone or followed by "-..."
_POSSIBLE = {"cpus": "/sys/devices/system/cpu/possible", "mems": "/sys/devices/system/node/possible"}
_LONGEST_PATH = 4095  # PATH_MAX without its NUL
_LONGEST_NAME = 255
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpusetHierarchy:
    """The one mounted hierarchy that carries the cpuset controller. Groups are paths below it ("/" = its top)."""

    version: int  #: 1 or 2
    mount: str
    root: str = "/"  #: which part of the hierarchy the mount shows; not "/" in some containers
    refusal: str | None = None  #: why it cannot be used

    def below(self, path: str) -> str | None:
        """Turn a path of /proc/PID/cgroup into one below the mount; None = outside of it."""
        if self.root == "/":
            return None if path.startswith("/..") else path
        if path == self.root:
            return "/"
        return path.removeprefix(self.root) if path.startswith(self.root + "/") else None


def find_hierarchy(*, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> CpusetHierarchy | None:
    """Return where cpusets are: a usable hierarchy before a refused one; None = nowhere."""
    found = []
    for line in files.read(f"{proc_root}/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, mount = (_unescape(field) for field in before.split()[3:5])
        kind, _, options = after.split()[:3]
        if kind == "cpuset":
            found.append(_refused(mount, root, "it is the legacy cpuset file system (noprefix); mount cgroup instead"))
        elif kind == "cgroup" and "cpuset" in options.split(","):
            found.append(_version_1(mount, root, frozenset(options.split(","))))
        elif kind == "cgroup2" and "cpuset" in _controllers(files, mount):
            found.append(CpusetHierarchy(version=2, mount=mount, root=root))
    usable = [one for one in found if one.refusal is None]
    return next(iter(usable or found), None)


def _version_1(mount: str, root: str, options: frozenset[str]) -> CpusetHierarchy:
    if "noprefix" in options:
        return _refused(mount, root, "it is mounted with noprefix; mount it without")
    if others := options & _OTHER_CONTROLLERS:
        names = ", ".join(sorted(others))
        return _refused(mount, root, f"it also carries {names}, so moving a process would change those too")
    return CpusetHierarchy(version=1, mount=mount, root=root)


def _refused(mount: str, root: str, why: str) -> CpusetHierarchy:
    return CpusetHierarchy(version=1, mount=mount, root=root, refusal=f"the cpuset mount {mount!r} is no use: {why}")


def _controllers(files: KernelFiles, mount: str) -> list[str]:
    try:
        return files.read(f"{mount}/cgroup.controllers").split()
    except OSError:  # a mount that is shadowed or not ours to read offers nothing
        return []


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


class CpusetGroups:
    """Primitive operations on groups of one hierarchy; all raise OSError as the kernel answers."""

    def __init__(self, hierarchy: CpusetHierarchy, *, files: GroupFiles, proc_root: str) -> None:
        self.hierarchy = hierarchy
        self._files = files
        self._proc = proc_root

    def read(self, group: str, name: str) -> str:
        """Return the content of one file of a group, without the newline at its end."""
        return self._files.read(self._path(group, name)).strip()

    def write(self, group: str, name: str, text: str) -> None:
        """Write one file of a group; the kernel ignores an empty text, so a newline stands for it."""
        self._files.write(self._path(group, name), text or "\n")

    def put(self, group: str, kind: Literal["cpus", "mems"], ids: IdSet) -> None:
        """Write cpus or mems of a group.

        On v2 a group with tasks cannot become empty again, which would mean: what the parent has. All that this
        machine can ever have means the same, so that stands for it.
        """
        name = f"cpuset.{kind}"
        try:
            self.write(group, name, str(ids))
        except OSError as cause:
            if ids or self.hierarchy.version == 1 or cause.errno != errno.ENOSPC:
                raise
            self.write(group, name, str(self.possible(kind)))

    def possible(self, kind: Literal["cpus", "mems"]) -> IdSet:
        """Return all CPUs or nodes that this machine can ever have."""
        return IdSet.parse(self._files.read(_POSSIBLE[kind]))

    def children(self, group: str) -> tuple[str, ...]:
        """Return the groups directly below."""
        return tuple(_join(group, name) for name in self._files.folders(self._path(group)))

    def exists(self, group: str) -> bool:
        """Tell whether the group is there."""
        return self.inode(group) is not None

    def inode(self, group: str) -> int | None:
        """Return what tells the group from a later one of the same path; None = there is none now."""
        try:
            return self._files.inode(self._path(group))
        except FileNotFoundError:
            return None

    def make(self, group: str) -> None:
        """Create a group; on v1 its cpus and mems are empty and it takes no task yet."""
        self._files.mkdir(self._path(group))

    def remove(self, group: str) -> None:
        """Remove a group that holds neither tasks nor groups."""
        self._files.rmdir(self._path(group))

    def members(self, group: str) -> frozenset[int]:
        """Return the tids of all threads directly in the group."""
        name = "tasks" if self.hierarchy.version == 1 else "cgroup.threads"
        return frozenset(int(line) for line in self.read(group, name).split())

    def granted(self, group: str, kind: str) -> str:
        """Return the cpus or mems that really hold: on v2 the file that is written is only a request."""
        return self.read(group, f"cpuset.{kind}" if self.hierarchy.version == 1 else f"cpuset.{kind}.effective")

    def attach_process(self, group: str, pid: int) -> None:
        """Move a process with all its threads, which the kernel does in one step."""
        self.write(group, "cgroup.procs", str(pid))

    def attach_thread(self, group: str, tid: int) -> None:
        """Move one thread (v2: only within a threaded subtree)."""
        self.write(group, "tasks" if self.hierarchy.version == 1 else "cgroup.threads", str(tid))

    def group_of(self, pid: int, tid: int) -> str | None:
        """Return the group of a thread; None = the thread is gone.

        Raises CgroupRefused when the group lies outside of what is mounted here.
        """
        try:
            text = self._files.read(f"{self._proc}/{pid}/task/{tid}/cgroup")
        except (FileNotFoundError, ProcessLookupError):
            return None
        for line in text.splitlines():
            number, controllers, path = line.split(":", 2)
            wanted = "cpuset" in controllers.split(",") if self.hierarchy.version == 1 else number == "0"
            if wanted:
                below = self.hierarchy.below(path.removesuffix(" (deleted)"))
                if below is None:
                    raise CgroupRefused(
                        f"thread {tid} of process {pid} is in cgroup {path!r}, outside the cpuset mount"
                        f" {self.hierarchy.mount!r}; run the daemon in the host's cgroup namespace"
                    )
                return below
        raise CgroupRefused(f"thread {tid} of process {pid} is in no cpuset group; is it in another container?")

    def _path(self, group: str, name: str = "") -> str:
        path = self.hierarchy.mount + ("" if group == "/" else group)
        return f"{path}/{name}" if name else path


def is_of_daemon(name: str, prefix: str) -> bool:
    """Tell whether a group at the top belongs to the daemon of this prefix, or to another one of the family."""
    return name in {FAMILY_NAME, prefix} or name.startswith(f"{FAMILY_NAME}-")


def parent_of(group: str) -> str:
    """Return the group that this one lies in; that of the top is the top."""
    return group.rpartition("/")[0] or "/"


def check_name(name: str) -> str:
    """Return the name if it can be a group's; raises CgroupRefused."""
    if not _NAME.fullmatch(name):
        raise CgroupRefused(f"group name {name!r} must be 1 to 200 of A-Z a-z 0-9 _ . - and start with no sign")
    return name


def resolve(groups: CpusetGroups, text: str) -> str:
    """Return the existing group that a user's cgroup path means: below the mount, or absolute with it.

    Each part is looked up among real folders, so neither symbolic links nor ".." lead outside. Raises CgroupRefused
    for what can never be one, CgroupVanished for what does not exist.
    """
    mount = groups.hierarchy.mount
    bad = f"cgroup_path {text[:200]!r}"
    if len(text) > _LONGEST_PATH:
        raise CgroupRefused(f"{bad} ... has {len(text)} characters, at most {_LONGEST_PATH} are possible")
    if any(character in text for character in "\0\n\r"):
        raise CgroupRefused(f"{bad} holds a NUL or a line break; give the path as /proc/PID/cgroup prints it")
    path = text.removeprefix(mount) if text == mount or text.startswith(mount + "/") else text
    if path is text and text.startswith("/sys/"):
        raise CgroupRefused(f"{bad} lies outside the cpuset mount {mount!r}")
    parts = path.strip("/").split("/")
    if parts == [""]:
        raise CgroupRefused(f"{bad} is the top of the hierarchy, which holds the whole system; name a group below")
    group = "/"
    for part in parts:
        if part in {"", ".", ".."} or len(part.encode(errors="surrogatepass")) > _LONGEST_NAME:
            raise CgroupRefused(f"{bad} has the part {part[:200]!r}; parts must be names of 1 to {_LONGEST_NAME} bytes")
        try:
            known = _join(group, part) in groups.children(group)
        except FileNotFoundError:
            known = False
        group = _join(group, part)
        if not known:
            raise CgroupVanished(f"{bad} does not exist below the cpuset mount {mount!r}: no folder {group!r}")
    return group


def _join(group: str, name: str) -> str:
    return f"/{name}" if group == "/" else f"{group}/{name}"
