"""The enforcer on the fake kernel: every failure at every step, races, both cgroup versions and affinity."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Drift, Enforcer, Mechanism, Released, Target, Undo
from isolation.errors import (
    ApplyFailed,
    CgroupRefused,
    CgroupVanished,
    MechanismMissing,
    ProcessGone,
    ProcessReused,
    SpecInvalid,
    UndoFailed,
)
from isolation.process import ProcessIdentity, identify
from isolation.spec import IsolationSpec
from tests.fakes.kernel import FakeGroup, FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(packages=2, cores_per_llc=2)  # CPUs 0-3, nodes 0-1
ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))
ON_2_3 = IsolationSpec(cpus=CpuSet.parse("2-3"), mems=NodeSet.parse("1"))
WAYS = [(1, None), (2, None), (1, Mechanism.AFFINITY)]


class Bench:
    """A fake kernel, its enforcer, and one process with threads and a child."""

    def __init__(self, version: int = 1, mechanism: Mechanism | None = None) -> None:
        self.kernel = FakeKernel(version=version)
        if version == 2:
            self.kernel.groups["/"].subtree.add("cpuset")
        self.kernel.groups["/app"] = FakeGroup(CpuSet.parse("0-2"), NodeSet.parse("0-1"))
        self.pid = self.kernel.spawn(threads=4, group="/app")
        self.child = self.kernel.fork(self.pid)
        tids = sorted(self.kernel.processes[self.pid].threads)
        self.kernel.set(tids[1], CpuSet.parse("0"))
        if version == 1:
            self.kernel.write(f"{self.kernel.mount}/tasks", str(tids[2]))  # one thread elsewhere
        self.enforcer = self.kernel.enforcer(TOPOLOGY, mechanism=mechanism)
        self.target = Target(processes=(self.identify(self.pid),))
        self.before = self.kernel.picture()
        self.kernel.steps = 0

    def identify(self, pid: int) -> ProcessIdentity:
        return identify(pid, allowed_uids=None, files=self.kernel, own_pid=99)


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


def test_a_failure_at_any_step_leaves_the_state_before(bench: Bench) -> None:
    total = _steps_of_apply(bench)
    assert total >= 3
    for step in range(1, total + 1):
        for code in (errno.EACCES, errno.EBUSY, errno.EINVAL, errno.ENOSPC):
            fresh = Bench(bench.kernel.version, bench.enforcer.mechanism)
            fresh.kernel.fail_at[step] = code
            undo = fresh.enforcer.snapshot("web", fresh.target)
            with pytest.raises(ApplyFailed, match=errno.errorcode[code]):
                fresh.enforcer.apply("web", fresh.target, ON_1, undo)
            assert fresh.kernel.picture() == fresh.before, f"step {step}"


def test_success_without_effect_at_any_step_is_noticed(bench: Bench) -> None:
    for step in range(1, _steps_of_apply(bench) + 1):
        fresh = Bench(bench.kernel.version, bench.enforcer.mechanism)
        fresh.kernel.pretend_at.add(step)
        undo = fresh.enforcer.snapshot("web", fresh.target)
        try:
            applied = fresh.enforcer.apply("web", fresh.target, ON_1, undo)
        except (ApplyFailed, CgroupVanished):
            assert fresh.kernel.picture() == fresh.before, f"step {step}"
        else:  # a second attempt made up for it
            assert applied.complete
            assert fresh.enforcer.verify(fresh.target, ON_1, undo) == ()


def test_a_failing_change_returns_to_the_placement_before_it(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    placed, steps = bench.kernel.picture(), bench.kernel.steps
    bench.kernel.fail_at[steps + 1] = errno.EINVAL
    with pytest.raises(ApplyFailed):
        bench.enforcer.apply("web", bench.target, ON_2_3, undo, previous=ON_1)

    assert bench.kernel.picture() == placed


def test_a_failing_undo_is_told_with_both_causes(cgroups: Bench) -> None:
    total = _steps_of_apply(cgroups)
    fresh = Bench(cgroups.kernel.version)
    fresh.kernel.fail_at = {total: errno.EINVAL, total + 1: errno.EPERM, total + 2: errno.EPERM, total + 3: errno.EPERM}
    undo = fresh.enforcer.snapshot("web", fresh.target)
    with pytest.raises(UndoFailed, match=r"EINVAL.*EPERM") as caught:
        fresh.enforcer.apply("web", fresh.target, ON_1, undo)

    assert not caught.value.retryable
    fresh.kernel.fail_at.clear()
    assert fresh.enforcer.release(undo).left_over == ()  # a later release, as recovery does, finishes the work
    assert fresh.kernel.picture() == fresh.before


def _steps_of_apply(bench: Bench) -> int:
    twin = Bench(bench.kernel.version, bench.enforcer.mechanism)
    twin.enforcer.apply("web", twin.target, ON_1, twin.enforcer.snapshot("web", twin.target))
    return twin.kernel.steps


@pytest.mark.parametrize("way", WAYS)
def test_threads_and_children_born_at_any_step_are_caught(way: tuple[int, Mechanism | None]) -> None:
    for step in range(1, _steps_of_apply(Bench(*way)) + 1):
        bench = Bench(*way)
        kernel, pid = bench.kernel, bench.pid
        kernel.at_step[step] = partial(_grow, kernel, pid)
        undo = bench.enforcer.snapshot("web", bench.target)
        applied = bench.enforcer.apply("web", bench.target, ON_1, undo)
        released = bench.enforcer.release(undo)
        after = bench.kernel.picture()["threads"]
        expected = bench.before["threads"]
        assert isinstance(after, dict)
        assert isinstance(expected, dict)

        assert applied.complete
        assert applied.threads == 7
        assert released.left_over == ()
        assert {tid: after[tid] for tid in expected} == expected
        assert {state for tid, state in after.items() if tid not in expected} == {expected[pid]}
        assert kernel.picture()["groups"] == bench.before["groups"]


def _grow(kernel: FakeKernel, pid: int) -> None:
    kernel.clone(pid)
    kernel.fork(pid)


def test_endless_births_outside_end_as_partial() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    for step in range(1, 200):
        bench.kernel.at_step[step] = partial(_escape, bench.kernel, bench.pid)
    applied = bench.enforcer.apply("web", bench.target, ON_1, bench.enforcer.snapshot("web", bench.target))

    assert not applied.complete
    assert applied.missed


def _escape(kernel: FakeKernel, pid: int) -> None:
    kernel.processes[pid].threads[kernel.clone(pid)].mask = None


def test_a_process_that_ends_at_any_step_is_gone_and_leaves_nothing(bench: Bench) -> None:
    for step in range(1, _steps_of_apply(bench) + 1):
        fresh = Bench(bench.kernel.version, bench.enforcer.mechanism)
        kernel, pid = fresh.kernel, fresh.pid
        kernel.at_step[step] = partial(kernel.end, pid)
        undo = fresh.enforcer.snapshot("web", fresh.target)
        with pytest.raises(ProcessGone, match=f"process {pid} "):
            fresh.enforcer.apply("web", fresh.target, ON_1, undo)
        threads = kernel.picture()["threads"]
        before = fresh.before["threads"]
        assert isinstance(threads, dict)
        assert isinstance(before, dict)
        assert kernel.picture()["groups"] == fresh.before["groups"]
        assert threads == {tid: before[tid] for tid in threads}, f"step {step}"


def test_a_pid_given_to_another_process_is_never_moved(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.kernel.end(bench.pid)
    bench.kernel.end(bench.child)
    bench.kernel.spawn(pid=bench.pid, comm="stranger", group="/app")
    before = bench.kernel.picture()
    with pytest.raises(ProcessReused, match="stranger"):
        bench.enforcer.apply("web", bench.target, ON_1, undo)

    assert bench.kernel.picture() == before
    assert bench.kernel.steps == 0


def test_a_pid_reused_in_the_middle_is_given_back(bench: Bench) -> None:
    def reuse() -> None:
        bench.kernel.end(bench.pid)
        bench.kernel.spawn(pid=bench.pid, comm="stranger", group="/app")

    undo = bench.enforcer.snapshot("web", bench.target)
    bench.kernel.at_step[_steps_of_apply(bench)] = reuse
    with pytest.raises(ProcessReused, match="stranger"):
        bench.enforcer.apply("web", bench.target, ON_1, undo)

    assert (bench.kernel.processes[bench.pid].threads[bench.pid].group, str(bench.kernel.allowed(bench.pid))) == (
        "/app",
        "0-2",
    )
    assert bench.enforcer.groups() == ()


def test_release_skips_the_dead_and_the_reused(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    bench.kernel.end(bench.child)
    bench.kernel.end(bench.pid)
    stranger = bench.kernel.spawn(pid=bench.pid, mask="3")
    released = bench.enforcer.release(undo)

    assert (released.restored, released.gone, released.left_over) == (0, 5, ())
    assert str(bench.kernel.allowed(stranger)) == "3"
    assert bench.enforcer.groups() == ()


def test_release_twice_is_harmless(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    bench.enforcer.release(undo)
    steps = bench.kernel.steps
    bench.enforcer.release(undo)

    assert bench.kernel.steps == steps
    assert bench.kernel.picture() == bench.before


def test_a_failing_release_says_what_is_left_and_a_second_one_finishes(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    for step in range(bench.kernel.steps + 1, bench.kernel.steps + 40):
        bench.kernel.fail_at[step] = errno.EPERM
    told = bench.enforcer.release(undo).left_over
    bench.kernel.fail_at.clear()
    bench.enforcer.release(undo)

    assert any("EPERM" in one for one in told)
    assert bench.kernel.picture() == bench.before


def test_narrow_masks_are_respected_and_reported() -> None:
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


def test_a_grant_that_differs_from_the_wish_is_undone() -> None:
    bench = Bench(2)
    bench.kernel.groups["/cotenant"] = FakeGroup(CpuSet.parse("3"), NodeSet(), {"cpuset"})
    before = bench.kernel.picture()
    undo = bench.enforcer.snapshot("web", bench.target)
    with pytest.raises(ApplyFailed, match=r"wished 1, granted 3"):
        bench.enforcer.apply("web", bench.target, ON_1, undo)

    assert bench.kernel.picture() == before


def test_our_home_regains_cpus_that_came_back_online() -> None:
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


def test_affinity_outside_the_cpuset_of_the_process_fails_with_the_reason() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    undo = bench.enforcer.snapshot("web", bench.target)
    with pytest.raises(ApplyFailed, match="EINVAL"):
        bench.enforcer.apply("web", bench.target, IsolationSpec(cpus=CpuSet.parse("3")), undo)

    assert bench.kernel.picture() == bench.before


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


class Forgetful(FakeKernel):
    """A kernel before 6.2: moving a thread to another cpuset forgets its own mask."""

    def write(self, path: str, text: str) -> None:
        super().write(path, text)
        if path.endswith(("cgroup.procs", "tasks")):
            for process in self.processes.values():
                for thread in process.threads.values():
                    if text.strip() in {str(process.pid), str(thread.tid)}:
                        thread.mask = None


@pytest.mark.parametrize("fails", [False, True])
def test_masks_that_old_kernels_forget_are_restored(fails: bool) -> None:  # noqa: FBT001
    kernel = Forgetful()
    pid = kernel.spawn(mask="0-1")
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
    before = kernel.picture()
    undo = enforcer.snapshot("web", target)
    if fails:
        child = kernel.fork(pid)
        before = kernel.picture()
        kernel.at_step[8] = partial(kernel.fail_at.update, {8: errno.EINVAL})
        with pytest.raises(ApplyFailed, match=f"move process {child} "):
            enforcer.apply("web", target, ON_1, undo)
    else:
        enforcer.apply("web", target, ON_1, undo)
        enforcer.release(undo)

    assert kernel.picture() == before


def test_an_interrupt_at_any_step_takes_everything_back(bench: Bench) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for step in range(1, _steps_of_apply(bench) + 1):
        fresh = Bench(bench.kernel.version, bench.enforcer.mechanism)
        fresh.kernel.at_step[step] = interrupt
        undo = fresh.enforcer.snapshot("web", fresh.target)
        with pytest.raises(KeyboardInterrupt):
            fresh.enforcer.apply("web", fresh.target, ON_1, undo)
        assert fresh.kernel.picture() == fresh.before, f"step {step}"


def test_a_descendant_that_may_not_be_touched_is_missed_not_fatal() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    bench.kernel.fail_at[_steps_of_apply(bench)] = errno.EPERM  # the last one set is the child
    applied = bench.enforcer.apply("web", bench.target, ON_1, bench.enforcer.snapshot("web", bench.target))

    assert applied.missed == (bench.child,)
    assert not applied.complete
