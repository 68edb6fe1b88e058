"""What cannot be set right is tried ever more rarely, or not at all where no turn can do it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.fakes.desk import Desk, PowerCut
from tests.fakes.machines import make_topology
from tests.fakes.stubborn import StubbornKernel
from tests.scheduler.test_cache_ways import held, hungry, streaming, ways

FOUR = make_topology(cores_per_llc=4)  # CPUs 0-3, one cache


def tries(desk: Desk, turns: int) -> list[int]:
    """Say in which turns, from 1 on, something was written."""
    found = []
    for turn in range(1, turns + 1):
        before = desk.kernel.steps
        desk.reconciler.reconcile()
        if desk.kernel.steps != before:
            found.append(turn)
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_a_repair_that_fails_is_tried_ever_more_rarely_and_at_once_for_another_matter(
    tmp_path: Path, version: int
) -> None:
    desk = Desk(tmp_path, version=version)
    desk.group("/app")
    pid = desk.kernel.spawn(group="/app")
    desk.place("web", cgroup_path="/app")
    seat = desk.cpus(pid)
    desk.kernel.groups["/app"].cpus = desk.topology.usable
    desk.fail_next(errno.EIO, count=10_000)
    first = tries(desk, 40)
    desk.kernel.clone(pid)  # one more thread where it should not be
    again = tries(desk, 5)
    desk.kernel.fail_at.clear()
    desk.kernel.clone(pid)
    desk.reconciler.reconcile()

    assert first == [1, 2, 4, 8, 16, 32]
    assert again == [1, 2, 4]
    assert (desk.state("web"), desk.cpus(pid)) == ("ACTIVE", seat)
    assert desk.kinds("web") == ["placed", "partial", "drift"]


def test_fault_57_a_kernel_that_goes_on_refusing_is_asked_ever_more_rarely(tmp_path: Path) -> None:
    desk = Desk(tmp_path, topology=FOUR)
    pid = desk.kernel.spawn()
    placed = desk.place("web", pid, cpus=2)
    desk.machine.offline(str(placed.decision.cpus))
    desk.fail_next(errno.EINVAL, count=10_000)
    refused = tries(desk, 20)
    desk.machine.offline(str(max(FOUR.usable - placed.decision.cpus)))
    more = tries(desk, 3)
    desk.kernel.fail_at.clear()
    tries(desk, 4)

    assert refused == [1, 2, 4, 8, 16]
    assert more[0] == 1
    assert (desk.state("web"), desk.cpus(pid)) == ("ACTIVE", {str(min(FOUR.usable - placed.decision.cpus))})


def test_who_was_placed_without_resctrl_takes_no_part_in_the_shares(tmp_path: Path) -> None:
    kernel = StubbornKernel(topology=FOUR)
    desk = Desk(tmp_path, topology=FOUR, kernel=kernel)
    kernel.mounted = False
    pids = {"old": kernel.spawn(), "db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("old", pids["old"], profile=streaming("old"))
    kernel.mounted = True
    desk.place("db", pids["db"], profile=hungry("db"))
    tries(desk, 8)
    assert ways(desk, "db") == 0  # to give up ways would gain nothing beside one that has them all
    desk.place("scan", pids["scan"], profile=streaming("scan"))

    assert held(desk, pids["scan"]) & held(desk, pids["db"]) == 0
    assert (held(desk, pids["old"]), desk.state("old")) == (0x7FF, "ACTIVE")
    assert desk.kinds("old") == ["placed"]


def test_fault_56_a_crash_beside_a_locked_resctrl_is_finished_when_the_lock_is_free(tmp_path: Path) -> None:
    kernel = StubbornKernel()
    desk = Desk(tmp_path, kernel=kernel)
    pids = {name: kernel.spawn() for name in ("db", "scan", "late")}
    desk.place("db", pids["db"], profile=hungry("db"))
    desk.place("scan", pids["scan"], profile=streaming("scan"))
    desk.cut_at = "place: save outcome"
    with pytest.raises(PowerCut):
        desk.place("late", pids["late"], request_id="lost", profile=streaming("late"))
    kernel.locked_by_other = True
    kernel.waits = 0
    desk.restart()
    waited, begun = kernel.waits, desk.state("late")
    kernel.locked_by_other = False
    desk.reconciler.reconcile()
    answered = desk.journal.answered("lost")

    assert (waited, begun) == (1, "APPLYING")
    assert desk.state("late") == "ACTIVE"
    assert answered is not None
    assert answered[1] is not None
