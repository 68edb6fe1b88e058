"""Where pages live and what is free: read from text, summed over processes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.cpuset import NodeSet
from isolation.errors import ProcessGone
from isolation.node_memory import NodeBytes, NodeMemory, read_node_memory, size_text
from isolation.numa_maps import mapped_files, memory_of, read_mappings
from tests.fakes.memory import FakeMemory, FakeRange
from tests.fakes.memory_processes import memory_process

_BOTH = NodeSet.parse("0-1")
_AMOUNTS = st.dictionaries(st.integers(0, 7), st.integers(0, 1 << 40))


@given(st.lists(_AMOUNTS), st.sets(st.integers(0, 7)))
def test_inside_and_outside_make_the_total(amounts: list[dict[int, int]], chosen: set[int]) -> None:
    found = NodeBytes.sum(NodeBytes.of(one) for one in amounts)
    nodes = NodeSet.of(chosen)

    assert found.total_bytes == sum(sum(one.values()) for one in amounts)
    assert found.inside(nodes) + found.outside(nodes) == found.total_bytes
    assert NodeBytes.most(NodeBytes.of(one) for one in amounts).total_bytes <= found.total_bytes


def test_amounts_are_said_for_people() -> None:
    assert str(NodeBytes.of({1: 12 << 20, 0: 4 << 30})) == "4.0 GiB on node 0, 12.0 MiB on node 1"
    assert str(NodeBytes()) == "nothing on any node"
    assert [size_text(one) for one in (0, 1023, 1536)] == ["0 bytes", "1023 bytes", "1.5 KiB"]


def test_huge_pages_count_in_their_own_size_and_files_apart() -> None:
    kernel = FakeMemory()
    who = kernel.spawn(
        FakeRange(start=0x1000, nodes=[0, 1, None, 1]),
        FakeRange(start=2 << 30, nodes=[1, None], page_bytes=2 << 20),
        FakeRange(start=4 << 30, nodes=[0] * 3, path="/lib/c.so", inode=5, own_copies=1),
        FakeRange(start=5 << 30, nodes=[1] * 2, path="/lib/c.so", inode=5, own_copies=2),
        FakeRange(start=6 << 30, nodes=[None] * 9, path="/lib/unused.so", inode=6),
    )

    found = memory_of([who.pid], files=kernel)

    assert found is not None
    assert found.anonymous == NodeBytes.of({0: 4096, 1: 4 * 4096 + (2 << 20)})
    assert found.files == NodeBytes.of({0: 3 * 4096})
    assert found.all.total_bytes == found.anonymous.total_bytes + found.files.total_bytes


def test_a_file_that_several_map_counts_once_and_private_memory_adds_up() -> None:
    kernel = FakeMemory()
    model = FakeRange(start=1 << 30, nodes=[0] * 100, path="/model", inode=9)
    part = FakeRange(start=3 << 30, nodes=[*[0] * 60, *[1] * 7], path="/model", inode=9)
    other = FakeRange(start=4 << 30, nodes=[1] * 5, path="/model", inode=10)  # another file of that name
    first = kernel.spawn(model, FakeRange(start=0x1000, nodes=[0]))
    second = kernel.spawn(part, other, FakeRange(start=0x1000, nodes=[0]))

    found = memory_of([first.pid, second.pid, 4711], files=kernel)

    assert found is not None
    assert found.files == NodeBytes.of({0: 100 * 4096, 1: 12 * 4096})
    assert found.anonymous == NodeBytes.of({0: 2 * 4096})


def test_without_numa_where_pages_live_is_unknown_and_there_is_one_node() -> None:
    kernel = FakeMemory(numa=False)
    who = kernel.spawn(FakeRange(start=0x1000, nodes=[0]))

    assert memory_of([who.pid], files=kernel) is None
    with pytest.raises(ProcessGone, match="process 4711 does not exist"):
        read_mappings(4711, files=kernel)


@pytest.mark.parametrize("name", ["/a\\040b", "/N9=999", "/x\x0bN9=7", "/käse"])
def test_a_file_name_never_counts_as_pages(name: str) -> None:
    kernel = FakeMemory()
    who = kernel.spawn(FakeRange(start=0x1000, nodes=[0, 0], path=name, inode=3))

    found = memory_of([who.pid], files=kernel)

    assert found is not None
    assert found.files == NodeBytes.of({0: 8192})


def test_free_memory_counts_clean_inactive_file_pages_and_no_active_ones(tmp_path: Path) -> None:
    folder = tmp_path / "sys/devices/system/node"
    told = {"MemTotal": 1000, "MemFree": 100, "Active(file)": 400, "Inactive(file)": 50, "Dirty": 20, "Writeback": 5}
    for node, total in ((3, 0), (1, 1000)):
        (folder / f"node{node}").mkdir(parents=True)
        lines = (f"Node {node} {name}: {value} kB" for name, value in (told | {"MemTotal": total}).items())
        (folder / f"node{node}/meminfo").write_text("\n".join(lines) + "\n")

    found = read_node_memory(root=str(tmp_path))

    assert found == (NodeMemory(node=1, total_bytes=1000 << 10, free_bytes=125 << 10),)
    assert found[0].margin_bytes == 64 << 20
    assert NodeMemory(node=0, total_bytes=1 << 40, free_bytes=0).margin_bytes == 32 << 30


def test_more_dirty_pages_than_inactive_ones_take_nothing_from_what_is_free(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    told = {"MemTotal": 1000, "MemFree": 100, "Inactive(file)": 50, "Dirty": 70}
    (tmp_path / "proc/meminfo").write_text("".join(f"{name}: {value} kB\n" for name, value in told.items()))

    (found,) = read_node_memory(root=str(tmp_path))

    assert found.free_bytes == 100 << 10


def test_the_only_node_has_all_that_there_is_whatever_part_of_it_it_is_told_to_have(tmp_path: Path) -> None:
    for file, total in (("sys/devices/system/node/node0/meminfo", 10_000), ("proc/meminfo", 24_000)):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(f"MemTotal: {total} kB\nMemFree: {total // 2} kB\n")

    assert read_node_memory(root=str(tmp_path)) == (
        NodeMemory(node=0, total_bytes=24_000 << 10, free_bytes=12_000 << 10),
    )


def test_real_memory_of_a_kernel_without_node_folders_is_node_0(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(Path("/proc/meminfo").read_text())

    (found,) = read_node_memory(root=str(tmp_path))

    assert found.node == 0
    assert 0 < found.free_bytes < found.total_bytes


def test_real_memory_of_the_nodes_is_within_that_of_this_host() -> None:
    found = read_node_memory()
    total = int(Path("/proc/meminfo").read_text().split()[1]) << 10

    # Less where memory was added to a running virtual machine: then the nodes tell what they began with.
    assert 0 < sum(one.total_bytes for one in found) <= total
    assert all(0 < one.free_bytes <= one.total_bytes for one in found)


def test_real_process_pages_are_seen_where_it_put_them() -> None:
    if memory_of([os.getpid()]) is None:
        pytest.skip("this kernel has no NUMA: no numa_maps")
    node = read_node_memory()[-1].node
    with memory_process(32 << 20, node) as process:
        found = memory_of([process.pid])
        mappings = read_mappings(process.pid)

    assert found is not None
    assert mappings is not None
    assert found.anonymous.inside(NodeSet.of([node])) >= (32 << 20) - 4096
    assert any(one.start <= process.address < one.end and one.file is None for one in mappings)
    with pytest.raises(ProcessGone):
        read_mappings(process.pid)
    assert memory_of([process.pid]) is not None


def test_real_large_files_of_a_process_are_named_the_largest_first(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "a model.gguf"
    small.write_bytes(b"x" * (1 << 20))
    large.write_bytes(b"x" * (3 << 20))
    with small.open("rb") as one, large.open("rb") as two:
        with mmap.mmap(one.fileno(), 0, prot=mmap.PROT_READ), mmap.mmap(two.fileno(), 0, prot=mmap.PROT_READ):
            found = mapped_files(os.getpid(), at_least_bytes=1 << 20)
            few = mapped_files(os.getpid(), at_least_bytes=(3 << 20) + 1)
            small.unlink()
            left = mapped_files(os.getpid(), at_least_bytes=1 << 20)
        mine = [one for one in found if one.path.startswith(str(tmp_path))]

    assert [(one.path, one.mapped_bytes) for one in mine] == [(str(large), 3 << 20), (str(small), 1 << 20)]
    assert Path(mine[0].reachable_path).read_bytes() == large.read_bytes()
    assert not {one.path for one in few} & {str(small), str(large)}
    assert [one.path for one in left if one.path.startswith(str(tmp_path))] == [str(large)]
    with pytest.raises(ProcessGone):
        mapped_files(999_999_999)
