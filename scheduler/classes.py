"""Classes of service as values: what workloads get where they run, and which can be one class. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from isolation.resctrl_mask import WayMask
from isolation.spec import MemoryBandwidth


class Share(NamedTuple):
    """What a workload gets in one cache where it runs."""

    ways: WayMask  #: no way = not restricted
    cap: MemoryBandwidth | None


class ServiceClass(NamedTuple):
    """What alike workloads get, by cache; a cache that is not named is none of theirs."""

    shares: Mapping[int, Share]
    members: int

    @property
    def alone(self) -> bool:
        """Whether each member needs a class of its own: the kernel adds up what a class moves, in bytes."""
        return any(share.cap is not None and share.cap.bytes_per_s is not None for share in self.shares.values())


Key = tuple[tuple[int, int, int, int], ...]


def classes_needed(classes: Mapping[int, ServiceClass]) -> int:
    """Count the classes of service that hold all of these."""
    alone = sum(one.members for one in classes.values() if one.alone)
    return alone + len({_key(one.shares) for one in classes.values() if not one.alone})


def joined_classes(classes: Mapping[int, ServiceClass]) -> dict[int, ServiceClass]:
    """Make one class of those that agree in every cache where both run: first fit, in the order of caches and masks."""
    bins: list[dict[int, Share]] = []
    home: dict[Key, dict[int, Share]] = {}
    distinct = {_key(one.shares): one.shares for one in classes.values() if not one.alone}
    for key in sorted(distinct):
        shares = distinct[key]
        found = next((one for one in bins if all(one.get(at, share) == share for at, share in shares.items())), None)
        if found is None:
            found = {}
            bins.append(found)
        found.update(shares)
        home[key] = found
    return {
        number: one if one.alone else ServiceClass(home[_key(one.shares)], one.members)
        for number, one in classes.items()
    }


def _key(shares: Mapping[int, Share]) -> Key:
    return tuple(
        (
            at,
            share.ways.bits,
            (share.cap.percent or 0) if share.cap else 0,
            (share.cap.bytes_per_s or 0) if share.cap else 0,
        )
        for at, share in sorted(shares.items())
    )
