"""Change cpus or mems of groups so that every state in between is one the kernel allows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from isolation.cgroup import CpusetGroups
from isolation.cpuset import IdSet
from isolation.steps import Steps


def set_groups(
    groups: CpusetGroups,
    kind: Literal["cpus", "mems"],
    wanted: Mapping[str, IdSet],
    steps: Steps,
    *,
    fresh: bool = False,
) -> None:
    """Give each group its set, writing only what differs.

    On v1 a child must always fit its parent, so with several groups: parents grow to the union first, then children
    change, then parents shrink. fresh = the group was made just now, so that taking it back is removing it.
    """
    name = f"cpuset.{kind}"
    now: dict[str, IdSet] = {group: IdSet() if fresh else IdSet.parse(groups.read(group, name)) for group in wanted}
    same = {} if fresh else {group: groups.inode(group) for group in wanted}

    def take_back(group: str, earlier: IdSet) -> None:
        if not fresh and groups.inode(group) == same[group]:  # not if it is gone, or another one has its path
            groups.put(group, kind, earlier)

    def write(group: str, value: IdSet) -> None:
        steps.do(
            f"write {str(value)!r} to {name!r} of group {group!r}",
            partial(groups.put, group, kind, value),
            partial(take_back, group, now[group]),
        )
        now[group] = value

    top_down = sorted(wanted, key=lambda group: (group.count("/"), group))
    if groups.hierarchy.version == 1:
        for group in top_down:
            inner = _inside(group, wanted)
            if not inner <= now[group]:
                write(group, now[group] | inner | IdSet(wanted[group].mask))
    for group in reversed(top_down):
        if now[group].mask != wanted[group].mask:
            write(group, IdSet(wanted[group].mask))


def _inside(group: str, wanted: Mapping[str, IdSet]) -> IdSet:
    """Return all that the groups below need their parent to hold."""
    found = IdSet()
    for below, ids in wanted.items():
        if below.startswith(f"{group}/"):
            found = found | IdSet(ids.mask)
    return found
