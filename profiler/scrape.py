"""Progress from a Prometheus endpoint: one series, or several added up, asked for a few times a second."""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from profiler.errors import WorkloadFailed
from profiler.metric import Metric
from profiler.progress import WorkLog

_INTERVAL_S = 0.25
_TIMEOUT_S = 2.0
_LIMIT_BYTES = 8 << 20
_COUNTERS = {"counter", "histogram", "summary"}
_COUNTER_ENDINGS = ("_total", "_count", "_sum", "_bucket")


class ScrapeLog(WorkLog):
    """Reads one metric; what goes wrong is kept in `failure`, since a server may still be starting."""

    def __init__(self, metric: Metric, *, interval_s: float = _INTERVAL_S) -> None:
        super().__init__()
        self._metric = metric
        self._interval_s = interval_s
        self._next_s = -math.inf
        self._before = 0.0  # counted by servers that started again since
        self._total = math.nan
        self.is_counter: bool | None = None
        self.failure = ""

    def poll(self) -> None:
        """Ask if it is time to."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._interval_s
        try:
            value, is_counter = series_value(self._fetch(), self._metric)
        except WorkloadFailed as error:
            self.failure = str(error)
            return
        self.failure = ""
        self.is_counter = is_counter
        now_s = (now_s + time.monotonic()) / 2  # somewhere between question and answer
        if not is_counter:
            self.add_rate(now_s, max(0.0, value))
            return
        if value < self._total:  # it began again from zero
            self._before += self._total
        self._total = value
        self.add_total(now_s, self._before + value)

    def _fetch(self) -> str:
        url = self._metric.url
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - http(s), checked when parsed
                data: bytes = answer.read(_LIMIT_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            raise WorkloadFailed(f"{url!r} answered {error.code} {error.reason}: check the path") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise WorkloadFailed(f"{url!r} cannot be read: {reason}; is the server running?") from error
        if len(data) > _LIMIT_BYTES:
            raise WorkloadFailed(f"{url!r} answers with more than {_LIMIT_BYTES} bytes: no metrics page")
        return data.decode(errors="replace")


def series_value(page: str, metric: Metric) -> tuple[float, bool]:
    """Give the sum of the matching series and whether it only counts up; raises WorkloadFailed if there is none."""
    total, is_counter, names = math.nan, False, set()
    try:
        for family in text_string_to_metric_families(page):
            for one in family.samples:
                names.add(one.name)
                if one.name != metric.series or metric.labels.items() - one.labels.items():
                    continue
                if math.isfinite(one.value):
                    total = one.value if math.isnan(total) else total + one.value
                untyped = family.type in {"unknown", "untyped"}
                is_counter = one.name.endswith(_COUNTER_ENDINGS) if untyped else family.type in _COUNTERS
    except ValueError as error:
        raise WorkloadFailed(f"{metric.url!r} is no metrics page: {error}") from error
    if math.isnan(total):
        near = sorted(name for name in names if metric.series[:6].lower() in name.lower())[:5]
        why = (
            f"with the labels {metric.labels}"
            if metric.series in names
            else f"; there is {', '.join(near) or 'none like it'}"
        )
        raise WorkloadFailed(f"{metric.url!r} has no series {metric.series!r} {why}")
    return total, is_counter
