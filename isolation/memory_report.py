"""Where the memory of processes and the page cache of files live, as one report for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from isolation.errors import PageCacheUnreadable
from isolation.node_memory import NodeMemory, read_node_memory, size_text
from isolation.numa_maps import MappedFile, ProcessMemory, mapped_files, memory_of
from isolation.page_cache import FileCache, read_file_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """A large file that a process has mapped."""

    mapped: MappedFile
    cache: FileCache | None  #: None = not told, `unknown` says why
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """What was asked for; amounts of one moment."""

    nodes: tuple[NodeMemory, ...]
    processes: tuple[
        tuple[int, ProcessMemory | None, tuple[CachedFile, ...]], ...
    ]  #: memory None = kernel without NUMA
    files: tuple[FileCache, ...]

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        for node in self.nodes:
            yield f"node {node.node}: {size_text(node.free_bytes)} free of {size_text(node.total_bytes)}"
        for pid, memory, files in self.processes:
            told = "not told, this kernel has no NUMA"
            if memory is not None:
                told = f"private memory {memory.anonymous}; mapped files {memory.files}"
            yield f"process {pid}: {told}"
            yield from (f"  {one.mapped.path}: {one.cache or one.unknown}" for one in files)
        yield from (f"{one.path}: {one}" for one in self.files)

    def as_record(self) -> dict[str, object]:
        """Return it for JSON; amounts by node are objects from node to bytes."""
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "processes": [
                {
                    "pid": pid,
                    "anonymous_bytes": None if memory is None else dict(memory.anonymous),
                    "file_bytes": None if memory is None else dict(memory.files),
                    "files": [
                        asdict(one.mapped)
                        | {"cache": None if one.cache is None else _record(one.cache), "unknown": one.unknown}
                        for one in files
                    ],
                }
                for pid, memory, files in self.processes
            ],
            "files": [_record(one) for one in self.files],
        }


def read_memory_report(pids: Iterable[int], paths: Iterable[str]) -> MemoryReport:
    """Look at all of them; changes nothing and reads nothing from disk.

    Raises ProcessGone, ForeignProcess, or PageCacheUnreadable for one of the paths.
    """
    return MemoryReport(
        nodes=read_node_memory(),
        processes=tuple((pid, memory_of([pid]), tuple(map(_cached, mapped_files(pid)))) for pid in pids),
        files=tuple(map(read_file_cache, paths)),
    )


def _cached(mapped: MappedFile) -> CachedFile:
    try:
        return CachedFile(mapped=mapped, cache=read_file_cache(mapped.reachable_path))
    except PageCacheUnreadable as cause:
        return CachedFile(mapped=mapped, cache=None, unknown=str(cause))


def _record(cache: FileCache) -> dict[str, object]:
    return asdict(cache) | {"cached": dict(cache.cached)}
