"""Progress lines: what is taken, what is refused, and what counts as work."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from profiler.progress import ProgressLog, ProgressWriter


def log_of(path: Path, *lines: dict[str, object]) -> ProgressLog:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = ProgressLog(path)
    log.poll()
    return log


def test_what_is_written_is_read(tmp_path: Path) -> None:
    writer = ProgressWriter(str(tmp_path / "progress"))
    writer.event("token", stream=3, tokens=2)
    writer.event("kv", bytes=10.0)
    log = ProgressLog(tmp_path / "progress")
    log.poll()

    assert [(one.kind, one.stream) for one in log.events] == [("token", 3), ("kv", 0)]
    assert log.events[0].tokens == 2
    assert log.events[1].bytes == 10
    assert log.malformed_lines == 0


def test_tokens_that_came_at_once_are_that_much_work(tmp_path: Path) -> None:
    log = log_of(
        tmp_path / "progress",
        {"t": 1.0, "event": "token"},
        {"t": 2.0, "event": "token", "tokens": 4},
        {"t": 3.0, "event": "token"},
    )

    assert log.work_at(2.0) == 5
    assert log.rate_per_s(1.0, 3.0) == 2.5


@pytest.mark.parametrize(
    "line",
    [
        {"t": 1.0, "event": "token", "tokens": 0},
        {"t": 1.0, "event": "token", "tokens": -2},
        {"t": 1.0, "event": "token", "tokens": 1e9},
        {"t": 1.0, "event": "token", "stream": -1},
        {"t": 1.0, "event": "token", "stream": 1e12},
        {"t": 1.0, "event": 7},
        {"t": math.inf, "event": "token"},
        {"t": 1.0},
    ],
)
def test_a_line_that_is_no_progress_is_counted_and_not_believed(line: dict[str, object], tmp_path: Path) -> None:
    log = log_of(tmp_path / "progress", line)

    assert log.malformed_lines == 1
    assert log.events == []
    assert log.covered_s is None


def test_lines_without_a_stream_belong_to_the_first(tmp_path: Path) -> None:
    assert [one.stream for one in log_of(tmp_path / "progress", {"t": 1.0, "event": "turn"}).events] == [0]
