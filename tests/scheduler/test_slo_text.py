"""Promises as typed."""

from __future__ import annotations

import pytest

from scheduler.errors import RequestInvalid
from scheduler.slo_text import parse_slo


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], None),
        (["tbt-p99=120ms"], {"class": "latency", "tbt_ms": 120.0, "quantile": 0.99}),
        (["ttft=1.5s"], {"class": "latency", "ttft_ms": 1500.0}),
        (["ttlt=30s"], {"class": "throughput", "ttlt_ms": 30000.0}),
        (["slowdown=1.3"], {"class": "service", "max_slowdown": 1.3}),
        (["tbt=9ms", "slowdown=2"], {"class": "latency", "tbt_ms": 9.0, "max_slowdown": 2.0}),
    ],
)
def test_understood(texts: list[str], wanted: dict[str, object] | None) -> None:
    assert wanted == parse_slo(texts)


@pytest.mark.parametrize("text", ["", "tbt", "tbt=120", "tbt=-1ms", "slowdown=nan", "tbt-p99=1h", "ttft=1s;rm"])
def test_everything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(RequestInvalid, match="tbt-p99=120ms"):
        parse_slo([text])
