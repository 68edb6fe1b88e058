"""The demonstration: what its verdict says, and that an interrupted one leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.colocation import Ratio, Window
from benchmarks.demo import KINDS, Outcome, time_between_tokens_ms
from benchmarks.demo_report import as_json, gain, verdict
from isolation.cgroup import find_hierarchy
from profiler.progress import ProgressEvent
from scheduler.state import group_prefix

SAME = {name: Ratio(rounds=(1.5, 1.6, 1.4)) for name in KINDS}
OUTCOME = Outcome(
    placements={},
    predicted={},
    measured={"cotenant": SAME, "kernel": SAME},
    tbt_ms={"cotenant": (10.0, 20.0), "kernel": (30.0, 60.0)},
    solo_tbt_ms=10.0,
    bound_tbt_ms=19.0,
    model=None,
    refused={},
    withdrawn="",
    differences=[],
    compared="",
)


def test_no_gain_is_called_no_gain() -> None:
    said = verdict(
        replace(OUTCOME, measured={"cotenant": SAME, "kernel": {**SAME, "io": Ratio(rounds=(1.4, 1.7, 1.5))}})
    )

    assert all("no difference beyond the noise" in line for line in said[:4])


def test_a_gain_and_a_loss_are_called_by_name_only_when_every_round_agrees() -> None:
    kernel = {**SAME, "agent": Ratio(rounds=(3.0, 3.2, 2.8)), "cpu": Ratio(rounds=(0.9, 1.0, 1.1))}
    said = verdict(replace(OUTCOME, measured={"cotenant": SAME, "kernel": kernel}))

    assert said[0].startswith("agent: 2.00 (2.00-2.00) times faster")
    assert said[1].startswith("cpu: slower")


def test_rounds_are_compared_by_number_when_one_is_missing() -> None:
    kernel = {**SAME, "agent": Ratio(rounds=(float("nan"), 3.2, 1.4))}

    assert (2.0, 1.0) == gain(replace(OUTCOME, measured={"cotenant": SAME, "kernel": kernel}), "agent").values


def test_a_promise_taken_back_is_said_with_the_daemon_s_reason() -> None:
    said = verdict(replace(OUTCOME, withdrawn="no place for 'cpu'"))

    assert any("taken back" in line and "no place for 'cpu'" in line for line in said)


def test_a_broken_promise_is_said() -> None:
    said = verdict(OUTCOME)

    assert said[-2].endswith("kept")
    assert said[-1].endswith("BROKEN")


def test_agreement_of_too_few_rounds_is_not_called_a_gain() -> None:
    lost = float("nan")
    kernel = {**SAME, "agent": Ratio(rounds=(3.0, lost, 2.8)), "cpu": Ratio(rounds=(lost,) * 3)}
    said = verdict(replace(OUTCOME, measured={"cotenant": SAME, "kernel": kernel}))

    assert said[0].endswith("only 2 of 3 rounds measured: too few to tell")
    assert "in every round" not in said[0]
    assert "cpu: not measurable in this run" == said[1]
    assert said[2].endswith("3 of 3 rounds measured")


def test_means_compare_the_workloads_that_both_settings_measured() -> None:
    unknown = Ratio(rounds=(float("nan"),) * 3)
    placed = {**SAME, "io": Ratio(rounds=(10.0, 10.0, 10.0))}
    said = verdict(replace(OUTCOME, measured={"cotenant": placed, "kernel": {**SAME, "io": unknown}}))
    nothing = dict.fromkeys(KINDS, unknown)

    assert "of 3 of 4 workloads" in said[4]
    assert "1.50 placed, 1.50 under" in said[4]
    assert "not measurable" in verdict(replace(OUTCOME, measured={"cotenant": SAME, "kernel": nothing}))[4]


def test_a_promise_that_could_not_be_measured_is_neither_kept_nor_broken() -> None:
    nan = float("nan")
    said = verdict(replace(OUTCOME, tbt_ms={"cotenant": (nan, nan), "kernel": (30.0, 60.0)}))

    assert said[-2].endswith("placed: not measurable")
    assert said[-1].endswith("BROKEN")
    assert "none was made" in verdict(replace(OUTCOME, bound_tbt_ms=nan))[-1]


def test_what_is_unknown_is_null_in_json() -> None:
    nan = float("nan")
    kernel = {**SAME, "io": Ratio(rounds=(nan, 2.0, nan))}
    unknown = replace(
        OUTCOME, measured={"cotenant": SAME, "kernel": kernel}, tbt_ms={"cotenant": (nan, nan)}, bound_tbt_ms=nan
    )
    found = json.loads(json.dumps(as_json(unknown), allow_nan=False))

    assert [None, 2.0, None] == found["measured_slowdown"]["kernel"]["io"]["rounds"]
    assert {"median": None, "p99": None} == found["time_between_tokens_ms"]["cotenant"]
    assert found["promised_median_time_between_tokens_ms"] is None


def test_time_between_tokens_leaves_pauses_out_and_keeps_stalls() -> None:
    events = [
        *(ProgressEvent(t / 100, "token") for t in range(100, 151)),
        ProgressEvent(1.505, "kv", bytes=1.0),
        ProgressEvent(1.51, "token"),
        ProgressEvent(1.6, "tool", seconds=0.09),
        *(ProgressEvent(t / 100, "token") for t in range(160, 171)),
    ]
    window = Window(begun_s=0.9, start_s=1.0, end_s=1.9, seen_s=1.95, rates={}, cpu_s={})

    middle, tail = time_between_tokens_ms(events, [window])

    assert 10.0 == pytest.approx(middle)
    assert 10.0 < tail < 250.0, "one stall among sixty intervals, interpolated"
    assert all(map(math.isnan, time_between_tokens_ms(events, [])))


def groups_of_daemons_below(folder: Path) -> list[Path]:
    hierarchy = find_hierarchy()
    prefixes = [group_prefix(state) for state in folder.glob("cotenant-demo-*/state")]
    assert len(prefixes) == 1
    return [Path(hierarchy.mount) / prefix for prefix in prefixes] if hierarchy else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demonstration_leaves_nothing_behind(number: signal.Signals) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="t-") as short,
        subprocess.Popen(  # socket paths are short
            [sys.executable, "-m", "cotenant.main", "demo"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": short},
        ) as running,
    ):
        watched = psutil.Process(running.pid)
        end_s = time.monotonic() + 60
        children: list[psutil.Process] = []
        while (
            len(children) < 2 and time.monotonic() < end_s and running.poll() is None
        ):  # the daemon and the first workload
            children = watched.children(recursive=True)
            time.sleep(0.1)
        groups = groups_of_daemons_below(Path(short))
        running.send_signal(number)
        said, _ = running.communicate(timeout=30)
        left = list(Path(short).iterdir())

    assert 130 == running.returncode, said
    assert len(children) >= 2
    assert [] == [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert [] == left
    assert [] == [group for group in groups if group.exists()]
