"""The enforcer on the fake kernel: both cgroup versions and affinity."""

from __future__ import annotations

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Drift, Enforcer, Mechanism, Released, Target, Undo
from isolation.errors import (
    ApplyFailed,
    CgroupRefused,
    MechanismMissing,
    SpecInvalid,
)
from isolation.process import identify
from isolation.spec import IsolationSpec
from tests.fakes.bench import ON_1, ON_2_3, TOPOLOGY, WAYS, Bench
from tests.fakes.kernel import FakeGroup, FakeKernel


@pytest.fixture(params=WAYS, ids=["v1", "v2", "affinity"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(*request.param)


@pytest.fixture(params=WAYS[:2], ids=["v1", "v2"])
def cgroups(request: pytest.FixtureRequest) -> Bench:
    return Bench(*request.param)


def test_apply_confines_all_threads_and_children_and_release_restores_all(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    applied = bench.enforcer.apply("web", bench.target, ON_1, undo)
    everywhere = {str(bench.kernel.allowed(tid)) for tid in (bench.child, *bench.kernel.processes[bench.pid].threads)}
    released = bench.enforcer.release(undo)

    assert everywhere == {"1"}
    assert (applied.threads, applied.missed, applied.complete) == (5, (), True)
    assert applied.writes > 0
    assert released == Released(restored=5, gone=0)
    assert bench.kernel.picture() == bench.before


def test_snapshot_and_verify_write_nothing(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    drifts = bench.enforcer.verify(bench.target, ON_1, undo)

    assert drifts
    assert bench.kernel.steps == 0


def test_applying_again_writes_nothing(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    steps = bench.kernel.steps
    again = bench.enforcer.apply("web", bench.target, ON_1, Undo.from_json(undo.to_json()))

    assert again.writes == 0
    assert bench.kernel.steps == steps
    assert bench.enforcer.verify(bench.target, ON_1, undo) == ()


def test_release_twice_is_harmless(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    bench.enforcer.release(undo)
    steps = bench.kernel.steps
    bench.enforcer.release(undo)

    assert bench.kernel.steps == steps
    assert bench.kernel.picture() == bench.before


def test_fault_34_narrow_masks_are_respected_and_reported() -> None:
    bench = Bench(1)
    spec = IsolationSpec(cpus=CpuSet.parse("0-1"))
    applied = bench.enforcer.apply("web", bench.target, spec, bench.enforcer.snapshot("web", bench.target))

    assert len(applied.narrowed) == 1
    assert str(bench.kernel.allowed(applied.narrowed[0])) == "0"


def test_a_wider_wish_widens_every_thread_but_those_that_pinned_themselves(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    wide = IsolationSpec(cpus=CpuSet.parse("0-1"))
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    bench.enforcer.apply("web", bench.target, wide, undo, previous=ON_1)
    found = sorted(str(bench.kernel.allowed(tid)) for tid in bench.kernel.processes[bench.pid].threads)

    assert found == ["0", "0-1", "0-1", "0-1"]


def test_mems_are_set_by_cgroups_and_reported_as_impossible_by_affinity(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    applied = bench.enforcer.apply("web", bench.target, ON_2_3, undo)

    if bench.enforcer.mechanism is Mechanism.AFFINITY:
        assert not applied.mems_applied
    else:
        assert applied.mems_applied
        assert str(bench.kernel.groups["/cotenant/web"].mems) == "1"


def test_without_a_wish_memory_stays_where_it_was(cgroups: Bench) -> None:
    cgroups.kernel.groups["/app"].mems = NodeSet.parse("0")
    pid = cgroups.kernel.spawn(group="/app")
    target = Target(processes=(cgroups.identify(pid),))
    cgroups.enforcer.apply("solo", target, ON_1, cgroups.enforcer.snapshot("solo", target))

    assert cgroups.kernel.read(f"{cgroups.kernel.mount}/cotenant/solo/cpuset.mems").strip() == "0"


def test_fault_38_a_grant_that_differs_from_the_wish_is_undone() -> None:
    bench = Bench(2)
    bench.kernel.groups["/cotenant"] = FakeGroup(CpuSet.parse("3"), NodeSet(), {"cpuset"})
    before = bench.kernel.picture()
    undo = bench.enforcer.snapshot("web", bench.target)
    with pytest.raises(ApplyFailed, match=r"wished 1, granted 3"):
        bench.enforcer.apply("web", bench.target, ON_1, undo)

    assert bench.kernel.picture() == before


def test_fault_58_our_home_regains_cpus_that_came_back_online() -> None:
    bench = Bench(1)
    bench.kernel.groups["/cotenant"] = FakeGroup(CpuSet.parse("0"), NodeSet.parse("0-1"))
    bench.enforcer.apply("web", bench.target, ON_1, bench.enforcer.snapshot("web", bench.target))

    assert str(bench.kernel.groups["/cotenant"].cpus) == "0-3"


def test_a_descendant_in_a_group_of_its_own_is_left_there(cgroups: Bench) -> None:
    cgroups.kernel.groups["/container"] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0-1"))
    contained = cgroups.kernel.fork(cgroups.pid)
    cgroups.kernel.processes[contained].threads[contained].group = "/container"
    cgroups.enforcer.apply("web", cgroups.target, ON_1, cgroups.enforcer.snapshot("web", cgroups.target))

    assert cgroups.kernel.processes[contained].threads[contained].group == "/container"


def test_a_process_already_placed_by_any_daemon_is_refused(cgroups: Bench) -> None:
    other = cgroups.kernel.enforcer(TOPOLOGY, prefix="cotenant-0123abcd")
    undo = other.snapshot("theirs", cgroups.target)
    other.apply("theirs", cgroups.target, ON_1, undo)

    with pytest.raises(CgroupRefused, match="already placed, in group '/cotenant-0123abcd/theirs'"):
        cgroups.enforcer.snapshot("mine", cgroups.target)


def test_daemons_with_different_prefixes_do_not_disturb_each_other(cgroups: Bench) -> None:
    other = cgroups.kernel.enforcer(TOPOLOGY, prefix="cotenant-0123abcd")
    pid = cgroups.kernel.spawn(group="/app")
    theirs = Target(processes=(cgroups.identify(pid),))
    their_undo = other.snapshot("web", theirs)
    other.apply("web", theirs, ON_2_3, their_undo)
    undo = cgroups.enforcer.snapshot("web", cgroups.target)
    cgroups.enforcer.apply("web", cgroups.target, ON_1, undo)
    cgroups.enforcer.release(undo)

    assert other.verify(theirs, ON_2_3, their_undo) == ()
    assert other.groups() == ("web",)
    assert cgroups.enforcer.groups() == ()


def test_an_orphan_is_removed_only_when_it_holds_nobody(cgroups: Bench) -> None:
    undo = cgroups.enforcer.snapshot("web", cgroups.target)
    cgroups.enforcer.apply("web", cgroups.target, ON_1, undo)
    with pytest.raises(CgroupRefused, match="still holds"):
        cgroups.enforcer.remove_orphan("web")
    held = cgroups.enforcer.members("web")
    for pid in (cgroups.child, cgroups.pid):
        cgroups.kernel.end(pid)
    cgroups.enforcer.remove_orphan("web")
    cgroups.enforcer.remove_orphan("web")  # gone is what was wanted

    assert len(held) == 5
    assert cgroups.enforcer.groups() == ()
    assert "/cotenant" not in cgroups.kernel.groups


def test_a_vanished_home_group_sends_threads_to_the_one_above(cgroups: Bench) -> None:
    undo = cgroups.enforcer.snapshot("web", cgroups.target)
    cgroups.enforcer.apply("web", cgroups.target, ON_1, undo)
    del cgroups.kernel.groups["/app"]
    released = cgroups.enforcer.release(undo)

    assert any("could not go back to group '/app' and is in '/' now" in one for one in released.left_over)
    assert cgroups.enforcer.groups() == ()


def test_drift_names_the_thread_that_left_and_the_group_that_changed(cgroups: Bench) -> None:
    undo = cgroups.enforcer.snapshot("web", cgroups.target)
    cgroups.enforcer.apply("web", cgroups.target, ON_1, undo)
    cgroups.kernel.write(f"{cgroups.kernel.mount}/cgroup.procs", str(cgroups.child))
    cgroups.kernel.groups["/cotenant/web"].cpus = CpuSet.parse("1-2")
    drifts = cgroups.enforcer.verify(cgroups.target, ON_1, undo)

    assert Drift(path="/cotenant/web/cpuset.cpus", expected="1", found="1-2") in drifts
    assert Drift(tid=cgroups.child, expected="group /cotenant/web", found="group /") in drifts


def test_a_removed_group_is_drift_and_applying_again_makes_it_anew(cgroups: Bench) -> None:
    undo = cgroups.enforcer.snapshot("web", cgroups.target)
    cgroups.enforcer.apply("web", cgroups.target, ON_1, undo)
    cgroups.enforcer.release(undo)

    assert cgroups.enforcer.verify(cgroups.target, ON_1, undo)[0].found == "no such group"
    assert cgroups.enforcer.apply("web", cgroups.target, ON_1, undo).complete


def test_affinity_keeps_what_a_later_thread_chose_itself() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    undo = bench.enforcer.snapshot("web", bench.target)
    spec = IsolationSpec(cpus=CpuSet.parse("0-1"))
    bench.enforcer.apply("web", bench.target, spec, undo)
    inherited, chosen = bench.kernel.clone(bench.pid), bench.kernel.clone(bench.pid)
    bench.kernel.set(chosen, CpuSet.parse("1"))
    bench.enforcer.release(undo)

    assert str(bench.kernel.allowed(inherited)) == "0-2"
    assert str(bench.kernel.allowed(chosen)) == "1"


def test_a_wish_this_host_cannot_hold_is_refused_before_any_write(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    with pytest.raises(SpecInvalid, match="holds 9, not usable here"):
        bench.enforcer.apply("web", bench.target, IsolationSpec(cpus=CpuSet.parse("1,9")), undo)

    assert bench.kernel.steps == 0


@pytest.mark.parametrize("target", [Target(), Target(cgroup_path="/app", processes=Bench().target.processes)])
def test_a_target_is_processes_or_a_path(bench: Bench, target: Target) -> None:
    with pytest.raises(SpecInvalid, match="exactly one"):
        bench.enforcer.snapshot("web", target)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\n", "x" * 201, "é"])
def test_a_name_that_is_no_group_name_is_refused(cgroups: Bench, name: str) -> None:
    with pytest.raises(CgroupRefused, match="group name"):
        cgroups.enforcer.snapshot(name, cgroups.target)


def test_a_record_of_another_mechanism_is_not_released_blindly() -> None:
    bench = Bench(1)
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    ordinary = bench.kernel.enforcer(TOPOLOGY, mechanism=Mechanism.AFFINITY)
    with pytest.raises(MechanismMissing, match="cgroup_v1"):
        ordinary.release(undo)


def test_an_enforcer_needs_the_hierarchy_of_its_mechanism() -> None:
    kernel = FakeKernel()
    with pytest.raises(MechanismMissing, match="needs a cpuset hierarchy"):
        Enforcer(TOPOLOGY, files=kernel, affinity=kernel, handles=kernel, hierarchy=None, mechanism=Mechanism.CGROUP_V1)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "mechanism": "magic"}']
)
def test_a_damaged_undo_record_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="undo record"):
        Undo.from_json(text)


def test_processes_in_v2_groups_without_cpuset_files_are_placed() -> None:
    kernel = FakeKernel(version=2)
    kernel.groups["/user"] = FakeGroup()
    kernel.groups["/user/session"] = FakeGroup()
    pid = kernel.spawn(group="/user/session")
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
    undo = enforcer.snapshot("web", target)
    applied = enforcer.apply("web", target, ON_1, undo)
    placed = str(kernel.allowed(pid))
    enforcer.release(undo)

    assert applied.complete
    assert placed == "1"
    assert kernel.processes[pid].threads[pid].group == "/user/session"
