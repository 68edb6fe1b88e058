"""How much memory processes touch in a while: the kernel notes each page that is used (CONFIG_PROC_PAGE_MONITOR).

Clearing those notes costs a moment of address translation and nothing else; whoever else watches them, such as the
kernel's own reclaim, sees the pages as younger or older than they are for that while.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass

from profiler.procfs import PROC

_LOOKS = 5
_DENSE_RATIO = 0.75  # of a mapping's pages: an array that is worked through, not code and scattered objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """Bytes of the pages touched in one span, the middle one of several looks."""

    bytes: float
    dense_bytes: float  #: in mappings touched nearly everywhere; of the others' pages only parts may have been used
    spread_bytes: float  #: standard deviation between the looks


def touched(pids: Collection[int], *, span_s: float = 0.1) -> Touched | str:
    """Look several times at what these processes touch within a span; gives why not where the kernel does not tell."""
    totals, dense = [], []
    for _ in range(_LOOKS):
        try:
            for pid in pids:
                (PROC / str(pid) / "clear_refs").write_text("1")
            time.sleep(span_s)
            found = [referenced((PROC / str(pid) / "smaps").read_bytes()) for pid in pids]
        except ProcessLookupError:
            return "the workload ended meanwhile"
        except OSError as error:
            return f"the kernel does not tell which pages are touched: {error.strerror} ({error.filename})"
        totals.append(sum(total for total, _ in found))
        dense.append(sum(part for _, part in found))
    return Touched(
        bytes=statistics.median(totals), dense_bytes=statistics.median(dense), spread_bytes=statistics.stdev(totals)
    )


def referenced(smaps: bytes) -> tuple[int, int]:
    """Add up what a smaps file says was touched: all bytes, and those in mappings touched nearly everywhere."""
    total = dense = size = 0
    for line in smaps.splitlines():
        if line.startswith(b"Size:"):
            size = int(line.split()[1]) << 10
        elif line.startswith(b"Referenced:"):
            part = int(line.split()[1]) << 10
            total += part
            if part >= _DENSE_RATIO * size:
                dense += part
    return total, dense
