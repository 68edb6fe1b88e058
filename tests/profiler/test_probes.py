"""Probes on real processes, and the arithmetic of what they lose."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.command import PinnedCommand
from profiler.errors import WorkloadFailed
from profiler.probes import Copying, Probe, main
from profiler.probing import LossCurve, measure, slice_rate
from profiler.progress import ProgressEvent, WorkLog
from profiler.records import PROFILE_FEATURES
from profiler.sensitivity import SENSITIVITY
from profiler.tokens import RateBasis, rate_basis
from profiler.touched_memory import Touched, referenced, touched

CPUS = list(read_topology().usable)
SMALL_LLC = 4 * 2**20


def test_a_workload_that_sleeps_does_not_press_and_stays_running(tmp_path: Path) -> None:
    if len(CPUS) < 2:
        pytest.skip("probes need a second CPU")
    workload = [sys.executable, str(Path(__file__).with_name("workload.py")), "steady"]
    shares: list[float] = []
    with PinnedCommand(workload, CpuSet.of(CPUS[:1]), tmp_path) as running:
        result = measure(
            running,
            cpus=CpuSet.of(CPUS[:1]),
            probe_cpu=CPUS[1],
            llc_bytes=SMALL_LLC,
            folder=tmp_path,
            slice_s=0.1,
            on_progress=shares.append,
        )

        assert running.poll(), "it goes on after the probes"

    assert shares == sorted(shares)
    assert shares[0] == 0
    found = {one.name: one.value for one in result.features}
    told = " ".join(result.notes)
    assert all((name in found) != (name in told) for name in SENSITIVITY), told
    assert found.get("cache_pressure_ratio", 0.0) <= 2.0
    for name, about in (
        ("cache_pressure_ratio", "cache pressure unknown"),
        ("memory_bytes_per_s", "memory bandwidth unknown"),
        ("llc_footprint_bytes", "footprint unknown"),
    ):
        assert (name in found) != any(about in note for note in result.notes)


def test_the_curve_is_left_out_when_it_would_take_too_long(tmp_path: Path) -> None:
    if len(CPUS) < 2:
        pytest.skip("probes need a second CPU")
    workload = [sys.executable, str(Path(__file__).with_name("workload.py")), "steady"]
    with PinnedCommand(workload, CpuSet.of(CPUS[:1]), tmp_path) as running:
        result = measure(
            running,
            cpus=CpuSet.of(CPUS[:1]),
            probe_cpu=CPUS[1],
            llc_bytes=SMALL_LLC,
            folder=tmp_path,
            slice_s=0.1,
            limit_s=0.0,
        )

    assert "only full pressure was tried" in " ".join(result.notes)
    assert not {one.name for one in result.features} & (set(SENSITIVITY) - {"cache_sensitivity_sf"})


def agent_log() -> WorkLog:
    """Ten seconds of an agent: ten tokens in 0.4 s of each second, then a tool; 80 units of work in each token."""
    log = WorkLog()
    for second in range(10):
        log.events.append(ProgressEvent(second, "turn"))
        for number in range(10):
            at_s = second + 0.1 + 0.04 * number
            log.events.append(ProgressEvent(at_s, "token"))
            log.add_total(at_s, 80.0 * (10 * second + number))
        log.events.append(ProgressEvent(second + 0.99, "tool", seconds=0.49))
    return log


def test_slices_of_one_workload_never_compare_two_kinds_of_rate() -> None:
    log = agent_log()
    basis = rate_basis(log.events, 0.1, 9.9, slice_s=0.8)
    slices = [(second + start, second + start + 0.8) for second in range(9) for start in (0.0, 0.45)]
    short = [slice_rate(log, basis, second + 0.45, second + 0.6) for second in range(9)]

    assert basis is RateBasis.DECODING
    assert [slice_rate(log, basis, *one) for one in slices] == pytest.approx([25.0] * len(slices))
    assert short == [None] * 9, "between two turns it makes work in the log's eyes, but no tokens"
    assert slice_rate(log, RateBasis.WORK, 0.1, 9.1) == pytest.approx(800.0)


def test_a_workload_judged_by_its_work_is_so_where_tokens_come_thickly() -> None:
    log = agent_log()
    basis = rate_basis(log.events, 0.1, 9.9, slice_s=0.2)

    assert basis is RateBasis.WORK, "most slices of 0.2 s hold fewer than four tokens"
    assert slice_rate(log, basis, 1.1, 1.46) == pytest.approx(80 / 0.04)


def test_a_probe_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkloadFailed, match=r"the reader probe did not start: .*--bytes is 1, must be"):
        Probe("reader", CPUS[0], 1, tmp_path / "probe")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["else"],
        ["reader", "--bytes", "nan"],
        ["pressure", "--bytes", "0"],
        ["stream", "--bytes", "99999", "--share", "0"],
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)


def test_the_copier_tells_what_it_copied() -> None:
    assert Copying(8 << 20).step() == 2 << 20
    assert Copying(1 << 20).step() == 1 << 19


def test_levels_of_the_sensitivity_curve_are_features() -> None:
    assert set(SENSITIVITY) <= set(PROFILE_FEATURES)


@pytest.mark.parametrize("square", [0.0, 2e-21])
def test_a_loss_is_turned_back_into_the_bandwidth_that_caused_it(square: float) -> None:
    known = [(gb * 1e9, 2e-11 * gb * 1e9 + square * (gb * 1e9) ** 2) for gb in (0, 5, 10, 20)]
    curve = LossCurve.fitted(known)

    assert curve.error == pytest.approx(0, abs=1e-9)
    assert curve.bytes_per_s(curve.loss(7e9)) == pytest.approx(7e9)
    assert curve.bytes_per_s(-0.1) == 0
    assert curve.bytes_per_s(known[-1][1]) == pytest.approx(20e9)


def test_a_curve_never_says_that_pressure_helps() -> None:
    curve = LossCurve.fitted([(0.0, 0.0), (1e9, -0.1), (2e9, -0.2)])

    assert curve.loss(2e9) == 0


def test_touched_pages_are_added_up_and_dense_mappings_told_apart() -> None:
    text = b"""7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
Referenced:         4092 kB
7f0000500000-7f0000600000 r-xp 00000000 fe:00 77 /usr/lib/libpython3.11.so
Size:               1024 kB
Referenced:          100 kB
"""

    assert (4192 << 10, 4092 << 10) == referenced(text)


def test_memory_that_is_worked_through_is_found(tmp_path: Path) -> None:
    with Probe("reader", CPUS[0], 16 << 20, tmp_path / "probe") as probe:
        found = touched(probe.family(), span_s=0.2)

    if isinstance(found, str):
        pytest.skip(found)
    assert isinstance(found, Touched)
    assert 16 << 20 <= found.bytes < 24 << 20


def test_a_process_that_is_gone_is_told() -> None:
    assert isinstance(touched([4194303], span_s=0.01), str)
