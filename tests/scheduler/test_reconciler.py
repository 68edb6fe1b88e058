"""Start and upkeep on a fake kernel: one broken placement harms no other; a workload lives as long as its workers."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.enforcer import Mechanism
from scheduler import view, wire
from scheduler.placement import PlacementState, WorkloadRequest
from tests.fakes.desk import Desk, PowerCut


def orphan(parent: int, child: int, desk: Desk) -> None:
    """End a process; init takes its child."""
    desk.kernel.end(parent)
    desk.kernel.processes[child].ppid = 1


# --- start ---------------------------------------------------------------------------------------


def test_an_orphan_group_with_threads_does_not_stop_the_start(cgroups: Desk) -> None:
    pid = cgroups.kernel.spawn()
    cgroups.place("a", cgroups.kernel.spawn())
    cgroups.place("left", pid)
    cgroups.group("/cotenant/empty")
    cgroups.journal.drop(["left"])

    cgroups.restart()

    assert "ACTIVE" == cgroups.state("a")
    assert "/cotenant/left" in cgroups.kernel.groups
    assert "/cotenant/empty" not in cgroups.kernel.groups
    assert ["placed", "refused"] == cgroups.kinds("left")


DAMAGES = {
    "record": "UPDATE placements SET record = x'ffffff' WHERE name = 'a'",
    "target": "UPDATE placements SET target = '[1]' WHERE name = 'a'",
    "undo": "UPDATE placements SET undo = 'null' WHERE name = 'a'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_an_unreadable_record_is_left_alone_with_its_group(cgroups: Desk, damage: str) -> None:
    first, second = cgroups.kernel.spawn(), cgroups.kernel.spawn()
    cgroups.place("a", first)
    cgroups.place("b", second)
    cgroups.kernel.end(first)
    cgroups.journal._db.execute(damage)
    before = cgroups.journal.entries()

    cgroups.restart()

    assert ("", "ACTIVE") == (cgroups.state("a"), cgroups.state("b"))
    assert before == cgroups.journal.entries()
    assert "/cotenant/a" in cgroups.kernel.groups
    assert ["placed", "refused"] == cgroups.kinds("a")


def test_a_release_that_fails_at_the_start_is_finished_later(desk: Desk) -> None:
    pid, other = desk.kernel.spawn(), desk.kernel.spawn()
    before = desk.kernel.picture()["threads"]
    desk.place("a", pid)
    desk.place("b", other)
    desk.cut_at = "release: restore"
    with pytest.raises(PowerCut):
        desk.release("a", request_id="r")
    desk.kernel.unreadable = ("/cotenant/a", f"/proc/{pid}/")

    desk.restart(desk.enforcer.mechanism)
    assert ("RELEASING", "ACTIVE") == (desk.state("a"), desk.state("b"))
    desk.reconciler.reconcile()
    desk.kernel.unreadable = ()
    desk.reconciler.reconcile()

    assert ("RELEASED", "ACTIVE") == (desk.state("a"), desk.state("b"))
    assert ["placed", "refused", "released"] == desk.kinds("a"), "the same failure is told once"
    assert PlacementState.RELEASED is desk.release("a", request_id="r").state
    desk.release("b")
    assert before == desk.kernel.picture()["threads"]


def test_a_placing_that_can_neither_be_completed_nor_undone_at_the_start_is_kept(desk: Desk) -> None:
    pid, other = desk.kernel.spawn(), desk.kernel.spawn()
    before = desk.kernel.picture()["threads"]
    desk.place("b", other)
    desk.cut_at = "place: save outcome"
    with pytest.raises(PowerCut):
        desk.place("a", pid, request_id="r")
    desk.kernel.unreadable = ("/cotenant/a", f"/proc/{pid}/task")

    desk.restart(desk.enforcer.mechanism)
    assert "ACTIVE" == desk.state("b")
    assert "a" in desk.held
    desk.kernel.unreadable = ()
    desk.reconciler.reconcile()

    assert desk.state("a") in {"ACTIVE", "RELEASED"}
    if desk.state("a") == "ACTIVE":
        desk.release("a")
    desk.release("b")
    assert before == desk.kernel.picture()["threads"]


def test_an_outcome_that_cannot_be_saved_at_the_start_is_saved_later(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    desk.cut_at = "place: save outcome"
    with pytest.raises(PowerCut):
        desk.place("a", pid, request_id="r")
    desk.journal._db.execute("CREATE TRIGGER full BEFORE UPDATE ON requests BEGIN SELECT RAISE(ABORT, 'full'); END")

    desk.restart(desk.enforcer.mechanism)
    assert "APPLYING" == desk.state("a")
    desk.journal._db.execute("DROP TRIGGER full")
    desk.reconciler.reconcile()

    assert ("ACTIVE", "ACTIVE") == (desk.state("a"), desk.stored("a"))
    assert PlacementState.ACTIVE is desk.place("a", pid, request_id="r").state


def test_a_workload_that_ended_before_it_was_placed_answers_nobody(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    desk.cut_at = "place: apply"
    with pytest.raises(PowerCut):
        desk.place("a", pid, request_id="r")
    desk.kernel.end(pid)

    desk.restart(desk.enforcer.mechanism)

    assert ("", "") == (desk.state("a"), desk.stored("a"))
    assert desk.journal.answered("r") is None


def test_a_placement_of_another_mechanism_is_kept_unchecked_until_the_daemon_uses_it_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    pid = desk.kernel.spawn()
    desk.place("a", pid)
    before = desk.kernel.picture()

    desk.restart(Mechanism.AFFINITY)
    desk.reconciler.reconcile()
    desk.reconciler.reconcile()

    assert before == desk.kernel.picture()
    assert ("ACTIVE", ["placed", "refused"]) == (desk.state("a"), desk.kinds("a"))
    assert () == desk.rebalance()
    desk.restart()
    assert PlacementState.RELEASED is desk.release("a").state


# --- upkeep --------------------------------------------------------------------------------------


def drift(desk: Desk, pid: int, seat: str) -> None:
    """Put a process elsewhere than it was placed."""
    if desk.enforcer.mechanism is Mechanism.AFFINITY:
        desk.kernel.set(pid, desk.topology.online - CpuSet.parse(seat))
    else:
        desk.kernel.write(f"{desk.kernel.mount}/cgroup.procs", str(pid))


def test_a_placement_that_cannot_be_checked_does_not_starve_the_others(desk: Desk) -> None:
    pids = {name: desk.kernel.spawn() for name in ("a", "b")}
    seats = {name: str(desk.place(name, pid).decision.cpus) for name, pid in pids.items()}
    desk.kernel.unreadable = ("/cotenant/a", f"/proc/{pids['a']}/")
    drift(desk, pids["b"], seats["b"])

    desk.reconciler.reconcile()

    assert {seats["b"]} == desk.cpus(pids["b"])
    assert ["placed", "refused"] == desk.kinds("a")
    desk.kernel.unreadable = ()
    desk.reconciler.reconcile()
    assert "ACTIVE" == desk.state("a")


def test_a_repair_that_failed_changes_the_etag_and_so_does_the_one_that_succeeds(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    placed = desk.place("a", pid)
    seat = str(placed.decision.cpus)
    drift(desk, pid, seat)
    desk.fail_next(errno.EIO)

    desk.reconciler.reconcile()
    partial = desk.controller.get("a")
    desk.reconciler.reconcile()
    active = desk.controller.get("a")

    assert ("PARTIAL", "ACTIVE") == (partial.state, active.state)
    assert 3 == len({placed.etag, partial.etag, active.etag})
    assert {seat} == desk.cpus(pid)


def test_a_partial_placement_that_became_complete_has_another_etag(desk: Desk) -> None:
    desk.place("a", desk.kernel.spawn())
    partial = replace(desk.controller.get("a"), state=PlacementState.PARTIAL)
    desk.viewer.put(partial)

    desk.reconciler.reconcile()

    assert "ACTIVE" == desk.state("a")
    assert partial.etag != desk.controller.get("a").etag
    assert "ACTIVE" == desk.stored("a")


def test_a_turn_over_200_placements_changes_neither_kernel_nor_journal(desk: Desk) -> None:
    pids = {f"w{number}": desk.kernel.spawn() for number in range(200)}
    for name, pid in pids.items():  # without profiles: their 40,000 predictions are not what this is about
        request = WorkloadRequest(name=name, cpus=1, pids=(pid,))
        desk.controller.place(f"place-{name}", b"place", request, allow_best_effort=True)
    before = desk.kernel.picture()
    steps, entries, view = desk.kernel.steps, desk.journal.entries(), desk.viewer.current()
    events = [one for one in desk.journal.events(0, 1000) if one.kind != "placed"]

    for _ in range(2):
        desk.reconciler.reconcile()

    assert 0 == desk.kernel.steps - steps
    assert before == desk.kernel.picture()
    assert entries == desk.journal.entries()
    assert view is desk.viewer.current()
    assert events == [one for one in desk.journal.events(0, 1000) if one.kind != "placed"] == []
    assert {"ACTIVE"} == {desk.state(name) for name in pids}


# --- launchers -----------------------------------------------------------------------------------


def test_workers_keep_a_placement_when_their_launcher_ends(desk: Desk) -> None:
    launcher = desk.kernel.spawn(threads=2)
    seat = str(desk.place("a", launcher).decision.cpus)
    worker = desk.kernel.fork(launcher)
    desk.reconciler.reconcile()
    orphan(launcher, worker, desk)
    desk.reconciler.reconcile()
    assert "ACTIVE" == desk.state("a")
    desk.restart(desk.enforcer.mechanism)
    assert "ACTIVE" == desk.state("a"), "who took over was saved"

    drift(desk, worker, seat)
    grandchild = desk.kernel.fork(worker)
    desk.reconciler.reconcile()
    assert {seat} == desk.cpus(worker) == desk.cpus(grandchild)
    desk.restart(desk.enforcer.mechanism)
    assert "ACTIVE" == desk.state("a")

    desk.release("a")
    assert {"0-1"} == desk.cpus(worker) == desk.cpus(grandchild)


def test_workers_known_from_the_snapshot_keep_a_placement_over_a_restart(desk: Desk) -> None:
    launcher = desk.kernel.spawn()
    worker = desk.kernel.fork(launcher)
    desk.place("a", launcher)
    orphan(launcher, worker, desk)

    desk.restart(desk.enforcer.mechanism)
    assert "ACTIVE" == desk.state("a")
    desk.kernel.end(worker)
    desk.reconciler.reconcile()

    assert ("RELEASED", {}) == (desk.state("a"), desk.held)


def test_a_worker_whose_launcher_ended_is_restored_beside_a_named_process_that_lives(desk: Desk) -> None:
    launcher, stays = desk.kernel.spawn(mask="0-1"), desk.kernel.spawn()
    seat = str(desk.place("a", launcher, stays).decision.cpus)
    worker = desk.kernel.fork(launcher)
    desk.reconciler.reconcile()
    orphan(launcher, worker, desk)
    desk.reconciler.reconcile()
    assert {seat} == desk.cpus(worker)

    desk.release("a")

    assert {"0-1"} == desk.cpus(worker) == desk.cpus(stays)


def test_a_group_that_is_emptied_ends_the_placement_only_with_its_last_process(cgroups: Desk) -> None:
    pid = cgroups.kernel.spawn()
    cgroups.place("a", pid)
    cgroups.kernel.end(pid, zombie=True)

    cgroups.reconciler.reconcile()

    assert ("RELEASED", "gone") == (cgroups.state("a"), cgroups.kinds("a")[-1])


# --- bounds --------------------------------------------------------------------------------------


def test_only_the_newest_released_placements_are_kept(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    desk.place("p", pid)
    released = desk.release("p")
    (pattern,) = desk.journal.entries()
    desk.journal._db.execute("PRAGMA synchronous=OFF")
    for number in range(view.KEPT_RELEASED + 3):
        record = wire.placement_to_bytes(replace(released, request=replace(released.request, name=f"old{number}")))
        desk.journal.update(replace(pattern, name=f"old{number}", record=record))
    desk.restart(desk.enforcer.mechanism)
    assert view.KEPT_RELEASED == len(desk.journal.entries()) == len(desk.viewer.current().placements)

    desk.place("new", pid)
    desk.release("new")

    assert view.KEPT_RELEASED == len(desk.journal.entries()) == len(desk.viewer.current().placements)
    assert "RELEASED" == desk.stored("new") == desk.state("new")


# --- groups and threads that others change (faults 34, 36, 37, 42) --------------------------------


def test_fault_34_a_workload_that_moves_itself_is_moved_back_once_and_then_left_alone(cgroups: Desk) -> None:
    pid = cgroups.kernel.spawn(threads=2)
    cgroups.place("web", pid)
    placed = cgroups.cpus(pid)
    back = []
    for _ in range(2):
        cgroups.kernel.write(f"{cgroups.kernel.mount}/cgroup.procs", str(pid))
        cgroups.reconciler.reconcile()
        back.append(cgroups.cpus(pid) == placed)

    assert back == [True, False]
    assert cgroups.state("web") == "CONTESTED"
    assert cgroups.kinds("web") == ["placed", "drift", "contested"]


@pytest.mark.parametrize("version", [1, 2])
def test_fault_42_a_value_that_is_reset_is_written_again_once_and_then_left_alone(tmp_path: Path, version: int) -> None:
    desk = Desk(tmp_path, version=version)
    desk.group("/app")
    pid = desk.kernel.spawn(group="/app")
    placed = str(desk.place("web", cgroup_path="/app").decision.cpus)
    again = []
    for _ in range(2):
        desk.kernel.groups["/app"].cpus = CpuSet.parse("0-1")  # as daemon-reload does
        desk.reconciler.reconcile()
        again.append(str(desk.kernel.groups["/app"].cpus))

    assert again == [placed, "0-1"]
    assert desk.state("web") == "CONTESTED"
    assert desk.cpus(pid) == {"0-1"}


@pytest.mark.parametrize("version", [1, 2])
def test_fault_36_a_group_that_vanished_ends_its_placement(tmp_path: Path, version: int) -> None:
    desk = Desk(tmp_path, version=version)
    desk.group("/app")
    desk.place("web", cgroup_path="/app")
    del desk.kernel.groups["/app"]
    desk.reconciler.reconcile()

    assert desk.state("web") == "RELEASED"
    assert desk.kinds("web") == ["placed", "gone"]
    assert len(desk.viewer.current().ledger.residents) == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_fault_37_a_group_made_anew_ends_the_placement_and_can_be_placed_itself(
    tmp_path: Path,
    restarted: bool,  # noqa: FBT001
) -> None:
    desk = Desk(tmp_path)
    desk.group("/app")
    desk.place("web", cgroup_path="/app")
    del desk.kernel.groups["/app"]
    desk.group("/app", "0-1")
    if restarted:
        desk.restart()
    desk.reconciler.reconcile()

    assert desk.state("web") == "RELEASED"
    assert desk.kinds("web") == ["placed", "recovered" if restarted else "gone"]
    assert str(desk.kernel.groups["/app"].cpus) == "0-1"
    assert desk.place("next", cgroup_path="/app", request_id="another").state == "ACTIVE"
