"""Where threads are sent when a placement fails after they were moved, and what release may not touch."""

from __future__ import annotations

import errno
import os

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Target
from isolation.errors import ApplyFailed
from isolation.process import identify
from isolation.spec import IsolationSpec
from tests.fakes.groups import FakeGroup
from tests.fakes.kernel import FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(cores_per_llc=4)
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
