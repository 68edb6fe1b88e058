"""How much of a file is cached, and where: on this host's kernel, and the arithmetic of a sample."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.errors import PageCacheUnreadable
from isolation.node_memory import NodeBytes, read_node_memory
from isolation.page_cache import estimate, read_file_cache
from isolation.page_calls import HOST_PAGES, PAGE_BYTES, file_pages

_MIB = 1 << 20


class Nodes:
    """Says of pages what a test wants."""

    def __init__(self, *told: int) -> None:
        self._told = told

    def locate(self, pid: int, addresses: Sequence[int]) -> Sequence[int]:
        return [self._told[number % len(self._told)] for number in range(len(addresses))]

    def move(self, pid: int, addresses: Sequence[int], node: int) -> Sequence[int]:
        raise AssertionError("looking at a file moves nothing")


class Refusing(Nodes):
    def locate(self, pid: int, addresses: Sequence[int]) -> Sequence[int]:
        raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(_MIB) * 16)
    return path


def drop(path: Path) -> None:
    """Have the kernel forget what it cached of the file; skips where it cannot."""
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if read_file_cache(str(path), calls=Nodes(0)).cached.total_bytes:
        pytest.skip("the file system of the temporary folder keeps its pages (tmpfs)")


def wait_until_settled(path: Path) -> None:
    """Wait until what the kernel began to read ahead has arrived; it counts as cached only then."""
    with file_pages(str(path), HOST_PAGES) as pages:
        before = -1
        while (now := sum(pages.cached(range(pages.pages)))) != before:
            before = now
            time.sleep(0.1)


def read_bytes_of_this_process() -> int:
    told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(told["read_bytes"])


def test_a_file_just_written_is_cached_on_nodes_of_this_host(file: Path) -> None:
    found = read_file_cache(str(file))

    nodes = {one.node for one in read_node_memory()}
    assert (found.size_bytes, found.cached.total_bytes, found.uncached_bytes) == (16 * _MIB, 16 * _MIB, 0)
    assert found.sampled_ratio == 1.0
    assert {node for node, _ in found.cached} <= nodes


def test_what_was_dropped_is_not_cached_and_looking_does_not_read_it(file: Path) -> None:
    drop(file)
    before = read_bytes_of_this_process()
    found = read_file_cache(str(file))

    assert (found.cached, found.uncached_bytes) == (NodeBytes(), 16 * _MIB)
    assert str(found) == "nothing of model.gguf is cached"
    assert read_bytes_of_this_process() == before


def test_a_part_that_was_read_is_cached_and_looking_does_not_make_it_more(file: Path) -> None:
    drop(file)
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        os.pread(opened.fileno(), 4 * _MIB, 4 * _MIB)
    first, second = read_file_cache(str(file)), read_file_cache(str(file))

    assert (first.cached.total_bytes, first.uncached_bytes) == (4 * _MIB, 12 * _MIB)
    assert second == first
    sampled = read_file_cache(str(file), most_pages=512)
    assert sampled.sampled_ratio == 512 / 4096
    assert sampled.cached == first.cached
    assert str(sampled).endswith("12.0 MiB not at all (estimated from 12.5% of its pages)")


def test_looking_at_what_was_read_ahead_reads_no_further_ahead(file: Path) -> None:
    drop(file)
    with file.open("rb", buffering=0) as opened:
        for _ in range(16):
            opened.read(16384)
    wait_until_settled(file)
    first, second = read_file_cache(str(file)), read_file_cache(str(file))

    assert second == first
    assert _MIB // 4 <= first.cached.total_bytes < 16 * _MIB


def test_pages_are_told_apart_by_node_and_unknown_ones_stay_unknown(file: Path) -> None:
    found = read_file_cache(str(file), calls=Nodes(0, 1, 1, -errno.EFAULT))

    assert found.cached == NodeBytes.of({0: 4 * _MIB, 1: 8 * _MIB})
    assert found.unplaced_bytes == 4 * _MIB
    assert str(found) == (
        "4.0 MiB of model.gguf are cached on node 0, 8.0 MiB of model.gguf are cached on node 1,"
        " 4.0 MiB on a node that is not told"
    )


@given(st.integers(1, 10**12), st.data())
def test_an_estimate_makes_the_whole_file(size_bytes: int, data: st.DataObject) -> None:
    pages = -(-size_bytes // PAGE_BYTES)
    looked_at = data.draw(st.integers(1, min(pages, 50)))
    nodes = data.draw(st.lists(st.sampled_from([0, 1, -errno.EFAULT]), max_size=looked_at))

    found = estimate("/m", size_bytes, pages, looked_at, nodes)

    assert abs(found.cached.total_bytes + found.unplaced_bytes + found.uncached_bytes - size_bytes) <= 2
    assert found.sampled_ratio == looked_at / pages
    assert (found.uncached_bytes > 0) == (len(nodes) < looked_at)


def test_an_empty_file_has_nothing_to_cache(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()

    found = read_file_cache(str(empty))

    assert (found.size_bytes, found.cached, found.uncached_bytes, str(found)) == (0, NodeBytes(), 0, "empty is empty")


@pytest.mark.parametrize("what", ["absent", "folder", "pipe"])
def test_what_is_no_file_is_named_and_nothing_waits_for_a_pipe(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)

    with pytest.raises(PageCacheUnreadable, match=f"what of '{path}' is cached cannot be told"):
        read_file_cache(str(path))


def test_a_kernel_that_tells_no_nodes_is_an_error_that_says_so(file: Path) -> None:
    with pytest.raises(PageCacheUnreadable, match="Function not implemented"):
        read_file_cache(str(file), calls=Refusing())


def test_a_file_that_this_user_could_not_write_is_not_taken_for_cached() -> None:
    """The kernel then says of every page that it is cached."""
    if os.geteuid() != 0:
        with pytest.raises(PageCacheUnreadable, match="only a user who may write to it learns that"):
            read_file_cache("/bin/sh")
        return
    child = os.fork()
    if child == 0:  # a user of its own, for this one question
        os.setgid(65534)
        os.setuid(65534)
        try:
            read_file_cache("/bin/sh")
        except PageCacheUnreadable as error:
            os._exit(0 if "only a user who may write to it" in str(error) else 2)
        os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_that_is_cut_off_meanwhile_ends_nobody(file: Path) -> None:
    with file_pages(str(file), HOST_PAGES) as pages:
        cached = [number for number, held in enumerate(pages.cached(range(pages.pages))) if held]
        os.truncate(file, 4 * PAGE_BYTES)
        told = list(pages.nodes(cached))  # a plain read of such a page would be the end: SIGBUS

    assert len(told) == 4096
    assert min(told[:4]) >= 0
    assert max(told[4:]) < 0
