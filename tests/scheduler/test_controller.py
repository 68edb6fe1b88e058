"""The writer on a fake kernel: what fails, what overlaps, what moves; journal, view and kernel always agree."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from isolation.enforcer import Mechanism
from isolation.errors import ApplyFailed, CgroupRefused, ForeignProcess, UndoFailed
from scheduler.errors import EtagStale, JournalFailed, PlacementExists, PlacementMissing, RequestInvalid
from scheduler.placement import PlacementState
from tests.fakes.desk import Desk, PowerCut

WAYS = [(1, None), (2, None), (1, Mechanism.AFFINITY)]


@pytest.fixture(params=WAYS, ids=["v1", "v2", "affinity"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    version, mechanism = request.param
    return Desk(tmp_path, version=version, mechanism=mechanism)


@pytest.fixture(params=WAYS[:2], ids=["v1", "v2"])
def cgroups(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    version, mechanism = request.param
    return Desk(tmp_path, version=version, mechanism=mechanism)


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


# --- moves ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("version", [1, 2])
def test_fault_30_a_container_is_placed_by_its_cgroup(tmp_path: Path, version: int) -> None:
    desk = Desk(tmp_path, version=version)
    desk.group("/container")
    pid = desk.kernel.spawn(group="/container", namespaces=2)
    with pytest.raises(ForeignProcess, match="place its cgroup_path instead"):
        desk.place("web", pid)
    placed = desk.place("web", cgroup_path="/container")

    assert desk.cpus(pid) == {str(placed.decision.cpus)}


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
