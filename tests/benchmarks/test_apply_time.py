"""The benchmark of applying: what is timed, what the bare calls do to a real process, and when the mark holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.apply_time import Rounds, measure_sizes, report, sleepers
from benchmarks.bare_group import BareGroup, Process
from benchmarks.upkeep import time_turns
from isolation.cgroup import CpusetHierarchy, find_hierarchy
from isolation.process import allowed_cpus, threads
from isolation.topology import read_topology


@pytest.mark.root
def test_the_bare_calls_confine_every_thread_and_give_it_back(hierarchy: CpusetHierarchy) -> None:
    if hierarchy.version != 1:
        pytest.skip("the home folder of this test is made as cgroup v1 needs it")
    home = Path(f"{hierarchy.mount}/cotenant_test_bare_{os.getpid()}")
    home.mkdir()
    try:
        for name in ("cpuset.mems", "cpuset.cpus"):
            (home / name).write_text(Path(hierarchy.mount, name).read_text(encoding="utf-8"), encoding="utf-8")
        with sleepers(5) as pid:
            found = threads(pid)
            process = Process(pid, {thread.tid: thread.starttime_ticks for thread in found})
            before = {str(allowed_cpus(pid, thread.tid)) for thread in found}
            bare = BareGroup(hierarchy.mount, version=1, home=f"/{home.name}", origin="/")
            bare.apply(process, "0")
            placed = {str(allowed_cpus(pid, thread.tid)) for thread in found}
            bare.release(process, *before)
            after = {str(allowed_cpus(pid, thread.tid)) for thread in found}
            with pytest.raises(RuntimeError, match="wished was 1"):
                bare.apply(Process(pid, {pid: 1}), "0")
            made = sorted(one.name for one in home.iterdir() if one.is_dir())
    finally:
        home.rmdir()

    assert len(found) == 5
    assert (placed, after, made) == ({"0"}, before, [])


@pytest.mark.root
def test_everything_is_timed_once_a_round_and_the_bare_calls_twice(hierarchy: CpusetHierarchy) -> None:
    found = measure_sizes(read_topology(), rounds=3, sizes=(1, 4))

    assert found is not None
    assert list(found) == [1, 4]
    for rounds in found.values():
        assert {name: len(times) for name, times in rounds.times_us.items()} == {
            "apply": 3,
            "release": 3,
            "snapshot": 3,
            "apply again": 3,
            "verify": 3,
            "bare calls that apply": 6,
            "bare calls that release": 6,
        }
    assert not list(Path(hierarchy.mount).glob(f"cotenant-bench-{os.getpid()}*"))


def _rounds(apply_us: float, release_us: float) -> Rounds:
    rounds = Rounds()
    for name in rounds.times_us:
        rounds.times_us[name] = [90.0, 110.0, 110.0, 90.0] if "bare" in name else [apply_us, apply_us]
    rounds.times_us["release"] = [release_us, release_us]
    return rounds


@pytest.mark.parametrize(("apply_us", "release_us"), [(200.0, 200.0), (202.0, 9.0), (9.0, 202.0)])
def test_the_mark_is_judged_on_apply_and_on_release_of_every_size(apply_us: float, release_us: float) -> None:
    rounds = _rounds(apply_us, release_us)

    assert rounds.multiples("apply") == [apply_us / 100, apply_us / 100]
    assert report({1: rounds}, "") is (max(apply_us, release_us) <= 200)
    assert report({1: rounds, 16: _rounds(9.0, 9.0)}, "") is (max(apply_us, release_us) <= 200)


def test_turns_over_placements_in_order_are_timed_and_leave_nothing() -> None:
    assert len(time_turns(read_topology(), placements=3, turns=2)) == 2
    found = find_hierarchy()
    assert found is None or not list(Path(found.mount).glob(f"cotenant-upkeep-{os.getpid()}*"))
