"""The daemon as its users meet it: real sockets, real processes, real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client, CotenantError
from cotenant.v1 import placement_pb2, placement_pb2_grpc, profile_pb2, workload_pb2
from tests.scheduler.conftest import Victim

ACTIVE = placement_pb2.PLACEMENT_STATE_ACTIVE
RELEASED = placement_pb2.PLACEMENT_STATE_RELEASED


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_every_thread_has_the_cpus_of_the_answer_and_gets_the_earlier_ones_back(
    tmp_path: Path, victim: Victim, mechanism: str
) -> None:
    """Only generated stubs are used, as any client in any language would."""
    before = victim.state()
    with (
        DaemonProcess(tmp_path / "s", "--mechanism", mechanism) as daemon,
        grpc.insecure_channel(f"unix:{daemon.socket}") as channel,
    ):
        stub = placement_pb2_grpc.PlacementServiceStub(channel)
        workload = workload_pb2.Workload(name="v", cpus=1, pids=workload_pb2.PidTarget(pids=[victim.pid]))
        placed = stub.PlaceWorkload(
            placement_pb2.PlaceWorkloadRequest(request_id=str(uuid.uuid4()), workload=workload)
        ).placement

        assert (ACTIVE, mechanism, 7) == (placed.state, placed.mechanism, placed.threads)
        assert {placed.cpus} == victim.cpus()

        released = stub.ReleaseWorkload(
            placement_pb2.ReleaseWorkloadRequest(request_id=str(uuid.uuid4()), name="v")
        ).placement
        assert RELEASED == released.state
        assert before == victim.state()


def test_a_preview_touches_nothing(client: Client, victim: Victim) -> None:
    before = victim.state()

    planned = client.preview("v", pids=[victim.pid], cpus=1)

    assert placement_pb2.PLACEMENT_STATE_PLANNED == planned.state
    assert planned.cpus
    assert planned.explanation.summary
    assert before == victim.state()
    assert [] == list(client.placements())


def test_validate_only_touches_nothing(client: Client, victim: Victim) -> None:
    before = victim.state()

    client.place("v", pids=[victim.pid], cpus=1, validate_only=True)

    assert before == victim.state()
    assert [] == list(client.placements())


def test_an_unknown_profile_is_placed_by_a_labelled_fallback(client: Client, victim: Victim) -> None:
    placed = client.place("v", pids=[victim.pid], cpus=1)

    assert ACTIVE == placed.state
    assert "no profile" in placed.fallback
    assert "no model" in placed.fallback


def test_the_same_request_gives_the_stored_answer(client: Client, victim: Victim) -> None:
    request_id = str(uuid.uuid4())
    first = client.place("v", pids=[victim.pid], cpus=1, request_id=request_id)
    again = client.place("v", pids=[victim.pid], cpus=1, request_id=request_id)

    assert first == again
    with pytest.raises(CotenantError) as caught:
        client.place("v", pids=[victim.pid], cpus=2, request_id=request_id)
    assert "REQUEST_ID_REUSED" == caught.value.reason


def test_a_stale_etag_is_refused(client: Client, victim: Victim) -> None:
    client.place("v", pids=[victim.pid], cpus=1)

    with pytest.raises(CotenantError) as caught:
        client.release("v", etag="0123456789abcdef")

    assert (grpc.StatusCode.ABORTED, "ETAG_STALE") == (caught.value.code, caught.value.reason)


def test_a_process_that_ends_ends_its_placement(client: Client) -> None:
    short = Victim()
    client.place("short", pids=[short.pid], cpus=1)
    short.end()

    assert until(lambda: client.get("short").state == RELEASED)
    assert "gone" in [one.kind for one in client.events(limit=1000) if one.workload == "short"]


def test_fault_34_foreign_drift_is_repaired_once_and_then_left_alone(tmp_path: Path, victim: Victim) -> None:
    if os.cpu_count() == 1:
        pytest.skip("drift needs a second CPU to drift to")
    with DaemonProcess(tmp_path / "s", "--mechanism", "affinity") as daemon, Client(daemon.socket) as client:
        placed = client.place("v", pids=[victim.pid], cpus=1)
        others = os.sched_getaffinity(0) - {int(placed.cpus)}
        os.sched_setaffinity(victim.pid, others)
        assert until(lambda: {placed.cpus} == victim.cpus())
        os.sched_setaffinity(victim.pid, others)

        assert until(lambda: client.get("v").state == placement_pb2.PLACEMENT_STATE_CONTESTED)
        assert ["placed", "drift", "contested"] == [one.kind for one in client.events()]
        client.release("v")


# --- the daemon as a service ---------------------------------------------------------------------


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotenant.main", "serve", "--metrics", "", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_second_daemon_on_the_same_folder_is_refused_and_the_first_goes_on(
    daemon: DaemonProcess, client: Client
) -> None:
    second = serve("--state", str(daemon.state))

    assert 75 == second.returncode
    assert f"pid {daemon.pid}" in second.stderr
    assert "--state" in second.stderr
    assert client.host().cpus


def test_an_unwritable_folder_is_refused() -> None:
    refused = serve("--state", "/proc/cotenant")

    assert 1 == refused.returncode
    assert "'/proc/cotenant'" in refused.stderr


def test_the_sockets_are_private_and_one_only_reads(daemon: DaemonProcess, client: Client, victim: Victim) -> None:
    reading = daemon.state / "cotenant-read.sock"

    assert {0o700} == {path.stat().st_mode & 0o777 for path in (daemon.socket, reading)}
    assert 0o700 == daemon.state.stat().st_mode & 0o777
    with Client(reading) as reader:
        assert client.host() == reader.host()
        with pytest.raises(CotenantError, match="other socket") as caught:
            reader.place("v", pids=[victim.pid], cpus=1)
    assert "READ_ONLY_SOCKET" == caught.value.reason


def test_reflection_lists_the_services(daemon: DaemonProcess) -> None:
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        names = set(ProtoReflectionDescriptorDatabase(channel).get_services())

    wanted = {f"cotenant.v1.{one}Service" for one in ("Placement", "Profile", "Model", "Host")}
    assert wanted | {"grpc.health.v1.Health"} <= names


def test_a_daemon_whose_stderr_is_closed_serves_all_the_same(tmp_path: Path) -> None:
    state = tmp_path / "s"
    serve = [sys.executable, "-P", "-m", "cotenant.main", "serve", "--state", str(state), "--metrics", ""]
    with subprocess.Popen(["sh", "-c", 'exec "$@" 2>&-', "sh", *serve]) as daemon:
        try:
            assert until((state / "cotenant.sock").exists), "it does not serve"
            with Client(state / "cotenant.sock") as client:
                assert client.host().fingerprint
        finally:
            daemon.terminate()
    assert 0 == daemon.returncode


def test_idle_streams_leave_threads_to_the_other_calls(daemon: DaemonProcess, client: Client) -> None:
    """Each of them holds a thread; with as many as there are threads nothing else would be answered."""
    ended = threading.Event()

    def idle() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        ended.wait()

    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        opened = [stub.ServerReflectionInfo(idle()) for _ in range(4)]
        for one in opened:
            next(one)
        with pytest.raises(grpc.RpcError, match="4 streams are open") as caught:
            next(stub.ServerReflectionInfo(idle()))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == caught.value.code()
        assert client.host().fingerprint
        opened[0].cancel()

        def answered() -> bool:
            try:
                return bool(next(stub.ServerReflectionInfo(idle())))
            except grpc.RpcError:
                return False

        assert until(answered), "a stream that ended makes room for another"
        ended.set()


def test_a_graceful_stop_keeps_placements_and_the_next_daemon_takes_them_over(
    tmp_path: Path, victim: Victim, mechanism: str
) -> None:
    before = victim.state()
    daemon = DaemonProcess(tmp_path / "s", "--mechanism", mechanism)
    with daemon, Client(daemon.socket) as client:
        placed = client.place("v", pids=[victim.pid], cpus=1)
    assert 0 == daemon.stop()
    assert {placed.cpus} == victim.cpus()

    with daemon, Client(daemon.socket) as client:
        assert [("v", ACTIVE, placed.etag)] == [(one.name, one.state, one.etag) for one in client.placements()]
        client.release("v")
    assert before == victim.state()


def test_metrics_are_served_on_loopback_and_logs_are_json(tmp_path: Path, victim: Victim) -> None:
    with DaemonProcess(tmp_path / "s", "--metrics", "127.0.0.1:0") as daemon, Client(daemon.socket) as client:
        client.place("v", pids=[victim.pid], cpus=1)
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        port = next(line["metrics"] for line in lines if line["message"] == "serving")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        client.release("v")

    assert 'cotenant_rpc_total{code="OK",method="PlaceWorkload"} 1.0' in text
    assert 'cotenant_placements{state="ACTIVE"} 1.0' in text
    assert "cotenant_fallback_decisions_total 1.0" in text


def test_metrics_off_loopback_are_refused(tmp_path: Path) -> None:
    refused = serve("--state", str(tmp_path / "s"), "--metrics", "0.0.0.0:9000")

    assert 1 == refused.returncode
    assert "not loopback" in refused.stderr


def test_a_damaged_model_means_a_labelled_fallback(tmp_path: Path, victim: Victim) -> None:
    state = tmp_path / "s"
    (state / "models" / "m1").mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    (state / "models" / "m1" / "model.json").write_bytes(b"\x00" * 100)
    (state / "models" / "m1" / "manifest.json").write_text("{}")
    (state / "models" / "active").write_text("m1")
    with DaemonProcess(state) as daemon, Client(daemon.socket) as client:
        placed = client.place("v", pids=[victim.pid], cpus=1)
        client.release("v")

    assert ACTIVE == placed.state
    assert "model damaged" in placed.fallback


def test_training_without_data_fails_as_an_operation_with_the_reason(client: Client) -> None:
    operation = client.train()

    assert until(lambda: client.operation(operation.name).done, 30)
    done = client.operation(operation.name)
    assert grpc.StatusCode.FAILED_PRECONDITION.value[0] == done.error.code
    assert "observations" in done.error.message


def test_running_processes_can_be_profiled_and_the_profile_serves_the_next_decision(
    client: Client, victim: Victim
) -> None:
    operation = client.profile_running("sleeper", [victim.pid], duration_s=1.0)
    assert until(lambda: client.operation(operation.name).done, 20)
    done = client.operation(operation.name)
    assert "sleeper" == done.profile_name, done

    placed = client.preview("v", pids=[victim.pid], cpus=1, profile="sleeper")

    assert "no profile" not in placed.fallback
    with pytest.raises(CotenantError, match="set replace") as caught:
        client.profile_running("sleeper", [victim.pid])
    assert "PROFILE_EXISTS" == caught.value.reason
    client.delete_profile("sleeper")
    assert [] == list(client.profiles())


def test_pages_add_up(client: Client, daemon: DaemonProcess) -> None:
    for number in range(5):
        client.import_profile(profile_pb2.Profile(name=f"p{number}", schema_version=1, cpus=1))
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        from cotenant.v1 import profile_pb2_grpc  # noqa: PLC0415

        stub = profile_pb2_grpc.ProfileServiceStub(channel)
        names, token = [], ""
        while True:
            page = stub.ListProfiles(profile_pb2.ListProfilesRequest(page_size=2, page_token=token))
            names.append([one.name for one in page.profiles])
            if not (token := page.next_page_token):
                break

    assert [["p0", "p1"], ["p2", "p3"], ["p4"]] == names
    for number in range(5):
        client.delete_profile(f"p{number}")


def test_rebalance_previews_without_moving(client: Client, victim: Victim) -> None:
    client.place("v", pids=[victim.pid], cpus=1)
    before = victim.state()

    answer = client.rebalance(validate_only=True)

    assert answer.cost_after <= answer.cost_before
    assert before == victim.state()
