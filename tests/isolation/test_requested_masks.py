"""Others keep the CPUs they asked for when a placement enables cpuset at the top of cgroup v2 on an old kernel."""

from __future__ import annotations

import errno

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Enforcer, Target, Undo
from isolation.errors import ApplyFailed, UndoFailed
from isolation.process import identify
from isolation.spec import IsolationSpec
from tests.fakes.groups import FakeGroup
from tests.fakes.kernel import FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(cores_per_llc=4)
ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))
SWITCH = "/sys/fs/cgroup/cgroup.subtree_control"


class Host:
    """A kernel before 6.2 on which cpuset is not enabled below the top, and a bystander of three threads there."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(cpus="0-3", mems="0", version=2, remembers_masks=False)
        self.kernel.groups["/service"] = FakeGroup(CpuSet(), NodeSet())
        self.bystander = self.kernel.spawn(threads=3, group="/service", mask="0")
        _, self.second, wide = sorted(self.kernel.processes[self.bystander].threads)
        self.kernel.set(self.second, CpuSet.parse("1-2"))
        self.kernel.processes[self.bystander].threads[wide].mask = None
        self.pid = self.kernel.spawn(threads=2, mask="1-3")
        self.enforcer: Enforcer = self.kernel.enforcer(TOPOLOGY)
        self.target = Target(processes=(identify(self.pid, allowed_uids=None, files=self.kernel, own_pid=99),))
        self.undo: Undo = self.enforcer.snapshot("web", self.target)
        self.before = self.masks()
        self.kernel.steps = 0

    def masks(self) -> list[str]:
        """Return where the threads of the bystander may run."""
        return [str(self.kernel.allowed(tid)) for tid in sorted(self.kernel.processes[self.bystander].threads)]

    def apply(self) -> None:
        self.enforcer.apply("web", self.target, ON_1, self.undo)


def test_threads_of_others_keep_what_they_asked_for_when_cpuset_is_enabled_at_the_top() -> None:
    host = Host()
    host.kernel.write(SWITCH, "+cpuset")
    lost = host.masks()
    host.kernel.write(SWITCH, "-cpuset")
    host = Host()
    host.apply()

    assert lost == ["0-3", "0-3", "0-3"]
    assert host.masks() == host.before == ["0", "1-2", "0-3"]
    host.enforcer.release(host.undo)
    assert host.masks() == host.before
    assert {str(host.kernel.allowed(tid)) for tid in host.kernel.processes[host.pid].threads} == {"1-3"}


def test_they_keep_it_when_the_placement_fails_and_cpuset_is_disabled_again() -> None:
    host = Host()
    picture = host.kernel.picture()
    host.kernel.fail_at[8] = errno.EIO  # behind the enabling and the masks given back
    with pytest.raises(ApplyFailed, match="EIO"):
        host.apply()

    assert host.kernel.read(SWITCH) == "\n"
    assert host.kernel.picture() == picture


def test_a_mask_that_cannot_be_given_back_undoes_the_placement_and_names_the_thread() -> None:
    host = Host()
    picture = host.kernel.picture()
    host.kernel.fail_at[2] = errno.EPERM  # the first change after the enabling
    with pytest.raises(
        ApplyFailed, match=rf"thread {host.bystander} of process {host.bystander} had asked for CPUs 0, .*EPERM"
    ):
        host.apply()

    assert host.kernel.picture() == picture  # without the controller it could be given back
    assert host.kernel.read(SWITCH) == "\n"


def test_a_mask_that_is_lost_for_good_is_told_as_a_failed_undo() -> None:
    host = Host()
    thread = host.second
    host.kernel.fail_at = {3: errno.EPERM, 6: errno.EPERM}
    with pytest.raises(UndoFailed, match=rf"and undoing failed too: .*thread {thread} of process {host.bystander} had"):
        host.apply()


def test_a_thread_that_ends_meanwhile_and_one_born_during_the_look_are_no_error() -> None:
    host = Host()
    born: list[int] = []

    def change() -> None:
        born.append(host.kernel.clone(host.bystander))
        host.kernel.end(host.second)

    host.kernel.at_step[1] = change  # the enabling itself
    host.apply()

    assert host.masks() == ["0", "0-3", "0-3"]  # who is born in that very moment is in nobody's record
    assert host.kernel.allowed(born[0]) == CpuSet.parse("0-3")
