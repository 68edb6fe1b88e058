"""One cache cut into neighbouring parts: a few ways for streaming workloads, the rest by weight. Pure geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from isolation.resctrl_info import CacheControl
from isolation.resctrl_mask import WayMask

_STREAMING_SHARE = 10  # one way of so many, rounded up


class Partition(NamedTuple):
    """Masks that do not overlap, except where parts had to share."""

    streaming: WayMask  #: no way when nobody streams
    parts: tuple[WayMask, ...]  #: one per weight, in that order; empty when there is room for the streaming only


def partition(
    run: WayMask, control: CacheControl, weights: Sequence[int], *, streaming: bool, most: int
) -> Partition | None:
    """Cut a run of ways; None = too few ways, or there would be one part only.

    Streaming workloads get the end that hardware writes to (shareable_bits), or else the top: in the middle, they would
    cut the rest in two. The parts follow in their order. At most `most` are cut (none below 0); beyond that, and
    beyond what min_cbm_bits allows, those of lowest weight share the last one.
    """
    least = max(control.min_cbm_bits, 1)
    few = max(least, -(-len(control.cbm_mask) // _STREAMING_SHARE)) if streaming else 0
    rest = len(run) - few
    count = min(len(weights), most, rest // least)
    if most < 0 or rest < least or (count < 2 and not streaming):
        return None
    first = (run.bits & -run.bits).bit_length() - 1
    low, high = WayMask.run(first, few), WayMask.run(first + rest, few)
    at_low = len(low & control.shareable_bits) > len(high & control.shareable_bits)
    begin = first + few if at_low else first
    return Partition(low if at_low else high, _cut(begin, rest, weights, count, least) if count > 0 else ())


def _cut(begin: int, total: int, weights: Sequence[int], count: int, least: int) -> tuple[WayMask, ...]:
    by_weight = sorted(range(len(weights)), key=lambda index: (-weights[index], index))
    kept = sorted(by_weight if len(weights) <= count else by_weight[: count - 1])
    shared = by_weight[len(kept) :]
    sizes = [weights[index] for index in kept] + [sum(weights[index] for index in shared)] * bool(shared)
    masks = []
    for width in widths(total, [max(size, 1) for size in sizes], least):
        masks.append(WayMask.run(begin, width))
        begin += width
    mask_of = dict.fromkeys(shared, masks[-1]) | dict(zip(kept, masks, strict=False))
    return tuple(mask_of[index] for index in range(len(weights)))


def widths(total: int, weights: Sequence[int], least: int) -> list[int]:
    """Divide ways in proportion to weights of 1 or more; `total` must be at least `least` for each.

    Who would get fewer than `least` gets that. Of the others, the largest remainders get the ways left; ties go to the
    earlier. All in whole numbers, so that rounding decides nothing.
    """
    small: set[int] = set()
    while True:
        left = total - least * len(small)
        whole = sum(weight for index, weight in enumerate(weights) if index not in small)
        more = {index for index, weight in enumerate(weights) if index not in small and weight * left < least * whole}
        if not more:
            break
        small |= more
    found = [least if index in small else weight * left // whole for index, weight in enumerate(weights)]
    open_ = [index for index in range(len(weights)) if index not in small]
    for index in sorted(open_, key=lambda index: (-(weights[index] * left % whole), index))[: total - sum(found)]:
        found[index] += 1
    return found
