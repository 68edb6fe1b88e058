"""Pressure: read from text and from this kernel, shares by hand, absent where it is not kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from profiler.pressure import group_pressure, host_pressure, parse_pressure, pressure_features, read_pressure

_PSI = "some avg10=92.57 avg60=85.83 avg300=84.04 total=3264245776\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


@pytest.mark.parametrize(("text", "total"), [(_PSI, 3264245776), (None, None), ("", None), ("some avg10=1\n", None)])
def test_pressure_is_read_or_missing(text: str | None, total: int | None) -> None:
    assert parse_pressure(text) == total


def test_shares_are_computed_by_hand_and_unknown_ones_left_out() -> None:
    found = pressure_features({"cpu": 0, "io": 10, "memory": 5}, {"cpu": 500_000, "io": 5}, 2.0)

    assert {one.name: one.value for one in found} == {"cpu_pressure_ratio": 0.25}


def test_this_kernel_tells_the_pressure_of_the_host_or_nothing() -> None:
    assert set(read_pressure(host_pressure())) == {
        kind for kind in ("cpu", "memory", "io") if Path(f"/proc/pressure/{kind}").exists()
    }


def test_a_group_counts_only_if_it_holds_exactly_these_processes(tmp_path: Path) -> None:
    group = tmp_path / "cgroup/own"
    group.mkdir(parents=True)
    (tmp_path / "mounts").write_text(f"none {tmp_path}/cgroup cgroup2 rw 0 0\n")
    for pid in (7, 8):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text("1:cpu:/\n0::/own\n")
    (group / "cgroup.procs").write_text("7\n8\n")
    (group / "cpu.pressure").write_text(_PSI)

    assert read_pressure(group_pressure({7, 8}, tmp_path)) == {"cpu": 3264245776}
    assert group_pressure({7}, tmp_path) == {}
    assert group_pressure({7, os.getpid()}, tmp_path) == {}
