"""Counters: software events on the real kernel, hardware where there is a PMU, reasons where there is not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from profiler.counters import HARDWARE, Count, Counters, Event, hardware_features
from profiler.errors import CountersUnavailable

SOFTWARE = (Event.TASK_CLOCK_NS, Event.PAGE_FAULTS, Event.CONTEXT_SWITCHES)


def open_or_skip(thread_ids: list[int], events: tuple[Event, ...]) -> Counters:
    try:
        return Counters(thread_ids, events)
    except CountersUnavailable as error:
        pytest.skip(str(error))


def test_software_events_count_what_this_thread_does() -> None:
    with open_or_skip([threading.get_native_id()], SOFTWARE) as counters:
        block = bytearray(8 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
        until_s = time.thread_time() + 0.1
        while time.thread_time() < until_s:
            pass
        time.sleep(0.01)
        found = counters.read()

    assert 0.09e9 < found[Event.TASK_CLOCK_NS].value < 1e9
    assert found[Event.CONTEXT_SWITCHES].value >= 1
    assert found[Event.TASK_CLOCK_NS].running_ratio == 1.0


def test_counts_of_two_threads_add_up() -> None:
    go, ready = threading.Event(), threading.Event()
    ids: list[int] = []

    def spin() -> None:
        ids.append(threading.get_native_id())
        ready.set()
        go.wait()
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    ready.wait()
    try:
        counters = open_or_skip([*ids, threading.get_native_id()], (Event.TASK_CLOCK_NS,))
    finally:
        go.set()
        thread.join()
    with counters:
        assert counters.read()[Event.TASK_CLOCK_NS].value >= 0.04e9


def test_hardware_events_count_instructions() -> None:
    with open_or_skip([threading.get_native_id()], HARDWARE) as counters:
        sum(range(10**6))
        found = counters.read()

    assert found[Event.INSTRUCTIONS].value > 10**6


def test_a_thread_that_is_gone_is_named_and_leaves_no_open_files() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208

    with pytest.raises(CountersUnavailable, match="of thread 4194303: "):
        Counters([threading.get_native_id(), 4194303], (Event.TASK_CLOCK_NS,))

    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


def test_nothing_counted_is_unknown_not_zero() -> None:
    assert Counters([], HARDWARE).read() == {}
    assert hardware_features({}, 1.0) == ()
    rarely = dict.fromkeys(HARDWARE, Count(1e6, 0.1))
    assert hardware_features(rarely, 1.0) == ()


def test_ratios_are_computed_by_hand() -> None:
    counts = {
        Event.INSTRUCTIONS: Count(3e6, 1),
        Event.CYCLES: Count(2e6, 1),
        Event.CACHE_MISSES: Count(6e3, 1),
        Event.CACHE_REFERENCES: Count(9e3, 1),
        Event.STALLED_CYCLES: Count(5e5, 1),
    }

    assert {one.name: one.value for one in hardware_features(counts, 1.0)} == {
        "ipc": 1.5,
        "llc_misses_per_kinstr": 2.0,
        "llc_references_per_kinstr": 3.0,
        "stalled_cycles_ratio": 0.25,
    }
    del counts[Event.CYCLES]
    assert {one.name for one in hardware_features(counts, 1.0)} == {
        "llc_misses_per_kinstr",
        "llc_references_per_kinstr",
    }


def test_threads_born_while_counting_are_counted() -> None:
    def spin() -> None:
        until_s = time.thread_time() + 0.1
        while time.thread_time() < until_s:
            pass

    with open_or_skip([threading.get_native_id()], (Event.TASK_CLOCK_NS, Event.CONTEXT_SWITCHES)) as counters:
        thread = threading.Thread(target=spin)
        thread.start()
        thread.join()
        found = counters.read()

    assert found[Event.TASK_CLOCK_NS].value >= 0.09e9


def test_a_second_group_is_left_out_where_it_cannot_be_counted() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    own = threading.get_native_id()
    with Counters([own], (Event.TASK_CLOCK_NS,), also=(Event.PAGE_FAULTS, Event.STALLED_CYCLES)) as counters:
        found = counters.read()

    assert Event.TASK_CLOCK_NS in found
    assert (Event.PAGE_FAULTS in found) == (Event.STALLED_CYCLES in found)
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.root
def test_a_cgroup_is_counted_on_its_cpus(cgroup2: Path) -> None:
    folder = cgroup2 / f"cotenant-counters-{os.getpid()}"
    folder.mkdir()
    spin = "import time\nuntil = time.process_time() + 0.2\nwhile time.process_time() < until: pass"
    try:
        (folder / "cgroup.procs").stat()
        with Counters.of_cgroup(folder, CpuSet.of(os.sched_getaffinity(0)), (Event.TASK_CLOCK_NS,)) as counters:
            outside = subprocess.Popen([sys.executable, "-c", spin])
            inside = subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$1" && exec "$2" -c "$3"', "sh", folder / "cgroup.procs", sys.executable, spin]
            )
            assert (inside.wait(), outside.wait()) == (0, 0)
            found = counters.read()
    except CountersUnavailable as error:
        pytest.skip(str(error))
    finally:
        folder.rmdir()

    assert 0.19e9 <= found[Event.TASK_CLOCK_NS].value < 0.39e9


def test_what_is_no_cgroup_is_told_and_leaves_no_open_files(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    with pytest.raises(CountersUnavailable, match=r"TASK_CLOCK_NS of cgroup .* on CPU 0: "):
        Counters.of_cgroup(tmp_path, CpuSet.of([0]), (Event.TASK_CLOCK_NS,))
    with pytest.raises(CountersUnavailable, match="absent': No such file"):
        Counters.of_cgroup(tmp_path / "absent", CpuSet.of([0]), (Event.TASK_CLOCK_NS,))

    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208
