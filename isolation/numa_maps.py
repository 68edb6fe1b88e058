"""On which nodes the pages of processes live: /proc/PID/numa_maps with /proc/PID/maps. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from isolation.cpuset import NodeSet
from isolation.errors import ForeignProcess, ProcessGone
from isolation.kernelfs import HOST_FILES, KernelFiles
from isolation.node_memory import NodeBytes
from isolation.process import read_stat

_DELETED = " (deleted)"
_MODEL_BYTES = 64 << 20
_NODE = re.compile(r"N(\d+)=(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """One file for ever, anonymous shared memory and memfd included."""

    device: str  #: "major:minor" in hexadecimal, as /proc/PID/maps has it
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedRange:
    """One range of addresses with the pages that are present in it."""

    start: int
    end: int  #: first address behind it
    page_bytes: int  #: the unit in which the kernel counts here; transparent huge pages count as small ones
    pages: NodeBytes
    anonymous_bytes: int  #: of the pages, on whatever node
    file: FileIdentity | None  #: None = private memory of the process
    path: str  #: as the process sees it; empty = no file, or a file without a name


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedFile:
    """A file of a process' address space."""

    path: str  #: in the process' own mount namespace
    pid: int
    mapped_bytes: int  #: of address space, whether in memory or not

    @property
    def reachable_path(self) -> str:
        """Return the path by which another process reaches it, out of a container, too."""
        return f"/proc/{self.pid}/root{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Where the present pages of one or several processes live. Pages in swap are on no node and not counted."""

    anonymous: NodeBytes = field(default_factory=NodeBytes)  #: a page shared after fork counts in each process
    files: NodeBytes = field(default_factory=NodeBytes)  #: mapped files and shared memory

    @property
    def all(self) -> NodeBytes:
        """Both together."""
        return NodeBytes.sum((self.anonymous, self.files))


def read_mappings(
    pid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc"
) -> tuple[MappedRange, ...] | None:
    """Return all mappings that have pages, lowest address first; None = this kernel tells no nodes (no NUMA).

    Raises ProcessGone, and ForeignProcess where this user may not look. A process that ends meanwhile has none.
    """
    try:
        # The nodes first: a mapping that came in between then has no pages, rather than pages of another one.
        told = files.read(f"{proc_root}/{pid}/numa_maps")
        ranges = {start: (end, file, path) for start, end, file, path in _ranges(pid, files, proc_root)}
    except FileNotFoundError as cause:
        if read_stat(pid, files=files, proc_root=proc_root) is not None:
            return None
        raise _gone(pid) from cause
    except ProcessLookupError as cause:
        raise _gone(pid) from cause
    except PermissionError as cause:
        raise _foreign(pid) from cause
    found = (_mapping(line, ranges) for line in told.split("\n") if line)
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.start))


def memory_of(
    pids: Iterable[int], *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc"
) -> ProcessMemory | None:
    """Add up where the processes' pages live; None = this kernel tells no nodes (no NUMA).

    Processes that are gone have no memory. Raises ForeignProcess for one that this user may not look at.
    """
    found = []
    for pid in pids:
        try:
            mappings = read_mappings(pid, files=files, proc_root=proc_root)
        except ProcessGone:
            continue
        if mappings is None:
            return None
        found.append(mappings)
    return add_up(found)


def add_up(processes: Iterable[Iterable[MappedRange]]) -> ProcessMemory:
    """Add up the mappings of several processes.

    A file mapped by several of them counts once, with the most that any of them has mapped on each node, which is
    exact when they use the same part. A page of a mapped file that a process has made its own copy of counts with the
    file, unless all pages of the mapping are such.
    """
    private: list[NodeBytes] = []
    shared: dict[FileIdentity, list[NodeBytes]] = {}
    for mappings in processes:
        mine: dict[FileIdentity, list[NodeBytes]] = {}
        for one in mappings:
            if one.file is None or one.anonymous_bytes == one.pages.total_bytes:
                private.append(one.pages)
            else:
                mine.setdefault(one.file, []).append(one.pages)
        for file, amounts in mine.items():
            shared.setdefault(file, []).append(NodeBytes.sum(amounts))
    return ProcessMemory(
        anonymous=NodeBytes.sum(private), files=NodeBytes.sum(NodeBytes.most(each) for each in shared.values())
    )


def mapped_files(
    pid: int, *, at_least_bytes: int = _MODEL_BYTES, files: KernelFiles = HOST_FILES, proc_root: str = "/proc"
) -> tuple[MappedFile, ...]:
    """Return the large files with a name that the process has mapped, largest first: a model, a data base.

    Raises ProcessGone, and ForeignProcess where this user may not look.
    """
    sizes: dict[str, int] = {}
    try:
        for start, end, file, path in _ranges(pid, files, proc_root):
            if file is not None and path:
                sizes[path] = sizes.get(path, 0) + end - start
    except (FileNotFoundError, ProcessLookupError) as cause:
        raise _gone(pid) from cause
    except PermissionError as cause:
        raise _foreign(pid) from cause
    found = (MappedFile(path=path, pid=pid, mapped_bytes=size) for path, size in sizes.items())
    return tuple(
        sorted(
            (one for one in found if one.mapped_bytes >= at_least_bytes), key=lambda one: (-one.mapped_bytes, one.path)
        )
    )


def outside_mappings(mappings: Iterable[MappedRange], nodes: NodeSet) -> tuple[MappedRange, ...]:
    """Return those with a page on another node."""
    return tuple(one for one in mappings if one.pages.outside(nodes))


def _ranges(pid: int, files: KernelFiles, proc_root: str) -> Iterator[tuple[int, int, FileIdentity | None, str]]:
    """Yield start, end, file and path of every mapping; a file without a name any more has no path."""
    for line in files.read(f"{proc_root}/{pid}/maps").split("\n"):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            continue
        start, _, end = fields[0].partition("-")
        device, inode = fields[3], int(fields[4])
        path = fields[5] if len(fields) > 5 and fields[5].startswith("/") else ""
        file = FileIdentity(device=device, inode=inode) if inode else None
        yield int(start, 16), int(end, 16), file, "" if path.endswith(_DELETED) else path


def _mapping(line: str, ranges: dict[int, tuple[int, FileIdentity | None, str]]) -> MappedRange | None:
    """Read "7f00 default file=/a anon=1 N0=3 N1=2 kernelpagesize_kB=4"; None = no pages, or gone meanwhile."""
    start_text, *words = line.split(" ")
    start = int(start_text, 16)
    counts = {
        int(node): int(pages) for node, pages in (found.groups() for found in map(_NODE.fullmatch, words) if found)
    }
    if not counts or start not in ranges:
        return None
    told = dict(word.split("=", 1) for word in words if "=" in word)
    page_bytes = int(told.get("kernelpagesize_kB", 4)) << 10
    end, file, path = ranges[start]
    return MappedRange(
        start=start,
        end=end,
        page_bytes=page_bytes,
        pages=NodeBytes.of({node: pages * page_bytes for node, pages in counts.items()}),
        anonymous_bytes=int(told.get("anon", 0)) * page_bytes,
        file=file,
        path=path,
    )


def _gone(pid: int) -> ProcessGone:
    return ProcessGone(f"process {pid} does not exist, or has ended; list what runs with `ps -e`", pid=pid)


def _foreign(pid: int) -> ForeignProcess:
    return ForeignProcess(
        f"the memory of process {pid} may not be read by this user; run as its user or as root", pid=pid
    )
