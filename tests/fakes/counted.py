"""The kernel of this host, with every call noted that asks it for a change."""

from __future__ import annotations

from isolation.cpuset import CpuSet
from isolation.kernelfs import HostAffinity, HostFiles


class CountedKernel(HostFiles, HostAffinity):
    """Files and affinity at once; `changes` also holds the calls that the kernel refused."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []

    def write(self, path: str, text: str) -> None:
        self.changes.append(("write", path))
        super().write(path, text)

    def mkdir(self, path: str) -> None:
        self.changes.append(("mkdir", path))
        super().mkdir(path)

    def rmdir(self, path: str) -> None:
        self.changes.append(("rmdir", path))
        super().rmdir(path)

    def set(self, tid: int, cpus: CpuSet) -> None:
        self.changes.append(("set", str(tid)))
        super().set(tid, cpus)
