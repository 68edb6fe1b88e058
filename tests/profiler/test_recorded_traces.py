"""The burstiness index on recorded traffic: as numpy computes it, and telling bursty from steady."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from profiler.progress import ProgressEvent
from profiler.tokens import token_features
from tests.fakes.captured import SHARED

Times = NDArray[np.float64]  #: seconds, rising


def recorded(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the recorded traces are not here: {path}")
    return path


def mooncake_s() -> Times:
    lines = recorded("llm-traces/mooncake_conversation.jsonl").read_text().splitlines()
    return np.sort([json.loads(line)["timestamp"] / 1e3 for line in lines])


def azure_s() -> Times:
    with recorded("llm-traces/azure_2023_conversation.csv").open() as file:
        stamps = [row["TIMESTAMP"][:26] for row in csv.DictReader(file)]  # seven decimals: one too many for datetime
    return np.sort([datetime.fromisoformat(stamp).timestamp() for stamp in stamps])


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(recorded(f"agent-runs/{name}"), "rt") as file:
        return list(csv.DictReader(file))


def index_of(events: list[ProgressEvent]) -> float:
    found = {one.name: one.value for one in token_features(events, events[0].t_s, events[-1].t_s)}
    return found["burstiness_index"]


def arrivals(times: Times) -> list[ProgressEvent]:
    return [ProgressEvent(float(t), "token") for t in times]


def by_hand(times: Times) -> float:
    gaps = times[1:] - times[:-1]
    return float(np.sqrt(((gaps - gaps.mean()) ** 2).mean()) / gaps.mean())


@pytest.mark.parametrize(
    ("trace", "published"),
    # Mooncake's requests come in groups, one group every three seconds; Azure's a little less evenly than by chance
    [(mooncake_s, 3.034), (azure_s, 1.094)],
)
def test_bursty_arrivals_are_told_from_the_same_number_evenly_spread(trace: object, published: float) -> None:
    times = trace() if callable(trace) else np.array([])
    even = np.linspace(times[0], times[-1], len(times))
    by_chance = np.sort(np.random.default_rng(1).uniform(times[0], times[-1], len(times)))
    found = {name: index_of(arrivals(one)) for name, one in (("real", times), ("even", even), ("chance", by_chance))}

    assert found["real"] == pytest.approx(by_hand(times), rel=1e-6)
    assert found["real"] == pytest.approx(published, abs=0.001)
    assert found["even"] < 0.01
    assert found["chance"] == pytest.approx(1.0, abs=0.03), "a Poisson process"
    assert found["real"] > found["chance"] + 0.05


def llama_runs() -> dict[str, list[tuple[float, float, int]]]:
    """Give begin, end and tokens of every turn of the runs on llama.cpp, turns without an end or tokens left out."""
    found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for row in rows("llm_turns.csv.gz"):
        begin_s, end_s, tokens = float(row["prev_msg_s"]), float(row["last_chunk_s"]), int(row["output_tokens"] or 0)
        last_s = found[row["run"]][-1][1] if found[row["run"]] else begin_s
        if "GGUF" in row["model"] and tokens > 1 and last_s <= begin_s < end_s:
            found[row["run"]].append((begin_s, end_s, tokens))
    return {run: turns for run, turns in found.items() if len(turns) > 2}


def test_the_index_of_agent_runs_rises_with_the_time_their_tools_take() -> None:
    """The recorder saw whole answers, so tokens are spread evenly over their turn; gaps between turns are tools."""
    tool_s: dict[str, float] = defaultdict(float)
    for row in rows("tool_calls.csv.gz"):
        tool_s[row["run"]] += float(row["dur_s"] or 0)
    runs = llama_runs()
    shares = {run: tool_s[run] / (turns[-1][1] - turns[0][0]) for run, turns in runs.items()}
    by_share = sorted(runs, key=lambda run: shares[run])
    chosen = by_share[:8] + by_share[8::5]  # enough, and quick: a run has 13,000 tokens
    indices: list[float] = []
    without_pauses: list[float] = []
    for run in chosen:
        events: list[ProgressEvent] = []
        gaps: list[float] = []
        made: list[float] = []
        for begin_s, end_s, tokens in runs[run]:
            step_s = (end_s - begin_s) / tokens
            moments = [begin_s + step_s * number for number in range(1, tokens + 1)]
            gaps += [moments[0] - events[-1].t_s] if events else []
            made += [step_s] * (tokens - 1)
            events += [ProgressEvent(begin_s, "turn"), *(ProgressEvent(moment, "token") for moment in moments)]
        own = np.array(gaps + made)
        indices.append(index_of(events[1:]))  # from the first token on
        without_pauses.append(float(np.std(made) / np.mean(made)))

        assert indices[-1] == pytest.approx(float(own.std() / own.mean()), rel=1e-6), run
    index, share = np.array(indices), np.array([shares[run] for run in chosen])

    assert len(runs) >= 100
    assert max(index[share < 0.02]) < 1, "no tools to speak of: steadier than by chance"
    assert min(index[share > 0.2]) > 1.5, "the band of plans"
    assert max(without_pauses) < min(index[share > 0.2]), "the pauses make the bursts"
