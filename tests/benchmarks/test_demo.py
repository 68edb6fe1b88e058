"""The demonstration: what its verdict says, and that an interrupted one leaves nothing behind."""

from __future__ import annotations

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

from benchmarks.colocation import Ratio
from benchmarks.demo import KINDS, Outcome
from benchmarks.demo_report import gain, verdict
from isolation.cgroup import find_hierarchy

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


def test_a_broken_promise_is_said() -> None:
    said = verdict(OUTCOME)

    assert said[-2].endswith("kept")
    assert said[-1].endswith("BROKEN")


def groups() -> set[str]:
    hierarchy = find_hierarchy()
    return {str(path) for path in Path(hierarchy.mount).rglob("cotenant*")} if hierarchy else set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demonstration_leaves_nothing_behind(number: signal.Signals) -> None:
    before = groups()
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
        running.send_signal(number)
        said, _ = running.communicate(timeout=30)
        left = list(Path(short).iterdir())

    assert 130 == running.returncode, said
    assert len(children) >= 2
    assert [] == [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert [] == left
    assert before == groups()
