"""Commands that cannot be measured as wished: each says why, and nothing of it is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.collector import collect
from profiler.command import PinnedCommand
from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.procfs import members, process_times
from profiler.records import Quality, WorkloadProfile
from profiler.staging import free_port
from tests.fakes.completion_server import DONE, Reply, completion_server, finish, text

ONE_CPU = CpuSet.of(list(read_topology().usable)[-1:])
WORKLOAD = [sys.executable, str(Path(__file__).with_name("workload.py"))]


def measured(
    *command: str, metric: str = "auto", start_limit_s: float = 2.0, window_s: float = 0.6, warmup_s: float = 0.2
) -> WorkloadProfile:
    return collect(
        "x",
        command,
        cpus=ONE_CPU,
        metric=metric,
        probes=False,
        window_s=window_s,
        warmup_s=warmup_s,
        start_limit_s=start_limit_s,
    )


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = members({os.getpid()})
    yield
    assert members({os.getpid()}) == before
    assert not [one for one in process_times().items() if one[1].name == "sleep" and slept(one[0]) == "987"]


def slept(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].decode()
    except (OSError, IndexError):
        return ""


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("command", "metric", "message"),
    [
        (["true"], "auto", "too short to measure"),
        (["true"], "progress", "exit code 0 .* before the window of 0.6 s was over; .*no progress lines"),
        (["true"], "regex:([0-9]+) req", "before the window .* matched none of 0 lines of output"),
        (["sh", "-c", "kill -9 $$"], "auto", "ended with signal SIGKILL"),
        (["sh", "-c", "sleep 0.3; kill -SEGV $$"], "progress", "ended with signal SIGSEGV"),
        (["no-such-command-here"], "auto", "'no-such-command-here': not found"),
        (["/etc/passwd"], "auto", "'/etc/passwd': not executable"),
        (["sleep", "987"], "progress", "no progress lines .* nothing came within 1 s"),
        (["sleep", "987"], "regex:([0-9]+) req", r"matched none of 0 lines of output \(programs that buffer"),
        (
            ["sh", "-c", "echo 12 apples; sleep 987"],
            "regex:([0-9]+) req",
            "matched none of 1 lines .* it wrote: 12 app",
        ),
        (["sh", "-c", "echo 1e x req; sleep 987"], "regex:(.*) req", "its group held '1e x', which is no number"),
        (["sleep", "987"], "exit-time", "did not end by itself within 6 s"),
        (["sh", "-c", "test -t 0 || { echo 'stdin: not a tty' >&2; exit 1; }"], "auto", "not a tty; .*`-- script -qec"),
        ([*WORKLOAD, "daemon"], "auto", "went into the background after .* it left 1 processes, pids"),
        ([*WORKLOAD, "hangs"], "progress", "progress stopped: nothing came in the last"),
        ([*WORKLOAD, "hangs"], r"regex:([0-9]+) req/s", "progress stopped: nothing came in the last"),
    ],
)
def test_what_cannot_be_measured_says_why(command: list[str], metric: str, message: str) -> None:
    with pytest.raises(WorkloadFailed, match=message):
        measured(*command, metric=metric, start_limit_s=1.0, warmup_s=1.0)


def test_a_prometheus_address_where_nobody_listens_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}/metrics"

    with pytest.raises(WorkloadFailed, match=f"{url!r} cannot be read: .*refused.*is the server running"):
        measured("sleep", "987", metric=f"prometheus:{url}#requests_total", start_limit_s=0.6)


def test_an_endpoint_that_never_answers_is_named() -> None:
    if len(read_topology().usable) < 2:
        pytest.skip("whoever asks needs a CPU of its own")
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(WorkloadFailed, match=r"the server was not ready within 0.6 s: .*refused"):
        measured("sleep", "987", metric=f"tokens:{url}", start_limit_s=0.6)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("speed", "is not one of auto, progress"),
        ("progress:x", "is not one of"),
        ("regex:req/s", "has 0 groups"),
        ("regex:([0-9]+) (req)", "has 2 groups"),
        ("regex:([0-9]+ req", r"is no regular expression: missing \)"),
        ("regex:", "matches the empty string"),
        ("regex:([0-9]*)", "matches the empty string"),
        ("regex:(?P<speed>[0-9]+)", "names the groups speed"),
        ("count:", "matches the empty string"),
        ("prometheus:http://h/metrics", "names no series"),
        ("prometheus:ftp://h/#x", "is no address"),
        ("prometheus:http://h/#x{a=1}", r"labels \{a=1\} of 'x'"),
        ("tokens:localhost", "is no address"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused_before_anything_starts(metric: str, message: str) -> None:
    with pytest.raises(RecordInvalid, match=message):
        measured("sleep", "987", metric=metric)


def test_a_command_that_leaves_processes_behind_is_marked_if_its_run_time_was_asked_for() -> None:
    found = measured(*WORKLOAD, "daemon", metric="exit-time")

    assert found.quality is not Quality.STABLE
    assert "left 1 processes, pids" in found.note


def test_whoever_forks_away_is_found_paused_and_ended(tmp_path: Path) -> None:
    with PinnedCommand([*WORKLOAD, "daemon"], ONE_CPU, tmp_path) as running:
        assert running.wait(20)
        family = running.family()
        running.pause()
        deadline_s = time.monotonic() + 20
        while state_of(next(iter(family))) != "T" and time.monotonic() < deadline_s:
            time.sleep(0.01)  # it stops when it is scheduled next
        state = state_of(next(iter(family)))
        running.resume()

    assert len(family) == 1
    assert state == "T"
    assert not family & members({1})


def test_all_of_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from profiler.command import PinnedCommand; "
        "from isolation.cpuset import CpuSet\n"
        f"c = PinnedCommand(sys.argv[2:], CpuSet.of({list(ONE_CPU)}), Path(sys.argv[1])); c.wait(20)\n"
        "print(*c.family(), flush=True); time.sleep(1000)"
    )
    ours = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *WORKLOAD, "daemon"], stdout=subprocess.PIPE)
    assert ours.stdout is not None
    with ours, ours.stdout:
        left = ours.stdout.readline()
        ours.kill()
    pid = int(left)
    deadline_s = time.monotonic() + 20
    while slept(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)

    assert slept(pid) == ""


def test_a_program_that_loads_is_not_taken_for_steady_however_steadily_it_computes() -> None:
    found = measured(*WORKLOAD, "loads", start_limit_s=60, warmup_s=2)

    assert found.window is not None
    assert found.window.start_s > 2.5
    assert found.value("rate_per_s") < 101
    assert found.value("cpu_cores") < 0.7


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [
        (r"regex:([0-9.]+) req/s", 39.9, 40.1),
        (r"regex:done (?P<total>[0-9]+)", 4, 41),
        (r"regex:done (?P<work>[0-9]+)", 4, 1e4),
        (r"count:done", 2, 21),
    ],
)
def test_a_number_in_the_output_is_a_rate_a_total_or_an_amount(metric: str, low: float, high: float) -> None:
    found = measured(*WORKLOAD, "prints", metric=metric, window_s=1.0)

    assert low < found.value("rate_per_s") < high


def test_a_signal_in_the_middle_ends_a_daemon_too() -> None:
    def interrupt(_share: float, stage: str) -> None:
        if stage == "measuring":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        collect(
            "x",
            ["sh", "-c", f"{' '.join(WORKLOAD)} daemon; sleep 987"],
            cpus=ONE_CPU,
            window_s=5,
            warmup_s=1,
            start_limit_s=0.5,
            on_progress=interrupt,
        )


def test_an_endpoint_is_asked_from_other_cpus_and_its_tokens_are_the_rate() -> None:
    if len(read_topology().usable) < 2:
        pytest.skip("whoever asks needs a CPU of its own")
    with completion_server(Reply(parts=[*[(0.02, text())] * 25, (0.0, finish()), (0.0, DONE)])) as server:
        found = measured("sleep", "987", metric=f"tokens:{server.url}", start_limit_s=20, window_s=1.5)

    assert 5 < found.value("rate_per_s") < 50
    assert 0.02 < found.value("tbt_s") < 0.1
    assert found.value("ttft_s") > 0.02
