"""The stored calibration: round trip, damage, and what prediction takes from it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from isolation.topology import read_topology
from profiler.calibration import (
    FILE_NAME,
    Calibration,
    CurvePoint,
    Estimate,
    Peak,
    find_calibration,
    load_calibration,
    save_calibration,
)
from profiler.errors import CalibrationDamaged, CalibrationMissing, StoreFailed
from profiler.host import host_traits

TOPOLOGY = read_topology()
ONE = Estimate(2.0, 1.0, 3.0)
FULL = Calibration(
    host_fingerprint=TOPOLOGY.fingerprint,
    created_unix_s=1.0,
    duration_s=60.0,
    curve=(CurvePoint(size_bytes=1 << 20, read_bytes_per_s=ONE, line_s=ONE, load_s=None),),
    peaks=(
        Peak(of="llc 0", cpus="0", bytes_per_s=Estimate(20e9, 19e9, 21e9)),
        Peak(of="llc 1", cpus="1", bytes_per_s=Estimate(18e9, 17e9, 19e9)),
        Peak(of="node 0", cpus="0-1", bytes_per_s=Estimate(9e9, 8e9, 10e9)),
    ),
    effective_llc_bytes=Estimate(5e6, 4e6, 6e6),
    smt_cost_sf=None,
    disk_wake_wait_s=Estimate(1e-3, 5e-4, 2e-3),
    foreign_ratio=0.01,
    notes=("a note",),
)


def test_what_was_stored_is_read_back(tmp_path: Path) -> None:
    save_calibration(tmp_path, FULL)

    assert FULL == load_calibration(tmp_path)


def test_none_stored_is_not_damage(tmp_path: Path) -> None:
    assert find_calibration(tmp_path) is None
    with pytest.raises(CalibrationMissing):
        load_calibration(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"peaks": [{"of": "llc 0"}]},
        {"disk_wake_wait_s": {"value": -1, "low": -1, "high": 2}},
        {"disk_wake_wait_s": {"value": math.inf, "low": 0, "high": math.inf}},
        {"curve": 7},
    ],
)
def test_damage_names_the_file_and_the_cure(tmp_path: Path, change: dict[str, object]) -> None:
    save_calibration(tmp_path, FULL)
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(CalibrationDamaged, match=r"calibration\.json' cannot be used: .*`cotenant calibrate`"):
        find_calibration(tmp_path)


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="cannot write"):
        save_calibration(tmp_path / "absent", FULL)


def test_prediction_takes_what_was_measured_and_assumes_the_rest() -> None:
    assumed, traits = host_traits(TOPOLOGY), host_traits(TOPOLOGY, FULL)

    assert traits.memory_bytes_per_s == 18e9, "the slowest cache domain, not the node"
    assert traits.effective_llc_bytes == 5e6
    assert traits.disk_wake_wait_s == 1e-3
    assert traits.smt_cost_sf == assumed.smt_cost_sf
    assert math.isnan(traits.llc_bytes) == math.isnan(assumed.llc_bytes)


@pytest.mark.parametrize(
    "other",
    [replace(FULL, host_fingerprint="other"), replace(FULL, foreign_ratio=0.5), replace(FULL, foreign_ratio=None)],
)
def test_another_host_or_a_busy_one_says_nothing(other: Calibration) -> None:
    assert repr(host_traits(TOPOLOGY)) == repr(host_traits(TOPOLOGY, other))


def test_what_was_not_reached_is_kept_from_before() -> None:
    partial = replace(FULL, curve=(), disk_wake_wait_s=None, notes=("interrupted",), created_unix_s=2.0)

    merged = partial.completed_by(FULL)

    assert merged.curve == FULL.curve
    assert merged.disk_wake_wait_s == FULL.disk_wake_wait_s
    assert merged.notes == ("interrupted", "from the calibration before: curve, disk_wake_wait_s")
    assert partial == partial.completed_by(replace(FULL, host_fingerprint="other"))


def test_version_1_is_read_without_its_wait_which_was_that_of_timers(tmp_path: Path) -> None:
    save_calibration(tmp_path, FULL)
    path = tmp_path / FILE_NAME
    stored = json.loads(path.read_text())
    stored["wake_wait_s"] = stored.pop("disk_wake_wait_s")
    path.write_text(json.dumps({**stored, "schema_version": 1}))

    assert load_calibration(tmp_path) == replace(FULL, disk_wake_wait_s=None)
