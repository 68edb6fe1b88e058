"""Move the pages of running processes to other memory nodes, a slice at a time. Acts through move_pages(2) alone."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from isolation.cpuset import NodeSet
from isolation.errors import ForeignProcess, ProcessGone
from isolation.kernelfs import HOST_FILES, KernelFiles
from isolation.memory_binding import check_room
from isolation.node_memory import read_node_memory
from isolation.numa_maps import MappedRange, add_up, outside_mappings, read_mappings
from isolation.page_calls import HOST_PAGES, UNTOLD, PageCalls
from isolation.process import ProcessIdentity, still

_HUGE_BYTES = 2 << 20  # a transparent huge page moves as a whole, so slices end between two of them
_RETRY_PAGES = 32


class Ended(StrEnum):
    """Why a call of `migrate` came back."""

    COMPLETE = "complete"  #: every page of every process was looked at, in this call or those before
    BUDGET = "budget"
    TIME = "time"
    ASKED = "asked"
    MEMORY = "memory"  #: the wished nodes filled up meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """What one call moved, by reading back, and what of the pages it came by stays outside, and why."""

    ended: Ended
    moved_bytes: int = 0
    shared_bytes: int = 0  #: other processes have them mapped, too; those are never moved
    busy_bytes: int = 0  #: pinned, under I/O, or no memory for them: the kernel does not tell these apart
    huge_bytes: int = 0  #: in huge pages of which one alone exceeds the budget
    vanished_bytes: int = 0  #: unmapped, swapped out or freed between two calls
    stuck_bytes: int = 0  #: shared, busy and huge ones of the whole pass so far: another pass would hardly move them
    refused: tuple[str, ...] = ()  #: one sentence for each process that could not be touched
    slices: int = 0  #: calls that moved pages, repeated ones included
    largest_slice_bytes: int = 0
    longest_slice_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Tally:
    """The report while it grows."""

    whole_bytes: int  #: the budget of this call
    budget_bytes: int  #: what is left of it
    limit_s: float  #: by the migrator's clock
    stop: Callable[[], bool]
    moved_bytes: int = 0
    shared_bytes: int = 0
    busy_bytes: int = 0
    huge_bytes: int = 0
    vanished_bytes: int = 0
    slices: int = 0
    largest_slice_bytes: int = 0
    longest_slice_s: float = 0.0


class PageMigrator:
    """Moves pages of processes, and remembers where it stopped; nothing calls it unless migration is turned on.

    Not for several threads at once. Pages that other processes map as well (libraries, shared memory, a model that two
    engines read) stay: they are not one workload's to move. Nothing is undone unless asked for, by migrating back.
    """

    def __init__(
        self,
        *,
        files: KernelFiles = HOST_FILES,
        pages: PageCalls = HOST_PAGES,
        clock: Callable[[], float] = time.monotonic,
        slice_bytes: int = 4 << 20,
        proc_root: str = "/proc",
    ) -> None:
        self._files = files
        self._pages = pages
        self._clock = clock
        self._slice_bytes = max(slice_bytes, _HUGE_BYTES)
        self._proc = proc_root
        self._cursors: dict[ProcessIdentity, int] = {}
        self._stuck_bytes = 0

    def migrate(
        self,
        processes: Sequence[ProcessIdentity],
        nodes: NodeSet,
        *,
        budget_bytes: int,
        limit_s: float = 0.1,
        stop: Callable[[], bool] = lambda: False,
    ) -> MigrationReport:
        """Move at most budget_bytes and for at most about limit_s; go on where the last call stopped.

        A rate is budget_bytes for each turn (`turn_budget`), taken as at least 2 MiB: a huge page moves whole. Between
        two slices `stop` is asked, the clock is read and the free memory of the nodes is checked, so that it overstays
        by one slice. Once COMPLETE, the next call begins a new pass, from the start; for other processes or nodes, use
        another migrator.

        Raises MemoryShort before anything is moved if the pages outside do not fit into the nodes with a margin. A
        process that is gone has nothing left to move; one that may not be touched is told in `refused`.
        """
        ours = frozenset(processes)
        self._cursors = {who: at for who, at in self._cursors.items() if who in ours}
        waiting, refused = self._survey(processes, nodes)
        outside = add_up(mappings for _, mappings in waiting).all.outside(nodes)
        check_room(outside, nodes, read_node_memory(files=self._files))
        budget_bytes = max(budget_bytes, _HUGE_BYTES)
        tally = _Tally(whole_bytes=budget_bytes, budget_bytes=budget_bytes, limit_s=self._clock() + limit_s, stop=stop)
        ended = Ended.COMPLETE
        for who, mappings in waiting:
            try:
                reason = self._walk(who, mappings, nodes, tally)
            except OSError as cause:
                if cause.errno not in {errno.ESRCH, errno.EINVAL}:  # EINVAL: it has ended and gave its memory back
                    refused.append(_refusal(who, nodes, cause))
                reason = None
                self._cursors[who] = _END
            if reason is not None:
                ended = reason
                break
        self._stuck_bytes += tally.shared_bytes + tally.busy_bytes + tally.huge_bytes
        stuck = self._stuck_bytes
        if ended is Ended.COMPLETE:
            self._cursors.clear()
            self._stuck_bytes = 0
        return MigrationReport(
            ended=ended,
            moved_bytes=tally.moved_bytes,
            shared_bytes=tally.shared_bytes,
            busy_bytes=tally.busy_bytes,
            huge_bytes=tally.huge_bytes,
            vanished_bytes=tally.vanished_bytes,
            stuck_bytes=stuck,
            refused=tuple(refused),
            slices=tally.slices,
            largest_slice_bytes=tally.largest_slice_bytes,
            longest_slice_s=tally.longest_slice_s,
        )

    def _survey(
        self, processes: Sequence[ProcessIdentity], nodes: NodeSet
    ) -> tuple[list[tuple[ProcessIdentity, tuple[MappedRange, ...]]], list[str]]:
        """Return who has pages outside, and why others cannot be touched."""
        waiting, refused = [], []
        for who in processes:
            if not still(who, files=self._files, proc_root=self._proc):
                continue
            try:
                mappings = read_mappings(who.pid, files=self._files, proc_root=self._proc)
            except ProcessGone:
                continue
            except ForeignProcess as cause:
                refused.append(str(cause))
                continue
            if outside := outside_mappings(mappings or (), nodes):
                waiting.append((who, outside))
        return waiting, refused

    def _walk(
        self, who: ProcessIdentity, mappings: tuple[MappedRange, ...], nodes: NodeSet, tally: _Tally
    ) -> Ended | None:
        """Move pages from the cursor on; None = to the end. Raises OSError about the process as a whole."""
        cursor = self._cursors.get(who, 0)
        for one in mappings:
            expected = one.pages.outside(nodes)  # a reservation of terabytes may hold a few pages only
            address = max(one.start, cursor)
            if one.page_bytes > tally.whole_bytes and address < one.end:
                tally.huge_bytes += expected
                self._cursors[who] = one.end
                continue
            while address < one.end and expected > 0:
                self._cursors[who] = address
                if tally.stop():
                    return Ended.ASKED
                if self._clock() >= tally.limit_s:
                    return Ended.TIME
                ahead = self._ahead(address, one, tally)
                if not ahead:
                    return Ended.BUDGET
                node = self._roomiest(nodes, ahead.stop - ahead.start)
                if node is None:
                    return Ended.MEMORY
                if not still(who, files=self._files, proc_root=self._proc):
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                expected -= self._move(who, ahead, nodes, node, tally)
                address = ahead.stop
        self._cursors[who] = _END
        return None

    def _ahead(self, address: int, one: MappedRange, tally: _Tally) -> range:
        """Return the next pages: what slice and budget hold, up to the end of a huge page; empty = budget used up."""
        most = min(max(self._slice_bytes, one.page_bytes), tally.budget_bytes)
        end = address + most // one.page_bytes * one.page_bytes
        if end < one.end:
            end -= end % max(_HUGE_BYTES, one.page_bytes)
        return range(address, max(min(end, one.end), address), one.page_bytes)

    def _roomiest(self, nodes: NodeSet, wanted_bytes: int) -> int | None:
        """Return the wished node with the most room; None = so much more would eat into the margin of each."""
        memory = (one for one in read_node_memory(files=self._files) if one.node in nodes)
        room = {one.node: one.free_bytes - one.margin_bytes for one in memory}
        best = max(room, key=lambda node: (room[node], -node), default=None)
        return None if best is None or room[best] < wanted_bytes else best

    def _move(self, who: ProcessIdentity, ahead: range, nodes: NodeSet, node: int, tally: _Tally) -> int:
        """Move those that are outside to the node; return how many bytes of the range were outside."""
        before = self._pages.locate(who.pid, ahead)
        outside = [address for address, found in zip(ahead, before, strict=True) if found >= 0 and found not in nodes]
        if not outside:
            return 0
        page_bytes = ahead.step
        size = len(outside) * page_bytes
        tally.budget_bytes -= size
        told = dict(self._ask(who, outside, node, page_bytes, tally))
        if again := [address for address in outside if told[address] == UNTOLD]:
            # The kernel gives up at the first page that it cannot move, without a word about those behind it.
            for first in range(0, len(again), _RETRY_PAGES):
                told.update(self._ask(who, again[first : first + _RETRY_PAGES], node, page_bytes, tally))
        after = self._pages.locate(who.pid, outside)
        for address, found in zip(outside, after, strict=True):
            if found < 0:
                tally.vanished_bytes += page_bytes
            elif found in nodes:
                tally.moved_bytes += page_bytes
            elif told[address] == -errno.EACCES:
                tally.shared_bytes += page_bytes
            else:
                tally.busy_bytes += page_bytes
        return size

    def _ask(
        self, who: ProcessIdentity, addresses: Sequence[int], node: int, page_bytes: int, tally: _Tally
    ) -> Iterator[tuple[int, int]]:
        begun_s = self._clock()
        told = self._pages.move(who.pid, addresses, node)
        tally.slices += 1
        tally.largest_slice_bytes = max(tally.largest_slice_bytes, len(addresses) * page_bytes)
        tally.longest_slice_s = max(tally.longest_slice_s, self._clock() - begun_s)
        return zip(addresses, told, strict=True)


_END = 1 << 64  # behind every address


def turn_budget(bytes_per_s: int, since_last_s: float, *, longest_s: float = 5.0) -> int:
    """Return what one turn may move at that rate; after a pause no more than for longest_s, or it would be a burst."""
    return int(bytes_per_s * min(max(since_last_s, 0.0), longest_s))


def _refusal(who: ProcessIdentity, nodes: NodeSet, cause: OSError) -> str:
    subject = f"pages of process {who.pid} ({who.comm!r})"
    match cause.errno:
        case errno.EACCES:
            return f"{subject} cannot be moved to node {nodes}: its cpuset allows none of that; widen cpuset.mems first"
        case errno.EPERM:
            return f"{subject} may not be moved by this user, or a system call filter forbids it; run as root"
        case errno.ENOSYS:
            return f"{subject} cannot be moved: this kernel has no move_pages (no NUMA, or an unknown machine)"
        case _:
            return f"{subject} could not be moved to node {nodes}: {cause.strerror}"
