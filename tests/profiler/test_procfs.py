"""Totals of process groups, from a made-up /proc and from the real one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from profiler.procfs import busy_s, cpu_s, features_over, members, sample


def process(
    root: Path, pid: int, parent: int, session: int, *, state: str = "S", user: int = 0, threads: int = 1
) -> None:
    folder = root / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
    fields = [state, parent, pid, session, 0, 0, 0, 10, 20, 1, 2, user, 5, 3, 4, 20, 0, threads, 0, 99, 1000, 7, 0]
    (folder / "stat").write_text(f"{pid} (odd) name (x) {' '.join(map(str, fields))}")
    (folder / "io").write_text("rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n")
    (folder / "task" / str(pid) / "status").write_text(
        f"Name:\tx\nvoluntary_ctxt_switches:\t{user}\nnonvoluntary_ctxt_switches:\t2\n"
    )


def test_descendants_and_session_members_belong_to_the_group(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 10)
    process(tmp_path, 11, 10, 10)
    process(tmp_path, 12, 11, 12)  # a grandchild in a session of its own
    process(tmp_path, 13, 1, 10)  # an orphan of the session
    process(tmp_path, 14, 10, 10, state="Z")
    process(tmp_path, 20, 1, 20)
    (tmp_path / "self").mkdir()
    (tmp_path / "30").mkdir()  # gone while we look

    assert members({10}, tmp_path) == {10, 11, 12, 13}


def test_totals_add_up_over_processes_and_their_reaped_children(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 10, user=100)
    process(tmp_path, 11, 10, 10, user=50, threads=3)
    ticks = os.sysconf("SC_CLK_TCK")

    found = sample({10}, tmp_path)

    assert found.user_s == (100 + 3 + 50 + 3) / ticks
    assert found.system_s == 2 * (5 + 4) / ticks
    assert (found.minor_faults, found.major_faults, found.threads) == (60, 6, 4)
    assert found.rss_bytes == 14 * os.sysconf("SC_PAGE_SIZE")
    assert (found.read_bytes, found.written_bytes) == (8192, 16384)
    assert found.voluntary == {10: 100, 11: 50}


def test_what_may_not_be_read_stays_unknown(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 10)
    first = sample({10}, tmp_path)
    (tmp_path / "10" / "io").unlink()

    last = sample({10}, tmp_path)

    assert math.isnan(last.read_bytes)
    names = {one.name for one in features_over((first, last), 1)}
    assert "io_read_bytes_per_s" not in names
    assert "rss_bytes" in names
    assert "system_time_ratio" not in names, "no CPU time was used, so its kernel share is unknown"


def test_a_busy_child_of_a_shell_is_seen_as_the_groups_work() -> None:
    code = f"{sys.executable} -c 'while True: pass' & wait"
    with subprocess.Popen(["sh", "-c", code], start_new_session=True) as shell:
        try:
            time.sleep(0.2)
            first = sample({shell.pid})
            time.sleep(0.5)
            last = sample({shell.pid})
        finally:
            os.killpg(shell.pid, 9)

    found = {one.name: one.value for one in features_over((first, last), 2)}

    assert len(last.pids) == 2
    assert 0.1 < found["cpu_cores"] <= 1.1
    assert found["cpu_utilisation_ratio"] == pytest.approx(found["cpu_cores"] / 2)
    assert cpu_s(first, last) > 0.05


def test_busy_time_counts_only_the_given_cpus_and_stolen_time(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(
        "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 50 60 4 5 6 0 0\ncpu1 100 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    ticks = os.sysconf("SC_CLK_TCK")

    assert busy_s(CpuSet.parse("0"), tmp_path) == 21 / ticks
    assert math.isnan(busy_s(CpuSet.parse("0,7"), tmp_path))
