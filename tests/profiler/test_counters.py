"""Counters: software events on the real kernel, hardware where there is a PMU, reasons where there is not."""

from __future__ import annotations

import os
import threading
import time

import pytest

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
    counts = {Event.INSTRUCTIONS: Count(3e6, 1), Event.CYCLES: Count(2e6, 1), Event.CACHE_MISSES: Count(6e3, 1)}

    assert {one.name: one.value for one in hardware_features(counts, 1.0)} == {"ipc": 1.5, "llc_misses_per_kinstr": 2.0}
