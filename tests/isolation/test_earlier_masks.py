"""Masks given back to real threads, and what is said when they cannot be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from isolation.cpuset import CpuSet
from isolation.earlier_masks import EarlierMasks
from isolation.kernelfs import HOST_AFFINITY, HOST_FILES
from isolation.process import start_of
from isolation.undo import ThreadState

FIRST = min(os.sched_getaffinity(0))
MISSING = 1023  # no machine that runs this has so many CPUs
MASKS = EarlierMasks(files=HOST_FILES, affinity=HOST_AFFINITY, proc_root="/proc")


@pytest.fixture
def asleep() -> Iterator[ThreadState]:
    with subprocess.Popen(["sleep", "600"]) as process:
        started = start_of(process.pid, files=HOST_FILES, proc_root=f"/proc/{process.pid}/task")
        assert started is not None
        cpus = CpuSet.of(os.sched_getaffinity(process.pid))
        yield ThreadState(tid=process.pid, starttime_ticks=started, pid=process.pid, cgroup=None, cpus=cpus)
        process.kill()


def test_a_thread_gets_its_cpus_back(asleep: ThreadState) -> None:
    os.sched_setaffinity(asleep.tid, {FIRST})

    assert [] == MASKS.give_back(asleep, asleep.cpus)
    assert asleep.cpus == CpuSet.of(os.sched_getaffinity(asleep.tid))


def test_cpus_that_are_no_more_are_told_with_the_reason(asleep: ThreadState) -> None:
    (told,) = MASKS.give_back(asleep, CpuSet.of([MISSING]))

    assert f"thread {asleep.tid} of process {asleep.pid} could not get back CPUs {MISSING}: " in told
    assert "EINVAL" in told or "Invalid argument" in told


def test_a_mask_that_the_kernel_cut_is_told(asleep: ThreadState) -> None:
    (told,) = MASKS.give_back(asleep, CpuSet.of([FIRST, MISSING]))

    assert told.endswith(f"may run on {FIRST}, not {FIRST},{MISSING} as before")


def test_a_thread_that_ended_is_owed_nothing(asleep: ThreadState) -> None:
    assert MASKS.is_same(asleep)
    with subprocess.Popen(["true"]) as over:
        pass
    gone = ThreadState(tid=over.pid, starttime_ticks=1, pid=over.pid, cgroup=None, cpus=asleep.cpus)

    assert not MASKS.is_same(gone)
    assert [] == MASKS.give_back(gone, asleep.cpus)
