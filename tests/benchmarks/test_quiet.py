"""Whether the host was quiet: from its clocks, and from real work beside us."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from benchmarks.environment import CpuTimes
from benchmarks.quiet import OTHERS_RATIO, Moment, Probes, disturbance, look

_CPUS = os.cpu_count() or 1


def moment(t_s: float, busy: int, steal: int, user_s: float, own_s: float = 0.0) -> Moment:
    idle = int(t_s * 100 * _CPUS) - busy - steal
    return Moment(t_s=t_s, times=CpuTimes(busy=busy, steal=steal, idle=idle), user_s=user_s, own_s=own_s)


def test_time_of_members_and_our_own_is_no_disturbance() -> None:
    steal_ratio, others_ratio = disturbance(moment(0, 0, 0, 0.0), moment(10, 500, 0, 5.0, own_s=1.0), 4.0)

    assert steal_ratio == 0
    assert others_ratio == 0


def test_stolen_time_and_other_programs_are_shares_of_all_cpus() -> None:
    last = moment(10, 100, 10 * _CPUS, 1.0 * _CPUS)
    steal_ratio, others_ratio = disturbance(moment(0, 0, 0, 0.0), last, 0.0)

    assert steal_ratio == pytest.approx(0.01)
    assert others_ratio == pytest.approx(0.1)


def test_clocks_that_differ_by_a_tick_give_no_negative_share() -> None:
    assert disturbance(moment(0, 0, 0, 0.0), moment(1, 10, 0, 0.1), 0.2) == (0.0, 0.0)


def test_a_program_beside_us_is_seen() -> None:
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        first = look()
        time.sleep(0.5)
        last = look()
    finally:
        hog.kill()
        hog.wait()
    _, others_ratio = disturbance(first, last, 0.0)

    assert others_ratio > OTHERS_RATIO
    alone = dataclasses.replace(last, user_s=first.user_s)
    assert disturbance(first, alone, 0.0)[1] == 0


def test_probes_take_a_time() -> None:
    probes = Probes()

    assert 0 < probes.cpu_s() < 10
    assert 0 < probes.memory_s() < 10
