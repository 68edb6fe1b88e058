"""What this process may use of the machine: its own cpuset, live or in a captured tree. Reads proc and cgroup files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isolation.cpuset import CpuSet, NodeSet
from isolation.errors import CpuSetInvalid
from isolation.sysfs import read_field, read_list, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """CPUs and memory nodes a process may use; None = not told, so all of them."""

    cpus: CpuSet | None
    mems: NodeSet | None


def read_restriction(root: Path) -> Restriction:
    """Return what holds for this process: /proc/self/status, or its cpuset group's files where that is absent."""
    status = root / "proc/self/status"
    if cpus := _parse(read_field(status, "Cpus_allowed_list")):
        return Restriction(cpus=cpus, mems=_nodes(_parse(read_field(status, "Mems_allowed_list"))))
    for group in _groups(root):
        found = _first(group, "cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus", "cpus")
        mems = _first(group, "cpuset.mems.effective", "cpuset.effective_mems", "cpuset.mems", "mems")
        if found or mems:
            return Restriction(cpus=found, mems=_nodes(mems))
    return Restriction(cpus=None, mems=None)


def _parse(text: str | None) -> CpuSet | None:
    try:
        return CpuSet.parse(text) if text else None
    except CpuSetInvalid:
        return None


def _nodes(found: CpuSet | None) -> NodeSet | None:
    return None if found is None else NodeSet(found.mask)


def _first(group: Path, *names: str) -> CpuSet | None:
    return next((found for name in names if (found := read_list(group / name))), None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders that may be this process's cpuset group: cgroup v2, v1, the legacy file system."""
    membership = read_text(root / "proc/self/cgroup") or ""
    legacy = read_text(root / "proc/self/cpuset")
    version_2 = re.search(r"^0::(/.*)$", membership, re.MULTILINE)
    version_1 = re.search(r"^\d+:(?:\S+,)?cpuset(?:,\S+)?:(/.*)$", membership, re.MULTILINE)
    for line in (read_text(root / "proc/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        mount, kind, options = fields[1:4]
        folder = root / mount.lstrip("/")
        if kind == "cgroup2" and "cpuset" in (read_text(folder / "cgroup.controllers") or "").split():
            path = version_2[1] if version_2 else legacy
        elif (kind == "cgroup" and "cpuset" in options.split(",")) or kind == "cpuset":
            path = version_1[1] if version_1 else legacy
        else:
            continue
        if path is not None and ".." not in path:
            yield folder / path.lstrip("/")
