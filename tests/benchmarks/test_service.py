"""Services of the catalogue as workloads: real programs, paused with all that came of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.service import found_entry
from profiler.catalogue import read_catalogue
from profiler.errors import RecordInvalid
from profiler.procfs import is_running, members
from profiler.progress import ENVIRONMENT, ProgressLog


def test_it_tells_work_stands_still_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    if missing := read_catalogue()["sqlite"].missing():
        pytest.skip(f"{', '.join(missing)} not installed (Debian: sqlite3)")
    path = tmp_path / "progress"
    log = ProgressLog(path)
    service = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.service", "sqlite"],
        env={**os.environ, ENVIRONMENT: str(path), "TMPDIR": str(tmp_path)},
    )
    try:
        wait_for_work(log, 2)
        service.send_signal(signal.SIGTSTP)
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s and any(is_running(pid) for pid in started(service.pid)):
            time.sleep(0.02)
        family = started(service.pid)
        assert len(family) > 1
        assert not any(is_running(pid) for pid in family)
        log.poll()
        stopped = log.covered_s
        time.sleep(0.2)
        log.poll()
        assert log.covered_s == stopped, "nothing is told while it stands still"

        service.send_signal(signal.SIGCONT)
        wait_for_work(log, (log.work_at(stopped[1]) if stopped else 0) + 1)
    finally:
        service.terminate()
        code = service.wait(timeout=20)

    assert code == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)
    assert [one.name for one in tmp_path.iterdir()] == ["progress"]


def started(pid: int) -> set[int]:
    """Name the service's own programs: supervisors stay awake to notice the end of what they watch."""
    found = set()
    for one in members({pid}):
        command = Path(f"/proc/{one}/cmdline").read_bytes()
        if b"supervisor.py" not in command:
            found.add(one)
    return found


def wait_for_work(log: ProgressLog, work: float) -> None:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        log.poll()
        if log.covered_s is not None and log.work_at(log.covered_s[1]) >= work:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {work} units of work within a minute")


def test_what_is_no_service_is_refused_with_those_there_are() -> None:
    with pytest.raises(RecordInvalid, match=r"'oracle' is no service.*redis"):
        found_entry("oracle")
