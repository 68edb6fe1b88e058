"""What move_pages does: the same assertions on the fake and on this host's kernel, so that the fake does not lie."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from isolation.node_memory import read_node_memory
from isolation.numa_maps import read_mappings
from isolation.page_calls import HOST_PAGES, PAGE_BYTES, PageCalls
from tests.fakes.memory import FakeMemory, FakeRange
from tests.fakes.memory_processes import MemoryProcess, memory_process

_PAGES = 512
_START = 0x7F0000000000
_ABSENT = {-errno.ENOENT, -errno.EFAULT}  # which of them an untouched private page gets changed between 6.1 and 6.18


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    calls: PageCalls
    spawn: Callable[[int, bool], MemoryProcess]
    nodes: tuple[int, ...]

    def two_nodes(self) -> tuple[int, int]:
        if len(self.nodes) < 2:
            pytest.skip("needs two NUMA nodes with memory; make test-vm boots such a machine")
        return self.nodes[0], self.nodes[1]


@pytest.fixture(params=["fake", "host"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        kernel = FakeMemory()

        def pretend(node: int, shared: bool) -> MemoryProcess:  # noqa: FBT001
            pages: list[int | None] = [*[node] * (_PAGES - 1), None]
            one = FakeRange(start=_START, nodes=pages, shared=frozenset(range(_PAGES) if shared else ()))
            return MemoryProcess(pid=kernel.spawn(one).pid, address=_START)

        yield World(calls=kernel, spawn=pretend, nodes=(0, 1))
        return
    if read_mappings(os.getpid()) is None:
        pytest.skip("this kernel has no NUMA: no numa_maps")
    with ExitStack() as stack:

        def start(node: int, shared: bool) -> MemoryProcess:  # noqa: FBT001
            return stack.enter_context(memory_process(_PAGES * PAGE_BYTES, node, shared=shared))

        nodes = tuple(one.node for one in read_node_memory())
        yield World(calls=HOST_PAGES, spawn=start, nodes=nodes)


def addresses(process: MemoryProcess, *, pages: int = _PAGES) -> range:
    return range(process.address, process.address + pages * PAGE_BYTES, PAGE_BYTES)


def test_pages_are_located_and_an_absent_one_is_said_to_be_absent(world: World) -> None:
    node = world.nodes[0]
    process = world.spawn(node, False)

    *present, last = world.calls.locate(process.pid, addresses(process))
    assert present == [node] * (_PAGES - 1)
    assert last in _ABSENT
    assert list(world.calls.locate(process.pid, [PAGE_BYTES])) == [-errno.EFAULT]


def test_pages_that_are_there_already_stay_and_count_as_there(world: World) -> None:
    node = world.nodes[0]
    process = world.spawn(node, False)

    told = world.calls.move(process.pid, addresses(process), node)

    assert list(told)[:-1] == [node] * (_PAGES - 1)
    assert told[-1] in _ABSENT


def test_a_process_that_is_gone_and_a_node_that_is_none_are_errors(world: World) -> None:
    process = world.spawn(world.nodes[0], False)

    with pytest.raises(ProcessLookupError):
        world.calls.locate(999_999_999, addresses(process, pages=1))
    with pytest.raises(OSError, match="No such device") as caught:
        world.calls.move(process.pid, addresses(process, pages=1), 63)

    assert caught.value.errno == errno.ENODEV


def test_private_pages_move_and_are_found_on_the_other_node(world: World) -> None:
    here, there = world.two_nodes()
    process = world.spawn(here, False)

    world.calls.move(process.pid, addresses(process), there)

    assert set(world.calls.locate(process.pid, addresses(process, pages=_PAGES - 1))) == {there}


def test_pages_that_a_child_shares_are_refused_one_by_one_and_stay(world: World) -> None:
    here, there = world.two_nodes()
    process = world.spawn(here, True)

    told = world.calls.move(process.pid, addresses(process), there)

    assert -errno.EACCES in set(told)
    assert there not in set(told)
    assert set(world.calls.locate(process.pid, addresses(process, pages=_PAGES - 1))) == {here}
