"""Bad input over a real socket: a clear error that names field and remedy, and nothing changed."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client, CotenantError, DaemonUnreachable
from cotenant.v1 import profile_pb2
from isolation.cgroup import find_hierarchy
from tests.scheduler.conftest import Victim


def gone_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def bad_pids(daemon: DaemonProcess, victim: Victim) -> dict[str, tuple[list[int], grpc.StatusCode, str]]:
    return {
        "zero": ([0], grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        "negative": ([-7], grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        "twice": ([victim.pid, victim.pid], grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        "gone": ([gone_pid()], grpc.StatusCode.NOT_FOUND, "PROCESS_GONE"),
        "one gone of two": ([victim.pid, gone_pid()], grpc.StatusCode.NOT_FOUND, "PROCESS_GONE"),
        "init": ([1], grpc.StatusCode.PERMISSION_DENIED, "RESERVED_PROCESS"),
        "the daemon": ([daemon.pid], grpc.StatusCode.PERMISSION_DENIED, "RESERVED_PROCESS"),
        "kthreadd": ([2], grpc.StatusCode.PERMISSION_DENIED, "KERNEL_THREAD"),
    }


@pytest.mark.parametrize(
    "case", ["zero", "negative", "twice", "gone", "one gone of two", "init", "the daemon", "kthreadd"]
)
def test_fault_26_bad_pids_are_refused_and_nothing_changes(
    client: Client, daemon: DaemonProcess, victim: Victim, case: str
) -> None:
    pids, code, reason = bad_pids(daemon, victim)[case]
    before = victim.state()

    with pytest.raises(CotenantError) as caught:
        client.place("bad", pids=pids, cpus=1)

    assert (code, reason) == (caught.value.code, caught.value.reason)
    assert caught.value.fields[0].field.startswith("workload.pids.pids")
    assert before == victim.state()
    assert [] == list(client.placements())


def test_fault_29_a_process_of_another_user_is_refused_with_the_remedy(client: Client) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    with subprocess.Popen(["sleep", "60"], user=12345, group=12345) as foreign:
        try:
            with pytest.raises(CotenantError, match="--allow-uid 12345") as caught:
                client.place("bad", pids=[foreign.pid], cpus=1)
        finally:
            foreign.kill()

    assert "FOREIGN_PROCESS" == caught.value.reason


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"cpus": 8000}, grpc.StatusCode.INVALID_ARGUMENT, "workload.cpus"),
        ({"cpus": 0}, grpc.StatusCode.INVALID_ARGUMENT, "workload.cpus"),
        ({"cpus": 1, "profile": "nobody"}, grpc.StatusCode.NOT_FOUND, "workload.profile_name"),
        ({"cpus": 1, "weight": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "workload.weight"),
        (
            {"cpus": 1, "slo": {"class": "service", "max_slowdown": float("nan")}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "workload.slo.max_slowdown",
        ),
        ({"cpus": 1, "slo": {"class": "latency"}}, grpc.StatusCode.INVALID_ARGUMENT, "workload.slo.slo_class"),
        (
            {"cpus": 1, "slo": {"class": "service", "max_slowdown": 2, "ttft_ms": 5}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "workload.slo.ttft_ms",
        ),
    ],
)
def test_bad_wishes_are_refused_by_field(
    client: Client, victim: Victim, arguments: dict[str, object], code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(CotenantError) as caught:
        client.place("bad", pids=[victim.pid], **arguments)  # type: ignore[arg-type]

    assert code == caught.value.code
    assert [field] == [one.field for one in caught.value.fields]
    assert [] == list(client.placements())


@pytest.mark.parametrize("name", ["", "Upper", "a\x00b", "a\nb", "..", "x/y", "n" * 64, "é"])
def test_bad_names_are_refused(client: Client, victim: Victim, name: str) -> None:
    with pytest.raises(CotenantError) as caught:
        client.place(name, pids=[victim.pid], cpus=1)

    assert ["workload.name"] == [one.field for one in caught.value.fields]


def test_fault_45_bad_cgroup_paths_are_refused(client: Client) -> None:
    for path in ("relative", "/a/../b", "/a\nb", "/" + "x" * 5000):
        with pytest.raises(CotenantError) as caught:
            client.place("bad", cgroup_path=path, cpus=1)
        assert ["workload.cgroup_path"] == [one.field for one in caught.value.fields]


def test_fault_29_a_cgroup_is_no_way_round_the_rules_for_processes(client: Client) -> None:
    hierarchy = find_hierarchy()
    if os.geteuid() != 0 or hierarchy is None or client.host().mechanism == "affinity":
        pytest.skip("needs root and a writable cpuset hierarchy")
    group = Path(hierarchy.mount) / f"test-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        for name in ("cpuset.cpus", "cpuset.mems"):
            (group / name).write_text((group.parent / name).read_text().strip() or "0")
        with subprocess.Popen(["sleep", "60"], user=12345, group=12345) as foreign:
            try:
                (group / "cgroup.procs").write_text(str(foreign.pid))
                with pytest.raises(CotenantError, match="--allow-uid 12345") as caught:
                    client.place("bad", cgroup_path=f"/{group.name}", cpus=1)
            finally:
                foreign.kill()
    finally:
        group.rmdir()

    assert "FOREIGN_PROCESS" == caught.value.reason


def test_an_oversized_message_is_refused_and_the_daemon_goes_on(client: Client) -> None:
    profile = profile_pb2.Profile(name="big", note="x" * 300_000)

    with pytest.raises(CotenantError) as caught:
        client.import_profile(profile)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == caught.value.code
    assert client.host().cpus


def test_bytes_that_are_no_message_end_the_call_and_do_not_fill_the_log(daemon: DaemonProcess, client: Client) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(daemon.socket))
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n\xff\x00")
        stranger.settimeout(10)
        while stranger.recv(4096):  # until the daemon hangs up
            pass
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        call: Any = channel.unary_unary("/cotenant.v1.PlacementService/PlaceWorkload", None, None)
        with pytest.raises(grpc.RpcError):
            call(b"\x0a\xff\xff\xff", timeout=10)

    assert client.host().cpus
    assert "Traceback" not in daemon.log.read_text(encoding="utf-8")


def test_nan_in_a_profile_is_refused(client: Client) -> None:
    profile = profile_pb2.Profile(name="nan", schema_version=1, cpus=1)
    profile.features.add(name="cpu_cores", value=float("nan"), source="procfs")

    with pytest.raises(CotenantError) as caught:
        client.import_profile(profile)

    assert ["profile.features[0].value"] == [one.field for one in caught.value.fields]
    assert [] == list(client.profiles())


def test_names_and_pids_of_live_placements_are_taken(client: Client, victim: Victim) -> None:
    client.place("v", pids=[victim.pid], cpus=1)

    with pytest.raises(CotenantError, match="placed already"):
        client.place("v", pids=[victim.pid], cpus=1)
    with pytest.raises(CotenantError, match="belongs to placement 'v'"):
        client.place("w", pids=[victim.pid], cpus=1)


def test_nothing_listens(tmp_path: Path) -> None:
    with (
        Client(tmp_path / "none.sock", timeout_s=2) as client,
        pytest.raises(DaemonUnreachable, match="cotenant serve"),
    ):
        client.host()
