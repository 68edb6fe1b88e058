"""The rhythm of agents as pure values, and the quoted figures against the recorded runs."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import rhythm
from benchmarks.rhythm import KINDS, Distribution, Kind, Turn, by_one_agent, turns
from tests.fakes.captured import SHARED

NAMES = st.sampled_from(sorted(KINDS))
SEEDS = st.integers(0, 2**32)


def burstiness(kind: Kind, *, seed: int, decode_s: float, prefill_s: float, count: int) -> float:
    """Deviation over mean of the intervals between tokens, all pauses included."""
    intervals: list[float] = []
    pause_s = math.nan
    for turn in itertools.islice(turns(kind, seed=seed), count):
        if intervals:
            intervals.append(decode_s + pause_s + turn.prompt_tokens * prefill_s)
        intervals += [decode_s] * (turn.output_tokens - 1)
        pause_s = turn.tool_s
    return statistics.pstdev(intervals) / statistics.fmean(intervals)


#: One token takes 5 ms (the default model on a fast core) to 100 ms (1 B parameters on a slow one); reading a token of
#: the prompt takes a quarter to a half of it.
SPEEDS = st.tuples(st.floats(0.005, 0.1), st.floats(0.25, 0.5))


@pytest.mark.parametrize(("name", "low", "high"), [("simple", 0.0, 0.5), ("chain", 1.0, 10.0), ("plan", 1.5, 10.0)])
def test_eight_turns_of_each_kind_are_as_bursty_as_its_name_says(name: str, low: float, high: float) -> None:
    @settings(deadline=None)
    @given(SPEEDS, st.integers(0, 1000), st.integers(8, 12))
    def check(speed: tuple[float, float], seed: int, count: int) -> None:
        decode_s, share = speed
        index = burstiness(KINDS[name], seed=seed, decode_s=decode_s, prefill_s=decode_s * share, count=count)

        assert low < index < high

    check()


@settings(deadline=None)
@given(NAMES, SEEDS, st.sampled_from([1, 2, 4]))
def test_an_episode_never_outgrows_the_context_with_the_messages_of_others(name: str, seed: int, agents: int) -> None:
    kind = KINDS[name]
    held, episodes = 0, 0
    for turn in itertools.islice(turns(kind, seed=seed, agent=agents - 1, agents=agents), 40):
        read = turn.prompt_tokens + (agents - 1) * kind.message_tokens
        held = (0 if turn.new_episode else held) + read + turn.output_tokens
        episodes += turn.new_episode

        assert held <= kind.context_tokens
        assert turn.prompt_tokens >= 1
        assert turn.output_tokens >= 1
    assert episodes >= 2


def test_the_same_seed_gives_the_same_turns_and_every_agent_its_own() -> None:
    def first(seed: int, agent: int = 0) -> list[Turn]:
        return list(itertools.islice(turns(KINDS["plan"], seed=seed, agent=agent, agents=2), 20))

    assert first(3) == first(3)
    assert first(3) != first(4)
    assert first(3) != first(3, agent=1)


@given(SEEDS)
def test_twenty_draws_are_spread_as_the_distribution_is(seed: int) -> None:
    """So that windows are alike: independent draws would miss the quarter as often as not."""
    kind = KINDS["plan"]
    drawn = list(itertools.islice(turns(kind, seed=seed), 20))
    below = sum(turn.output_tokens <= kind.output_tokens.at(0.5) for turn in drawn)
    shell = sum(turn.tool_cpu_ratio > 0 for turn in drawn)

    assert 8 <= below <= 12
    assert 8 <= shell <= 12


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_a_distribution_rises_and_stays_between_its_ends(first: float, second: float) -> None:
    some = Distribution(shares=(0.1, 0.5, 0.9), values=(2.0, 8.0, 100.0))
    low, high = sorted((first, second))

    assert 2.0 <= some.at(low) <= some.at(high) * (1 + 1e-12)
    assert some.at(high) <= 100.0 * (1 + 1e-12)


def test_a_distribution_gives_its_own_values_and_the_geometric_middle_between_them() -> None:
    some = Distribution(shares=(0.1, 0.5, 0.9), values=(2.0, 8.0, 32.0))

    assert [some.at(share) for share in (0.1, 0.3, 0.5, 0.9)] == pytest.approx([2, 4, 8, 32])


@settings(deadline=None)
@given(NAMES, SEEDS, st.integers(1, 6))
def test_one_agent_gets_the_same_turns_and_forgets_only_when_it_must(name: str, seed: int, rounds: int) -> None:
    kind = KINDS[name]
    scripts = [list(itertools.islice(turns(kind, seed=seed, agent=one, agents=4), rounds)) for one in range(4)]
    alone = by_one_agent(kind, scripts)
    amounts = [[(turn.prompt_tokens, turn.output_tokens, turn.tool_s) for turn in part] for part in [*scripts, alone]]
    held = 0
    for turn in alone:
        tokens = turn.prompt_tokens + turn.output_tokens

        assert turn.new_episode == (held == 0 or held + tokens > kind.context_tokens)
        held = tokens if turn.new_episode else held + tokens
    assert sorted(itertools.chain.from_iterable(amounts[:4])) == sorted(amounts[4])
    assert amounts[4][:4] == [script[0] for script in amounts[:4]], "round by round"


def recorded(name: str) -> list[dict[str, str]]:
    path: Path = SHARED / "agent-runs" / name
    if not path.exists():
        pytest.skip(f"the recorded runs are not here: {path}")
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def test_the_quoted_figures_of_turns_are_those_of_the_recorded_runs() -> None:
    runs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in recorded("llm_turns.csv.gz"):
        if "GGUF" in row["model"]:
            runs[row["run"]].append((float(row["prompt_tokens_total"] or "nan"), float(row["output_tokens"] or "nan")))
    outputs = [output for run in runs.values() for _, output in run]
    growth = [b[0] - a[0] - a[1] for run in runs.values() for a, b in itertools.pairwise(run)]

    assert quantiles(outputs) == pytest.approx(rhythm._OUTPUT_TOKENS, abs=1)
    assert quantiles([one for one in growth if one > 0]) == pytest.approx(rhythm._PROMPT_TOKENS, abs=1)
    assert quantiles([run[-1][1] for run in runs.values()]) == pytest.approx(rhythm._ANSWER_TOKENS, abs=1)
    assert float(np.median([run[0][0] for run in runs.values()])) == rhythm._FIRST_PROMPT_TOKENS


def test_the_quoted_figures_of_tools_are_those_of_the_recorded_runs() -> None:
    llama = {row["run"] for row in recorded("llm_turns.csv.gz") if "GGUF" in row["model"]}
    calls = [
        (row["tool"] == "Bash", float(row["dur_s"] or "nan"))
        for row in recorded("tool_calls.csv.gz")
        if row["run"] in llama
    ]
    known = [(is_shell, seconds) for is_shell, seconds in calls if not math.isnan(seconds)]

    assert quantiles([seconds for is_shell, seconds in known if is_shell]) == pytest.approx(rhythm._SHELL_S, abs=0.001)
    assert quantiles([seconds for is_shell, seconds in known if not is_shell]) == pytest.approx(
        rhythm._LOOK_UP_S, abs=0.001
    )
    assert statistics.fmean(is_shell for is_shell, _ in known) == pytest.approx(rhythm._SHELL_RATIO, abs=0.01)


def quantiles(values: list[float]) -> tuple[float, ...]:
    return tuple(float(one) for one in np.quantile(values, rhythm._SHARES))
