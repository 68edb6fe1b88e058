"""Move the pages of running processes to other memory nodes, a slice at a time. Acts through move_pages(2) alone."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from isolation.cpuset import NodeSet
from isolation.errors import ForeignProcess, MemoryShort, ProcessGone
from isolation.kernelfs import HOST_FILES, KernelFiles
from isolation.memory_binding import check_room
from isolation.node_memory import read_node_memory
from isolation.numa_maps import MappedRange, add_up, outside_mappings, read_mappings
from isolation.page_calls import HOST_PAGES, UNTOLD, PageCalls
from isolation.process import ProcessIdentity, still

_HUGE_BYTES = 2 << 20  # a transparent huge page moves as a whole, so slices end between two of them
_MOST_CALLS = 32  # for one slice: enough to find the way around two or three pinned pages


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


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One way through all pages, over as many calls as it takes."""

    processes: tuple[ProcessIdentity, ...]
    nodes: NodeSet
    waiting: tuple[tuple[ProcessIdentity, tuple[MappedRange, ...]], ...]  #: with pages outside when it began
    refused: tuple[str, ...]
    outside_bytes: int  #: when it began, less what was moved since
    stuck_bytes: int
    told: bool = False  #: a call has reported `refused`


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
        self._pass: _Pass | None = None
        self._cursors: dict[ProcessIdentity, int] = {}

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
        by one slice. A pass begins with reading where all pages are (10 ms for each GiB here) and ends with COMPLETE;
        the next call then begins a new one. Processes that come or go begin a new one, too, but no page is looked at
        twice for that.

        Raises MemoryShort before anything is moved if the pages outside do not fit into the nodes with a margin. A
        process that is gone has nothing left to move; one that may not be touched is told in `refused`.
        """
        ongoing = self._resume(tuple(processes), nodes)
        try:
            check_room(ongoing.outside_bytes, nodes, read_node_memory(files=self._files))
        except MemoryShort:
            self._pass = None  # what it knows may be old
            raise
        refused = [] if ongoing.told else list(ongoing.refused)
        ongoing.told = True
        budget_bytes = max(budget_bytes, _HUGE_BYTES)
        tally = _Tally(whole_bytes=budget_bytes, budget_bytes=budget_bytes, limit_s=self._clock() + limit_s, stop=stop)
        ended = Ended.COMPLETE
        for who, mappings in ongoing.waiting:
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
        ongoing.outside_bytes -= min(tally.moved_bytes, ongoing.outside_bytes)
        ongoing.stuck_bytes += tally.shared_bytes + tally.busy_bytes + tally.huge_bytes
        if ended is Ended.COMPLETE:
            self._pass = None
            self._cursors.clear()
        return MigrationReport(
            ended=ended,
            moved_bytes=tally.moved_bytes,
            shared_bytes=tally.shared_bytes,
            busy_bytes=tally.busy_bytes,
            huge_bytes=tally.huge_bytes,
            vanished_bytes=tally.vanished_bytes,
            stuck_bytes=ongoing.stuck_bytes,
            refused=tuple(refused),
            slices=tally.slices,
            largest_slice_bytes=tally.largest_slice_bytes,
            longest_slice_s=tally.longest_slice_s,
        )

    def _resume(self, processes: tuple[ProcessIdentity, ...], nodes: NodeSet) -> _Pass:
        """Return the pass under way, or begin one."""
        if self._pass is not None and (self._pass.processes, self._pass.nodes) == (processes, nodes):
            return self._pass
        stuck = 0
        if self._pass is None or self._pass.nodes != nodes:
            self._cursors.clear()
        else:
            stuck = self._pass.stuck_bytes
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
        self._pass = _Pass(
            processes=processes,
            nodes=nodes,
            waiting=tuple(waiting),
            refused=tuple(refused),
            outside_bytes=add_up(mappings for _, mappings in waiting).all.outside(nodes),
            stuck_bytes=stuck,
        )
        return self._pass

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
        tally.largest_slice_bytes = max(tally.largest_slice_bytes, size)
        tally.budget_bytes -= size
        told = self._ask_until_told(who, outside, nodes, node, tally)
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

    def _ask_until_told(
        self, who: ProcessIdentity, outside: Sequence[int], nodes: NodeSet, node: int, tally: _Tally
    ) -> dict[int, int]:
        """Ask for the pages, and again by halves for those of which the kernel has said nothing and done nothing.

        It gives up at the first that it cannot move, without a word about those behind: one pinned page would hold up
        the rest for ever.
        """
        told = dict.fromkeys(outside, UNTOLD)
        groups = [outside]
        calls = 0
        while groups and calls < _MOST_CALLS:
            group = groups.pop(0)
            begun_s = self._clock()
            told.update(zip(group, self._pages.move(who.pid, group, node), strict=True))
            tally.longest_slice_s = max(tally.longest_slice_s, self._clock() - begun_s)
            calls += 1
            untold = [address for address in group if told[address] == UNTOLD]
            found = self._pages.locate(who.pid, untold) if untold else ()
            left = [address for address, now in zip(untold, found, strict=True) if now >= 0 and now not in nodes]
            if len(group) > 1:
                half = -(-len(left) // 2)
                groups += [part for part in (left[:half], left[half:]) if part]
        tally.slices += calls
        return told


_END = 1 << 64  # behind every address


def turn_budget(bytes_per_s: int, since_last_s: float, *, longest_s: float = 5.0) -> int:
    """Return what one turn may move at that rate; after a pause no more than for longest_s, or it would be a burst."""
    return int(bytes_per_s * min(max(since_last_s, 0.0), longest_s))


def _refusal(who: ProcessIdentity, nodes: NodeSet, cause: OSError) -> str:
    subject = f"pages of process {who.pid} ({who.comm!r})"
    match cause.errno:
        case errno.EACCES:
            return f"{subject} cannot be moved to node {nodes}: its cpuset lacks it; widen cpuset.mems first"
        case errno.EPERM:
            return f"{subject} may not be moved by this user, or a system call filter forbids it; run as root"
        case errno.ENOSYS:
            return f"{subject} cannot be moved: this kernel has no move_pages (no NUMA, or an unknown machine)"
        case _:
            return f"{subject} could not be moved to node {nodes}: {cause.strerror}"
