"""The enforcer when the kernel refuses, lies, or the world moves: every failure at every step, on the fake kernel."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from isolation.affinity import ThreadAffinity
from isolation.cgroup import CpusetGroups, CpusetHierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Mechanism, Target
from isolation.errors import (
    ApplyFailed,
    CgroupVanished,
    ProcessGone,
    ProcessReused,
    UndoFailed,
)
from isolation.moving import Mover
from isolation.own_group import OwnGroup
from isolation.process import identify
from isolation.spec import IsolationSpec
from isolation.steps import Steps
from tests.fakes.bench import ON_1, ON_2_3, TOPOLOGY, WAYS, Bench, steps_of_apply
from tests.fakes.kernel import FakeKernel


@pytest.fixture(params=WAYS, ids=["v1", "v2", "affinity"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(*request.param)


@pytest.fixture(params=WAYS[:2], ids=["v1", "v2"])
def cgroups(request: pytest.FixtureRequest) -> Bench:
    return Bench(*request.param)


def test_a_failure_at_any_step_leaves_the_state_before(bench: Bench) -> None:
    total = steps_of_apply(bench)
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
    for step in range(1, steps_of_apply(bench) + 1):
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
    total = steps_of_apply(cgroups)
    fresh = Bench(cgroups.kernel.version)
    fresh.kernel.fail_at = {total: errno.EINVAL, total + 1: errno.EPERM, total + 2: errno.EPERM, total + 3: errno.EPERM}
    undo = fresh.enforcer.snapshot("web", fresh.target)
    with pytest.raises(UndoFailed, match=r"EINVAL.*EPERM") as caught:
        fresh.enforcer.apply("web", fresh.target, ON_1, undo)

    assert not caught.value.retryable
    fresh.kernel.fail_at.clear()
    assert fresh.enforcer.release(undo).left_over == ()  # a later release, as recovery does, finishes the work
    assert fresh.kernel.picture() == fresh.before


@pytest.mark.parametrize("way", WAYS)
def test_threads_and_children_born_at_any_step_are_caught(way: tuple[int, Mechanism | None]) -> None:
    for step in range(1, steps_of_apply(Bench(*way)) + 1):
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


def test_fault_32_endless_births_outside_end_as_partial() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    for step in range(1, 200):
        bench.kernel.at_step[step] = partial(_escape, bench.kernel, bench.pid)
    applied = bench.enforcer.apply("web", bench.target, ON_1, bench.enforcer.snapshot("web", bench.target))

    assert not applied.complete
    assert applied.missed


def _escape(kernel: FakeKernel, pid: int) -> None:
    kernel.processes[pid].threads[kernel.clone(pid)].mask = None


def test_fault_33_threads_the_time_does_not_suffice_for_are_missed_and_the_next_call_goes_on() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(threads=1000)
    process = identify(pid, allowed_uids=None, files=kernel, own_pid=99)
    affinity = ThreadAffinity(files=kernel, affinity=kernel, proc_root="/proc", budget_s=5, clock=lambda: kernel.steps)
    undo = affinity.snapshot((process,))
    missed = []
    for _ in range(10):
        applied = affinity.place((process,), ON_1, undo, Steps(), previous=None)
        missed.append(len(applied.missed))
        if applied.complete:
            break
    released = affinity.release(undo)

    assert missed == [745, 490, 235, 0]
    assert (released.restored, released.left_over) == (1000, ())
    assert {str(kernel.allowed(tid)) for tid in kernel.processes[pid].threads} == {"0-3"}


@pytest.mark.parametrize("version", [1, 2])
def test_fault_33_processes_the_time_does_not_suffice_for_are_missed_and_the_next_call_goes_on(version: int) -> None:
    kernel = FakeKernel(version=version)
    pid = kernel.spawn()
    children = [kernel.fork(pid) for _ in range(20)]
    before = kernel.picture()["threads"]
    process = identify(pid, allowed_uids=None, files=kernel, own_pid=99)
    groups = CpusetGroups(CpusetHierarchy(version=version, mount=kernel.mount), files=kernel, proc_root="/proc")
    mover = Mover(groups, files=kernel, affinity=kernel, proc_root="/proc", budget_s=8, clock=lambda: kernel.steps)
    own = OwnGroup(groups, mover, prefix="cotenant")
    undo = own.snapshot("web", (process,))
    missed = []
    for _ in range(10):
        applied = own.place((process,), ON_1, undo, Steps())
        missed.append(len(applied.missed))
        assert applied.threads + len(applied.missed) == 21
        if applied.complete:
            break
    confined = {str(kernel.allowed(one)) for one in (pid, *children)}
    released = own.release(undo)

    assert missed == [12, 3, 0]
    assert confined == {"1"}
    assert (released.restored, released.left_over) == (21, ())
    assert kernel.picture()["threads"] == before


def test_fault_31_a_process_that_ends_at_any_step_is_gone_and_leaves_nothing(bench: Bench) -> None:
    for step in range(1, steps_of_apply(bench) + 1):
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


def test_fault_25_a_pid_given_to_another_process_is_never_moved(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.kernel.end(bench.pid)
    bench.kernel.end(bench.child)
    bench.kernel.spawn(pid=bench.pid, comm="stranger", group="/app")
    before = bench.kernel.picture()
    with pytest.raises(ProcessReused, match="stranger"):
        bench.enforcer.apply("web", bench.target, ON_1, undo)

    assert bench.kernel.picture() == before
    assert bench.kernel.steps == 0


def test_fault_25_a_pid_reused_in_the_middle_is_given_back(bench: Bench) -> None:
    def reuse() -> None:
        bench.kernel.end(bench.pid)
        bench.kernel.spawn(pid=bench.pid, comm="stranger", group="/app")

    undo = bench.enforcer.snapshot("web", bench.target)
    bench.kernel.at_step[steps_of_apply(bench)] = reuse
    with pytest.raises(ProcessReused, match="stranger"):
        bench.enforcer.apply("web", bench.target, ON_1, undo)

    assert (bench.kernel.processes[bench.pid].threads[bench.pid].group, str(bench.kernel.allowed(bench.pid))) == (
        "/app",
        "0-2",
    )
    assert bench.enforcer.groups() == ()


def test_fault_25_release_skips_the_dead_and_the_reused(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, ON_1, undo)
    bench.kernel.end(bench.child)
    bench.kernel.end(bench.pid)
    stranger = bench.kernel.spawn(pid=bench.pid, mask="3")
    released = bench.enforcer.release(undo)

    assert (released.restored, released.gone, released.left_over) == (0, 5, ())
    assert str(bench.kernel.allowed(stranger)) == "3"
    assert bench.enforcer.groups() == ()


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


def test_affinity_outside_the_cpuset_of_the_process_fails_with_the_reason() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    undo = bench.enforcer.snapshot("web", bench.target)
    with pytest.raises(ApplyFailed, match="EINVAL"):
        bench.enforcer.apply("web", bench.target, IsolationSpec(cpus=CpuSet.parse("3")), undo)

    assert bench.kernel.picture() == bench.before


@pytest.mark.parametrize("fails", [False, True])
def test_masks_that_old_kernels_forget_are_restored(fails: bool) -> None:  # noqa: FBT001
    kernel = FakeKernel(remembers_masks=False)
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

    for step in range(1, steps_of_apply(bench) + 1):
        fresh = Bench(bench.kernel.version, bench.enforcer.mechanism)
        fresh.kernel.at_step[step] = interrupt
        undo = fresh.enforcer.snapshot("web", fresh.target)
        with pytest.raises(KeyboardInterrupt):
            fresh.enforcer.apply("web", fresh.target, ON_1, undo)
        assert fresh.kernel.picture() == fresh.before, f"step {step}"


def test_a_descendant_that_may_not_be_touched_is_missed_not_fatal() -> None:
    bench = Bench(1, Mechanism.AFFINITY)
    bench.kernel.fail_at[steps_of_apply(bench)] = errno.EPERM  # the last one set is the child
    applied = bench.enforcer.apply("web", bench.target, ON_1, bench.enforcer.snapshot("web", bench.target))

    assert applied.missed == (bench.child,)
    assert not applied.complete


@pytest.mark.parametrize("fails", [False, True])
def test_a_v2_group_that_inherited_inherits_again(fails: bool) -> None:  # noqa: FBT001
    """The kernel refuses to empty the cpuset of a group with tasks: what the machine can have stands for empty."""
    kernel = FakeKernel(version=2)
    kernel.write(f"{kernel.mount}/cgroup.subtree_control", "+cpuset")
    kernel.mkdir(f"{kernel.mount}/service")
    pid = kernel.spawn(threads=3, group="/service")
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(cgroup_path="/service")
    before = kernel.picture()["threads"]
    undo = enforcer.snapshot("service", target)
    if fails:
        kernel.fail_at[kernel.steps + 2] = errno.EINVAL  # mems are written, cpus are not
        with pytest.raises(ApplyFailed, match="failed and was undone: cannot write '2-3'"):
            enforcer.apply("service", target, ON_2_3, undo)
    else:
        enforcer.apply("service", target, ON_2_3, undo)
        assert kernel.read(f"{kernel.mount}/service/cpuset.mems.effective") == "1\n"
        assert enforcer.release(undo).left_over == ()

    assert kernel.picture()["threads"] == before
    assert kernel.read(f"{kernel.mount}/service/cpuset.mems.effective") == "0-1\n"
    assert kernel.allowed(pid) == CpuSet.parse("0-3")
