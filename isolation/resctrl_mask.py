"""Cache ways as a value: parse, format, algebra, runs. Knows no files and no limits of a machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from isolation.errors import ResctrlInvalid

_WIDEST = 32  # the kernel keeps a mask in 32 bits
_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class WayMask:
    """An immutable set of cache ways (bit i = way i); its length is the number of ways."""

    bits: int = 0

    def __post_init__(self) -> None:
        if self.bits < 0 or self.bits.bit_length() > _WIDEST:
            raise ResctrlInvalid(f"way mask {self.bits:#x} is outside 0 to {_WIDEST} bits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the kernel's hexadecimal form, with the zeros it pads; raises ResctrlInvalid."""
        if not _HEX.fullmatch(text.strip()):
            raise ResctrlInvalid(f"way mask {text[:40]!r} is not hexadecimal; the kernel prints such as 'fff'")
        return cls(int(text, 16))

    @classmethod
    def run(cls, first: int, count: int) -> Self:
        """Return `count` neighbouring ways from the first; no way for a count of 0."""
        if first < 0 or count < 0:
            raise ResctrlInvalid(f"a run of {count} ways from way {first} cannot be: neither may be negative")
        return cls(((1 << count) - 1) << first)

    def __str__(self) -> str:
        """Format as the kernel takes it: hexadecimal without 0x."""
        return f"{self.bits:x}"

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the ways, lowest first."""
        return (way for way in range(self.bits.bit_length()) if self.bits >> way & 1)

    def __and__(self, other: Self) -> Self:
        return type(self)(self.bits & other.bits)

    def __or__(self, other: Self) -> Self:
        return type(self)(self.bits | other.bits)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.bits & ~other.bits)

    def covers(self, other: WayMask) -> bool:
        """Tell whether all ways of the other are in this mask."""
        return not other.bits & ~self.bits

    @property
    def contiguous(self) -> bool:
        """Whether the ways are neighbours; no way at all is no run."""
        return len(self.runs()) == 1

    def runs(self) -> tuple[Self, ...]:
        """Return the longest runs of neighbouring ways that make up the mask, lowest first."""
        found, rest = [], self.bits
        while rest:
            low = rest & -rest
            # adding the lowest bit carries through its run; what the sum lost is the run
            run = rest & ~(rest + low)
            found.append(type(self)(run))
            rest ^= run
        return tuple(found)

    def windows(self, count: int) -> tuple[Self, ...]:
        """Return every run of `count` ways that lies inside the mask, lowest first."""
        if count < 1:
            return ()
        whole = (self.run(first, count) for first in range(self.bits.bit_length() - count + 1))
        return tuple(window for window in whole if self.covers(window))
