"""Where threads are sent when a placement fails after they were moved, and what release may not touch."""

from __future__ import annotations

import errno
import os

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Enforcer, Target, Undo
from isolation.errors import ApplyFailed
from isolation.process import identify
from isolation.spec import IsolationSpec
from tests.fakes.groups import FakeGroup
from tests.fakes.hotplug import FakeMachine
from tests.fakes.kernel import FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(cores_per_llc=4)
ON_2 = IsolationSpec(cpus=CpuSet.parse("2"))
ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))


class BlindKernel(FakeKernel):
    """Tells no status of a thread that is in a group of ours."""

    def read(self, path: str) -> str:
        parts = path.split("/")
        if path.endswith("/status") and "task" in parts and self._find(int(parts[-2]))[1].group.startswith("/cotenant"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().read(path)


def scattered(kernel: FakeKernel) -> int:
    """Start a process whose threads are in two groups of somebody else's."""
    for path in ("/here", "/there", "/elsewhere"):
        kernel.groups[path] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0"))
    pid = kernel.spawn(threads=4, group="/here")
    for tid in sorted(kernel.processes[pid].threads)[2:]:
        kernel.processes[pid].threads[tid].group = "/there"
    return pid


@pytest.mark.parametrize("moved", ["nobody", "main thread", "everybody"])
def test_a_placement_that_fails_after_the_move_sends_each_thread_where_it_was(moved: str) -> None:
    kernel = BlindKernel(cpus="0-3", mems="0")
    pid = scattered(kernel)
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=1),))
    undo = enforcer.snapshot("web", target)
    for thread in kernel.processes[pid].threads.values():  # somebody else, since the snapshot
        if moved == "everybody" or (moved == "main thread" and thread.tid == pid):
            thread.group = "/elsewhere"
    before = kernel.picture()

    with pytest.raises(ApplyFailed, match="EIO"):
        enforcer.apply("web", target, ON_1, undo)

    assert kernel.picture() == before
    assert kernel.steps > 5  # it did get as far as moving


def test_a_group_that_holds_a_strangers_group_stays_and_everybody_goes_home() -> None:
    kernel = FakeKernel(cpus="0-3", mems="0")
    pid = scattered(kernel)
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=1),))
    undo = enforcer.snapshot("web", target)
    before = kernel.picture()["threads"]
    enforcer.apply("web", target, ON_1, undo)
    kernel.groups["/cotenant/web/theirs"] = FakeGroup(CpuSet.parse("1"), NodeSet.parse("0"))

    released = enforcer.release(undo)

    assert (released.restored, released.left_over) == (4, ())
    assert kernel.picture()["threads"] == before
    assert "/cotenant/web/theirs" in kernel.groups


def test_a_process_whose_first_thread_has_ended_goes_home_with_the_others() -> None:
    for version in (1, 2):
        kernel = FakeKernel(version=version)
        if version == 2:
            kernel.groups["/"].subtree.add("cpuset")
        pid = kernel.spawn(threads=3)
        enforcer = kernel.enforcer(TOPOLOGY)
        target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
        undo = enforcer.snapshot("web", target)
        enforcer.apply("web", target, ON_1, undo)
        kernel.processes[pid].threads[pid].state = "Z"
        released = enforcer.release(undo)

        assert (released.restored, released.gone, released.left_over) == (2, 1, ())
        assert {one.group for one in kernel.processes[pid].threads.values() if one.state != "Z"} == {"/"}


def dying(version: int, threads: int = 3) -> tuple[FakeKernel, Enforcer, Undo, int]:
    """Place a process whose first thread is a zombie then, while the others are exiting."""
    kernel = FakeKernel(version=version)
    if version == 2:
        kernel.groups["/"].subtree.add("cpuset")
    pid = kernel.spawn(threads=threads)
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
    undo = enforcer.snapshot("web", target)
    enforcer.apply("web", target, ON_1, undo)
    for thread in kernel.processes[pid].threads.values():
        thread.exiting = True
    kernel.processes[pid].threads[pid].state = "Z"
    return kernel, enforcer, undo, pid


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_whose_threads_are_all_exiting_is_removed_when_they_are_gone(version: int) -> None:
    kernel, enforcer, undo, pid = dying(version)
    kernel.at_step[kernel.steps + 5] = lambda: kernel.end(pid, zombie=True)
    released = enforcer.release(undo)

    assert (released.restored, released.gone, released.left_over) == (0, 3, ())
    assert enforcer.groups() == ()


@pytest.mark.parametrize("version", [1, 2])
def test_threads_that_exit_for_ever_are_told_and_not_waited_for_without_end(version: int) -> None:
    kernel, enforcer, undo, pid = dying(version, threads=2)
    released = enforcer.release(undo)

    assert released.left_over == (f"group '/cotenant/web' still holds threads, such as {pid + 1}",)
    kernel.end(pid, zombie=True)
    assert enforcer.release(undo).left_over == ()
    assert enforcer.groups() == ()


def test_who_cannot_go_home_because_it_is_exiting_is_not_told_of() -> None:
    kernel, enforcer, undo, pid = dying(2, threads=2)
    kernel.fail_at[kernel.steps + 1] = errno.EOPNOTSUPP
    kernel.at_step[kernel.steps + 2] = lambda: kernel.end(pid, zombie=True)

    assert enforcer.release(undo).left_over == ()


def families(kernel: FakeKernel) -> tuple[Enforcer, dict[str, Undo], dict[str, Target], list[int]]:
    """Place two processes; the second one has a child, a grandchild and one whose parent ended, all born since."""
    enforcer = kernel.enforcer(TOPOLOGY)
    undos, targets, found = {}, {}, []
    for name in ("db", "web"):
        found.append(pid := kernel.spawn(threads=2))
        targets[name] = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
        undos[name] = enforcer.snapshot(name, targets[name])
        enforcer.apply(name, targets[name], ON_1, undos[name])
    found.append(child := kernel.fork(pid))
    found += [kernel.fork(child), orphan := kernel.fork(pid)]
    kernel.processes[orphan].ppid = 1
    kernel._leader(pid).children.remove(orphan)
    return enforcer, undos, targets, found


def test_fault_59_descendants_whom_the_kernel_moved_above_our_group_are_gathered_back() -> None:
    kernel = FakeKernel(version=1)
    enforcer, undos, targets, (_, web, child, grandchild, _) = families(kernel)
    FakeMachine(kernel, TOPOLOGY).offline("1")
    sent = {kernel.processes[pid].threads[pid].group for pid in (web, child, grandchild)}
    drifts = enforcer.verify(targets["web"], ON_2, undos["web"])
    applied = enforcer.apply("web", targets["web"], ON_2, undos["web"])

    assert sent == {"/cotenant"}
    assert {drift.tid for drift in drifts if drift.tid} == {web, web + 1, child, grandchild}
    assert (applied.threads, applied.missed) == (4, ())
    assert {str(kernel.allowed(pid)) for pid in (web, child, grandchild)} == {"2"}


def test_fault_59_release_sends_home_whom_the_kernel_moved_above_our_group() -> None:
    kernel = FakeKernel(version=1)
    enforcer, undos, _, pids = families(kernel)
    db, web, child, grandchild, orphan = pids
    machine = FakeMachine(kernel, TOPOLOGY)
    machine.offline("1")
    machine.online("1")
    first = enforcer.release(undos["web"])
    meanwhile = {pid: kernel.processes[pid].threads[pid].group for pid in pids}
    second = enforcer.release(undos["db"])

    assert (first.left_over, second.left_over) == ((), ())
    home = dict.fromkeys((web, child, grandchild), "/")
    assert meanwhile == {**home, db: "/cotenant", orphan: "/cotenant"}  # an orphan may be of either
    assert {kernel.processes[pid].threads[pid].group for pid in pids} == {"/"}
    assert list(kernel.groups) == ["/"]
