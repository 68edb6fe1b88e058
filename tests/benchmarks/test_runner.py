"""The campaign on real processes, confined by the real enforcer: what is recorded, repeated, resumed, left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.design import Design, Isolation, Part, Step
from benchmarks.errors import CampaignStuck
from benchmarks.gauges import Gauges
from benchmarks.runner import Campaign, Setting, remaining
from benchmarks.runs import RUNS, Outcome, Phase, Run, RunLog
from benchmarks.seats import lacking
from benchmarks.slowdown import slowdown
from isolation.cgroup import CpusetHierarchy
from isolation.enforcer import Enforcer
from isolation.topology import read_topology
from tests.fakes.campaigns import HOST, design, document, simulated_run

_NO_CAT = "no CAT in this test"
TOPOLOGY = read_topology()


def pairs(isolation: tuple[str, ...] = ("none", "stacked"), **changes: Any) -> Design:
    table = {"left": ["cpu"], "right": ["memory"], "isolation": isolation, "repetitions": 2}
    return design(**{"factorial": None, "breadth": [table], **changes})


def campaign(folder: Path, what: Design, attempts: int = 1) -> Campaign:
    setting = Setting(
        design=what,
        host=HOST,
        topology=TOPOLOGY,
        enforcer=Enforcer.for_host(TOPOLOGY, prefix=f"cotenant-test-{os.getpid()}"),
        cache=None,
        lacking=lacking(None, _NO_CAT),
        gauges=Gauges.for_host(f"cotenant-test-{os.getpid()}"),
        revision="test",
    )
    return Campaign(setting, RunLog.load(folder), attempts)


def worked(folder: Path, what: Design, *, limit: int | None = None, attempts: int = 1) -> list[Run]:
    one = campaign(folder, what, attempts)
    with one.log.locked():
        one.run(what.steps(), lambda *_: None, limit=limit)
    return one.log.runs


def left_over(folder: Path) -> list[str]:
    """Name processes that were started for this folder's campaign, by the progress file they were given."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in environment:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def test_a_run_measures_each_member_alone_together_and_alone_again(tmp_path: Path) -> None:
    runs = worked(tmp_path, pairs(("stacked",)), limit=1)
    run = runs[0]

    assert [(one.member, one.phase) for one in run.readings] == [
        ("cpu", Phase.BEFORE),
        ("memory", Phase.BEFORE),
        ("cpu", Phase.TOGETHER),
        ("memory", Phase.TOGETHER),
        ("memory", Phase.AFTER),
        ("cpu", Phase.AFTER),
    ]
    assert all(one.rate_per_s and one.cpu_s is not None for one in run.readings)
    assert slowdown(run, "cpu") > 0
    assert run.cpus == (str(min(TOPOLOGY.usable)),) * 2
    together = [one for one in run.readings if one.phase is Phase.TOGETHER]
    # one CPU for both, whatever strangers do; clock ticks of 10 ms
    assert sum(one.cpu_s or 0.0 for one in together) <= max(one.seconds for one in together) + 0.04
    assert RunLog.load(tmp_path).runs == runs


def test_cells_that_cannot_be_done_are_recorded_with_the_reason(tmp_path: Path) -> None:
    runs = worked(tmp_path, pairs(("cat",)))

    assert [(run.outcome, run.reason, run.readings) for run in runs] == [(Outcome.NOT_APPLICABLE, _NO_CAT, ())] * 2
    assert worked(tmp_path, pairs(("cat",))) == runs, "nothing is left to do"


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    what = pairs()
    first = worked(tmp_path, what, limit=1)
    runs = worked(tmp_path, what)

    assert len(first) == 1
    assert runs[:1] == first
    assert [run.key for run in runs] == [step.key for step in what.steps()]
    assert {run.attempt for run in runs} == {1}


def test_a_workload_that_ends_fails_its_run_only(tmp_path: Path) -> None:
    lines = document()["workloads"]
    lines["memory"] = {**lines["memory"], "arguments": ["nonsense"]}
    lines["latency"] = {**lines["cpu"], "arguments": ["latency", "--bytes", "1M"]}
    table = {"left": ["cpu"], "right": ["memory", "latency"], "isolation": ["none"], "repetitions": 1}
    runs = worked(tmp_path, pairs(workloads=lines, breadth=[table]), attempts=2)
    failed = [run for run in runs if run.cell == "breadth/cpu+memory/none"]

    assert [run.outcome for run in failed] == [Outcome.FAILED] * 2
    assert all("WorkloadSilent: 'memory:0'" in run.reason for run in failed)
    others = [run for run in runs if run.cell == "breadth/cpu+latency/none"]
    assert others
    assert Outcome.FAILED not in {run.outcome for run in others}


def test_what_is_done_is_what_the_record_says() -> None:
    first, second, third, fourth = pairs().steps()

    def ended(step: Step, outcome: Outcome, attempt: int = 1) -> Run:
        return simulated_run(step.cell, repetition=step.repetition, outcome=outcome, attempt=attempt)

    runs = [
        ended(first, Outcome.OK),
        ended(second, Outcome.DISTURBED),
        *(ended(third, Outcome.DISTURBED, attempt) for attempt in (1, 2)),
        ended(fourth, Outcome.NOT_APPLICABLE),
    ]

    assert remaining(pairs().steps(), runs, 2, lambda _cell: "not here") == [second]
    assert remaining(pairs().steps(), runs, 2, lambda _cell: "") == [second, fourth], "it can be done by now"


def test_what_was_not_applicable_is_done_when_it_can_be_and_the_record_keeps_both(tmp_path: Path) -> None:
    what = pairs(("none",)).chosen([Part.BREADTH], repetitions=1)
    without = campaign(tmp_path, what)
    without.setting = replace(without.setting, lacking={Isolation.NONE: "not yet"})
    without.run(what.steps(), lambda *_: None)

    runs = worked(tmp_path, what)

    assert [(run.attempt, run.outcome is Outcome.NOT_APPLICABLE) for run in runs] == [(1, True), (2, False)]
    assert len(RunLog.load(tmp_path).runs) == 2


def test_a_campaign_in_which_nothing_works_stops_and_can_go_on(tmp_path: Path) -> None:
    line = {"module": "benchmarks.workloads", "unit": "bytes", "about": "some", "arguments": ["nonsense"]}
    names = [f"w{number}" for number in range(6)]
    table = {"left": names[:1], "right": names[1:], "isolation": ["none", "stacked", "cat"], "repetitions": 2}
    what = pairs(workloads=dict.fromkeys(names, line), breadth=[table])

    with pytest.raises(CampaignStuck, match=r"10 runs in a row failed, the last one because: WorkloadSilent"):
        worked(tmp_path, what)

    ended = Counter(run.outcome for run in RunLog.load(tmp_path).runs)
    assert ended[Outcome.FAILED] == 10
    assert ended.keys() == {Outcome.FAILED, Outcome.NOT_APPLICABLE}, "what cannot be done here is no success"


def test_pinned_members_are_confined_by_the_enforcer_and_restored(tmp_path: Path, hierarchy: CpusetHierarchy) -> None:
    del hierarchy  # asked for, so that groups can be made
    if len(TOPOLOGY.usable) < 2:
        pytest.skip("needs two usable CPUs")
    one = campaign(tmp_path, pairs(("pinning",)))
    run_s = 3 * (0.15 + 0.25) + 0.2 + 0.25
    seen: dict[str, set[str]] = {}

    def watched() -> None:
        until_s = time.monotonic() + 20 * run_s
        while time.monotonic() < until_s and one.log.runs == []:
            for name in one.setting.enforcer.groups():
                for tid in one.setting.enforcer.members(name):
                    status = Path(f"/proc/{tid}/status").read_text()
                    allowed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
                    seen.setdefault(name, set()).add(allowed.split()[1])
            time.sleep(0.05)

    thread = threading.Thread(target=watched)
    thread.start()
    try:
        with one.log.locked():
            one.run(one.setting.design.steps(), lambda *_: None, limit=1)
    finally:
        thread.join()

    assert {run.isolation for run in one.log.runs} == {Isolation.PINNING}
    assert Outcome.FAILED not in {run.outcome for run in one.log.runs}
    assert set(seen) == {"cpu", "memory"}
    assert seen["cpu"].isdisjoint(seen["memory"])
    assert one.setting.enforcer.groups() == ()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start the real command on a small design."""
    table = {"left": ["cpu"], "right": ["memory"], "isolation": ["none", "stacked"], "repetitions": 2}
    text = _toml({**document(), "factorial": None, "breadth": [table]})
    (tmp_path / "design.toml").write_text(text)

    def start(*options: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "cotenant.main", "experiment", "run", "--part", "breadth"]
        argv += ["--design", str(tmp_path / "design.toml"), "--data", str(tmp_path / "data")]
        argv += ["--attempts", "1", *options]
        return subprocess.Popen(
            argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )

    return start


def test_a_campaign_killed_and_resumed_has_no_run_twice_and_none_lost(
    tmp_path: Path, command: Callable[..., subprocess.Popen[bytes]]
) -> None:
    record = tmp_path / "data" / RUNS
    killed = command()
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s and (not record.exists() or record.read_bytes().count(b"\n") < 1):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = record.read_bytes()
    time.sleep(0.2)

    assert left_over(tmp_path) == [], "the kernel ends them with whoever started them"
    resumed = command()
    _, said = resumed.communicate(timeout=100)

    assert resumed.returncode == 0, said
    assert record.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "what was kept stays"
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    keys = Counter((row["cell"], row["repetition"], row["attempt"]) for row in rows)
    assert set(keys.values()) == {1}
    assert {(cell, repetition) for cell, repetition, _ in keys} == {
        (f"breadth/cpu+memory/{isolation}", repetition) for isolation in ("none", "stacked") for repetition in range(2)
    }
    good = Counter((row["cell"], row["repetition"]) for row in rows if row["outcome"] == "ok")
    assert max(good.values(), default=1) == 1
    assert left_over(tmp_path) == []


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, command: Callable[..., subprocess.Popen[bytes]]) -> None:
    record = tmp_path / "data" / RUNS
    running = command()
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s and (not record.exists() or not record.read_bytes().count(b"\n")):
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)

    assert running.returncode == 130, said
    assert b"kept in" in said
    assert RunLog.load(tmp_path / "data").runs
    assert left_over(tmp_path) == []


def test_a_limit_and_a_shard_are_kept(tmp_path: Path, command: Callable[..., subprocess.Popen[bytes]]) -> None:
    _, said = command("--shard", "2/2", "--limit", "1").communicate(timeout=60)
    runs = RunLog.load(tmp_path / "data").runs

    assert {run.block for run in runs} == {1}, said
    assert len({run.key for run in runs}) == 1
    for wrong in ("4/3", "9/9"):  # none, and one for which no repetition is left
        refused = command("--shard", wrong)
        _, said = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert wrong.encode() in said


def _toml(value: dict[str, Any]) -> str:
    """Write what JSON and TOML have in common: inline tables on one line."""
    lines = []
    for key, one in value.items():
        if one is not None:
            lines.append(f"{key} = {_inline(one)}")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
