"""Pages move in slices, within a budget, and whatever happens meanwhile is told."""

from __future__ import annotations

import itertools

import pytest

from isolation.cpuset import NodeSet
from isolation.errors import MemoryShort
from isolation.page_migration import Ended, MigrationReport, PageMigrator, turn_budget
from isolation.process import ProcessIdentity
from tests.fakes.memory import FakeMemory, FakeRange

_MIB = 1 << 20
_PAGES_2M = 512
_START = 1 << 30
_ONE = NodeSet.parse("1")


def private(pages: int, *, start: int = _START, shared: range = range(0)) -> FakeRange:
    return FakeRange(start=start, nodes=[0] * pages, shared=frozenset(shared))


def migrator(kernel: FakeMemory, *, slice_bytes: int = 4 * _MIB) -> PageMigrator:
    return PageMigrator(files=kernel, pages=kernel, clock=lambda: 0.0, slice_bytes=slice_bytes)


def nodes_of(kernel: FakeMemory, who: ProcessIdentity) -> list[int | None]:
    return [node for one in kernel.spaces[who.pid].ranges for node in one.nodes]


def test_all_pages_move_in_slices_and_are_read_back() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(8 * _PAGES_2M), FakeRange(start=1 << 40, nodes=[1, None, 0]))

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes, report.stuck_bytes) == (Ended.COMPLETE, 16 * _MIB + 4096, 0)
    assert set(nodes_of(kernel, who)) == {1, None}
    assert kernel.moves == [1024, 1024, 1024, 1024, 1]
    assert (report.slices, report.largest_slice_bytes) == (5, 4 * _MIB)


def test_what_is_where_it_should_be_is_not_touched() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(FakeRange(start=_START, nodes=[1] * 100))

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes, kernel.moves) == (Ended.COMPLETE, 0, [])


def test_a_budget_is_kept_by_each_call_and_the_next_goes_on() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(10 * _PAGES_2M))
    one = migrator(kernel)

    reports: list[MigrationReport] = []
    while not reports or reports[-1].ended is not Ended.COMPLETE:
        reports.append(one.migrate([who], _ONE, budget_bytes=6 * _MIB))
        assert reports[-1].moved_bytes <= 6 * _MIB

    assert [report.ended for report in reports] == [Ended.BUDGET, Ended.BUDGET, Ended.BUDGET, Ended.COMPLETE]
    assert [report.moved_bytes // _MIB for report in reports] == [6, 6, 6, 2]
    assert set(nodes_of(kernel, who)) == {1}


@pytest.mark.parametrize("budget_bytes", [0, 4096, 2 * _MIB - 1])
def test_a_tiny_budget_moves_one_huge_page_rather_than_nothing_for_ever(budget_bytes: int) -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(4 * _PAGES_2M))

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=budget_bytes)

    assert (report.ended, report.moved_bytes) == (Ended.BUDGET, 2 * _MIB)


def test_no_slice_ends_within_a_huge_page() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(4 * _PAGES_2M, start=_START + 4096 * 100))

    migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert kernel.moves == [1024 - 100, 1024, 100]


def test_it_stops_when_asked_and_goes_on_later() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(8 * _PAGES_2M))
    one = migrator(kernel)
    asked = itertools.chain([False, False, True])

    first = one.migrate([who], _ONE, budget_bytes=64 * _MIB, stop=lambda: next(asked))
    second = one.migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (first.ended, first.moved_bytes) == (Ended.ASKED, 8 * _MIB)
    assert (second.ended, second.moved_bytes) == (Ended.COMPLETE, 8 * _MIB)


def test_it_stops_when_its_time_is_up() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(8 * _PAGES_2M))
    ticks = itertools.count()  # every look at the clock takes a second
    one = PageMigrator(files=kernel, pages=kernel, clock=lambda: float(next(ticks)))

    report = one.migrate([who], _ONE, budget_bytes=64 * _MIB, limit_s=5.0)

    assert (report.ended, report.moved_bytes) == (Ended.TIME, 8 * _MIB)
    assert report.longest_slice_s == 1.0


def test_shared_busy_and_pinned_pages_stay_are_told_apart_and_hold_up_nobody() -> None:
    kernel = FakeMemory()
    odd = private(_PAGES_2M, shared=range(100))
    odd.busy, odd.pinned = frozenset([200]), frozenset([300])
    who = kernel.spawn(odd)

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.shared_bytes, report.busy_bytes) == (Ended.COMPLETE, 100 * 4096, 2 * 4096)
    assert report.moved_bytes == (512 - 102) * 4096
    assert report.stuck_bytes == 102 * 4096
    assert nodes_of(kernel, who).count(0) == 102


def test_pages_behind_one_at_which_the_kernel_gave_up_are_moved_all_the_same() -> None:
    kernel = FakeMemory()
    odd = private(_PAGES_2M)
    odd.pinned, odd.busy = frozenset([10]), frozenset([20])
    who = kernel.spawn(odd)

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.moved_bytes, report.busy_bytes) == (510 * 4096, 2 * 4096)
    assert nodes_of(kernel, who).count(0) == 2
    assert report.slices == 4  # all; two halves of those left; the pinned one alone


def test_pages_of_which_none_can_be_moved_cost_a_bounded_number_of_calls() -> None:
    kernel = FakeMemory()
    odd = private(_PAGES_2M)
    odd.pinned = frozenset(range(512))

    report = migrator(kernel).migrate([kernel.spawn(odd)], _ONE, budget_bytes=64 * _MIB)

    assert (report.moved_bytes, report.busy_bytes, report.slices) == (0, 2 * _MIB, 32)


def test_a_large_reservation_with_few_pages_is_not_searched_to_its_end() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(FakeRange(start=_START, nodes=[None, 0, *[None] * 100_000]))

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes) == (Ended.COMPLETE, 4096)
    assert kernel.looks == 1024 + 1


def test_stuck_pages_add_up_over_the_calls_of_a_pass_and_begin_anew_after_it() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(4 * _PAGES_2M, shared=range(0, 2048, 2)))
    one = migrator(kernel)

    stuck = [one.migrate([who], _ONE, budget_bytes=2 * _MIB).stuck_bytes for _ in range(4)]
    again = one.migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert [amount // _MIB for amount in stuck] == [1, 2, 3, 4]
    assert (again.ended, again.moved_bytes, again.stuck_bytes) == (Ended.COMPLETE, 0, 4 * _MIB)


def test_a_pass_reads_where_pages_are_once_and_a_child_or_another_node_begins_anew() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(8 * _PAGES_2M, shared=range(_PAGES_2M)))
    one = migrator(kernel)

    one.migrate([who], _ONE, budget_bytes=4 * _MIB)
    one.migrate([who], _ONE, budget_bytes=4 * _MIB)
    reads = kernel.reads.count(f"/proc/{who.pid}/numa_maps")
    child = kernel.spawn(private(4))
    last = one.migrate([who, child], _ONE, budget_bytes=64 * _MIB)
    back = one.migrate([who, child], NodeSet.parse("0"), budget_bytes=64 * _MIB)

    assert reads == 1
    assert (last.ended, last.moved_bytes, last.stuck_bytes) == (Ended.COMPLETE, 8 * _MIB + 4 * 4096, 2 * _MIB)
    assert (back.ended, back.moved_bytes) == (Ended.COMPLETE, 14 * _MIB + 4 * 4096)


def test_going_to_another_node_in_the_middle_of_a_pass_looks_at_all_pages() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(4 * _PAGES_2M))
    one = migrator(kernel)

    one.migrate([who], _ONE, budget_bytes=4 * _MIB)
    back = one.migrate([who], NodeSet.parse("0"), budget_bytes=64 * _MIB)

    assert (back.ended, back.moved_bytes) == (Ended.COMPLETE, 4 * _MIB)
    assert nodes_of(kernel, who) == [0] * 4 * _PAGES_2M


def test_a_page_larger_than_the_budget_is_left_and_said_so_and_hides_nothing_behind_it() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(
        FakeRange(start=_START, nodes=[0], page_bytes=1 << 30),
        FakeRange(start=1 << 40, nodes=[0, 0], page_bytes=2 * _MIB),
        private(3, start=1 << 41),
    )

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=8 * _MIB)

    assert (report.ended, report.huge_bytes, report.moved_bytes) == (Ended.COMPLETE, 1 << 30, 4 * _MIB + 3 * 4096)
    large = migrator(kernel).migrate([who], _ONE, budget_bytes=1 << 30)
    assert (large.ended, large.moved_bytes) == (Ended.COMPLETE, 1 << 30)


def test_a_process_that_ends_meanwhile_has_nothing_left_to_move_and_the_next_one_moves() -> None:
    kernel = FakeMemory()
    first, second = kernel.spawn(private(4 * _PAGES_2M)), kernel.spawn(private(4))
    kernel.at_move[2] = lambda: kernel.spaces.pop(first.pid)

    report = migrator(kernel).migrate([first, second], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes, report.refused) == (Ended.COMPLETE, 4 * _MIB + 4 * 4096, ())


def test_a_pid_that_was_given_to_another_process_is_not_touched() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(4 * _PAGES_2M))

    def reuse() -> None:
        kernel.spaces[who.pid].starttime += 1

    kernel.at_move[1] = reuse
    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, len(kernel.moves)) == (Ended.COMPLETE, 1)
    assert migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB).moved_bytes == 0


def test_a_range_that_vanishes_meanwhile_is_told() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(2 * _PAGES_2M))
    kernel.at_move[1] = kernel.spaces[who.pid].ranges.clear

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes, report.vanished_bytes) == (Ended.COMPLETE, 0, 4 * _MIB)
    assert report.stuck_bytes == 0


def test_who_may_not_be_touched_is_named_with_the_reason_and_others_move() -> None:
    kernel = FakeMemory()
    denied, confined, good = kernel.spawn(private(4)), kernel.spawn(private(4), mems="0"), kernel.spawn(private(4))
    kernel.spaces[denied.pid].denied = True

    report = migrator(kernel).migrate([denied, confined, good], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes) == (Ended.COMPLETE, 4 * 4096)
    assert f"process {denied.pid} ('fake') may not be moved by this user" in report.refused[0]
    assert f"process {confined.pid} ('fake') cannot be moved to node 1: its cpuset lacks it" in report.refused[1]


def test_fault_60_nothing_moves_to_a_node_without_room() -> None:
    kernel = FakeMemory(free_bytes={0: 1 << 30, 1: 257 * _MIB}, total_bytes=8 << 30)
    who = kernel.spawn(private(_PAGES_2M))

    with pytest.raises(
        MemoryShort, match=r"memory node 1 cannot take 2\.0 MiB more: 257\.0 MiB are free, of which 256"
    ):
        migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert kernel.moves == []


def test_fault_60_after_a_refusal_pages_that_were_freed_no_longer_count() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(4 * _PAGES_2M), private(8 * _PAGES_2M, start=1 << 40))
    one = migrator(kernel)
    one.migrate([who], _ONE, budget_bytes=4 * _MIB)
    kernel.free_bytes[1] = 262 * _MIB

    with pytest.raises(MemoryShort, match=r"20\.0 MiB more"):
        one.migrate([who], _ONE, budget_bytes=4 * _MIB)
    del kernel.spaces[who.pid].ranges[1]

    assert one.migrate([who], _ONE, budget_bytes=4 * _MIB).moved_bytes == 4 * _MIB


def test_fault_60_it_stops_when_the_node_fills_up_meanwhile() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(private(8 * _PAGES_2M))
    kernel.at_move[2] = lambda: kernel.free_bytes.update({1: 256 * _MIB + 4 * _MIB + 4096})

    report = migrator(kernel).migrate([who], _ONE, budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes) == (Ended.MEMORY, 8 * _MIB)
    assert kernel.free_bytes[1] >= 256 * _MIB


def test_several_nodes_fill_evenly_by_room() -> None:
    kernel = FakeMemory(free_bytes={0: 1 << 30, 1: 400 * _MIB, 2: 398 * _MIB}, total_bytes=2 << 30)
    who = kernel.spawn(private(8 * _PAGES_2M), mems="0-2")

    report = migrator(kernel).migrate([who], NodeSet.parse("1-2"), budget_bytes=64 * _MIB)

    assert (report.ended, report.moved_bytes) == (Ended.COMPLETE, 16 * _MIB)
    assert {node: nodes_of(kernel, who).count(node) // _PAGES_2M for node in (0, 1, 2)} == {0: 0, 1: 4, 2: 4}


def test_a_rate_gives_a_budget_for_each_turn_and_a_pause_no_burst() -> None:
    assert turn_budget(100 * _MIB, 2.0) == 200 * _MIB
    assert turn_budget(100 * _MIB, 3600.0) == 500 * _MIB
    assert turn_budget(100 * _MIB, -1.0) == 0
