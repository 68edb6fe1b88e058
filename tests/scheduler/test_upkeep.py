"""What goes wrong beside the daemon on a host with resctrl: one failure harms nobody else, and is tried again later."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation.topology import Topology
from tests.fakes.desk import Desk, SickKernel
from tests.fakes.machines import make_topology
from tests.scheduler.test_cache_ways import held, hungry, streaming, ways

TWO = make_topology(cores_per_llc=2)
FOUR = make_topology(cores_per_llc=4)  # CPUs 0-3, one cache


class StubbornKernel(SickKernel):
    """Refuses the writes that `refuses` names with an error number; `vanishing` goes when its parent is listed."""

    def __init__(self, *, topology: Topology = TWO, version: int = 1, closids: int = 8) -> None:
        self.refuses: Callable[[str, str], int] = lambda _path, _text: 0
        self.refused = 0
        self.vanishing = ""
        super().__init__(cpus=str(topology.online), mems="0", version=version, closids=closids)

    def write(self, path: str, text: str) -> None:
        if code := self.refuses(path, text):
            self.refused += 1
            raise OSError(code, os.strerror(code), path)
        super().write(path, text)

    def folders(self, path: str) -> tuple[str, ...]:
        found = super().folders(path)
        if self.vanishing and path == f"{self.mount}{self.vanishing.rpartition('/')[0]}":
            del self.groups[self.vanishing]
            self.vanishing = ""
        return found


@pytest.fixture
def kernel() -> StubbornKernel:
    return StubbornKernel()


@pytest.fixture
def desk(tmp_path: Path, kernel: StubbornKernel) -> Desk:
    return Desk(tmp_path, kernel=kernel)


def turns(desk: Desk, count: int) -> None:
    for _ in range(count):
        desk.reconciler.reconcile()


def events(desk: Desk, name: str) -> list[tuple[str, str]]:
    """Give kind and detail of all events of a workload."""
    return [(one.kind, one.detail) for one in desk.journal.events(0, 10_000) if one.workload == name]


# --- groups that are somebody else's ------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a stream"])
def test_a_placed_group_stays_placed_on_a_host_with_resctrl(tmp_path: Path, version: int, *, beside: bool) -> None:
    desk = Desk(tmp_path, version=version, closids=8)
    desk.group("/pod")
    pid = desk.kernel.spawn(group="/pod")
    desk.place("pod", cgroup_path="/pod", profile=hungry("pod"))
    if beside:
        desk.place("scan", desk.kernel.spawn(), profile=streaming("scan"))
    wished = ways(desk, "pod")
    before, told = desk.kernel.steps, events(desk, "pod")
    turns(desk, 3)
    desk.restart()
    turns(desk, 2)

    assert desk.state("pod") == "ACTIVE"
    assert (ways(desk, "pod"), held(desk, pid)) == (wished, wished or 0x7FF)
    assert bool(wished) == beside
    assert desk.kernel.steps == before
    assert events(desk, "pod") == told


def test_a_group_within_the_placed_one_may_vanish_while_it_is_looked_at(tmp_path: Path) -> None:
    kernel = StubbornKernel(version=2, closids=0)
    desk = Desk(tmp_path, version=2, kernel=kernel)
    desk.group("/pod")
    pid = kernel.spawn(group="/pod")

    def vanish() -> None:
        desk.group("/pod/inner")
        kernel.vanishing = "/pod/inner"

    vanish()
    assert desk.enforcer.processes_in("/pod") == (pid,)
    desk.at["place: apply"] = vanish
    seat = str(desk.place("pod", cgroup_path="/pod").decision.cpus)
    vanish()
    desk.reconciler.reconcile()

    assert kernel.vanishing == ""
    assert desk.state("pod") == "ACTIVE"
    assert desk.cpus(pid) == {seat}
    assert [kind for kind, _ in events(desk, "pod")] == ["placed"]
