"""Agents as real processes with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.model_file import Shape, kv_bytes
from benchmarks.rhythm import KINDS
from tests.fakes.processes import finished, running, wait_until


def test_an_agent_reports_turns_prefill_tokens_tools_and_kv(
    tiny_model: Path, tiny_shape: Shape, tmp_path: Path
) -> None:
    kind = KINDS["chain"]
    with running("benchmarks.agents", ["--model", str(tiny_model), "--kind", "chain"], tmp_path) as agent:
        agent.wait_for_work(1.0)
        code, seconds, errors = agent.terminate()
    events = agent.log.events
    kinds = [event.kind for event in events]
    held = [event.bytes for event in events if event.kind == "kv"]

    assert (code, errors) == (0, "")
    assert seconds < 2
    assert agent.log.malformed_lines == 0
    assert {"turn", "prefill", "token", "tool", "kv"} == set(kinds)
    assert kinds[:3] == ["turn", "prefill", "token"]
    assert all(event.tokens >= 1 and event.seconds > 0 for event in events if event.kind == "prefill")
    assert all(event.seconds >= 0.001 for event in events[:-1] if event.kind == "tool")
    assert max(held) > 2 * min(held)
    assert min(held) > kv_bytes(tiny_shape, kind.prefix_tokens)
    assert all(held_bytes % kv_bytes(tiny_shape, 1) == 0 for held_bytes in held)
    assert max(held) <= kv_bytes(tiny_shape, kind.prefix_tokens + kind.context_tokens)


def test_four_agents_have_streams_of_their_own_and_one_cache(
    tiny_model: Path, tiny_shape: Shape, tmp_path: Path
) -> None:
    arguments = ["--model", str(tiny_model), "--kind", "chain", "--agents", "4"]
    with running("benchmarks.agents", arguments, tmp_path) as team:
        team.wait_for_work(1.0)
        code, _, errors = team.terminate()
    events = team.log.events
    held = [event.bytes for event in events if event.kind == "kv"]

    assert (code, errors) == (0, "")
    assert team.log.malformed_lines == 0
    assert {event.stream for event in events} == {0, 1, 2, 3}
    assert max(held) <= kv_bytes(tiny_shape, KINDS["chain"].prefix_tokens + 4 * KINDS["chain"].context_tokens)


def test_what_working_together_costs_is_printed(tiny_model: Path) -> None:
    arguments = ["--model", str(tiny_model), "--kind", "chain", "--agents", "2", "--coordination", "3"]
    ended = finished("benchmarks.agents", arguments)
    record = json.loads(ended.stdout)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert (record["kind"], record["agents"], record["turns"]) == ("chain", 2, 6)
    assert record["team_s"] > 0
    assert record["coordination_overhead_ratio"] == pytest.approx(record["team_s"] / record["alone_s"] - 1)


def test_a_measurement_that_is_stopped_says_so(tiny_model: Path) -> None:
    arguments = ["--model", str(tiny_model), "--kind", "plan", "--agents", "2", "--coordination", "500"]
    ended = finished("benchmarks.agents", [*arguments, "--seconds", "0.2"])

    assert (ended.returncode, ended.stdout) == (0, "")
    assert "stopped before all runs were over" in ended.stderr


def test_a_planning_agent_ends_within_its_pause_and_computes_in_it(tiny_model: Path, tmp_path: Path) -> None:
    with running("benchmarks.agents", ["--model", str(tiny_model), "--kind", "plan", "--seed", "1"], tmp_path) as agent:
        agent.wait_for_work(1.0)
        code, seconds, _ = agent.terminate()

    assert code == 0
    assert seconds < 1
    assert max(event.seconds for event in agent.log.events if event.kind == "tool") > 0.4


def test_an_agent_ends_by_itself_after_its_seconds(tiny_model: Path) -> None:
    ended = finished("benchmarks.agents", ["--model", str(tiny_model), "--seconds", "0.2"])

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_signal_while_the_model_is_written_leaves_no_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "cotenant" / "models"
    with running("benchmarks.agents", ["--shape", "SmolLM2-135M"], tmp_path, XDG_CACHE_HOME=str(tmp_path)) as agent:
        wait_until(lambda: folder.is_dir() and any(folder.iterdir()))
        code, _, errors = agent.terminate()

    assert (code, errors) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["SmolLM2-135M-Q4_0-seed0-v1.gguf"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "/nowhere/model.gguf"], "'/nowhere/model.gguf' does not exist"),
        (["--shape", "GPT-9"], "'GPT-9' is not one of"),
        (["--threads", "0"], "'0' is not a whole number from 1 to 1024"),
        (["--agents", "3"], "invalid choice: 3 (choose from 1, 2, 4)"),
        (["--coordination", "-1"], "'-1' is not a whole number from 1 to 1024"),
        (["--seconds", "nan"], "'nan' is not a number of seconds above 0"),
        (["--kind", "wild"], "invalid choice: 'wild'"),
    ],
)
def test_bad_arguments_end_with_code_2_and_the_value(arguments: list[str], complaint: str) -> None:
    ended = finished("benchmarks.agents", arguments)

    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_model_ends_with_code_2(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model.read_bytes()[:5000])
    ended = finished("benchmarks.agents", ["--model", str(path)])

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"agent: model {str(path)!r} cannot be loaded: ")
    assert ended.stderr.count("\n") == 1
