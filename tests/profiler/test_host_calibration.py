"""Calibration on this machine: short, so the numbers are rough, but each kind of number comes or is explained."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isolation.topology import read_topology
from profiler.calibration import CurvePoint, Estimate, load_calibration
from profiler.calibration_cli import bar
from profiler.host_calibration import calibrate, effective_llc, working_sets
from profiler.host_costs import above_alone, disk_wake_wait, peak_bandwidth, pinned
from profiler.memory_kernels import DependentLoads, RandomReads, Streaming, compile_loads, cycle

MIB = 1 << 20


def curve(line_ns: dict[int, float]) -> list[CurvePoint]:
    points = []
    for mib, ns in line_ns.items():
        time_s = Estimate(ns * 1e-9, ns * 1e-9, ns * 1e-9)
        points.append(CurvePoint(size_bytes=mib * MIB, read_bytes_per_s=time_s, line_s=time_s, load_s=None))
    return points


def test_the_effective_cache_is_where_half_of_the_reads_would_miss() -> None:
    cache, memory, kept = 2.0, 10.0, 12
    times = {
        mib: cache if mib <= kept else memory - (memory - cache) * kept / mib
        for mib in (1, 2, 4, 8, 16, 24, 32, 48, 64)
    }
    found = effective_llc(curve({**times, 4096: memory}), l2_bytes=MIB)

    assert found is not None
    assert found.value == pytest.approx(kept * MIB)


def test_a_cliff_between_two_sizes_gives_an_interval() -> None:
    found = effective_llc(curve({1: 1, 2: 2, 4: 2, 8: 2, 16: 10, 32: 10}), l2_bytes=MIB)

    assert found is not None
    assert (found.low, found.high) == (8 * MIB, 16 * MIB)


@pytest.mark.parametrize("flat", [{1: 1, 2: 2, 4: 2, 8: 2, 16: 2, 32: 2}, {1: 1, 2: 2}])
def test_a_curve_without_an_end_of_the_cache_says_nothing(flat: dict[int, float]) -> None:
    assert effective_llc(curve(flat), l2_bytes=MIB) is None


def test_working_sets_are_dense_where_the_cache_ends() -> None:
    sizes = working_sets(32 * MIB)

    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 128 * MIB
    assert {16 * MIB, 24 * MIB, 32 * MIB, 48 * MIB} <= set(sizes)


def test_the_cycle_goes_through_every_line_once() -> None:
    memory, _order = cycle(64 * 1000)
    at, seen = 0, set()
    while at not in seen:
        seen.add(at)
        at = int(memory[at])

    assert len(seen) == 1000
    assert at == 0


def test_kernels_tell_what_they_did() -> None:
    assert Streaming(MIB).step() == 2 * MIB
    assert RandomReads(MIB).step() >= 8192
    library = compile_loads()
    if isinstance(library, str):
        pytest.skip(library)
    assert DependentLoads(library, MIB).step() == 4096


def test_bandwidth_on_a_cpu_that_is_not_there_says_so() -> None:
    result = peak_bandwidth([4095], MIB, 0.05)

    assert isinstance(result, str)
    assert "CPU 4095" in result


def test_pinning_is_taken_back() -> None:
    before = os.sched_getaffinity(0)
    with pinned(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}

    assert os.sched_getaffinity(0) == before


def test_what_is_waited_alone_is_taken_off() -> None:
    found = above_alone([1e-6, 4e-3, 1e-6, 3e-3, 1e-6])

    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(3.5e-3 - 1e-6)
    assert found.low < found.value < found.high


def test_nobody_waits_on_a_kernel_where_the_woken_thread_runs_at_once() -> None:
    found = above_alone([5e-6, 7e-6, 5e-6, 4e-6, 5e-6])

    assert isinstance(found, Estimate)
    assert 0 <= found.value < 1e-5


def test_a_cpu_that_was_busy_all_the_time_tells_no_wait() -> None:
    assert "2.00 ms were waited alone" in str(above_alone([2e-3, 3e-3, 2e-3, 3e-3, 2e-3]))


def test_a_folder_that_takes_no_file_tells_no_wait(tmp_path: Path) -> None:
    found = disk_wake_wait(min(os.sched_getaffinity(0)), tmp_path / "absent", 0.1)

    assert isinstance(found, str)
    assert "absent' failed" in found


def test_a_short_calibration_measures_or_explains_each_number(tmp_path: Path) -> None:
    topology = read_topology()
    shares: list[float] = []
    found = calibrate(topology, folder=tmp_path, seconds=3.0, on_progress=lambda share, _stage: shares.append(share))

    assert shares == sorted(shares)
    assert found.host_fingerprint == topology.fingerprint
    assert not [note for note in found.notes if "failed" in note]
    assert [one.size_bytes for one in found.curve] == sorted({one.size_bytes for one in found.curve})
    assert found.curve[-1].read_bytes_per_s.value > 1e8
    assert found.peaks or any("peak bandwidth" in note for note in found.notes)
    assert found.time_share_cost_sf is not None
    assert (found.smt_cost_sf is None) == any("SMT" in note for note in found.notes)
    assert (found.disk_wake_wait_s is None) == any("disk_wake_wait_s is unknown" in note for note in found.notes)
    assert found.noise_ratio is not None


def test_ctrl_c_keeps_and_stores_what_is_done(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "cotenant.main", "calibrate", "--seconds", "60", "--json"]
    with subprocess.Popen(
        [*command, "--state", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        threading.Timer(4.0, child.send_signal, [signal.SIGINT]).start()
        started_s = time.monotonic()
        text, _ = child.communicate(timeout=60)

    assert child.returncode == 0
    assert time.monotonic() - started_s < 30
    assert any("interrupted" in note for note in json.loads(text)["notes"])
    stored = load_calibration(tmp_path)
    assert stored.noise_ratio is None
    assert any("interrupted" in note for note in stored.notes)


@pytest.mark.parametrize(("share", "text"), [(0, ""), (1, "█" * 15), (0.1, "█▌"), (math.inf, "█" * 15)])
def test_bars_are_drawn_in_eighths(share: float, text: str) -> None:
    assert bar(share) == text
