"""Promises as people type them: "tbt-p99=120ms", "ttft=1.5s", "slowdown=1.3"."""

from __future__ import annotations

import re
from typing import Any

from scheduler.errors import RequestInvalid, Violation

_BOUND = re.compile(r"(tbt|ttft|ttlt)(?:-p(\d{1,2}(?:\.\d+)?))?=(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_SLOWDOWN = re.compile(r"slowdown=(\d+(?:\.\d+)?)x?", re.ASCII)
_CLASS = {"tbt": "latency", "ttft": "latency", "ttlt": "throughput"}


def parse_slo(texts: list[str]) -> dict[str, Any] | None:
    """Translate to the client's slo mapping; None for no promise. Raises RequestInvalid showing the forms."""
    if not texts:
        return None
    slo: dict[str, Any] = {}
    for text in texts:
        if bound := _BOUND.fullmatch(text):
            kind, quantile, value, unit = bound.groups()
            slo[f"{kind}_ms"] = float(value) * (1000.0 if unit == "s" else 1.0)
            slo.setdefault("class", _CLASS[kind])
            if quantile:
                slo["quantile"] = float(quantile) / 100.0
        elif slowdown := _SLOWDOWN.fullmatch(text):
            slo["max_slowdown"] = float(slowdown[1])
            slo.setdefault("class", "service")
        else:
            problem = f"{text!r} is not understood; write tbt-p99=120ms, ttft=1.5s, ttlt=30s or slowdown=1.3"
            raise RequestInvalid((Violation("--slo", problem),))
    return slo
