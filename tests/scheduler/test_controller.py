"""The writer on a fake kernel: what fails, what overlaps, what is answered; journal, view and kernel always agree."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from isolation.enforcer import Mechanism
from isolation.errors import ApplyFailed, CgroupRefused, ForeignProcess, UndoFailed
from scheduler.errors import EtagStale, JournalFailed, PlacementExists, PlacementMissing, RequestInvalid
from scheduler.placement import PlacementState
from tests.fakes.desk import Desk


@pytest.fixture
def affinity(tmp_path: Path) -> Desk:
    return Desk(tmp_path, mechanism=Mechanism.AFFINITY)


# --- what cannot be saved ------------------------------------------------------------------------


def test_a_placing_that_cannot_be_saved_is_undone_and_may_be_repeated(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    before = desk.kernel.picture()
    desk.journal.refused = ("outcome",)

    with pytest.raises(JournalFailed):
        desk.place("a", pid, request_id="r")

    assert before["threads"] == desk.kernel.picture()["threads"]
    assert ("", "") == (desk.state("a"), desk.stored("a"))
    desk.journal.refused = ()
    assert PlacementState.ACTIVE is desk.place("a", pid, request_id="r").state


def test_an_intent_that_could_not_be_dropped_is_dropped_before_the_next_change(desk: Desk) -> None:
    pid, other = desk.kernel.spawn(), desk.kernel.spawn()
    desk.journal.refused = ("outcome", "end of")
    with pytest.raises(JournalFailed):
        desk.place("a", pid)
    assert "APPLYING" == desk.stored("a")
    with pytest.raises(JournalFailed):
        desk.place("b", other)
    assert "" == desk.stored("b")

    desk.journal.refused = ()
    desk.place("b", other)

    assert "" == desk.stored("a")


def test_an_intent_that_could_not_be_dropped_is_dropped_by_the_reconciler_and_not_rolled_forward(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    before = desk.kernel.picture()
    desk.fail_next(errno.EIO)
    desk.journal.refused = ("end of",)
    with pytest.raises(ApplyFailed):
        desk.place("a", pid)
    desk.reconciler.reconcile()
    assert "APPLYING" == desk.stored("a")

    desk.journal.refused = ()
    desk.reconciler.reconcile()
    desk.restart(desk.enforcer.mechanism)

    assert ("", "") == (desk.state("a"), desk.stored("a"))
    assert before == desk.kernel.picture()


def test_a_placing_that_can_neither_be_saved_nor_given_back_is_held_until_it_is_given_back(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=2)
    before = desk.kernel.picture()["threads"]
    desk.journal.refused = ("outcome", "failure")

    def fall_ill() -> None:
        desk.kernel.unreadable = ("/cotenant/a", f"/proc/{pid}/")

    desk.at["place: save outcome"] = fall_ill
    with pytest.raises(JournalFailed):
        desk.place("a", pid, request_id="r")
    assert ("RELEASING", {"a"}) == (desk.state("a"), set(desk.held))
    assert before != desk.kernel.picture()["threads"]
    with pytest.raises(JournalFailed):
        desk.place("b", pid)

    desk.kernel.unreadable, desk.journal.refused = (), ("failure",)
    desk.reconciler.reconcile()
    assert "RELEASING" == desk.state("a"), "what is owed must not be written over something newer"
    desk.journal.refused = ()
    desk.reconciler.reconcile()

    assert before == desk.kernel.picture()["threads"]
    assert ("RELEASED", "RELEASED", {}) == (desk.state("a"), desk.stored("a"), desk.held)
    assert PlacementState.ACTIVE is desk.place("a", pid, request_id="r").state


def test_the_earlier_state_is_kept_until_a_failed_undo_is_finished(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    before = desk.kernel.picture()["threads"]
    desk.fail_next(errno.EIO, after=2, count=100)
    with pytest.raises(UndoFailed):
        desk.place("a", pid, request_id="r")
    desk.kernel.fail_at = {}
    assert ("RELEASING", "RELEASING", {"a"}) == (desk.state("a"), desk.stored("a"), set(desk.held))

    desk.reconciler.reconcile()

    assert before == desk.kernel.picture()["threads"]
    assert ("RELEASED", {}) == (desk.state("a"), desk.held)
    assert ["refused", "released"] == desk.kinds("a")
    assert PlacementState.ACTIVE is desk.place("a", pid, request_id="r").state, "the request was never answered"


def test_a_failed_undo_is_finished_by_the_next_daemon(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    before = desk.kernel.picture()["threads"]
    desk.fail_next(errno.EIO, after=2, count=100)
    with pytest.raises(UndoFailed):
        desk.place("a", pid)
    desk.kernel.fail_at = {}

    desk.restart(desk.enforcer.mechanism)

    assert before == desk.kernel.picture()["threads"]
    assert ("RELEASED", "RELEASED", {}) == (desk.state("a"), desk.stored("a"), desk.held)


# --- who may be placed ---------------------------------------------------------------------------


def test_kin_of_a_placed_process_is_refused(affinity: Desk) -> None:
    grandparent = affinity.kernel.spawn()
    parent = affinity.kernel.fork(grandparent)
    affinity.place("a", parent)
    child = affinity.kernel.fork(parent)
    before = affinity.kernel.picture()

    for pid in (child, grandparent):
        with pytest.raises(RequestInvalid, match=f"{pid} is of one family with process {parent} .*'a'"):
            affinity.place("b", pid)
    with pytest.raises(RequestInvalid, match=f"{parent} belongs to placement 'a'"):
        affinity.place("b", parent)

    assert before == affinity.kernel.picture()
    assert "" == affinity.stored("b")


def test_a_descendant_known_from_the_snapshot_is_refused_when_its_parents_are_gone(affinity: Desk) -> None:
    parent = affinity.kernel.spawn()
    child = affinity.kernel.fork(parent)
    affinity.place("a", parent)
    affinity.kernel.end(parent)
    affinity.kernel.processes[child].ppid = 1

    with pytest.raises(RequestInvalid, match=f"{child} is of one family with process {child} .*'a'"):
        affinity.place("b", child)


def test_kin_of_a_placed_process_is_refused_in_groups(cgroups: Desk) -> None:
    grandparent = cgroups.kernel.spawn()
    parent = cgroups.kernel.fork(grandparent)
    cgroups.place("a", parent)
    child = cgroups.kernel.fork(parent)

    with pytest.raises(RequestInvalid, match="'a'"):
        cgroups.place("b", grandparent)
    with pytest.raises(CgroupRefused, match="/cotenant/a"):
        cgroups.place("b", child)


def test_kin_that_somebody_put_into_a_group_of_its_own_may_be_placed(cgroups: Desk) -> None:
    cgroups.group("/box")
    runtime = cgroups.kernel.spawn()
    inside = cgroups.kernel.spawn(ppid=runtime, group="/box")

    cgroups.place("inside", inside)
    cgroups.place("runtime", runtime)

    assert {"inside", "runtime"} == set(cgroups.held)


@pytest.mark.parametrize(("first", "second"), [("/x", "/x"), ("/x", "/x/y"), ("/x/y", "/x"), ("/x/", "//x")])
def test_equal_and_nested_groups_are_refused(tmp_path: Path, first: str, second: str) -> None:
    desk = Desk(tmp_path)
    desk.group("/x")
    desk.group("/x/y")
    desk.group("/xy")
    desk.place("a", cgroup_path=first)
    before = desk.kernel.picture()

    with pytest.raises(RequestInvalid, match="placement 'a' meet in cgroup '/x"):
        desk.place("b", cgroup_path=second)

    assert before == desk.kernel.picture()
    desk.place("c", cgroup_path="/xy")


def test_processes_of_a_placed_group_and_the_group_of_placed_processes_are_refused(cgroups: Desk) -> None:
    cgroups.kernel.groups["/"].subtree.add("cpuset")
    cgroups.group("/x")
    cgroups.group("/y")
    in_x, in_y = cgroups.kernel.spawn(group="/x"), cgroups.kernel.spawn(group="/y")
    cgroups.place("a", cgroup_path="/x")
    cgroups.place("b", in_y)

    with pytest.raises(RequestInvalid, match="'/x', which belongs to placement 'a'"):
        cgroups.place("c", in_x)
    with pytest.raises(RequestInvalid, match="placement 'b' meet in cgroup '/y'"):
        cgroups.place("c", cgroup_path="/y")


@pytest.mark.parametrize("version", [1, 2])
def test_fault_30_a_container_is_placed_by_its_cgroup(tmp_path: Path, version: int) -> None:
    desk = Desk(tmp_path, version=version)
    desk.group("/container")
    pid = desk.kernel.spawn(group="/container", namespaces=2)
    with pytest.raises(ForeignProcess, match="place its cgroup_path instead"):
        desk.place("web", pid)
    placed = desk.place("web", cgroup_path="/container")

    assert desk.cpus(pid) == {str(placed.decision.cpus)}


# --- answers -------------------------------------------------------------------------------------


def test_the_answer_of_a_placing_stays_whatever_happens_later(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    placed = desk.place("a", pid, request_id="r")
    desk.kernel.end(pid)
    desk.reconciler.reconcile()
    assert "RELEASED" == desk.state("a")

    assert placed == desk.place("a", pid, request_id="r")


def test_a_release_that_is_finished_later_answers_its_request(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    placed = desk.place("a", pid, request_id="p")
    desk.journal.refused = ("outcome",)
    with pytest.raises(JournalFailed):
        desk.release("a", request_id="r", etag=placed.etag)
    assert "RELEASING" == desk.state("a")

    desk.journal.refused = ()
    desk.reconciler.reconcile()

    assert PlacementState.RELEASED is desk.release("a", request_id="r", etag=placed.etag).state
    assert placed == desk.place("a", pid, request_id="p")


def test_repeating_a_release_is_not_refused_for_the_etag_it_changed_itself(desk: Desk) -> None:
    placed = desk.place("a", desk.kernel.spawn())
    desk.journal.refused = ("outcome",)
    with pytest.raises(JournalFailed):
        desk.release("a", request_id="r", etag=placed.etag)
    desk.journal.refused = ()

    with pytest.raises(EtagStale):
        desk.release("a", request_id="another", etag=placed.etag)
    assert PlacementState.RELEASED is desk.release("a", request_id="r", etag=placed.etag).state
    with pytest.raises(PlacementMissing):
        desk.release("a", request_id="another")


def test_an_unreadable_record_keeps_its_name(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    desk.place("a", desk.kernel.spawn())
    desk.journal._db.execute("UPDATE placements SET record = x'ff'")
    desk.restart(desk.enforcer.mechanism)

    with pytest.raises(PlacementExists, match="cannot read"):
        desk.place("a", pid)
    assert PlacementState.ACTIVE is desk.place("b", pid).state
