"""How much of a file, such as a model, is in the page cache, and on which nodes. Reads nothing from disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isolation.errors import PageCacheUnreadable
from isolation.node_memory import NodeBytes, size_text
from isolation.page_calls import HOST_PAGES, PageCalls, file_pages

_MOST_PAGES = 65536  # of a larger file that many are looked at: 0.2 % standard error at worst, within a second


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCache:
    """How much of a file is in memory, and where; an estimate when sampled_ratio is below 1."""

    path: str
    size_bytes: int
    cached: NodeBytes
    unplaced_bytes: int  #: cached, but the kernel does not say where
    uncached_bytes: int  #: would be read from disk
    sampled_ratio: float  #: of the pages; evenly spread

    def __str__(self) -> str:
        """Say it as in "4.1 GiB of model.gguf are cached on node 0, 1.0 GiB not at all"."""
        name = self.path.rpartition("/")[2]
        parts = [f"{size_text(held)} of {name} are cached on node {node}" for node, held in self.cached]
        if self.unplaced_bytes:
            parts.append(f"{size_text(self.unplaced_bytes)} on a node that is not told")
        if self.uncached_bytes:
            parts.append(f"{size_text(self.uncached_bytes)} not at all" if parts else f"nothing of {name} is cached")
        told = ", ".join(parts) or f"{name} is empty"
        return told if self.sampled_ratio == 1 else f"{told} (estimated from {self.sampled_ratio:.1%} of its pages)"


def read_file_cache(path: str, *, most_pages: int = _MOST_PAGES, calls: PageCalls = HOST_PAGES) -> FileCache:
    """Ask mincore(2) what is cached, map that much without reading and ask move_pages(2) for its nodes.

    Of a file of more than most_pages pages every k-th is looked at. Raises PageCacheUnreadable when the file cannot be
    opened, is none, or the kernel does not tell this user (only owner, writer and root learn it, since Linux 5.2).
    """
    try:
        with file_pages(path, calls) as pages:
            if not pages.told():
                raise PageCacheUnreadable(
                    f"the kernel does not say what of {path!r} is cached: only a user who may write to it learns that;"
                    " run as its owner or as root"
                )
            numbers = range(0, pages.pages, -(-pages.pages // most_pages) or 1)
            cached = [number for number, held in zip(numbers, pages.cached(numbers), strict=True) if held]
            return estimate(path, pages.size_bytes, pages.pages, len(numbers), pages.nodes(cached) if cached else ())
    except OSError as cause:
        raise PageCacheUnreadable(
            f"what of {path!r} is cached cannot be told: {cause.strerror}; name a regular file that this user can read,"
            " and allow move_pages and process_vm_readv where a system call filter is in force"
        ) from cause


def estimate(path: str, size_bytes: int, pages: int, looked_at: int, nodes: Sequence[int]) -> FileCache:
    """Scale the cached pages among those looked at up to the file; `nodes` is one for each, negative = not told."""
    counts: dict[int, int] = {}
    for node in nodes:
        counts[node] = counts.get(node, 0) + 1
    share = size_bytes / looked_at if looked_at else 0.0
    placed = {node: round(count * share) for node, count in counts.items() if node >= 0}
    unplaced = round(sum(count for node, count in counts.items() if node < 0) * share)
    return FileCache(
        path=path,
        size_bytes=size_bytes,
        cached=NodeBytes.of(placed),
        unplaced_bytes=unplaced,
        uncached_bytes=max(size_bytes - unplaced - sum(placed.values()), 0) if len(nodes) < looked_at else 0,
        sampled_ratio=looked_at / pages if pages else 1.0,
    )
