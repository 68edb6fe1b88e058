"""Agents: the rhythm as pure values, then the real process with a tiny model."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.agents import KINDS, Kind, turns
from benchmarks.model_file import Shape, kv_bytes
from tests.fakes.processes import finished, running, wait_until


def burstiness(kind: Kind, *, seed: int, decode_s: float, prefill_s: float, count: int = 12) -> float:
    """Deviation over mean of the intervals between tokens, all pauses included."""
    intervals: list[float] = []
    pause_s = math.nan
    for turn in itertools.islice(turns(kind, seed=seed), count):
        if intervals:
            intervals.append(decode_s + pause_s + turn.prompt_tokens * prefill_s)
        intervals += [decode_s] * (turn.output_tokens - 1)
        pause_s = turn.tool_s
    return statistics.pstdev(intervals) / statistics.fmean(intervals)


#: One token takes 5 to 40 ms; reading a token of the prompt takes a third to a half of it, as measured.
SPEEDS = st.tuples(st.floats(0.005, 0.04), st.floats(0.33, 0.5))


@pytest.mark.parametrize(("name", "low", "high"), [("simple", 0.0, 0.5), ("chain", 1.0, 5.0), ("plan", 1.5, 10.0)])
def test_each_kind_is_as_bursty_as_its_name_says(name: str, low: float, high: float) -> None:
    @given(SPEEDS, st.integers(0, 1000))
    def check(speed: tuple[float, float], seed: int) -> None:
        decode_s, share = speed
        index = burstiness(KINDS[name], seed=seed, decode_s=decode_s, prefill_s=decode_s * share)

        assert low < index < high

    check()


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32))
def test_an_episode_never_outgrows_the_context_and_every_kind_starts_a_new_one(name: str, seed: int) -> None:
    held, episodes = 0, 0
    for turn in itertools.islice(turns(KINDS[name], seed=seed), 30):
        held = (0 if turn.new_episode else held) + turn.prompt_tokens + turn.output_tokens
        episodes += turn.new_episode

        assert held <= KINDS[name].context_tokens
    assert episodes >= 2


def test_the_same_seed_gives_the_same_turns() -> None:
    def first(seed: int) -> list[object]:
        return list(itertools.islice(turns(KINDS["plan"], seed=seed), 20))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_an_agent_reports_turns_prefill_tokens_tools_and_kv(
    tiny_model: Path, tiny_shape: Shape, tmp_path: Path
) -> None:
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
    assert all(event.seconds >= 0.03 for event in events[:-1] if event.kind == "tool")
    assert max(held) > 2 * min(held)
    assert all(held_bytes % kv_bytes(tiny_shape, 1) == 0 for held_bytes in held)
    assert max(held) <= kv_bytes(tiny_shape, KINDS["chain"].context_tokens)


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
        (["--threads", "0"], "'0' is not a number of threads from 1 to 1024"),
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
