"""Processes with pages on nodes that do not exist: move_pages, numa_maps, maps and meminfo as the kernel does them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from isolation.cpuset import NodeSet
from isolation.page_calls import UNTOLD
from isolation.process import ProcessIdentity

_BOOT = "fake-boot"


@dataclass(slots=True, kw_only=True)
class FakeRange:
    """One mapping; `nodes` has one entry for each page, None = not present."""

    start: int
    nodes: list[int | None]
    page_bytes: int = 4096
    path: str = ""
    inode: int = 0
    own_copies: int = 0  #: pages of a mapped file that are anonymous
    shared: frozenset[int] = frozenset()
    busy: frozenset[int] = frozenset()  #: cannot be taken off their list: told one by one
    pinned: frozenset[int] = frozenset()  #: fail to move: the kernel gives up there

    @property
    def end(self) -> int:
        return self.start + len(self.nodes) * self.page_bytes


@dataclass(slots=True, kw_only=True)
class FakeSpace:
    """The address space of one process."""

    ranges: list[FakeRange]
    mems: NodeSet
    starttime: int = 7
    denied: bool = False


@dataclass(slots=True, kw_only=True)
class FakeMemory:
    """KernelFiles, as far as reading memory needs them, and PageCalls."""

    free_bytes: dict[int, int] = field(default_factory=lambda: {0: 4 << 30, 1: 4 << 30})
    total_bytes: int = 8 << 30
    numa: bool = True
    spaces: dict[int, FakeSpace] = field(default_factory=dict)
    moves: list[int] = field(default_factory=list)  #: pages asked for, by call
    reads: list[str] = field(default_factory=list)
    looks: int = 0  #: pages asked after
    at_move: dict[int, Callable[[], object]] = field(default_factory=dict)  #: happens before the n-th call, from 1

    def spawn(self, *ranges: FakeRange, mems: str = "0-1") -> ProcessIdentity:
        pid = 100 + len(self.spaces)
        self.spaces[pid] = FakeSpace(ranges=list(ranges), mems=NodeSet.parse(mems))
        return ProcessIdentity(pid=pid, starttime_ticks=7, uid=0, comm="fake", boot_id=_BOOT)

    def read(self, path: str) -> str:
        self.reads.append(path)
        match path.split("/")[1:]:
            case ["proc", "sys", *_]:
                return _BOOT
            case ["sys", *_, node, "meminfo"] if int(node.removeprefix("node")) in self.free_bytes:
                free = self.free_bytes[int(node.removeprefix("node"))]
                told = {"MemTotal": self.total_bytes, "MemFree": free, "Active(file)": 1 << 30}
                return "".join(f"Node {node[4:]} {name}: {value >> 10:8} kB\n" for name, value in told.items())
            case ["proc", pid, name] if int(pid) in self.spaces:
                return self._process_file(int(pid), name, path)
        raise self._error(errno.ENOENT, path)

    def folders(self, path: str) -> tuple[str, ...]:
        if path != "/sys/devices/system/node" or not self.numa:
            raise self._error(errno.ENOENT, path)
        return (*(f"node{node}" for node in self.free_bytes), "power")

    def write(self, path: str, text: str) -> None:
        raise self._error(errno.EROFS, path)

    def mkdir(self, path: str) -> None:
        raise self._error(errno.EROFS, path)

    def rmdir(self, path: str) -> None:
        raise self._error(errno.EROFS, path)

    def locate(self, pid: int, addresses: Sequence[int]) -> Sequence[int]:
        self.looks += len(addresses)
        space = self._space(pid)
        found = (self._find(space, address) for address in addresses)
        return [-errno.EFAULT if one is None else _told(one[0].nodes[one[1]]) for one in found]

    def move(self, pid: int, addresses: Sequence[int], node: int) -> Sequence[int]:
        self.moves.append(len(addresses))
        if len(self.moves) in self.at_move:
            self.at_move[len(self.moves)]()
        space = self._space(pid)
        if node not in self.free_bytes:
            raise self._error(errno.ENODEV, str(node))
        if node not in space.mems:
            raise self._error(errno.EACCES, str(node))
        status = [UNTOLD] * len(addresses)
        batch: list[tuple[int, FakeRange, int]] = []
        for position, address in enumerate(addresses):
            found = self._find(space, address)
            told = -errno.EFAULT if found is None else self._queued(*found, node)
            if told is None:
                assert found is not None
                batch.append((position, *found))
                continue
            status[position] = told
            if not self._flush(batch, node, status):
                return status
        self._flush(batch, node, status)
        return status

    def _queued(self, one: FakeRange, index: int, node: int) -> int | None:
        """Return what is told of a page at once; None = it is queued."""
        if one.nodes[index] is None:
            return -errno.ENOENT
        if one.nodes[index] == node:
            return node
        if index in one.shared:
            return -errno.EACCES
        return -errno.EBUSY if index in one.busy else None

    def _flush(self, batch: list[tuple[int, FakeRange, int]], node: int, status: list[int]) -> bool:
        """Move what is queued; one failure and nothing is told of all of them."""
        failed = False
        for _, one, index in batch:
            old = one.nodes[index]
            assert old is not None
            if index in one.pinned or self.free_bytes[node] < one.page_bytes:
                failed = True
                continue
            one.nodes[index] = node
            self.free_bytes[node] -= one.page_bytes
            self.free_bytes[old] += one.page_bytes
        if not failed:
            for position, _, _ in batch:
                status[position] = node
        batch.clear()
        return not failed

    def _space(self, pid: int) -> FakeSpace:
        if pid not in self.spaces:
            raise self._error(errno.ESRCH, str(pid))
        if self.spaces[pid].denied:
            raise self._error(errno.EPERM, str(pid))
        return self.spaces[pid]

    @staticmethod
    def _find(space: FakeSpace, address: int) -> tuple[FakeRange, int] | None:
        found = next((one for one in space.ranges if one.start <= address < one.end), None)
        return None if found is None else (found, (address - found.start) // found.page_bytes)

    def _process_file(self, pid: int, name: str, path: str) -> str:
        space = self.spaces[pid]
        match name:
            case "stat":
                return f"{pid} (fake) S 1 1 1 0 -1 4194304 {'0 ' * 12}{space.starttime} 0 0\n"
            case "maps":
                return "".join(
                    f"{one.start:x}-{one.end:x} rw-p 00000000 {'fe:01' if one.inode else '00:00'} {one.inode}"
                    f"{' ' * 20 + one.path if one.path else ''}\n"
                    for one in space.ranges
                )
            case "numa_maps" if self.numa:
                return "".join(_numa_line(one) for one in space.ranges)
        raise self._error(errno.ENOENT, path)

    @staticmethod
    def _error(code: int, what: str) -> OSError:
        return OSError(code, os.strerror(code), what)


def _told(node: int | None) -> int:
    return -errno.ENOENT if node is None else node


def _numa_line(one: FakeRange) -> str:
    counts = {node: one.nodes.count(node) for node in sorted({node for node in one.nodes if node is not None})}
    file = f" file={one.path}" if one.path else ""
    anonymous = one.own_copies if one.inode else sum(counts.values())
    anon = f" anon={anonymous} dirty={anonymous}" if anonymous else ""
    nodes = "".join(f" N{node}={pages}" for node, pages in counts.items())
    size = f" kernelpagesize_kB={one.page_bytes >> 10}" if counts else ""
    return f"{one.start:x} default{file}{anon}{nodes}{size}\n"
