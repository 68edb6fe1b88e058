"""Promises as people type them: "tbt-p99=120ms", "ttft=1.5s", "slowdown=1.3"."""

from __future__ import annotations

import re
from typing import Any

from scheduler.errors import RequestInvalid, Violation

_BOUND = re.compile(r"(tbt|ttft|ttlt)(?:-p(\d{1,2}(?:\.\d+)?))?=(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_SLOWDOWN = re.compile(r"slowdown=(\d+(?:\.\d+)?)x?", re.ASCII)
#: The first of these that is bounded makes the class.
_CLASS = {"tbt_ms": "latency", "ttft_ms": "latency", "ttlt_ms": "throughput", "max_slowdown": "service"}
_PLAIN = {"tbt_ms": 0.99, "ttft_ms": 0.5, "ttlt_ms": 0.5}  #: quantile of a bound that names none: proto, Slo.quantile
_LOWEST, _HIGHEST = 0.01, 0.9999


def parse_slo(texts: list[str]) -> dict[str, Any] | None:
    """Translate to the client's slo mapping, whatever the order; None for no promise. Raises RequestInvalid."""
    if not texts:
        return None
    bounds: dict[str, float] = {}
    quantiles: dict[str, float | None] = {}
    for text in texts:
        if bound := _BOUND.fullmatch(text):
            field = f"{bound[1]}_ms"
            value = float(bound[3]) * (1000.0 if bound[4] == "s" else 1.0)
            quantiles[field] = _quantile(bound[2], text)
        elif slowdown := _SLOWDOWN.fullmatch(text):
            field, value = "max_slowdown", float(slowdown[1])
        else:
            raise _refused(f"{text!r} is not understood; write tbt-p99=120ms, ttft=1.5s, ttlt=30s or slowdown=1.3")
        if field in bounds:
            raise _refused(f"{text!r} bounds what another --slo bounds already; give each bound once")
        bounds[field] = value
    slo: dict[str, Any] = {"class": next(kind for field, kind in _CLASS.items() if field in bounds), **bounds}
    if (quantile := _common(quantiles)) is not None:
        slo["quantile"] = quantile
    return slo


def _quantile(percent: str | None, text: str) -> float | None:
    if percent is None:
        return None
    quantile = round(float(percent) / 100.0, 9)
    if not _LOWEST <= quantile <= _HIGHEST:
        raise _refused(f"{text!r} names P{percent}; allowed are P{_LOWEST * 100:g} to P{_HIGHEST * 100:g}")
    return quantile


def _common(quantiles: dict[str, float | None]) -> float | None:
    """Give the one quantile of all bounds; None = each at its plain one. A workload has one, so others are refused."""
    named = {quantile for quantile in quantiles.values() if quantile is not None}
    if not named:
        return None
    meant = {field: _PLAIN[field] if quantile is None else quantile for field, quantile in quantiles.items()}
    if len(set(meant.values())) == 1:
        return named.pop()
    if len(named) == 1 and all(meant[field] == _PLAIN[field] for field in meant):
        return None
    said = ", ".join(f"{field.removesuffix('_ms')} at P{quantile * 100:g}" for field, quantile in sorted(meant.items()))
    raise _refused(
        f"{said}: the bounds of one workload hold at one quantile (a plain tbt at P99, plain ttft and ttlt at P50); "
        "name the same for all, or leave all plain"
    )


def _refused(problem: str) -> RequestInvalid:
    return RequestInvalid((Violation("--slo", problem),))
