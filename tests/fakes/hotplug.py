"""CPUs of the fake kernel that go offline and come back, by the rules of cgroup v1 and v2."""

from __future__ import annotations

from dataclasses import replace

from isolation.cpuset import CpuSet, IdSet
from isolation.topology import Topology
from tests.fakes.groups import parent_of
from tests.fakes.kernel import FakeKernel


class FakeMachine:
    """The shape of a fake host; `kernel` learns of every change before anybody can read it."""

    def __init__(self, kernel: FakeKernel, whole: Topology) -> None:
        self.whole = whole
        self._kernel = kernel

    def revision(self) -> tuple[str | None, ...]:
        """Return the list of CPUs that are online."""
        return (str(self._kernel.groups["/"].cpus),)

    def topology(self) -> Topology:
        """Give the whole machine without what is offline."""
        return without(self.whole, self.whole.online - CpuSet(self._kernel.groups["/"].cpus.mask))

    def offline(self, cpus: str) -> None:
        """Take CPUs away; on v1 the groups lose them for good, and who is left without any moves to a group above."""
        gone = IdSet.parse(cpus)
        groups = self._kernel.groups
        groups["/"].cpus = groups["/"].cpus - gone
        for process in self._kernel.processes.values():
            for thread in process.threads.values():
                if thread.mask is not None and not thread.mask & CpuSet(groups["/"].cpus.mask):
                    thread.mask = None  # the kernel rather breaks a mask than lets a thread starve
        if self._kernel.version == 2:
            return
        for path, group in groups.items():
            group.cpus = group.cpus - gone
            if not group.cpus:
                self._send_up(path)

    def online(self, cpus: str) -> None:
        """Bring CPUs back: to the top only, as on v1; on v2 the groups asked for them all along."""
        top = self._kernel.groups["/"]
        top.cpus = top.cpus | IdSet.parse(cpus)

    def _send_up(self, path: str) -> None:
        above = path
        while not self._kernel.groups[above].cpus:
            above = parent_of(above)
        for process in self._kernel.processes.values():
            for thread in process.threads.values():
                if thread.group == path:
                    thread.group = above


def without(topology: Topology, gone: CpuSet) -> Topology:
    """Give the machine as it is read when these CPUs are offline; a cache without CPUs is not listed."""
    return replace(
        topology,
        cpus=tuple(cpu for cpu in topology.cpus if cpu.id not in gone),
        llc_domains=tuple(
            replace(domain, cpus=domain.cpus - gone) for domain in topology.llc_domains if domain.cpus - gone
        ),
        nodes=tuple(replace(node, cpus=node.cpus - gone) for node in topology.nodes),
        online=topology.online - gone,
        offline=topology.offline | gone,
        usable=topology.usable - gone,
    )
