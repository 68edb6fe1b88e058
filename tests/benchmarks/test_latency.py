"""The latency benchmark: what is timed, and when the marks hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from benchmarks.latency import measure, prepare, report

ECHO, WARM, COLD = "echo", "PreviewPlacement, warm", "PreviewPlacement, cold"


def test_every_call_is_timed_as_often_as_wished(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir(mode=0o700)
    prepare(state)
    with DaemonProcess(state) as daemon:
        found, peak_bytes = measure(daemon, calls=3, places=2, populations=(1, 3))

    assert [1, 3] == list(found)
    for timed in found.values():
        assert {ECHO: 5, WARM: 3, COLD: 4, "PlaceWorkload": 2, "ReleaseWorkload": 2} == {
            call: len(values) for call, values in timed.items()
        }
    assert peak_bytes > 0


@pytest.mark.parametrize(
    ("warm_us", "cold_us", "holds"), [(500.0, 500.0, True), (700.0, 1.0, False), (1.0, 700.0, False)]
)
def test_the_mark_is_judged_on_warm_and_on_cold_previews(warm_us: float, cold_us: float, holds: bool) -> None:  # noqa: FBT001
    found = {1: {ECHO: [100.0] * 3, WARM: [warm_us] * 3, COLD: [cold_us] * 3}}

    assert holds is report(found, 1)
    assert not report(found, 10**9)


def test_the_tail_is_never_beyond_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    report({1: {ECHO: [100.0, 200.0, 300.0], WARM: [1.0], COLD: [1.0]}}, 1)

    assert "298" in capsys.readouterr().out
