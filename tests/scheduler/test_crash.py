"""kill -9 at every step of placing and releasing: after a restart the work is completed or undone, never half done."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client, CotenantError
from cotenant.v1 import placement_pb2
from tests.scheduler.conftest import Victim

PLACE_STEPS = ["place: save intent", "place: apply", "place: save outcome", "place: answer"]
RELEASE_STEPS = ["release: save intent", "release: restore", "release: save outcome", "release: answer"]
MOVE_STEPS = ["move: save intent", "move: apply", "move: save outcome"]
#: More than any placing here needs; a step that is never reached means that placing went through.
WRITES = [f"write {number}" for number in range(1, 9)]
ACTIVE = placement_pb2.PLACEMENT_STATE_ACTIVE


def crash(state: Path, step: str, mechanism: str) -> DaemonProcess:
    return DaemonProcess(state, "--mechanism", mechanism, program=("-m", "tests.scheduler.crashing_daemon", step))


def agrees_with_the_kernel(client: Client, victim: Victim, before: dict[int, tuple[str, str]]) -> str:
    """Say how things stand: the placement list and every thread must tell the same."""
    placements = list(client.placements())
    if not placements:
        assert before == victim.state()
        return "undone"
    assert [("v", ACTIVE)] == [(one.name, one.state) for one in placements]
    assert {placements[0].cpus} == victim.cpus()
    return "completed"


@pytest.mark.parametrize("step", PLACE_STEPS + WRITES)
def test_a_crash_while_placing_is_completed_or_undone(
    tmp_path: Path, victim: Victim, mechanism: str, step: str
) -> None:
    before = victim.state()
    request_id = str(uuid.uuid4())
    crashing = crash(tmp_path / "s", step, mechanism)
    with crashing, Client(crashing.socket) as client:
        try:
            client.place("v", pids=[victim.pid], cpus=1, request_id=request_id)
            crashed = False
        except CotenantError:
            crashed = True
            assert -9 == crashing.wait(10)
    assert crashed or step in WRITES[3:], "this step must be reached"

    with DaemonProcess(tmp_path / "s", "--mechanism", mechanism) as daemon, Client(daemon.socket) as client:
        outcome = agrees_with_the_kernel(client, victim, before)
        assert ("undone" if step == PLACE_STEPS[0] else "completed") == outcome
        again = client.place("v", pids=[victim.pid], cpus=1, request_id=request_id)
        assert ACTIVE == again.state
        assert [again] == list(client.placements())
        client.release("v")
        assert before == victim.state()


@pytest.mark.parametrize("step", RELEASE_STEPS)
def test_a_crash_while_releasing_is_completed(tmp_path: Path, victim: Victim, mechanism: str, step: str) -> None:
    before = victim.state()
    request_id = str(uuid.uuid4())
    crashing = crash(tmp_path / "s", step, mechanism)
    with crashing, Client(crashing.socket) as client:
        client.place("v", pids=[victim.pid], cpus=1)
        with pytest.raises(CotenantError):
            client.release("v", request_id=request_id)
        assert -9 == crashing.wait(10)

    with DaemonProcess(tmp_path / "s", "--mechanism", mechanism) as daemon, Client(daemon.socket) as client:
        outcome = agrees_with_the_kernel(client, victim, before)
        assert ("completed" if step == RELEASE_STEPS[0] else "undone") == outcome
        released = client.release("v", request_id=request_id)
        assert placement_pb2.PLACEMENT_STATE_RELEASED == released.state
        assert before == victim.state()


@pytest.fixture
def three_victims() -> Iterator[list[Victim]]:
    made = [Victim() for _ in range(3)]
    yield made
    for victim in made:
        victim.end()


@pytest.mark.parametrize("step", MOVE_STEPS)
def test_a_crash_inside_a_move_is_completed_or_never_begun(
    tmp_path: Path, three_victims: list[Victim], mechanism: str, step: str
) -> None:
    if len(os.sched_getaffinity(0)) != 2:
        pytest.skip("three workloads must share exactly two CPUs, so that one of them can be given a better place")
    victims = dict(zip("abc", three_victims, strict=True))
    before = {name: victim.state() for name, victim in victims.items()}
    crashing = crash(tmp_path / "s", step, mechanism)
    with crashing, Client(crashing.socket) as client:
        answers = {
            name: client.place(name, pids=[victim.pid], cpus=1, request_id=str(uuid.UUID(int=ord(name))))
            for name, victim in victims.items()
        }
        alone = next(name for name in victims if sum(answers[name].cpus == one.cpus for one in answers.values()) == 1)
        client.release(alone)
        with pytest.raises(CotenantError):
            client.rebalance()
        assert -9 == crashing.wait(10)

    with DaemonProcess(tmp_path / "s", "--mechanism", mechanism) as daemon, Client(daemon.socket) as client:
        placements = {one.name: one for one in client.placements()}
        assert {ACTIVE} == {one.state for one in placements.values()}
        assert {name: {one.cpus} for name, one in placements.items()} == {
            name: victims[name].cpus() for name in placements
        }
        assert (1 if step == MOVE_STEPS[0] else 2) == len({one.cpus for one in placements.values()})
        for name in placements:
            again = client.place(name, pids=[victims[name].pid], cpus=1, request_id=str(uuid.UUID(int=ord(name))))
            assert answers[name] == again
            client.release(name)
        assert before == {name: victim.state() for name, victim in victims.items()}


def test_a_workload_that_ended_while_the_daemon_was_down_is_released(tmp_path: Path, mechanism: str) -> None:
    victim = Victim()
    daemon = DaemonProcess(tmp_path / "s", "--mechanism", mechanism)
    with daemon, Client(daemon.socket) as client:
        client.place("v", pids=[victim.pid], cpus=1)
        daemon.kill()
    victim.end()

    with daemon, Client(daemon.socket) as client:
        assert [] == list(client.placements())
        assert placement_pb2.PLACEMENT_STATE_RELEASED == client.get("v").state
