"""Classes of service as values: what workloads get where they run, and which can be one class. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from isolation.resctrl_mask import WayMask
from isolation.spec import MemoryBandwidth


class Share(NamedTuple):
    """What a workload gets in one cache where it runs."""

    ways: WayMask  #: no way = not restricted
    cap: MemoryBandwidth | None


Key = tuple[tuple[int, int, int, int], ...]


class ServiceClass(NamedTuple):
    """What alike workloads get, by cache; a cache that is not named is none of theirs."""

    shares: Mapping[int, Share]
    members: int
    key: Key  #: the shares as something to sort by
    alone: bool  #: each member needs a class of its own: the kernel adds up what a class moves, in bytes

    @classmethod
    def of(cls, shares: Mapping[int, Share], members: int) -> Self:
        """Collect the shares of so many workloads."""
        caps = [share.cap for share in shares.values() if share.cap is not None]
        return cls(shares, members, _key(shares), any(cap.bytes_per_s is not None for cap in caps))


def classes_needed(classes: Iterable[ServiceClass]) -> int:
    """Count the classes of service that hold all of these."""
    alone, shared = 0, set()
    for one in classes:
        if one.alone:
            alone += one.members
        else:
            shared.add(one.key)
    return alone + len(shared)


def joined_classes(classes: Mapping[int, ServiceClass]) -> dict[int, ServiceClass]:
    """Make one class of those that agree in every cache where both run: first fit, in the order of caches and masks."""
    bins: list[dict[int, Share]] = []
    home: dict[Key, dict[int, Share]] = {}
    distinct = {one.key: one.shares for one in classes.values() if not one.alone}
    for key in sorted(distinct):
        shares = distinct[key]
        found = next((one for one in bins if all(one.get(at, share) == share for at, share in shares.items())), None)
        if found is None:
            found = {}
            bins.append(found)
        found.update(shares)
        home[key] = found
    whole = {id(found): ServiceClass.of(found, 0) for found in bins}
    return {
        number: one if one.alone else whole[id(home[one.key])]._replace(members=one.members)
        for number, one in classes.items()
    }


def _key(shares: Mapping[int, Share]) -> Key:
    found = []
    for at, (ways, cap) in sorted(shares.items()):
        percent, bytes_per_s = (0, 0) if cap is None else (cap.percent or 0, cap.bytes_per_s or 0)
        found.append((at, ways.bits, percent, bytes_per_s))
    return tuple(found)
