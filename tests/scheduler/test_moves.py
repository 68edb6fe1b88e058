"""Moves on a fake kernel: one that fails, or is cut short, leaves journal, view and kernel in agreement."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from isolation.enforcer import Mechanism
from isolation.errors import ApplyFailed
from scheduler.errors import JournalFailed
from tests.fakes.desk import Desk, PowerCut


def two_on_one_cpu(desk: Desk) -> tuple[int, int]:
    """Place two hogs that share a CPU, by taking away the one that had the other CPU."""
    pids = [desk.kernel.spawn(threads=2) for _ in range(3)]
    for number, pid in enumerate(pids):
        desk.place(f"w{number}", pid, request_id=f"p{number}")
    alone = next(n for n in range(3) if sum(desk.cpus(pids[n]) == desk.cpus(pid) for pid in pids) == 1)
    desk.release(f"w{alone}")
    first, second = (pid for number, pid in enumerate(pids) if number != alone)
    assert desk.cpus(first) == desk.cpus(second)
    return first, second


def agree(desk: Desk) -> None:
    """Check that journal, view, ledger and kernel tell the same of every live placement."""
    seats = {one.name: str(one.cpus) for one in desk.viewer.current().ledger.residents}
    assert set(desk.held) == set(seats)
    for name, held in desk.held.items():
        assert ("ACTIVE", "ACTIVE") == (desk.state(name), desk.stored(name))
        assert {seats[name]} == desk.cpus(held.target.processes[0].pid)


def test_a_rebalance_moves_one_and_everything_agrees(desk: Desk) -> None:
    before = desk.kernel.picture()["threads"]
    first, second = two_on_one_cpu(desk)

    moved = desk.rebalance()

    assert 1 == len(moved)
    assert desk.cpus(first) != desk.cpus(second)
    assert ["placed", "placed"] == desk.kinds(moved[0].name)
    agree(desk)
    desk.restart(desk.enforcer.mechanism)
    agree(desk)
    for name in list(desk.held):
        desk.release(name)
    assert {"0-1"} == desk.cpus(first) | desk.cpus(second)
    assert before.items() <= desk.kernel.picture()["threads"].items()  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", ["move: save intent", "move: apply", "move: save outcome"])
def test_a_crash_inside_a_move_is_completed_or_never_begun(desk: Desk, step: str) -> None:
    first, second = two_on_one_cpu(desk)
    names = list(desk.held)
    answers = {name: desk.place(name, 1, request_id=f"p{name[1:]}") for name in names}
    desk.cut_at = step
    with pytest.raises(PowerCut):
        desk.rebalance()

    desk.restart(desk.enforcer.mechanism)

    agree(desk)
    assert (step == "move: save intent") == (desk.cpus(first) == desk.cpus(second))
    assert answers == {name: desk.place(name, 1, request_id=f"p{name[1:]}") for name in names}


def test_a_crashed_move_that_can_no_longer_be_completed_stays_a_placement(desk: Desk) -> None:
    first, second = two_on_one_cpu(desk)
    desk.cut_at = "move: apply"
    with pytest.raises(PowerCut):
        desk.rebalance()
    desk.fail_next(errno.EIO)

    desk.restart(desk.enforcer.mechanism)
    assert ["ACTIVE", "PARTIAL"] == sorted(desk.state(name) for name in desk.held)
    desk.reconciler.reconcile()

    assert desk.cpus(first) != desk.cpus(second)
    agree(desk)


def test_a_placement_of_another_mechanism_is_not_moved(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    two_on_one_cpu(desk)
    before = desk.kernel.picture()

    desk.restart(Mechanism.AFFINITY)

    assert () == desk.rebalance()
    assert before == desk.kernel.picture()


def test_a_move_that_the_kernel_refuses_leaves_everything_as_it_was(desk: Desk) -> None:
    first, second = two_on_one_cpu(desk)
    desk.fail_next(errno.EIO)
    desk.journal.refused = ("change",)
    with pytest.raises(JournalFailed):
        desk.rebalance()
    desk.journal.refused = ()

    with pytest.raises(ApplyFailed):
        desk.rebalance()

    assert desk.cpus(first) == desk.cpus(second)
    agree(desk)


def test_a_move_whose_outcome_could_not_be_saved_is_saved_later(desk: Desk) -> None:
    first, second = two_on_one_cpu(desk)

    def fill_disk() -> None:
        desk.journal.refused = ("change",)

    desk.at["move: save outcome"] = fill_disk
    moved = desk.rebalance()
    assert "APPLYING" == desk.stored(moved[0].name)

    desk.journal.refused = ()
    desk.reconciler.reconcile()

    assert desk.cpus(first) != desk.cpus(second)
    agree(desk)
