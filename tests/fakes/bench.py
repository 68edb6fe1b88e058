"""A fake kernel with its enforcer and one process to place."""

from __future__ import annotations

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Mechanism, Target
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


def steps_of_apply(bench: Bench) -> int:
    """Return how many changes to the kernel one apply makes."""
    twin = Bench(bench.kernel.version, bench.enforcer.mechanism)
    twin.enforcer.apply("web", twin.target, ON_1, twin.enforcer.snapshot("web", twin.target))
    return twin.kernel.steps
