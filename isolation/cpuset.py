"""Sets of CPU or NUMA node ids as values: parse, format, algebra. Knows no files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from isolation.errors import CpuSetInvalid

_LIMIT = 8192  # CONFIG_NR_CPUS of the largest distribution kernels
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class IdSet:
    """An immutable set of small non-negative ids, kept as a bit mask (bit i = id i)."""

    mask: int = 0

    def __post_init__(self) -> None:
        if self.mask < 0 or self.mask.bit_length() > _LIMIT:
            raise CpuSetInvalid(f"mask {self.mask:#x} is outside 0 to {_LIMIT} bits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the kernel's list format ("0-3,8"); an empty text is the empty set.

        Raises CpuSetInvalid naming the part that is wrong. Rejects what the kernel's own files never
        print: signs, hexadecimal, reversed ranges, ids of 8192 and more.
        """
        return cls(_mask_of(text))

    @classmethod
    def of(cls, ids: Iterable[int]) -> Self:
        """Collect ids; raises CpuSetInvalid for one below 0 or of 8192 and more."""
        mask = 0
        for one in ids:
            if not 0 <= one < _LIMIT:
                raise CpuSetInvalid(f"id {one} is outside 0 to {_LIMIT - 1}")
            mask |= 1 << one
        return cls(mask)

    def __str__(self) -> str:
        """Format as the kernel does: "0-3,8"; empty set = empty text."""
        return _text_of(self.mask)

    def __iter__(self) -> Iterator[int]:
        """Yield the ids, lowest first."""
        rest = self.mask
        while rest:
            low = rest & -rest
            yield low.bit_length() - 1
            rest ^= low

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __contains__(self, one: object) -> bool:
        return isinstance(one, int) and one >= 0 and bool(self.mask >> one & 1)

    def __and__(self, other: Self) -> Self:
        return type(self)(self.mask & other.mask)

    def __or__(self, other: Self) -> Self:
        return type(self)(self.mask | other.mask)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.mask & ~other.mask)

    def __le__(self, other: Self) -> bool:
        """Tell whether this is a subset of the other."""
        return not self.mask & ~other.mask


class CpuSet(IdSet):
    """Logical CPUs by kernel number."""

    __slots__ = ()


class NodeSet(IdSet):
    """NUMA nodes by kernel number."""

    __slots__ = ()


@lru_cache(maxsize=1024)  # the same few over and over: of each group and each thread
def _mask_of(text: str) -> int:
    mask = 0
    stripped = text.strip()
    for part in stripped.split(",") if stripped else ():
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise CpuSetInvalid(f"{part!r} in list {text!r} is not an id or a range such as 0-3")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first or last >= _LIMIT:
            raise CpuSetInvalid(f"{part!r} in list {text!r} must rise and stay below {_LIMIT}")
        mask |= ((1 << (last - first + 1)) - 1) << first
    return mask


@lru_cache(maxsize=1024)
def _text_of(mask: int) -> str:
    parts: list[str] = []
    ids = list(IdSet(mask))
    start = 0
    for position, one in enumerate(ids):
        if position + 1 == len(ids) or ids[position + 1] != one + 1:
            parts.append(str(one) if ids[start] == one else f"{ids[start]}-{one}")
            start = position + 1
    return ",".join(parts)
