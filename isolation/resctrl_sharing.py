"""Whether a workload gets a resctrl group of its own. Pure: classes of service are few, wishes are often equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from isolation.resctrl_schemata import Schemata


class Sharing(Enum):
    """What to do about a wish."""

    CREATE = "create"
    SHARE = "share"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChoice:
    """The decision, and the group that is shared."""

    sharing: Sharing
    group: str | None = None


def choose_group(wish: Schemata, held: Mapping[str, Schemata], *, closids_left: int) -> GroupChoice:
    """Decide for a new workload; held = the wishes of our groups by name.

    A group of its own as long as there is one, for then it can be changed alone; else that of the lowest name with an
    equal wish; else none, and the workload goes without.
    """
    if closids_left > 0:
        return GroupChoice(sharing=Sharing.CREATE)
    equal = min((name for name, other in held.items() if other.entries == wish.entries), default=None)
    return GroupChoice(sharing=Sharing.REFUSE if equal is None else Sharing.SHARE, group=equal)
