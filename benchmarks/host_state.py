"""What a placement may change on the host, read before and after, and how the two differ. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isolation.cgroup import CpusetGroups, find_hierarchy
from isolation.errors import CgroupRefused
from isolation.kernelfs import HOST_FILES

_FILES = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """One moment: threads that were placed, and the groups a daemon of ours may have touched."""

    threads: dict[tuple[int, int], str]  #: (pid, tid) -> allowed CPUs and cgroups
    files: dict[str, str]  #: path -> content

    def __str__(self) -> str:
        return f"{len(self.threads)} threads, {len(self.files)} cpuset files"


def read_state(pids: Iterable[int], prefix: str) -> HostState:
    """Read every thread of these processes, the cpuset files of their groups and of those above, and our own groups.

    Other groups of the host come and go without us. Whatever vanishes while we read is left out.
    """
    groups = _host_groups()
    threads: dict[tuple[int, int], str] = {}
    concerned: set[str] = set()
    for pid in pids:
        for tid in _threads(pid):
            task = f"/proc/{pid}/task/{tid}"
            status, where = _read(f"{task}/status"), _read(f"{task}/cgroup")
            if status is None or where is None:
                continue
            allowed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
            threads[pid, tid] = f"{allowed} {where}"
            if groups is not None:
                concerned |= _with_those_above(_group_of(groups, pid, tid))
    files: dict[str, str] = {}
    if groups is not None:
        mount = groups.hierarchy.mount
        for group in concerned.union(_family(groups, f"/{prefix}")):
            for path in (f"{mount}{group.rstrip('/')}/{name}" for name in _FILES):
                if (content := _read(path)) is not None:
                    files[path] = content
    return HostState(threads=threads, files=files)


def differences(before: HostState, after: HostState) -> list[str]:
    """Say what is not as it was. A thread may have ended; one born since must be like an earlier one of its process."""
    found = []
    for (pid, tid), state in sorted(after.threads.items()):
        earlier = before.threads.get((pid, tid))
        elders = {one for (its_pid, _), one in before.threads.items() if its_pid == pid}
        if earlier is None and state not in elders:
            found.append(f"thread {tid} of process {pid}, born meanwhile: {state!r}")
        elif earlier is not None and state != earlier:
            found.append(f"thread {tid} of process {pid}: {earlier!r} before, {state!r} after")
    found += [
        f"{path}: {before.files.get(path, 'absent')!r} before, {after.files.get(path, 'absent')!r} after"
        for path in sorted(before.files.keys() | after.files.keys())
        if before.files.get(path) != after.files.get(path)
    ]
    return found


def _host_groups() -> CpusetGroups | None:
    hierarchy = find_hierarchy()
    if hierarchy is None or hierarchy.refusal is not None:
        return None  # no daemon touches groups here
    return CpusetGroups(hierarchy, files=HOST_FILES, proc_root="/proc")


def _family(groups: CpusetGroups, group: str) -> list[str]:
    try:
        children = groups.children(group)
    except OSError:  # there is none, or it went away
        return []
    return [group, *(one for child in children for one in _family(groups, child))]


def _group_of(groups: CpusetGroups, pid: int, tid: int) -> str | None:
    try:
        return groups.group_of(pid, tid)
    except CgroupRefused:  # outside of what is mounted here: nobody can move it, and it has no files for us
        return None


def _with_those_above(group: str | None) -> set[str]:
    if group is None:
        return set()
    return {group, *map(str, PurePosixPath(group).parents)}


def _threads(pid: int) -> list[int]:
    try:
        return sorted(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):  # it ended
        return []


def _read(path: str) -> str | None:
    try:
        return HOST_FILES.read(path)
    except OSError:  # gone since it was listed, or a file that this group does not have
        return None
