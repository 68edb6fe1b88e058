"""The daemon's log on real pipes."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from scheduler.log import JsonLines, UnblockedHandler

_LINES = 5000  # of 100 bytes: more than a pipe and the waiting lines hold


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def log_to(writing: int) -> tuple[logging.Logger, UnblockedHandler]:
    log = logging.getLogger(f"test.{writing}")
    log.propagate, log.level, log.handlers = False, logging.INFO, []
    handler = UnblockedHandler(writing)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    return log, handler


def ends(work: Callable[[], object], limit_s: float = 20.0) -> bool:
    """Run it in a thread that may hang."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()


def read_lines(reading: int) -> Iterator[str]:
    """Give messages as they come, for ever."""
    raw = b""
    while True:
        raw += os.read(reading, 1 << 16)
        *whole, raw = raw.split(b"\n")
        yield from (json.loads(line)["message"].strip() for line in whole)


def test_lines_come_in_order_and_are_there_after_closing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log, handler = log_to(writing)
    for number in range(100):
        log.warning("line %d\n", number, extra={"workload": "w"})
    handler.close()

    lines = [json.loads(line) for line in os.read(reading, 1 << 16).splitlines()]
    assert [f"line {number}\n" for number in range(100)] == [line["message"] for line in lines]
    assert {("warning", "w")} == {(line["level"], line["workload"]) for line in lines}


def test_a_log_that_nobody_reads_stops_nobody_and_what_was_lost_is_told(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log, handler = log_to(writing)

    def fill() -> None:
        for number in range(_LINES):
            log.info("%-100d", number)

    assert ends(fill), "logging waited for a reader"
    messages = read_lines(reading)
    came = lost = 0
    while came + lost < _LINES:
        one = next(messages)
        if "were lost" in one:
            lost += int(one.split()[0])
        else:
            came += 1
    log.info("afterwards")
    handler.close()

    assert (_LINES, "afterwards") == (came + lost, next(messages))
    assert 0 < lost < _LINES


def test_closing_does_not_wait_for_ever_either(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    log, handler = log_to(writing)
    for number in range(_LINES):
        log.info("%-100d", number)

    assert ends(handler.close)


def test_a_log_that_cannot_be_written_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log, handler = log_to(writing)

    log.info("nobody is there")
    handler.close()
    os.close(writing)
