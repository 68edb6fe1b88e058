"""A cgroup of the fake kernel, and who is above whom."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from isolation.cpuset import IdSet

_INODES = itertools.count(1000)


@dataclass(slots=True)
class FakeGroup:
    cpus: IdSet = field(default_factory=IdSet)
    mems: IdSet = field(default_factory=IdSet)
    subtree: set[str] = field(default_factory=set)
    partition: str = "member"
    inode: int = field(default_factory=lambda: next(_INODES))

    def settings(self) -> dict[str, str]:
        """Return the files that cgroup v2 has besides."""
        return {"cgroup.subtree_control": " ".join(sorted(self.subtree)), "cpuset.cpus.partition": self.partition}


def parent_of(group: str) -> str:
    """Return the group that this one lies in."""
    return group.rpartition("/")[0] or "/"


def all_above(group: str) -> list[str]:
    """Return the groups it lies in, without the top, where other rules hold."""
    parts = group.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts))]
