"""CPUs that go offline under placements and come back, and hosts of another shape after a restart (faults 57 to 62)."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.enforcer import Mechanism
from isolation.machine import HostMachine
from isolation.topology import read_topology
from tests.fakes.desk import Desk
from tests.fakes.machines import make_topology
from tests.fakes.trees import CPU, cpu_files, write_tree

FOUR = make_topology(cores_per_llc=4)  # CPUs 0-3


@pytest.fixture(params=["v1", "v2", "affinity"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    mechanism = Mechanism.AFFINITY if request.param == "affinity" else None
    return Desk(tmp_path, version=2 if request.param == "v2" else 1, mechanism=mechanism, topology=FOUR)


def resident_cpus(desk: Desk, name: str) -> str:
    found = desk.viewer.current().ledger.resident(name)
    return "" if found is None else str(found.cpus)


def notes(desk: Desk, name: str) -> str:
    return "; ".join(desk.viewer.current().placements[name].notes)


def test_fault_57_a_workload_that_lost_a_cpu_is_moved_to_as_many_as_it_asked_for(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    before = desk.place("web", pid, cpus=2)
    gone = str(min(before.decision.cpus))
    desk.machine.offline(gone)
    desk.reconciler.reconcile()
    now = desk.viewer.current().placements["web"]

    assert len(now.decision.cpus) == 2
    assert now.decision.cpus <= FOUR.usable - CpuSet.parse(gone)
    assert desk.cpus(pid) == {str(now.decision.cpus)}
    assert now.etag != before.etag
    assert desk.kinds("web") == ["placed", "placed"]
    desk.reconciler.reconcile()
    desk.release("web")
    assert desk.cpus(pid) == {str(FOUR.usable - CpuSet.parse(gone))}


def test_fault_57_where_too_few_are_left_it_runs_on_what_is_left_and_says_so(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    desk.place("web", pid, cpus=4)
    desk.machine.offline("3")
    for _ in range(3):
        desk.reconciler.reconcile()

    assert desk.cpus(pid) == {"0-2"}
    assert desk.state("web") == "ACTIVE"
    assert notes(desk, "web") == "CPUs 3 are offline: it runs on 0-2 until they are back"
    assert desk.kinds("web") == ["placed", "hotplug"]
    assert desk.kinds("") == ["host"]


def test_fault_58_a_cpu_that_is_back_is_used_as_wished_again(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    desk.place("web", pid, cpus=4)
    desk.machine.offline("2-3")
    desk.reconciler.reconcile()
    desk.machine.online("3")
    desk.reconciler.reconcile()
    partly = desk.cpus(pid)
    desk.machine.online("2")
    for _ in range(3):
        desk.reconciler.reconcile()

    assert partly == {"0-1,3"}
    assert desk.cpus(pid) == {"0-3"}
    assert (desk.state("web"), notes(desk, "web")) == ("ACTIVE", "")
    assert desk.kinds("web") == ["placed", "hotplug", "hotplug", "hotplug"]
    desk.release("web")
    assert desk.cpus(pid) == {"0-3"}


def test_fault_59_a_workload_without_any_cpu_left_shares_those_that_are(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=3)
    placed = desk.place("web", pid, cpus=3)
    left = str(FOUR.usable - placed.decision.cpus)
    desk.machine.offline(str(placed.decision.cpus))
    desk.reconciler.reconcile()
    shared = (desk.cpus(pid), resident_cpus(desk, "web"), notes(desk, "web"))
    desk.machine.online(str(placed.decision.cpus))
    desk.reconciler.reconcile()

    assert shared[:2] == ({left}, left)
    assert f"all its CPUs ({placed.decision.cpus}) are offline: it shares CPUs {left}" in shared[2]
    assert desk.cpus(pid) == {str(placed.decision.cpus)}
    assert resident_cpus(desk, "web") == str(placed.decision.cpus)
    assert {"drift", "contested"}.isdisjoint(desk.kinds("web"))


def test_fault_59_a_daemon_that_starts_while_all_cpus_are_offline_knows_and_says_so(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    placed = desk.place("web", pid, cpus=3).decision.cpus
    mechanism = desk.enforcer.mechanism
    desk.machine.offline(str(placed))
    desk.reconciler.reconcile()
    desk.restart(mechanism)
    for _ in range(2):
        desk.reconciler.reconcile()
    told = notes(desk, "web")
    desk.machine.online(str(placed))
    for _ in range(2):
        desk.reconciler.reconcile()

    assert told.startswith(f"all its CPUs ({placed}) are offline")
    assert (desk.cpus(pid), notes(desk, "web")) == ({str(placed)}, "")
    assert {"drift", "contested"}.isdisjoint(desk.kinds("web"))


@pytest.mark.parametrize("version", [1, 2])
def test_fault_59_a_group_without_any_cpu_left_shares_those_that_are(tmp_path: Path, version: int) -> None:
    desk = Desk(tmp_path, version=version, topology=FOUR)
    desk.group("/app", "0-3")
    pid = desk.kernel.spawn(threads=2, group="/app")
    placed = desk.place("web", cgroup_path="/app", cpus=3)
    left = str(FOUR.usable - placed.decision.cpus)
    desk.machine.offline(str(placed.decision.cpus))
    desk.reconciler.reconcile()

    assert desk.cpus(pid) == {left}
    assert str(desk.kernel.groups["/app"].cpus) == left


@pytest.mark.parametrize("version", [1, 2])
def test_fault_57_a_kernel_that_refuses_is_asked_again(tmp_path: Path, version: int) -> None:
    desk = Desk(tmp_path, version=version, topology=FOUR)
    pid = desk.kernel.spawn(threads=3)
    placed = desk.place("web", pid, cpus=3)
    left = str(FOUR.usable - placed.decision.cpus)
    desk.machine.offline(str(placed.decision.cpus))
    desk.fail_next(errno.EINVAL, count=20)
    desk.reconciler.reconcile()
    failed = desk.state("web")
    desk.kernel.fail_at.clear()
    desk.reconciler.reconcile()

    assert failed == "PARTIAL"
    assert (desk.state("web"), desk.cpus(pid)) == ("ACTIVE", {left})


def test_fault_57_a_move_that_is_refused_leaves_it_on_what_is_left(desk: Desk) -> None:
    pid = desk.kernel.spawn()
    placed = desk.place("web", pid, cpus=2)
    gone = CpuSet.of([max(placed.decision.cpus)])
    desk.machine.offline(str(gone))
    desk.fail_next(errno.EINVAL)
    desk.reconciler.reconcile()

    assert desk.cpus(pid) == {str(placed.decision.cpus - gone)}
    assert desk.kinds("web") == ["placed", "refused", "hotplug"]


def test_fault_58_new_cpus_are_there_for_the_next_workload(desk: Desk) -> None:
    desk.machine.offline("1-3")
    desk.reconciler.reconcile()
    desk.machine.online("1-3")
    desk.reconciler.reconcile()

    assert len(desk.place("wide", desk.kernel.spawn(), cpus=4).decision.cpus) == 4


def test_without_a_change_nothing_is_read_or_written(desk: Desk) -> None:
    desk.place("web", desk.kernel.spawn(), cpus=2)
    for _ in range(2):
        desk.reconciler.reconcile()
    steps, topology = desk.kernel.steps, desk.enforcer.topology
    desk.reconciler.reconcile()

    assert desk.kernel.steps == steps
    assert desk.enforcer.topology is topology


def test_fault_61_a_host_that_lost_cpus_while_the_daemon_was_down_is_replanned_not_refused(desk: Desk) -> None:
    pid = desk.kernel.spawn(threads=2)
    mechanism = desk.enforcer.mechanism
    placed = desk.place("web", pid, cpus=2)
    desk.machine.offline(str(placed.decision.cpus))
    desk.restart(mechanism)
    desk.reconciler.reconcile()
    left = str(FOUR.usable - placed.decision.cpus)

    assert (desk.state("web"), desk.cpus(pid), resident_cpus(desk, "web")) == ("ACTIVE", {left}, left)


def test_fault_61_after_a_boot_with_another_topology_the_daemon_starts_and_plans_anew(desk: Desk) -> None:
    mechanism = desk.enforcer.mechanism
    desk.place("web", desk.kernel.spawn(), cpus=4)
    fingerprint = desk.topology.fingerprint
    desk.kernel.boot_id = "5ad6ec3e-0000-4000-8000-000000000002"
    for group in [one for one in desk.kernel.groups if one != "/"]:
        del desk.kernel.groups[group]
    for pid in [one for one in desk.kernel.processes if one != 1]:
        desk.kernel.end(pid)
    desk.machine.offline("2-3")  # as if SMT were off since
    desk.restart(mechanism)
    again = desk.place("next", desk.kernel.spawn(), cpus=2)

    assert desk.topology.fingerprint != fingerprint
    assert desk.state("web") == "RELEASED"
    assert str(again.decision.cpus) == "0-1"


def test_a_real_tree_tells_when_a_cpu_went_offline(tmp_path: Path) -> None:
    files = {**cpu_files(0, "0", "0-1"), **cpu_files(1, "1", "0-1")}
    write_tree(tmp_path, {**files, f"{CPU}/online": "0-1", f"{CPU}/present": "0-1"})
    machine = HostMachine(tmp_path)
    before = machine.revision()
    write_tree(tmp_path, {f"{CPU}/online": "0"})

    assert HostMachine().revision() == HostMachine().revision()
    assert before != machine.revision()
    assert (machine.topology(), str(machine.topology().offline)) == (read_topology(tmp_path), "1")
