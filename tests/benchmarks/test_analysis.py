"""The analysis on simulated records: planted effects are found, planted nulls are not, gaps give reasons."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest

from benchmarks.analysis import Analysis, analyse, plain
from benchmarks.cells import Side, good_runs, samples
from benchmarks.design import Cell, Isolation, Member
from benchmarks.questions import HeldOutScore
from benchmarks.runs import Outcome, Reading, Run
from benchmarks.verdict import Hypothesis, Verdict
from profiler.scores import Errors, Scores
from profiler.tokens import burstiness
from tests.benchmarks.simulated_runs import AGENTS, NOT_HERE, breadth_cells, factorial_cells, simulated_runs

SMALL = factorial_cells(agents=("single", "multi-4"), concurrency=(1, 4))
WAYS = (Isolation.NONE, Isolation.CAT)


def shared(cell: Cell, member: Member) -> float:
    """Plant: memory slows agents by 1.3; without pinning all by 1.5 more; pinning takes that away."""
    beside_memory = 1.3 if cell.members[0].workload == "memory" and member.workload in AGENTS else 1.0
    return beside_memory * (1.5 if cell.isolation is Isolation.NONE else 1.0)


@pytest.fixture(scope="module")
def planted() -> Analysis:
    return analyse(simulated_runs(SMALL, truth=shared, repetitions=12))


@pytest.fixture(scope="module")
def null() -> Analysis:
    return analyse(simulated_runs(SMALL, repetitions=12))


def claim(found: Analysis, name: str) -> Hypothesis:
    return next(one for one in found.hypotheses if one.name == name)


def test_planted_slowdowns_are_found_in_just_their_members(planted: Analysis) -> None:
    slowed = {(one.cell, one.member) for one in planted.effects if one.t_p_holm < 0.05 and one.slowdown.lower > 1}

    expected = {(cell.name, str(member)) for cell in SMALL for member in cell.members if shared(cell, member) > 1}
    assert slowed == expected


def test_medians_and_their_intervals_are_those_planted(planted: Analysis) -> None:
    truth = {(cell.name, str(member)): shared(cell, member) for cell in SMALL for member in cell.members}

    held = sum(one.slowdown.lower <= truth[one.cell, one.member] <= one.slowdown.upper for one in planted.effects)

    assert len(planted.effects) == 2 * len(SMALL)
    assert held >= 0.85 * len(planted.effects)


def test_nothing_is_found_where_nothing_was_planted(null: Analysis) -> None:
    assert not [one.cell for one in null.effects if one.t_p_holm < 0.05]
    assert not [name for one in null.factors for name, p in one.p_holm.items() if p < 0.01]
    assert not [one.members for one in null.reliefs if one.p_holm < 0.05]
    assert claim(null, "memory and AI").verdict is Verdict.NOT_SUPPORTED
    assert claim(null, "memory and AI").numbers["p over repetitions"] > 0.05
    assert null.questions[0].numbers["slowed (Holm, alpha 0.05)"] == 0


def test_the_table_of_factors_finds_the_planted_ones(planted: Analysis) -> None:
    agent = next(one for one in planted.factors if one.side is Side.AGENT)

    significant = {name for name, p in agent.p_holm.items() if p < 0.001}

    assert significant == {"traditional", "isolation"}
    assert agent.order == 4
    assert agent.levels["concurrency"] == ("1", "4")


def test_relief_is_the_share_that_was_planted(planted: Analysis) -> None:
    agents = [one for one in planted.reliefs if one.side is Side.AGENT]

    assert len(agents) == len(SMALL) / 2
    for one in agents:
        true = 1 - (0.3 / 0.95 if one.traditional == "memory" else 0.0)  # SF 1.95 -> 1.3, else 1.5 -> 1
        assert one.relief.estimate == pytest.approx(true, abs=0.15)
        assert one.ratio.estimate == pytest.approx(1 / 1.5, abs=0.08)
        assert one.p_holm < 0.001


def test_relief_is_summarised_over_the_pairs_that_were_slowed(planted: Analysis, null: Analysis) -> None:
    (traditional, agents) = planted.relief_summaries

    assert (agents.pairs, agents.slowed, agents.better) == (12, 12, 12)
    assert agents.relief.lower < 1.0 < agents.relief.upper
    assert traditional.relief.estimate == pytest.approx(1.0, abs=0.05)
    for one in null.relief_summaries:
        assert one.better == 0
        assert one.slowed <= 1


def test_what_isolation_itself_costs_is_told_beside_the_relief() -> None:
    """Simulated: pinned, everything takes twice as long, alone and together; SF cannot know."""
    runs = [
        dataclasses.replace(run, readings=tuple(map(halved, run.readings)))
        if run.isolation is Isolation.PINNING
        else run
        for run in simulated_runs(SMALL, truth=shared, repetitions=12)
    ]

    found = analyse(runs)

    for one in found.relief_summaries:
        assert one.relief.estimate > 0.5
        assert one.price.estimate == pytest.approx(2.0, abs=0.05)
        assert one.net.estimate == pytest.approx(2 / 1.5, abs=0.05)
        assert (one.faster, one.slower, one.worse) == (0, 12, 0)
    assert "takes 1.3" in found.questions[2].answer


def halved(one: Reading) -> Reading:
    return dataclasses.replace(
        one,
        rate_per_s=None if one.rate_per_s is None else one.rate_per_s / 2,
        token_times_s=tuple(2 * time_s for time_s in one.token_times_s),
    )


def test_a_pair_with_few_runs_does_not_take_the_interval_from_all() -> None:
    runs = simulated_runs(SMALL, truth=shared, repetitions=12)
    sparse = [run for run in runs if run.cell != SMALL[0].name or run.repetition < 3]

    (_, agents) = analyse(sparse).relief_summaries

    assert agents.pairs == 12
    assert math.isfinite(agents.relief.lower)


def test_one_repetition_is_no_test_and_is_not_told_as_none_found() -> None:
    (_, agents) = analyse(simulated_runs(SMALL, truth=shared, repetitions=1)).relief_summaries

    assert (agents.pairs, agents.tested, agents.better) == (12, 0, 0)


def test_the_noise_of_the_host_is_told_from_good_runs_only() -> None:
    runs = simulated_runs(SMALL[:1], repetitions=5, instances=("one", "two"))
    told = [
        dataclasses.replace(one, steal_ratio=0.01 * place, cpu_probe_s=(1.0 if one.instance == "one" else 2.0,) * 2)
        for place, one in enumerate(runs)
    ]
    told[4] = dataclasses.replace(told[4], outcome=Outcome.DISTURBED)

    noise = {one.measure: one for one in analyse(told).noise}

    assert noise["steal"].n == 4
    assert noise["steal"].largest == pytest.approx(0.03)
    assert noise["computation"].largest == 0.0  # instances differ, each is steady
    assert noise["drift alone"].n == 2 * 4
    assert 0 < noise["drift alone"].median < 0.2
    assert noise["copy"].n == 0
    assert math.isnan(noise["copy"].median)


def test_relief_of_no_slowdown_is_unknown_and_says_why(null: Analysis) -> None:
    unknown = [one for one in null.reliefs if math.isnan(one.relief.estimate)]

    assert len(unknown) >= 0.9 * len(null.reliefs)
    assert all("nothing to relieve" in one.relief.reason for one in unknown)
    assert all(one.ratio.lower < 1.1 and one.ratio.upper > 0.9 for one in unknown)


def test_memory_beside_agents_is_supported_when_planted(planted: Analysis) -> None:
    found = claim(planted, "memory and AI")

    assert found.verdict is Verdict.SUPPORTED
    assert found.numbers["d lower"] > 0.8
    assert found.numbers["p over repetitions"] < 0.001
    assert found.numbers["ratio of geometric mean SF"] == pytest.approx(1.3, abs=0.03)


def test_an_effect_below_the_threshold_is_not_supported_though_significant() -> None:
    cells = factorial_cells(traditional=("cpu", "memory"), isolation=(Isolation.PINNING,))

    def slightly(cell: Cell, member: Member) -> float:
        return 1.02 if cell.members[0].workload == "memory" else 1.0

    found = claim(analyse(simulated_runs(cells, truth=slightly)), "memory and AI")

    assert found.numbers["p"] < 0.05
    assert found.verdict is Verdict.NOT_SUPPORTED
    assert "all below 0.8" in found.reason


def test_cache_partitioning_needs_ways_and_counters(planted: Analysis) -> None:
    without_ways = analyse(simulated_runs(factorial_cells(isolation=WAYS, concurrency=(4,)), repetitions=6))

    for found in (planted, without_ways):
        assert claim(found, "cache partitioning").verdict is Verdict.NOT_TESTABLE
    assert NOT_HERE in claim(without_ways, "cache partitioning").reason
    assert f"cat: not testable here: {NOT_HERE}" in without_ways.not_relieving
    assert any(line.startswith("isolation cat: no good run") for line in without_ways.factors[0].left_out)


@pytest.mark.parametrize(("with_ways", "verdict"), [(1.1, Verdict.SUPPORTED), (2.0, Verdict.NOT_SUPPORTED)])
def test_cache_partitioning_is_judged_where_it_was_measured(with_ways: float, verdict: Verdict) -> None:
    cells = factorial_cells(traditional=("memory",), isolation=WAYS, concurrency=(4,))

    def ways(cell: Cell, member: Member) -> float:
        return with_ways if cell.isolation is Isolation.CAT else 2.0

    found = claim(analyse(simulated_runs(cells, truth=ways, counters=True)), "cache partitioning")

    assert found.verdict is verdict
    assert found.numbers["relief"] == pytest.approx(1 - (with_ways - 1), abs=0.1)


def test_cache_partitioning_has_nothing_to_judge_where_nobody_was_slowed() -> None:
    cells = factorial_cells(traditional=("memory",), isolation=WAYS, concurrency=(4,))

    found = claim(analyse(simulated_runs(cells, counters=True)), "cache partitioning")

    assert found.verdict is Verdict.NOT_TESTABLE
    assert "no agent is known to be slowed above 1.02" in found.reason


def test_counters_that_are_not_there_are_named_and_those_that_are_give_numbers(planted: Analysis) -> None:
    counted = analyse(simulated_runs(SMALL[:1], truth=shared, counters=True))

    assert all("told by no run" in one.interference_factor.reason for one in planted.effects)
    assert counted.effects[1].interference_factor.estimate == pytest.approx(1 - 1 / 1.5, abs=0.05)
    assert counted.effects[1].cache_interference.estimate == pytest.approx(1.5**2 - 1, abs=0.2)  # misses / s over rate
    assert counted.effects[1].tail_sensitivity.estimate == pytest.approx(1.5**2 - 1, abs=0.2)
    assert counted.effects[1].ttft_ratio.estimate == pytest.approx(1.5, abs=0.1)
    assert "no tokens" in counted.effects[0].ttft_ratio.reason


@pytest.mark.parametrize(("slope", "verdict"), [(0.5, Verdict.SUPPORTED), (0.0, Verdict.NOT_SUPPORTED)])
def test_burstiness_is_found_in_the_sensitivity_only_when_planted(slope: float, verdict: Verdict) -> None:
    pauses = {name: 0.1 * place for place, name in enumerate(sorted(AGENTS))}
    cells = breadth_cells(sorted(AGENTS), ("cpu", "io"), (Isolation.PINNING,))

    def bursty(agent: str, draw: random.Random) -> float:
        return 0.02 + (pauses.get(agent, 0.0) if draw.random() < 0.1 else 0.0)

    def suffering(cell: Cell, member: Member) -> float:
        pause_s = pauses.get(member.workload, 0.0)
        return 1 + slope * (burstiness([0.02] * 9 + [0.02 + pause_s]) or 0.0)

    runs = simulated_runs(cells, truth=suffering, rhythm=bursty, repetitions=8, noise=0.01)
    found = analyse(runs)

    hypothesis = claim(found, "burstiness and sensitivity")
    assert hypothesis.verdict is verdict
    assert hypothesis.numbers["agents"] == len(AGENTS)
    assert found.burstiness.conditions == ("breadth/cpu/pinning", "breadth/io/pinning")


def test_burstiness_of_two_agents_is_not_testable_and_says_why(planted: Analysis) -> None:
    found = claim(planted, "burstiness and sensitivity")

    assert found.verdict is Verdict.NOT_TESTABLE
    assert "2 agent workloads" in found.reason


def test_the_matrix_grades_what_is_there_and_names_what_is_not(planted: Analysis) -> None:
    grades = {(one.row, one.column): one for one in planted.matrix if one.isolation is Isolation.PINNING}

    assert grades["reasoning", "bandwidth saturation"].grade == 3  # planted 1.3
    assert grades["multi-agent", "latency jitter"].grade == 1
    assert grades["multi-agent", "cache contention"].grade is None
    assert "not measured" in grades["multi-agent", "cache contention"].reason


def test_a_better_model_answers_the_fourth_question_and_none_leaves_it_open(planted: Analysis) -> None:
    def by(median: float, mean: float) -> Errors:
        return Errors(median=median, mean=mean)

    scores = Scores(lowo=by(0.1, 0.15), prior=by(0.2, 0.25), constant=by(0.3, 0.4), noise_floor=0.05)
    score = HeldOutScore(model="m", observations=9, workloads=3, scores=scores)

    answered = analyse([], score=score).questions[3]

    assert answered.answered
    assert "an error of 10.0% (median; mean 15.0%)" in answered.answer
    assert "the prior alone by 20.0% (median; mean 25.0%), a constant by 30.0%" in answered.answer
    assert "By the median the model beats all of these, by the mean all of these." in answered.answer
    found = dataclasses.replace(scores, nearest=by(0.08, 0.2), families=by(0.123, 0.234))
    stricter = analyse([], score=dataclasses.replace(score, scores=found)).questions[3].answer
    assert "By the median the model beats the prior alone, a constant, by the mean all of these." in stricter
    assert "all variants of a program held out together it errs by 12.3% (median; mean 23.4%)" in stricter
    assert not planted.questions[3].answered
    assert "because no model" in planted.questions[3].answer


def test_only_one_good_run_of_a_cell_and_repetition_counts() -> None:
    runs = simulated_runs(SMALL[:2], repetitions=3)
    again = dataclasses.replace(runs[0], attempt=2, started_unix_s=99.0, readings=())
    disturbed = dataclasses.replace(runs[1], outcome=Outcome.DISTURBED, started_unix_s=-1.0, reason="busy")

    found = analyse([again, disturbed, *runs])

    assert found.good_runs == 6
    assert found.runs == 8
    assert [one.n for one in found.effects] == [3] * 4
    (tally,) = found.tallies
    assert tally.outcomes == {"ok": 7, "failed": 0, "disturbed": 1, "not applicable": 0}
    assert tally.surplus == 1


def test_disturbed_runs_alone_give_counts_and_reasons_but_no_numbers() -> None:
    runs = [dataclasses.replace(one, outcome=Outcome.DISTURBED) for one in simulated_runs(SMALL, repetitions=2)]

    found = analyse(runs)

    assert found.effects == ()
    assert sum(one.cells_without_good_run for one in found.tallies) == len(SMALL)
    assert not any(one.answered for one in found.questions)
    assert {one.verdict for one in found.hypotheses} == {Verdict.NOT_TESTABLE}
    assert all(one.reason for one in found.hypotheses)
    assert all(one.table.reason for one in found.factors)


def test_a_window_that_did_not_tell_is_counted_and_left_out() -> None:
    runs = simulated_runs(SMALL[:1], repetitions=8)
    runs[3] = dataclasses.replace(runs[3], readings=runs[3].readings[:-1])  # the agent's last window

    found = analyse(runs)

    assert [(one.n, one.unknown) for one in found.effects] == [(8, 0), (7, 1)]


def test_two_repetitions_give_estimates_with_a_reason_instead_of_ends() -> None:
    found = analyse(simulated_runs(SMALL, truth=shared, repetitions=2))

    assert all(math.isnan(one.slowdown.lower) and one.slowdown.reason for one in found.effects)
    assert all(one.slowdown.estimate > 0.8 for one in found.effects)
    assert any(math.isfinite(one.relief.estimate) and one.relief.reason for one in found.reliefs)


def test_the_same_runs_in_any_order_give_the_same_numbers() -> None:
    runs = simulated_runs(SMALL[:6], truth=shared, repetitions=8)
    shuffled: list[Run] = sorted(runs, key=lambda run: (run.repetition * 5 % 8, run.cell), reverse=True)

    assert json.dumps(plain(analyse(runs))) == json.dumps(plain(analyse(shuffled)))


def test_everything_is_json_without_nan(planted: Analysis) -> None:
    text = json.dumps(plain(planted), allow_nan=False)

    read = json.loads(text)
    assert read["effects"][0]["side"] == "traditional"
    assert read["effects"][0]["interference_factor"]["estimate"] is None
    assert read["effects"][0]["interference_factor"]["reason"]


def test_instances_enter_as_a_block() -> None:
    runs = simulated_runs(SMALL, truth=shared, repetitions=4, instances=("one", "two"))

    found = analyse(runs)

    assert found.instances == (("one", len(runs) // 2), ("two", len(runs) // 2))
    assert found.factors[1].table.term("block").degrees == 1


def test_three_members_are_summarised_each_and_enter_no_pair() -> None:
    cell = breadth_cells(("memory",), ("single",), (Isolation.STACKED,))[0]
    trio = dataclasses.replace(cell, members=(Member(workload="cpu"), *cell.members))

    table = samples(good_runs(simulated_runs([trio], repetitions=3)))

    assert [one.side for one in table] == [Side.TRADITIONAL, Side.TRADITIONAL, Side.AGENT]
    assert [len(one.neighbours) for one in table] == [2, 2, 2]
