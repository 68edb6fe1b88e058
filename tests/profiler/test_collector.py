"""The collector on real processes: what it measures, what it says when it cannot, and that nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.collector import collect
from profiler.command import PinnedCommand
from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.observer import collect_running
from profiler.procfs import members
from profiler.records import Source

ONE_CPU = CpuSet.of(list(read_topology().usable)[-1:])
WORKLOAD = [sys.executable, str(Path(__file__).with_name("workload.py"))]


def children() -> frozenset[int]:
    return members({os.getpid()}) - {os.getpid()}


def test_a_steady_workload_is_described_and_ended() -> None:
    before = children()
    stages: list[tuple[float, str]] = []

    found = collect(
        "steady",
        [*WORKLOAD, "steady"],
        cpus=ONE_CPU,
        window_s=0.8,
        warmup_s=0.5,
        probes=False,
        on_progress=lambda share, stage: stages.append((share, stage)),
    )

    assert found.name == "steady"
    assert found.cpus == 1
    assert 20 < found.value("rate_per_s") < 101
    assert 0 <= found.value("cpu_utilisation_ratio") < 0.9
    assert found.value("voluntary_switches_per_s") > 20
    assert found.value("rss_bytes") > 1e6
    assert found.host_fingerprint == read_topology().fingerprint
    assert [share for share, _ in stages] == sorted(share for share, _ in stages)
    assert {stage for _, stage in stages} >= {"warming up", "measuring", "done"}
    assert children() == before


def test_the_share_done_never_falls_when_the_command_turns_out_to_be_loading() -> None:
    stages: list[tuple[float, str]] = []
    late = 'sleep 0.3; : >> "$COTENANT_PROGRESS"; sleep 0.3; exec "$@"'  # computes first, then opens the file

    collect(
        "late",
        ["/bin/sh", "-c", late, "sh", *WORKLOAD, "steady"],
        cpus=ONE_CPU,
        window_s=0.5,
        warmup_s=0.5,
        probes=False,
        on_progress=lambda share, stage: stages.append((share, stage)),
    )

    order = list(dict.fromkeys(stage for _, stage in stages))
    assert order.index("warming up") < order.index("waiting for its first progress")
    assert [share for share, _ in stages] == sorted(share for share, _ in stages)


def test_an_agent_gets_token_features() -> None:
    found = collect("agent", [*WORKLOAD, "agent"], cpus=ONE_CPU, window_s=1.2, warmup_s=0.1, probes=False)

    assert 0.009 < found.value("tbt_s") < 0.05
    assert 0.2 < found.value("tool_time_ratio") < 0.7
    assert found.value("burstiness_index") > 0.3
    assert any(one.source is Source.TOKENS for one in found.features)


def test_a_command_that_ends_by_itself_is_repeated_and_measured_by_its_run_time() -> None:
    found = collect("nap", ["sleep", "0.25"], cpus=ONE_CPU, window_s=0.6, warmup_s=0.5, probes=False)

    assert 2.0 < found.value("rate_per_s") < 4.0
    assert found.value("cpu_utilisation_ratio") < 0.2
    assert re.search(r"of [23] runs", found.note)  # 2 on a busy machine
    assert next(one.spread or 0.0 for one in found.features if one.name == "rate_per_s") < 1.0, (
        "ends are noticed at once"
    )


def test_a_command_that_tells_nothing_has_no_rate_but_the_rest() -> None:
    found = collect("silent", ["sleep", "100"], cpus=ONE_CPU, window_s=0.5, warmup_s=0, probes=False)

    assert found.value("threads") == 1
    assert "no rate" in found.note
    assert "rate_per_s" not in {one.name for one in found.features}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "no command given"),
        ([""], "no command given"),
        (["no-such-command-here"], "'no-such-command-here': not found"),
        (["/etc/passwd"], "'/etc/passwd': not executable"),
        (["sh", "-c", "echo why >&2; exit 7"], r"exit code 7 after .* s; it wrote: why\. Run it by hand"),
        (["sh", "-c", "printf 'a\\033[31mb' >&2; exit 1"], r"it wrote: a\?\[31mb"),
        (["sh", "-c", "kill -SEGV $$"], "ended with signal SIGSEGV"),
        (["true"], "too short to measure"),
        (["a\0b"], "embedded null byte"),
    ],
)
def test_a_command_that_cannot_be_measured_says_why(command: list[str], message: str) -> None:
    with pytest.raises(WorkloadFailed, match=message):
        collect("bad", command, cpus=ONE_CPU, window_s=0.5, warmup_s=0.5, probes=False)


def test_insisting_on_progress_lines_refuses_a_command_that_writes_none() -> None:
    with pytest.raises(WorkloadFailed, match=r"no progress lines .*\(\d+ malformed ones\)"):
        collect(
            "x", [*WORKLOAD, "nonsense"], cpus=ONE_CPU, window_s=0.5, warmup_s=0.3, metric="progress", start_limit_s=0.5
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a\x1bb"}, "must be 1 to 63 of"),
        ({"name": ""}, "must be 1 to 63 of"),
        ({"cpus": CpuSet()}, "CPUs 'none' cannot be used"),
        ({"cpus": CpuSet.of([8191])}, "CPUs '8191' cannot be used, usable here are"),
        ({"window_s": float("nan")}, "window nan s"),
        ({"window_s": 0.0}, "window 0.0 s"),
        ({"warmup_s": float("inf")}, "warm-up inf s"),
        ({"metric": "speed"}, "metric 'speed' is not one of"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_before_anything_starts(
    arguments: dict[str, object], message: str
) -> None:
    wish: dict[str, object] = {"name": "x", "command": ["sleep", "100"], "cpus": ONE_CPU, **arguments}
    with pytest.raises(RecordInvalid, match=message):
        collect(**wish)  # type: ignore[arg-type]


def test_the_command_runs_on_its_cpus_only_and_we_stay_where_we_were(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    with PinnedCommand(["sleep", "100"], ONE_CPU, tmp_path) as running:
        assert os.sched_getaffinity(running.pid) == set(ONE_CPU)

    assert os.sched_getaffinity(0) == before
    assert running.exit_code == -signal.SIGTERM


def test_a_stubborn_command_and_its_runaway_child_are_killed(tmp_path: Path) -> None:
    with PinnedCommand([*WORKLOAD, "stubborn"], ONE_CPU, tmp_path, grace_s=0.2) as running:
        while running.progress.covered_s is None:
            assert running.poll()
            time.sleep(0.01)
        family = members({running.pid})

    assert len(family) == 2
    assert running.exit_code == -signal.SIGKILL
    assert members({running.pid}) == frozenset()
    assert not any(Path(f"/proc/{pid}/task").exists() and pid == running.pid for pid in family), "it was reaped"


def test_a_closed_command_is_never_signalled_again(tmp_path: Path) -> None:
    with PinnedCommand(["sleep", "0.05"], ONE_CPU, tmp_path) as running:
        assert running.wait(10)
        assert Path(f"/proc/{running.pid}").exists(), "not reaped: nobody else can get its pid"
    running.pause()
    running.close()

    assert running.exit_code == 0
    assert running.usage is not None
    assert running.usage.ru_maxrss > 0


def test_a_paused_command_makes_no_progress_and_still_ends(tmp_path: Path) -> None:
    with PinnedCommand([*WORKLOAD, "steady"], ONE_CPU, tmp_path) as running:
        while running.progress.covered_s is None:
            assert running.poll()
            time.sleep(0.01)
        running.pause()
        time.sleep(0.1)
        running.poll()
        covered = running.progress.covered_s
        time.sleep(0.2)
        running.poll()

        assert running.progress.covered_s == covered
    assert running.exit_code == -signal.SIGTERM


def test_ctrl_c_in_the_middle_leaves_nothing_running() -> None:
    before = children()

    def interrupt(_share: float, stage: str) -> None:
        if stage == "measuring":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect("x", [*WORKLOAD, "steady"], cpus=ONE_CPU, window_s=5, warmup_s=0, on_progress=interrupt)

    assert children() == before


def test_ctrl_c_while_the_command_is_being_started_leaves_nothing_running(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stderr")  # opening it holds the start up until somebody reads
    reader = threading.Timer(0.4, os.open, (tmp_path / "stderr", os.O_RDONLY))
    ctrl_c = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    reader.start()
    ctrl_c.start()
    before = children()

    with pytest.raises(KeyboardInterrupt):
        PinnedCommand(["sleep", "100"], ONE_CPU, tmp_path)

    reader.join()
    assert children() == before


def test_running_processes_are_watched_and_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            found = collect_running("busy", [busy.pid], duration_s=0.6)

            assert busy.poll() is None
        finally:
            busy.kill()

    assert found.cpus == 1
    assert found.value("cpu_utilisation_ratio") > 0
    assert "watched while running" in found.note


def test_watching_refuses_processes_that_are_gone_or_go() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(WorkloadFailed, match=f"no such process: {gone.pid}"):
        collect_running("x", [gone.pid], duration_s=0.5)
    with subprocess.Popen(["sleep", "0.3"]) as short, pytest.raises(WorkloadFailed, match="ended after"):
        collect_running("x", [short.pid], duration_s=20)
    with pytest.raises(RecordInvalid, match="at least one pid"):
        collect_running("x", [], duration_s=1)
