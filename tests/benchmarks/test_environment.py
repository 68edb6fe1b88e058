"""The host's state: pure parsers, a made-up tree, this host."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from benchmarks.environment import (
    CpuTimes,
    Environment,
    busy_ratio,
    parse_choice,
    parse_cpu_times,
    parse_load,
    read_environment,
)
from benchmarks.errors import HostUnreadable

QUIET = Environment(
    fingerprint="0",
    cpu_model="model",
    kernel="6.1",
    cpus=4,
    load_1m=0.1,
    steal_ratio=0.0,
    governor=None,
    huge_pages=None,
    versions=(),
)


def test_cpu_times_are_sorted_into_busy_steal_and_idle() -> None:
    text = "cpu  10 20 30 400 50 6 7 8 9 1\ncpu0 1 1 1 1\n"

    assert parse_cpu_times(text) == CpuTimes(busy=73, steal=8, idle=450)


def test_an_old_kernel_without_steal_has_none() -> None:
    assert parse_cpu_times("cpu  1 2 3 4\n") == CpuTimes(busy=6, steal=0, idle=4)


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3 4", "cpu 1 2", "intr 1 2 3 4 5"])
def test_a_stat_file_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(HostUnreadable, match="/proc/stat begins with"):
        parse_cpu_times(text)


def test_ratios_are_shares_of_the_time_between() -> None:
    earlier = CpuTimes(busy=100, steal=10, idle=1000)

    assert CpuTimes(busy=120, steal=20, idle=1070).ratios_since(earlier) == (0.3, 0.1)
    assert earlier.ratios_since(earlier) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"load_1m": 1.5}, "load 1.50 on 4 CPUs"),
        ({"steal_ratio": 0.05}, "5.0% of CPU time stolen"),
        ({"governor": "powersave"}, "'powersave'"),
        ({"cpus": 1}, "1 CPU"),
    ],
)
def test_each_unmet_precondition_is_named(change: dict[str, float | str], word: str) -> None:
    (line,) = dataclasses.replace(QUIET, **change).unmet  # type: ignore[arg-type]

    assert word in line


def test_a_quiet_host_and_unknown_values_are_no_complaint() -> None:
    assert QUIET.unmet == ()
    assert dataclasses.replace(QUIET, steal_ratio=None, governor="performance").unmet == ()


def test_load_and_choice_are_read_from_kernel_words() -> None:
    assert parse_load("0.26 0.28 0.46 1/86 9623\n") == 0.26
    assert parse_choice("always [madvise] never\n") == "madvise"
    assert parse_choice("none\n") is None
    with pytest.raises(HostUnreadable, match="'busy'"):
        parse_load("busy")


def test_busy_ratio_is_what_the_counters_say(tmp_path: Path) -> None:
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    stat.write_text("cpu  0 0 0 0 0 0 0 0\n")

    def work(_seconds: float) -> None:
        stat.write_text("cpu  200000 0 0 600000 0 0 0 0\n")

    ratio = busy_ratio(1.0, root=tmp_path, sleep=work)

    assert ratio == pytest.approx(0.25, abs=0.001)


def test_busy_ratio_is_unknown_when_no_tick_passed(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 1 1 1 1 1 1 1\n")

    assert busy_ratio(1.0, root=tmp_path, sleep=lambda _s: None) is None


def test_a_root_without_proc_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostUnreadable, match=r"proc/stat' cannot be read"):
        busy_ratio(0.0, root=tmp_path)


def test_this_host_is_read() -> None:
    here = read_environment()

    assert here.cpus == os.sysconf("SC_NPROCESSORS_ONLN")
    assert here.kernel == os.uname().release
    assert dict(here.versions)["numpy"] != "absent"
    assert here.fingerprint == read_environment().fingerprint
