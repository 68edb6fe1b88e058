"""Memory on a machine with two NUMA nodes and cgroup v2: what make test-vm boots."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolation.cgroup import find_hierarchy
from isolation.cpuset import NodeSet
from isolation.errors import MemoryShort
from isolation.memory_binding import BindingStep, check_room, decide_binding
from isolation.node_memory import NodeBytes, read_node_memory
from isolation.numa_maps import mapped_files, memory_of
from isolation.page_cache import read_file_cache
from isolation.page_migration import Ended, MigrationReport, PageMigrator
from isolation.process import ProcessIdentity, identify
from tests.fakes.memory_processes import memory_process

pytestmark = pytest.mark.root

_MIB = 1 << 20
_ZERO, _ONE = NodeSet.parse("0"), NodeSet.parse("1")
_EVER_S = 120.0


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a cpuset group of our own, empty again afterwards."""
    hierarchy = find_hierarchy()
    if hierarchy is None or hierarchy.version != 2:
        pytest.skip("needs cgroup v2 with the cpuset controller; make test-vm boots such a kernel")
    if [one.node for one in read_node_memory()] != [0, 1]:
        pytest.skip("needs memory on nodes 0 and 1; make test-vm boots such a machine")
    mount = Path(hierarchy.mount)
    folder = mount / f"cotenant_test_memory_{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (mount / "cgroup.procs").write_text(pid)
        folder.rmdir()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    os.truncate(path, 72 * _MIB)  # nobody has written a page yet, so nothing is cached
    return path


def who(pid: int) -> ProcessIdentity:
    return identify(pid, allowed_uids=None)


def private(pid: int) -> NodeBytes:
    found = memory_of([pid])
    assert found is not None
    return found.anonymous


def test_binding_moves_present_pages_at_once_by_the_setting_and_by_the_move_into_a_group(group: Path) -> None:
    with memory_process(64 * _MIB, 0) as first, memory_process(64 * _MIB, 0) as second:
        (group / "cgroup.procs").write_text(str(first.pid))
        before = private(first.pid)
        (group / "cpuset.mems").write_text("1")
        after = private(first.pid)
        second_before = private(second.pid)
        (group / "cgroup.procs").write_text(str(second.pid))
        second_after = private(second.pid)
        (group.parent / "cgroup.procs").write_text(str(second.pid))
        released = private(second.pid)

    for one in (before, second_before):
        assert one.inside(_ZERO) > 63 * _MIB
    for one in (after, second_after, released):
        assert one.inside(_ONE) > 63 * _MIB
        assert one.outside(_ONE) < _MIB


def test_pages_migrate_in_slices_within_the_budget_of_each_turn(group: Path) -> None:
    with memory_process(64 * _MIB, 0) as process:
        migrator = PageMigrator()
        turns: list[MigrationReport] = []
        seen = [private(process.pid).inside(_ONE)]
        while not turns or turns[-1].ended is not Ended.COMPLETE:
            turns.append(migrator.migrate([who(process.pid)], _ONE, budget_bytes=16 * _MIB, limit_s=_EVER_S))
            seen.append(private(process.pid).inside(_ONE))
            assert len(turns) < 20
        rest = memory_of([process.pid])

    assert rest is not None
    moved = [after - before for before, after in itertools.pairwise(seen)]
    assert [one.ended for one in turns[:-1]] == [Ended.BUDGET] * (len(turns) - 1)
    assert max(moved) <= 16 * _MIB
    assert max(one.largest_slice_bytes for one in turns) <= 4 * _MIB
    assert min(one.slices for one in turns[:-1]) >= 4
    assert seen[-1] > 63 * _MIB
    assert sum(one.moved_bytes for one in turns) >= sum(moved)
    assert rest.anonymous.outside(_ONE) < _MIB


def test_pages_a_child_shares_stay_and_are_told(group: Path) -> None:
    with memory_process(16 * _MIB, 0, shared=True) as process:
        report = PageMigrator().migrate([who(process.pid)], _ONE, budget_bytes=64 * _MIB, limit_s=_EVER_S)
        after = private(process.pid)

    assert report.ended is Ended.COMPLETE
    assert report.shared_bytes + report.busy_bytes > 15 * _MIB
    assert report.stuck_bytes == report.shared_bytes + report.busy_bytes
    assert after.inside(_ZERO) > 15 * _MIB


def test_a_cpuset_without_the_node_refuses_and_the_report_says_what_to_do(group: Path) -> None:
    (group / "cpuset.mems").write_text("0")
    with memory_process(16 * _MIB, 0) as process:
        (group / "cgroup.procs").write_text(str(process.pid))
        report = PageMigrator().migrate([who(process.pid)], _ONE, budget_bytes=64 * _MIB, limit_s=_EVER_S)

    assert (report.ended, report.moved_bytes) == (Ended.COMPLETE, 0)
    assert "its cpuset lacks it; widen cpuset.mems first" in report.refused[0]


def test_fault_60_nothing_is_bound_or_migrated_to_a_node_that_is_nearly_full(group: Path) -> None:
    with memory_process(256 * _MIB, 0) as process:
        identity = who(process.pid)
        free = next(one.free_bytes for one in read_node_memory() if one.node == 1)
        with memory_process(free - 200 * _MIB, 1):
            pages = private(process.pid)
            memory = read_node_memory()
            decision = decide_binding(pages, _ONE, memory, migration_bytes_per_s=100 * _MIB)
            with pytest.raises(MemoryShort, match=r"memory node 1 cannot take 2[56]\d\.\d MiB more"):
                check_room(pages.outside(_ONE), _ONE, memory)
            with pytest.raises(MemoryShort, match=r"memory node 1 cannot take 2[56]\d\.\d MiB more"):
                PageMigrator().migrate([identity], _ONE, budget_bytes=64 * _MIB)
            untouched = private(process.pid)
        later = decide_binding(pages, _ONE, read_node_memory(), migration_bytes_per_s=100 * _MIB)

    assert decision.step is BindingStep.LEAVE
    assert "memory node 1 cannot take" in decision.note
    assert untouched == pages
    assert later.step is BindingStep.MIGRATE


def test_the_page_cache_of_a_file_is_found_on_its_node_and_binding_takes_it_along(group: Path, file: Path) -> None:
    assert read_file_cache(str(file)).uncached_bytes == 72 * _MIB
    with memory_process(_MIB, 1, path=str(file)) as process:
        written = read_file_cache(str(file))
        (mapped,) = mapped_files(process.pid)
        through_process = read_file_cache(mapped.reachable_path, most_pages=1000)
        (group / "cpuset.mems").write_text("0")
        (group / "cgroup.procs").write_text(str(process.pid))
        bound = read_file_cache(str(file))

    assert written.cached == NodeBytes.of({1: 72 * _MIB})
    assert str(written) == "72.0 MiB of model.gguf are cached on node 1"
    assert (mapped.path, mapped.mapped_bytes) == (str(file), 72 * _MIB)
    assert through_process.cached == written.cached
    assert through_process.sampled_ratio < 0.06
    assert bound.cached.inside(_ZERO) > 71 * _MIB
