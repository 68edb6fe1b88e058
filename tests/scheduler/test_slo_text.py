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
        (["tbt-p50=9ms", "ttft=1s"], {"class": "latency", "tbt_ms": 9.0, "ttft_ms": 1000.0, "quantile": 0.5}),
        (["tbt-p99=9ms", "ttft=1s"], {"class": "latency", "tbt_ms": 9.0, "ttft_ms": 1000.0}),
        (
            ["tbt-p95=9ms", "ttft-p95=1s"],
            {"class": "latency", "tbt_ms": 9.0, "ttft_ms": 1000.0, "quantile": 0.95},
        ),
        (["tbt-p99.99=9ms"], {"class": "latency", "tbt_ms": 9.0, "quantile": 0.9999}),
        (["ttlt=2s", "slowdown=2"], {"class": "throughput", "ttlt_ms": 2000.0, "max_slowdown": 2.0}),
        (["ttlt=2s", "tbt=9ms"], {"class": "latency", "ttlt_ms": 2000.0, "tbt_ms": 9.0}),
    ],
)
def test_understood(texts: list[str], wanted: dict[str, object] | None) -> None:
    assert wanted == parse_slo(texts)
    assert wanted == parse_slo(texts[::-1])


@pytest.mark.parametrize("text", ["", "tbt", "tbt=120", "tbt=-1ms", "slowdown=nan", "tbt-p99=1h", "ttft=1s;rm"])
def test_everything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(RequestInvalid, match="tbt-p99=120ms"):
        parse_slo([text])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["tbt-p99=120ms", "ttft-p95=1s"], "tbt at P99, ttft at P95: the bounds of one workload hold at one quantile"),
        (["tbt-p99=120ms", "ttft-p50=1s"], "hold at one quantile"),
        (["tbt-p95=120ms", "ttft=1s"], "tbt at P95, ttft at P50"),
        (["tbt-p99=120ms", "tbt-p50=60ms"], "'tbt-p50=60ms' bounds what another --slo bounds already"),
        (["slowdown=2", "slowdown=3"], "bounds what another --slo bounds already"),
        (["tbt-p0=120ms"], "'tbt-p0=120ms' names P0; allowed are P1 to P99.99"),
        (["ttft-p0.5=1s"], "names P0.5"),
        (["tbt-p99.995=1s"], "names P99.995"),
    ],
)
def test_quantiles_that_cannot_be_meant_are_refused_in_any_order(texts: list[str], said: str) -> None:
    with pytest.raises(RequestInvalid, match=said):
        parse_slo(texts)
    with pytest.raises(RequestInvalid):
        parse_slo(texts[::-1])
