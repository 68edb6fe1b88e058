"""What is compared before and after: only what a placement of ours may change."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.host_state import differences, read_state
from isolation.cgroup import find_hierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer, Mechanism, Target
from isolation.process import identify
from isolation.spec import IsolationSpec
from isolation.topology import read_topology
from tests.fakes.children import real_process

PREFIX = "cotenant-state-test"


def test_a_moved_thread_is_a_difference_and_one_that_was_moved_back_is_none() -> None:
    with real_process(threads=3) as pid:
        before = read_state([pid], PREFIX)
        allowed = os.sched_getaffinity(pid)
        os.sched_setaffinity(pid, {min(allowed)})
        moved = read_state([pid], PREFIX)
        os.sched_setaffinity(pid, allowed)
        back = read_state([pid], PREFIX)

    if len(allowed) > 1:
        assert [f"thread {pid} of process {pid}"] == [one.partition(":")[0] for one in differences(before, moved)]
    assert [] == differences(before, back)
    assert 3 == len(before.threads)


def test_threads_may_end_and_be_born_but_not_elsewhere() -> None:
    with real_process(threads=2) as pid:
        state = read_state([pid], PREFIX)
    (first, second), like = sorted(state.threads), state.threads[pid, pid]

    assert [] == differences(state, replace(state, threads={first: like}))
    assert [] == differences(replace(state, threads={first: like}), replace(state, threads={first: like, second: like}))
    assert [f"thread {second[1]} of process {pid}, born meanwhile: 'else'"] == differences(
        replace(state, threads={first: like}), replace(state, threads={first: like, second: "else"})
    )


def test_processes_that_are_gone_are_no_error() -> None:
    with real_process() as pid:
        pass

    assert {} == read_state([pid], PREFIX).threads


@pytest.mark.root
def test_groups_of_others_that_come_and_go_are_not_looked_at_and_ours_are() -> None:
    enforcer = Enforcer.for_host(read_topology(), prefix=PREFIX)
    hierarchy = find_hierarchy()
    if enforcer.mechanism is Mechanism.AFFINITY or hierarchy is None:
        pytest.skip("no cpuset cgroup can be written here")
    stop = threading.Event()
    strange = Path(hierarchy.mount) / "stranger-state-test"

    def come_and_go() -> None:
        while not stop.is_set():
            strange.mkdir()
            strange.rmdir()

    other = threading.Thread(target=come_and_go)
    with real_process() as pid:
        other.start()
        try:
            before = read_state([pid], PREFIX)
            target = Target(processes=(identify(pid, allowed_uids=None),))
            undo = enforcer.snapshot("x", target)
            try:
                enforcer.apply("x", target, IsolationSpec(cpus=CpuSet.of([min(read_topology().usable)])), undo)
                placed = read_state([pid], PREFIX)
            finally:
                enforcer.release(undo)
            for _ in range(50):
                after = read_state([pid], PREFIX)
                assert [] == differences(before, after)
        finally:
            stop.set()
            other.join()

    assert all(str(path) in "".join(differences(before, placed)) for path in (pid, f"{PREFIX}/x/cpuset.cpus"))
    assert not any("stranger" in path for path in before.files)
