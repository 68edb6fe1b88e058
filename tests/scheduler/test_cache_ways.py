"""Cache ways from the planner to the kernel and back, with daemons that die and a resctrl that goes and comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.records import WorkloadProfile
from tests.fakes.desk import Desk, PowerCut, SickKernel
from tests.fakes.machines import make_topology
from tests.fakes.predictions import make_profile

FULL = 0x7FF


def hungry(name: str) -> WorkloadProfile:
    return make_profile(
        name,
        cpu_utilisation_ratio=1.0,
        cache_sensitivity_sf=2.0,
        cache_pressure_ratio=0.4,
        llc_footprint_bytes=12e6,
        memory_bytes_per_s=1e8,
    )


def streaming(name: str) -> WorkloadProfile:
    return make_profile(
        name, cpu_utilisation_ratio=1.0, cache_sensitivity_sf=1.0, cache_pressure_ratio=1.0, memory_bytes_per_s=1e9
    )


def ways(desk: Desk, name: str) -> int:
    """Say which ways a placement's answer names; 0 = all."""
    found = desk.viewer.current().placements[name].decision.cache_ways
    return found[0].mask.bits if found else 0


def held(desk: Desk, pid: int) -> int:
    """Say which ways the kernel gives a process."""
    return desk.kernel.classes[desk.kernel.where.get(pid, "")].amounts["L3"][0]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, closids=8)


def agreed(desk: Desk, **pids: int) -> bool:
    """Tell whether every answer is what the kernel holds."""
    return all((ways(desk, name) or FULL) == held(desk, pid) for name, pid in pids.items())


def test_one_alone_has_all_ways_and_two_that_harm_each_other_are_parted(desk: Desk) -> None:
    pids = {"db": desk.kernel.spawn(threads=3), "scan": desk.kernel.spawn(threads=2)}
    before = desk.kernel.picture()
    desk.place("db", pids["db"], profile=hungry("db"))
    alone = ways(desk, "db")
    desk.place("scan", pids["scan"], profile=streaming("scan"))

    assert alone == 0
    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0
    assert held(desk, pids["db"]).bit_count() > held(desk, pids["scan"]).bit_count() > 0
    assert agreed(desk, **pids)
    desk.reconciler.reconcile()
    assert agreed(desk, **pids)
    desk.release("scan")
    assert (ways(desk, "db"), held(desk, pids["db"])) == (0, FULL)
    desk.release("db")
    assert desk.kernel.picture() == before


def test_a_turn_of_the_reconciler_writes_nothing_when_all_is_well(desk: Desk) -> None:
    desk.place("db", desk.kernel.spawn(), profile=hungry("db"))
    desk.place("scan", desk.kernel.spawn(), profile=streaming("scan"))
    before, events = desk.kernel.steps, len(desk.journal.events(0, 1000))
    for _ in range(3):
        desk.reconciler.reconcile()

    assert desk.kernel.steps == before
    assert len(desk.journal.events(0, 1000)) == events


@pytest.mark.parametrize("label", ["place: apply", "place: save outcome", "move: save intent", "move: apply"])
def test_a_daemon_that_dies_on_the_way_leaves_what_the_next_one_completes(desk: Desk, label: str) -> None:
    pids = {"db": desk.kernel.spawn(threads=3), "scan": desk.kernel.spawn(threads=2)}
    before = desk.kernel.picture()
    desk.place("db", pids["db"], profile=hungry("db"))
    desk.cut_at = label
    with pytest.raises(PowerCut):
        desk.place("scan", pids["scan"], profile=streaming("scan"))
    desk.restart()

    assert [desk.state(name) for name in pids] == ["ACTIVE", "ACTIVE"]
    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0
    assert agreed(desk, **pids)
    for name in pids:
        desk.release(name)
    assert desk.kernel.picture() == before


def test_fault_46_without_a_class_left_the_placement_says_that_it_has_none(desk: Desk) -> None:
    for number in range(7):
        desk.kernel.mkdir(f"/sys/fs/resctrl/foreign{number}")
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    placed = desk.place("scan", pids["scan"], profile=streaming("scan"))

    assert "without cache ways and bandwidth caps" in placed.notes[0]
    assert "Out of CLOSIDs" in placed.notes[0]
    assert agreed(desk, **pids)
    assert [desk.state(name) for name in pids] == ["ACTIVE", "ACTIVE"]
    told = desk.kinds("scan")
    for number in range(7):
        desk.kernel.rmdir(f"/sys/fs/resctrl/foreign{number}")
    for _ in range(3):  # it tries again by itself, ever more rarely
        desk.reconciler.reconcile()
    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0
    assert agreed(desk, **pids)
    assert desk.kinds("scan") == [*told, "placed"]


def test_fault_48_what_the_kernel_refuses_against_all_checks_is_planned_once_more(desk: Desk) -> None:
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))

    def halve() -> None:  # fewer ways than a moment ago
        desk.kernel.full = 0x1F
        desk.kernel.classes[""].amounts["L3"][0] = 0x1F

    desk.at["place: apply"] = halve
    desk.place("scan", pids["scan"], profile=streaming("scan"))

    assert desk.state("scan") == "ACTIVE"
    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0
    assert held(desk, pids["db"]) | held(desk, pids["scan"]) <= 0x1F


def test_fault_49_resctrl_unmounted_loses_the_ways_and_keeps_the_cpus_until_it_is_back(desk: Desk) -> None:
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    for name, pid in pids.items():
        desk.place(name, pid, profile=hungry(name) if name == "db" else streaming(name))
    cpus = [desk.cpus(pid) for pid in pids.values()]
    desk.kernel.unmount()
    desk.reconciler.reconcile()

    assert [ways(desk, name) for name in pids] == [0, 0]
    assert [desk.state(name) for name in pids] == ["ACTIVE", "ACTIVE"]
    assert [desk.cpus(pid) for pid in pids.values()] == cpus
    assert "drift" in desk.kinds("db")
    desk.kernel.mounted = True
    desk.reconciler.reconcile()
    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0
    assert agreed(desk, **pids)


def test_fault_50_a_mount_with_other_ways_is_planned_anew(desk: Desk) -> None:
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    for name, pid in pids.items():
        desk.place(name, pid, profile=hungry(name) if name == "db" else streaming(name))
    desk.kernel.unmount()
    desk.kernel.full = 0xF  # as with cdp, when half of everything is left
    desk.kernel.classes[""].amounts["L3"][0] = 0xF
    desk.kernel.mounted = True
    for _ in range(2):
        desk.reconciler.reconcile()

    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0
    assert held(desk, pids["db"]) | held(desk, pids["scan"]) <= 0xF
    assert agreed(desk, **pids)
    assert [desk.state(name) for name in pids] == ["ACTIVE", "ACTIVE"]


def test_fault_51_ways_changed_by_others_are_repaired_once_then_contested(desk: Desk) -> None:
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    for name, pid in pids.items():
        desk.place(name, pid, profile=hungry(name) if name == "db" else streaming(name))
    wished = held(desk, pids["db"])
    desk.kernel.classes["cotenant:db"].amounts["L3"][0] = FULL
    desk.reconciler.reconcile()
    repaired = held(desk, pids["db"]), desk.state("db")
    desk.kernel.classes["cotenant:db"].amounts["L3"][0] = FULL
    desk.reconciler.reconcile()

    assert repaired == (wished, "ACTIVE")
    assert desk.state("db") == "CONTESTED"
    assert held(desk, pids["db"]) == FULL  # we stopped
    assert desk.kinds("db")[-2:] == ["drift", "contested"]
    assert desk.state("scan") == "ACTIVE"


def test_fault_55_a_group_of_ours_removed_by_others_is_made_again(desk: Desk) -> None:
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    for name, pid in pids.items():
        desk.place(name, pid, profile=hungry(name) if name == "db" else streaming(name))
    desk.kernel.rmdir("/sys/fs/resctrl/cotenant:db")
    desk.reconciler.reconcile()

    assert desk.state("db") == "ACTIVE"
    assert agreed(desk, **pids)
    assert ways(desk, "db") != 0


def two_caches(folder: Path) -> tuple[Desk, dict[str, int]]:
    """Place two that harm each other on three of four CPUs each, so that the second cache is divided."""
    kernel = SickKernel(cpus="0-3", mems="0", version=2, closids=8, caches=2)
    desk = Desk(folder, version=2, topology=make_topology(llcs_per_node=2), kernel=kernel)
    pids = {"db": kernel.spawn(threads=3), "scan": kernel.spawn()}
    desk.place("db", pids["db"], cpus=3, profile=hungry("db"))
    desk.place("scan", pids["scan"], cpus=3, profile=streaming("scan"))
    return desk, pids


def all_held(desk: Desk, pids: dict[str, int]) -> list[dict[int, int]]:
    """Say which ways of which cache the kernel gives each process."""
    return [dict(desk.kernel.classes[desk.kernel.where.get(pid, "")].amounts["L3"]) for pid in pids.values()]


@pytest.mark.parametrize("told_late", [False, True])
def test_fault_57_a_cache_without_cpus_takes_its_ways_along_and_has_them_again_later(
    tmp_path: Path,
    told_late: bool,  # noqa: FBT001
) -> None:
    desk, pids = two_caches(tmp_path)
    before = all_held(desk, pids)
    desk.kernel.set_domains(0)
    if told_late:  # resctrl loses it a moment before the list of CPUs does
        desk.reconciler.reconcile()
        assert all_held(desk, pids) == [{0: FULL}] * 2  # planned anew in that very turn
    desk.machine.offline("2-3")
    for _ in range(2):
        desk.reconciler.reconcile()
    meanwhile = all_held(desk, pids), [desk.cpus(pid) for pid in pids.values()], [desk.state(one) for one in pids]
    desk.machine.online("2-3")
    if told_late:
        desk.reconciler.reconcile()
    desk.kernel.set_domains(0, 1)
    for _ in range(2):
        desk.reconciler.reconcile()

    assert (before[0][1] & before[1][1], before[0][1] | before[1][1]) == (0, FULL)
    assert meanwhile == ([{0: FULL}] * 2, [{"0-1"}] * 2, ["ACTIVE"] * 2)
    assert all_held(desk, pids) == before
    assert [desk.state(one) for one in pids] == ["ACTIVE", "ACTIVE"]
    assert {"drift", "contested"}.isdisjoint(desk.kinds("db") + desk.kinds("scan"))


def test_an_empty_group_that_a_crash_left_goes_at_the_next_start(desk: Desk) -> None:
    desk.kernel.mkdir("/sys/fs/resctrl/cotenant:lost")
    desk.kernel.mkdir("/sys/fs/resctrl/cotenant-other:kept")
    desk.restart()

    assert sorted(desk.kernel.classes) == ["", "cotenant-other:kept"]


@pytest.mark.parametrize("streaming_first", [True, False])
def test_classes_that_other_tools_hold_are_no_part_of_the_budget(tmp_path: Path, *, streaming_first: bool) -> None:
    desk = Desk(tmp_path, closids=3)
    desk.kernel.mkdir("/sys/fs/resctrl/foreign")
    desk.reconciler.reconcile()
    pids = {"db": desk.kernel.spawn(), "scan": desk.kernel.spawn()}
    for name in ("scan", "db") if streaming_first else ("db", "scan"):
        desk.place(name, pids[name], profile=hungry(name) if name == "db" else streaming(name))

    assert held(desk, pids["db"]) == FULL  # one class is left: it keeps the streaming one to a few ways
    assert held(desk, pids["scan"]).bit_count() == 2
    assert agreed(desk, **pids)


def test_newcomers_of_a_placed_group_join_its_class_and_nobody_is_blamed(desk: Desk) -> None:
    desk.group("/app")
    desk.kernel.spawn(group="/app")
    scan = desk.kernel.spawn()
    desk.place("db", cgroup_path="/app", profile=hungry("db"))
    desk.place("scan", scan, profile=streaming("scan"))
    for _ in range(3):
        late = desk.kernel.spawn(group="/app")
        desk.reconciler.reconcile()
        assert desk.kernel.where[late] == "cotenant:db"

    assert desk.state("db") == "ACTIVE"
    assert "drift" not in desk.kinds("db")
