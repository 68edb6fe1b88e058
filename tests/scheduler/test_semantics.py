"""What a request means: nothing accepted is dropped, and no observation gets a neighbour it did not have."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client, CotenantError
from cotenant.v1 import model_pb2, placement_pb2, profile_pb2
from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Applied
from profiler.records import PROFILE_SCHEMA_VERSION, Observation
from profiler.store import ObservationStore
from scheduler.controller import Controller
from scheduler.held import outcome_of
from scheduler.metrics import Metrics
from scheduler.placement import Decision, EngineAdvice, Explanation, Placement, PlacementState, WorkloadRequest
from scheduler.service import PlacementServicer
from tests.fakes.controllers import Gains
from tests.fakes.machines import make_topology
from tests.scheduler.conftest import Victim


@pytest.fixture
def other() -> Iterator[Victim]:
    made = Victim()
    yield made
    made.end()


def imported(client: Client, name: str, **features: float) -> profile_pb2.Profile:
    profile = profile_pb2.Profile(
        name=name,
        schema_version=PROFILE_SCHEMA_VERSION,
        cpus=1,
        host_fingerprint=client.host().fingerprint,
        quality="stable",
    )
    for feature, value in features.items():
        profile.features.add(name=feature, value=value, source="procfs", window_s=1.0, samples=1)
    return client.import_profile(profile, replace=True)


def stored(daemon: DaemonProcess) -> list[Observation]:
    return ObservationStore(daemon.state / "observations.jsonl").load()


# --- reported observations ----------------------------------------------------------------------


def reported(client: Client, *slowdowns: tuple[str, float]) -> int:
    """Report windows in which nothing happened."""
    time.sleep(0.05)
    return client.report([(name, slowdown, 0.01) for name, slowdown in slowdowns])


def test_a_report_names_the_profiles_of_victim_and_every_neighbour(
    daemon: DaemonProcess, client: Client, victim: Victim, other: Victim
) -> None:
    imported(client, "calm", cpu_utilisation_ratio=0.1)
    imported(client, "greedy", cpu_utilisation_ratio=1.0)
    client.place("v", pids=[victim.pid], cpus=1, profile="calm")
    assert 0 == reported(client, ("v", 1.2))  # nobody beside it
    client.place("o", pids=[other.pid], cpus=1, profile="greedy")
    before = len(stored(daemon))

    assert 1 == reported(client, ("v", 1.5))

    assert [("calm", ("greedy",), 1.5, "pinning")] == [
        (one.victim, one.aggressors, one.slowdown, one.isolation) for one in stored(daemon)[before:]
    ]


def test_a_window_in_which_somebody_came_is_not_kept(client: Client, victim: Victim, other: Victim) -> None:
    imported(client, "calm", cpu_utilisation_ratio=0.1)
    client.place("v", pids=[victim.pid], cpus=1, profile="calm")
    client.place("o", pids=[other.pid], cpus=1, profile="calm")

    assert 0 == client.report([("v", 3.0, 3600.0)])


def test_nothing_is_kept_when_a_neighbour_or_the_victim_has_no_stored_profile(
    daemon: DaemonProcess, client: Client, victim: Victim, other: Victim
) -> None:
    calm = imported(client, "calm", cpu_utilisation_ratio=0.1)
    imported(client, "greedy", cpu_utilisation_ratio=1.0)
    third = Victim()
    try:
        client.place("v", pids=[victim.pid], cpus=1, profile="calm")
        client.place("o", pids=[other.pid], cpus=1, profile="greedy")
        client.place("unknown", pids=[third.pid], cpus=1)
        before = len(stored(daemon))

        assert 0 == reported(client, ("v", 3.0))  # whose doing it was, greedy's or the unknown's, cannot be said
        assert 0 == reported(client, ("unknown", 3.0))
        client.release("unknown")
        calm.features[0].value = 0.9
        client.release("v")
        client.place("v", pids=[victim.pid], cpus=1, profile=calm)
        assert 0 == reported(client, ("v", 3.0))  # the profile sent along is not the stored one of its name
        assert 0 == reported(client, ("o", 3.0))
        assert before == len(stored(daemon))
    finally:
        third.end()


def test_a_profile_deleted_since_is_no_stored_one(client: Client, victim: Victim, other: Victim) -> None:
    imported(client, "calm", cpu_utilisation_ratio=0.1)
    imported(client, "gone", cpu_utilisation_ratio=1.0)
    client.place("v", pids=[victim.pid], cpus=1, profile="calm")
    client.place("o", pids=[other.pid], cpus=1, profile="gone")
    client.delete_profile("gone")

    assert 0 == reported(client, ("v", 3.0), ("o", 3.0))


def test_a_released_placement_cannot_be_reported_on(
    daemon: DaemonProcess, client: Client, victim: Victim, other: Victim
) -> None:
    imported(client, "calm", cpu_utilisation_ratio=0.1)
    client.place("v", pids=[victim.pid], cpus=1, profile="calm")
    client.place("o", pids=[other.pid], cpus=1, profile="calm")
    client.release("v")
    before = len(stored(daemon))

    with pytest.raises(CotenantError, match="'v' is not placed now") as caught:
        reported(client, ("o", 2.0), ("v", 2.0))

    assert "PLACEMENT_MISSING" == caught.value.reason
    assert before == len(stored(daemon))


# --- accepted means done --------------------------------------------------------------------------


def test_more_memory_than_there_is_is_refused_by_field(client: Client, victim: Victim) -> None:
    before = victim.state()

    with pytest.raises(CotenantError, match="ask for less") as caught:
        client.place("v", pids=[victim.pid], cpus=1, memory_bytes=2**49)

    assert "NOT_ENOUGH_MEMORY" == caught.value.reason
    assert ["workload.memory_bytes"] == [one.field for one in caught.value.fields]
    assert before == victim.state()
    with pytest.raises(CotenantError, match="ask for less"):
        client.preview("v", cpus=1, memory_bytes=2**49)


def test_processes_and_a_group_at_once_are_refused_by_name(tmp_path: Path) -> None:
    with (
        Client(tmp_path / "nobody.sock") as client,
        pytest.raises(ValueError, match=r"pids \[4711\] and cgroup_path '/db' are both given"),
    ):
        client.place("db", pids=[4711], cgroup_path="/db", cpus=1)


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        ({"class": "fast"}, "slo class 'fast' does not exist; allowed are 'latency', 'throughput', 'collective'"),
        ({"class": "unspecified"}, "'best_effort'"),
        ({"class": "latency", "tbt": 5, "p99": 1}, r"slo holds \['p99', 'tbt'\]; allowed are 'class' and 'ttft_ms'"),
        ({"slo_class": 1}, "slo holds"),
    ],
)
def test_an_slo_that_does_not_exist_is_refused_with_those_that_do(
    tmp_path: Path, slo: dict[str, object], said: str
) -> None:
    with Client(tmp_path / "nobody.sock") as client, pytest.raises(ValueError, match=said):
        client.preview("v", cpus=1, slo=slo)


@pytest.mark.parametrize("bound", ["tbt_ms", "ttft_ms"])
def test_a_bound_of_next_to_nothing_is_refused_by_field(client: Client, bound: str) -> None:
    with pytest.raises(CotenantError) as caught:
        client.preview("v", cpus=1, slo={"class": "latency", bound: 5e-324})

    assert [f"workload.slo.{bound}"] == [one.field for one in caught.value.fields]


def test_the_quantile_comes_back_as_it_was_given(client: Client) -> None:
    given = client.preview("v", cpus=1, slo={"class": "latency", "tbt_ms": 5.0, "quantile": 0.9})
    unset = client.preview("v", cpus=1, slo={"class": "latency", "tbt_ms": 5.0})

    assert (0.9, 0.0) == (given.workload.slo.quantile, unset.workload.slo.quantile)


def test_memory_that_could_not_be_bound_is_noted() -> None:
    decision = Decision(
        cpus=CpuSet.parse("0"),
        mems=NodeSet.parse("1"),
        predictions=(),
        explanation=Explanation(
            summary="",
            candidates=(),
            candidates_considered=1,
            decided_by="",
            binding_constraint="",
            model_id="",
            contributions=(),
        ),
        fallback="",
        best_effort=False,
        engine_advice=EngineAdvice(decode_threads=1, prefill_threads=1, numa=""),
    )
    placement = Placement(
        request=WorkloadRequest(name="v", cpus=1),
        decision=decision,
        state=PlacementState.APPLYING,
        etag="e",
        mechanism="affinity",
        threads=0,
        notes=(),
        created_unix_s=0.0,
    )

    host = make_topology()
    bound, unbound = (outcome_of(placement, Applied(threads=1, mems_applied=done), host) for done in (True, False))

    assert () == bound.notes
    assert ("memory stays where it is: affinity cannot bind it to nodes 1, cgroups can",) == unbound.notes


def test_every_change_can_be_repeated_by_its_request_id(client: Client, victim: Victim) -> None:
    profile = imported(client, "calm", cpu_utilisation_ratio=0.1)
    ids = [str(uuid.uuid4()) for _ in range(6)]
    client.place("v", pids=[victim.pid], cpus=1)

    for _ in range(2):
        client.import_profile(profile_pb2.Profile(name="once", schema_version=1, cpus=1), request_id=ids[0])
    for _ in range(2):
        client.delete_profile("once", request_id=ids[1])
    assert 0 == client.report([("v", 1.0, 1.0)], request_id=ids[2])
    assert client.train(request_id=ids[3]).name == client.train(request_id=ids[3]).name
    first = client.profile_running("asleep", [victim.pid], duration_s=1.0, request_id=ids[4])
    assert first.name == client.profile_running("asleep", [victim.pid], duration_s=1.0, request_id=ids[4]).name
    assert client.rebalance(request_id=ids[5]) == client.rebalance(request_id=ids[5])
    with pytest.raises(CotenantError) as caught:
        client.activate_model("none", request_id=ids[5])
    assert "REQUEST_ID_REUSED" == caught.value.reason
    assert profile == client.profile("calm")


def test_a_least_gain_of_nothing_is_not_the_default(tmp_path: Path) -> None:
    gains = Gains()
    servicer = PlacementServicer(
        cast("Controller", gains), ObservationStore(tmp_path / "o.jsonl"), make_topology(), Metrics()
    )

    for least in (None, 0.0, 0.5):
        request = placement_pb2.RebalanceRequest(request_id="r", validate_only=True, min_gain=least)
        servicer.Rebalance(request, cast("grpc.ServicerContext", None))

    assert [0.05, 0.0, 0.5] == gains.seen


# --- models and profiles of other origin ----------------------------------------------------------


def test_a_damaged_model_or_choice_does_not_hide_the_others(tmp_path: Path) -> None:
    state = tmp_path / "s"
    damaged = state / "models" / "m1"
    damaged.mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    (damaged / "manifest.json").write_text("{}")
    (state / "models" / "active").write_text("../no id")
    with DaemonProcess(state) as daemon, Client(daemon.socket) as client:
        assert [] == list(client.models())

    assert "damaged model not listed" in daemon.log.read_text()


def test_a_prediction_from_a_profile_of_another_host_is_labelled(client: Client) -> None:
    imported(client, "here", cpu_utilisation_ratio=1.0)
    elsewhere = profile_pb2.Profile(name="there", schema_version=1, cpus=1, host_fingerprint="elsewhere")
    client.import_profile(elsewhere, replace=True)
    relation = model_pb2.Relation(same_cpu=1, same_core=1, same_l2=1, same_llc=1, same_node=1, same_package=1)

    assert "profile 'there' was taken on another class of host" in client.predict("here", "there", relation).fallback
    assert "another class" not in client.predict("here", "here", relation).fallback
    assert "profile 'there' was taken on another class" in client.preview("v", cpus=1, profile="there").fallback


def test_a_profile_comes_back_with_its_mark_and_its_steady_window(client: Client) -> None:
    told = profile_pb2.Profile(name="told", schema_version=PROFILE_SCHEMA_VERSION, cpus=1, quality="unstable")
    told.window.start_s, told.window.length_s, told.window.decided_by = 1.5, 6.0, "its halves gave 10 and 14 per s"
    client.import_profile(told, replace=True)
    imported(client, "untold", cpu_cores=1.0)

    assert client.profile("told") == told
    assert not client.profile("untold").HasField("window")
