"""What the hardware tells of a process: by hand, on this kernel, and on one with resctrl (tests/vm)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from isolation.kernelfs import HOST_FILES
from isolation.monitoring_groups import MonitoringGroups
from isolation.process import threads
from isolation.resctrl_files import ResctrlFiles
from isolation.resctrl_info import find_resctrl
from isolation.resctrl_lock import HOST_LOCKS
from isolation.resctrl_monitor import MonitorReading
from profiler.findings import Findings
from profiler.procfs import sample
from profiler.records import Source
from profiler.sources import LiveSources, cache_features
from tests.fakes.children import real_process

ONE = MonitorReading(resource="L3", domain=0, llc_occupancy_bytes=1 << 20, mbm_total_bytes=1000, mbm_local_bytes=None)
OTHER = replace(ONE, domain=1, llc_occupancy_bytes=1 << 21)


def test_footprint_and_bandwidth_are_sums_over_caches() -> None:
    last = (replace(ONE, mbm_total_bytes=5000), replace(OTHER, mbm_total_bytes=3000))
    found = cache_features((ONE, OTHER), last, 2.0)

    assert {one.name: one.value for one in found} == {
        "llc_footprint_bytes": 3 << 20,
        "memory_bytes_per_s": 3000.0,
    }
    assert {one.source for one in found} == {Source.RESCTRL}


@pytest.mark.parametrize(
    ("last", "known"),
    [
        ((replace(ONE, llc_occupancy_bytes=None), OTHER), {"memory_bytes_per_s"}),
        ((replace(ONE, mbm_total_bytes=None), OTHER), {"llc_footprint_bytes"}),
        ((replace(ONE, mbm_total_bytes=10), OTHER), {"llc_footprint_bytes"}),  # it fell
        ((ONE, OTHER, replace(ONE, domain=2)), {"llc_footprint_bytes"}),  # a cache that was not there before
        ((), set()),
    ],
)
def test_what_one_cache_does_not_tell_is_not_known(last: tuple[MonitorReading, ...], known: set[str]) -> None:
    assert known == {one.name for one in cache_features((ONE, OTHER), last, 2.0)}


def test_what_cannot_be_had_is_noted_and_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    findings = Findings()
    with real_process(threads=2) as pid, LiveSources(sample({pid}), findings) as sources:
        found = {one.name for one in sources.features(1.0)}

    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert not found & {"ipc"} or not any("no hardware counters" in note for note in findings.notes)
    assert not any("no cache monitoring" in note for note in findings.notes)


@pytest.mark.root
def test_a_process_is_monitored_by_resctrl_and_leaves_its_group_again() -> None:
    mount = find_resctrl()
    if mount is None or not Path(mount.path, "mon_groups").is_dir() or not os.access(mount.path, os.W_OK):
        pytest.skip("needs root and resctrl with monitoring")
    verbs = ResctrlFiles(str(mount.path), files=HOST_FILES, locks=HOST_LOCKS)
    left = MonitoringGroups(str(mount.path), files=HOST_FILES, locks=HOST_LOCKS, prefix="cotenant-profile")
    HOST_FILES.mkdir(f"{mount.path}/mon_groups/cotenant-profile:p4194303")  # as a killed one leaves it
    findings = Findings()
    with real_process(threads=3) as pid:
        tids = {one.tid for one in threads(pid)}
        with LiveSources(sample({pid}), findings) as sources:
            where = verbs.whereabouts()
            assert {where[tid] for tid in tids} == {f"mon_groups/cotenant-profile:p{os.getpid()}"}
            assert left.names() == (f"p{os.getpid()}",)
            found = {one.name for one in sources.features(1.0)}
        assert not tids & verbs.whereabouts().keys()

    assert found >= {"llc_footprint_bytes", "memory_bytes_per_s"}, findings.notes
    assert left.names() == ()
