"""Memory nodes from the planner to the kernel: bound when little would move, left or migrated when much would."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from isolation.cpuset import CpuSet, NodeSet
from isolation.memory_nodes import MemoryNodes
from tests.fakes.desk import Desk, SickKernel
from tests.fakes.machines import make_topology
from tests.fakes.memory import FakeMemory, FakeRange, FakeSpace

TOPOLOGY = make_topology(packages=2, cores_per_llc=2)  # CPUs 0-1 on node 0, 2-3 on node 1
_PAGE_BYTES = 64 << 10  # as on some Arm machines: fewer pages for the same memory


class NumaKernel(SickKernel):
    """Processes have pages; at most so many bytes of them are moved per second."""

    def __init__(self, *, version: int = 2, mib_per_s: int = 0) -> None:
        self.memory = FakeMemory()
        self.mib_per_s = mib_per_s
        super().__init__(cpus="0-3", mems="0-1", version=version, closids=0)

    def memory_nodes(self) -> MemoryNodes:
        return MemoryNodes(
            files=self,
            binding_moves_pages=self.version == 2,
            migration_bytes_per_s=self.mib_per_s << 20,
            pages=self.memory,
        )

    def read(self, path: str) -> str:
        parts = path.split("/")
        if parts[-1] in {"numa_maps", "maps", "meminfo"} and (parts[1] == "sys" or int(parts[2]) in self.memory.spaces):
            return self.memory.read(path)
        return super().read(path)

    def folders(self, path: str) -> tuple[str, ...]:
        return self.memory.folders(path) if path == "/sys/devices/system/node" else super().folders(path)

    def fill(self, pid: int, mib: int, node: int) -> FakeRange:
        """Give a process memory on a node."""
        pages: list[int | None] = [node] * ((mib << 20) // _PAGE_BYTES)
        found = FakeRange(start=0x7F0000000000, nodes=pages, page_bytes=_PAGE_BYTES)
        self.memory.spaces[pid] = FakeSpace(ranges=[found], mems=NodeSet.parse("0-1"))
        return found


def desk_of(folder: Path, kernel: NumaKernel) -> tuple[Desk, int]:
    """Let a neighbour take CPUs 0-1, so that who comes next goes to node 1."""
    folder.mkdir(exist_ok=True)
    desk = Desk(folder, version=kernel.version, topology=TOPOLOGY, kernel=kernel)
    desk.place("neighbour", kernel.spawn(), cpus=2)
    return desk, kernel.spawn(threads=2)


def mems(desk: Desk, name: str) -> str:
    return str(desk.viewer.current().placements[name].decision.mems or "any")


def granted(desk: Desk, name: str) -> str:
    return desk.kernel.read(f"{desk.kernel.mount}/cotenant/{name}/cpuset.mems.effective").strip()


def test_little_memory_elsewhere_is_bound_at_once(tmp_path: Path) -> None:
    kernel = NumaKernel()
    desk, pid = desk_of(tmp_path, kernel)
    kernel.fill(pid, 32, node=0)
    placed = desk.place("web", pid, cpus=2)

    assert (str(placed.decision.cpus), mems(desk, "web"), granted(desk, "web")) == ("2-3", "1", "1")
    assert placed.notes == ()


def test_much_memory_elsewhere_stays_where_it_is_while_migration_is_off(tmp_path: Path) -> None:
    kernel = NumaKernel()
    desk, pid = desk_of(tmp_path, kernel)
    kernel.fill(pid, 512, node=0)
    placed = desk.place("web", pid, cpus=2)
    for _ in range(2):
        desk.reconciler.reconcile()

    assert (str(placed.decision.cpus), mems(desk, "web"), granted(desk, "web")) == ("2-3", "any", "0-1")
    assert "512.0 MiB of its memory are outside node 1" in placed.notes[0]
    assert kernel.memory.moves == []
    assert desk.state("web") == "ACTIVE"


def test_fault_60_a_node_without_room_is_not_bound_to_whatever_the_rate(tmp_path: Path) -> None:
    kernel = NumaKernel(mib_per_s=1000)
    kernel.memory.free_bytes[1] = 300 << 20
    desk, pid = desk_of(tmp_path, kernel)
    kernel.fill(pid, 512, node=0)
    placed = desk.place("web", pid, cpus=2)
    desk.reconciler.reconcile()

    assert mems(desk, "web") == "any"
    assert "memory node 1 cannot take 512.0 MiB more" in placed.notes[0]
    assert kernel.memory.moves == []
    assert desk.kinds("web").count("refused") == 1


def test_fault_60_on_v1_where_binding_moves_nothing_a_full_node_is_not_bound_to_either(tmp_path: Path) -> None:
    kernel = NumaKernel(version=1)
    kernel.memory.free_bytes[1] = 10 << 20
    desk, pid = desk_of(tmp_path, kernel)
    kernel.fill(pid, 512, node=0)
    placed = desk.place("web", pid, cpus=2)
    desk.reconciler.reconcile()
    full = mems(desk, "web"), str(kernel.groups["/cotenant/web"].mems)
    desk.release("web")
    kernel.memory.free_bytes[1] = 4 << 30
    desk.place("web", pid, cpus=2)
    later = mems(desk, "web"), str(kernel.groups["/cotenant/web"].mems)

    assert full == ("any", "0-1")
    assert placed.notes[0].startswith("not bound to its memory nodes: memory node 1 cannot take any more: 10.0 MiB are")
    assert later == ("1", "1")


def test_fault_60_who_is_bound_stays_so_when_its_node_fills_up(tmp_path: Path) -> None:
    for version in (1, 2):
        kernel = NumaKernel(version=version)
        desk, pid = desk_of(tmp_path / str(version), kernel)
        kernel.fill(pid, 32, node=1)
        desk.place("web", pid, cpus=2)
        kernel.memory.free_bytes[1] = 10 << 20
        kernel.clone(pid)  # drift or not, it is looked at again
        kernel.groups["/cotenant/web"].cpus = CpuSet.parse("3")
        desk.reconciler.reconcile()

        assert desk.cpus(pid) == {"2-3"}
        assert (mems(desk, "web"), str(kernel.groups["/cotenant/web"].mems)) == ("1", "1")


def test_with_a_rate_memory_follows_in_slices_and_is_bound_then(tmp_path: Path) -> None:
    for version in (1, 2):
        kernel = NumaKernel(version=version, mib_per_s=100_000)
        desk, pid = desk_of(tmp_path / str(version), kernel)
        pages = kernel.fill(pid, 256, node=0)
        placed = desk.place("web", pid, cpus=2)
        assert mems(desk, "web") == "any"
        assert "they are moved at" in placed.notes[0]
        turns = 0
        while mems(desk, "web") == "any" and turns < 200:
            desk.reconciler.reconcile()
            turns += 1

        assert mems(desk, "web") == "1"
        assert set(pages.nodes) == {1}
        assert len(kernel.memory.moves) > 8  # slices, not all at once
        assert desk.state("web") == "ACTIVE"
        before = len(kernel.memory.moves), kernel.steps
        desk.reconciler.reconcile()
        assert (len(kernel.memory.moves), kernel.steps) == before


def test_what_cannot_be_moved_is_tried_once_and_told(tmp_path: Path) -> None:
    kernel = NumaKernel(mib_per_s=100_000)
    desk, pid = desk_of(tmp_path, kernel)
    pages = kernel.fill(pid, 256, node=0)
    pages.busy = frozenset(range(len(pages.nodes)))
    desk.place("web", pid, cpus=2)
    for _ in range(60):
        desk.reconciler.reconcile()
    before = len(kernel.memory.moves)
    desk.reconciler.reconcile()

    assert mems(desk, "web") == "any"
    assert len(kernel.memory.moves) == before > 0
    assert desk.kinds("web").count("refused") == 1
    assert "could not be migrated" in desk.viewer.current().placements["web"].notes[-1]


class StubbornNuma(NumaKernel):
    """Refuses to bind `web`."""

    refused = 0

    def write(self, path: str, text: str) -> None:
        if path.endswith("/cotenant/web/cpuset.mems"):
            self.refused += 1
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        super().write(path, text)


def test_memory_that_cannot_be_bound_after_it_was_moved_is_given_up(tmp_path: Path) -> None:
    kernel = StubbornNuma(mib_per_s=100_000)
    desk, pid = desk_of(tmp_path, kernel)
    kernel.fill(pid, 256, node=0)
    desk.place("web", pid, cpus=2)
    for _ in range(200):
        desk.turns(1)
        if kernel.refused:
            break
    refused, told, reads = kernel.refused, desk.events("web"), len(kernel.memory.reads)
    desk.turns(5)

    assert refused > 0
    assert (kernel.refused, len(kernel.memory.reads)) == (refused, reads)
    assert desk.events("web") == told
    assert (desk.state("web"), mems(desk, "web")) == ("ACTIVE", "any")


def test_another_placement_of_the_name_is_not_given_up_with_the_first(tmp_path: Path) -> None:
    kernel = NumaKernel(mib_per_s=100_000)
    desk, pid = desk_of(tmp_path, kernel)
    pages = kernel.fill(pid, 256, node=0)
    pages.busy = frozenset(range(len(pages.nodes)))
    desk.place("web", pid, cpus=2)
    desk.turns(60)
    assert desk.kinds("web").count("refused") == 1
    desk.release("web")
    kernel.end(pid)
    del kernel.memory.spaces[pid]
    second = kernel.spawn(threads=2)
    kernel.fill(second, 256, node=0)
    desk.place("web", second, cpus=2)
    desk.turns(200)

    assert mems(desk, "web") == "1"


def test_an_emptied_group_does_not_keep_others_from_their_memory(tmp_path: Path) -> None:
    kernel = NumaKernel(mib_per_s=100_000)
    desk, web = desk_of(tmp_path, kernel)
    desk.group("/pod", "0-3")
    kernel.groups["/pod"].mems = NodeSet.parse("0-1")
    pod = kernel.spawn(group="/pod")
    kernel.fill(pod, 512, node=0)
    assert str(desk.place("pod", cpus=2, cgroup_path="/pod").decision.cpus) == "2-3"
    desk.place("second", kernel.spawn(), cpus=2)
    kernel.fill(web, 512, node=0)
    assert str(desk.place("web", web, cpus=2).decision.cpus) == "2-3"
    kernel.end(pod)
    del kernel.memory.spaces[pod]
    desk.turns(200)

    assert (mems(desk, "pod"), mems(desk, "web")) == ("any", "1")
