"""Counters and gauges of a real endpoint, and endpoints that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from profiler.errors import WorkloadFailed
from profiler.metric import parse_metric
from profiler.scrape import ScrapeLog, series_value

PAGE = """
# TYPE requests_total counter
requests_total{code="200",path="/"} 40
requests_total{code="500",path="/"} 2
# TYPE speed gauge
speed 12.5
untyped_total 7
untyped_now 8
# TYPE broken gauge
broken NaN
"""


@contextmanager
def serving(page: Callable[[], str], status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(page().encode())

        def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 - named by http.server
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("series", "value", "is_counter"),
    [
        ("requests_total", 42, True),
        ('requests_total{code="200"}', 40, True),
        ('requests_total{code="500", path="/"}', 2, True),
        ("speed", 12.5, False),
        ("untyped_total", 7, True),
        ("untyped_now", 8, False),
    ],
)
def test_series_are_added_up_and_counters_told_from_gauges(series: str, value: float, *, is_counter: bool) -> None:
    assert series_value(PAGE, parse_metric(f"prometheus:http://h/#{series}")) == (value, is_counter)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ("request_total", "no series 'request_total' ; there is requests_total"),
        ('requests_total{code="404"}', "with the labels"),
        ("broken", "no series 'broken'"),
    ],
)
def test_a_series_that_is_not_there_names_what_is_near(series: str, message: str) -> None:
    with pytest.raises(WorkloadFailed, match=message):
        series_value(PAGE, parse_metric(f"prometheus:http://h/#{series}"))


def test_a_page_that_is_none_is_an_error() -> None:
    with pytest.raises(WorkloadFailed, match="is no metrics page"):
        series_value("<html>{ x y z</html>", parse_metric("prometheus:http://h/#x"))


def polled(page: Callable[[], str], series: str, times: int, status: int = 200) -> ScrapeLog:
    with serving(page, status) as url:
        log = ScrapeLog(parse_metric(f"prometheus:{url}#{series}"), interval_s=0)
        for _ in range(times):
            log.poll()
            time.sleep(0.02)
    return log


def test_a_counter_that_begins_again_goes_on_counting() -> None:
    values = iter([10, 20, 3, 9])

    log = polled(lambda: f"# TYPE x_total counter\nx_total {next(values)}\n", "x_total", 4)

    assert log.covered_s is not None
    assert log.work_at(log.covered_s[1]) - log.work_at(log.covered_s[0]) == 10 + 3 + 6


def test_a_gauge_is_a_rate() -> None:
    log = polled(lambda: "# TYPE x gauge\nx 30\n", "x", 3)

    assert log.covered_s is not None
    assert log.rate_per_s(*log.covered_s) == pytest.approx(30)


def test_a_page_that_is_not_found_is_kept_as_the_reason() -> None:
    log = polled(lambda: "gone", "x", 1, status=404)

    assert "answered 404 Not Found: check the path" in log.failure
    assert log.covered_s is None
