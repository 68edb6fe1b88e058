"""Rules that compose pairs, on simulated records: the planted one is found, what cannot be composed says why."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources

import pytest

from benchmarks.analysis import analyse
from benchmarks.cells import good_runs, samples
from benchmarks.composition_figures import composition
from benchmarks.composition_rules import CompositionEffect, Rule, RuleScore, composition_effect
from benchmarks.design import Cell, Isolation, Member, Part, parse_design
from benchmarks.glossary import GLOSSARY
from benchmarks.record_tables import coverage, outcomes, reasons
from benchmarks.report import Material, document
from benchmarks.result_tables import result_tables
from benchmarks.runs import Run
from tests.benchmarks.simulated_runs import breadth_cells, simulated_runs

WORKLOADS = ("cpu", "memory", "io", "latency", "single")
PRESSURE = {"cpu": 1.6, "memory": 2.0, "io": 1.4, "latency": 1.5, "single": 1.8}
GROUPS = [*itertools.combinations(WORKLOADS, 3), *itertools.combinations(WORKLOADS, 4)]
PAIRS = [
    cell
    for one, other in itertools.combinations(WORKLOADS, 2)
    for cell in breadth_cells([one], [other], [Isolation.STACKED])
]


def group(*names: str, isolation: Isolation = Isolation.STACKED) -> Cell:
    return Cell(part=Part.COMPOSITION, members=tuple(Member(workload=one) for one in names), isolation=isolation)


def simulated(
    rule: Callable[[Sequence[float]], float], cells: Sequence[Cell] = (), *, noise: float = 0.03, seed: int = 1
) -> list[Run]:
    """Simulate pairs and groups in which each neighbour presses as PRESSURE says, composed by the rule planted."""

    def truth(cell: Cell, member: Member) -> float:
        return rule([PRESSURE[one.workload] for one in cell.members if one != member])

    chosen = cells or [*PAIRS, *(group(*names) for names in GROUPS)]
    return simulated_runs(chosen, repetitions=6, truth=truth, noise=noise, seed=seed)


def planted_sum(slowdowns: Sequence[float]) -> float:
    return 1 + sum(one - 1 for one in slowdowns)


def effect(runs: Sequence[Run]) -> CompositionEffect:
    good = good_runs(runs)
    return composition_effect(good, samples(good))


def overall(found: CompositionEffect) -> dict[Rule, RuleScore]:
    return {one.rule: one for one in found.scores if one.isolation is None}


@pytest.fixture(scope="module")
def summed() -> CompositionEffect:
    return effect(simulated(planted_sum))


@pytest.fixture(scope="module")
def multiplied() -> CompositionEffect:
    return effect(simulated(math.prod))


def test_the_planted_sum_is_found_and_the_others_are_beaten(summed: CompositionEffect) -> None:
    scores = overall(summed)

    assert scores[Rule.SUM].members == 3 * 10 + 4 * 5 == len(summed.members)
    assert scores[Rule.SUM].error.estimate < 0.03
    assert scores[Rule.SUM].bias.lower < 0 < scores[Rule.SUM].bias.upper
    assert scores[Rule.PRODUCT].bias.lower > 0 > scores[Rule.LARGEST].bias.upper
    assert scores[Rule.PRODUCT].is_worse
    assert scores[Rule.LARGEST].is_worse
    assert "“sum of excesses” errs least" in summed.conclusion
    assert "and it is the scheduler's; it beats “product”" in summed.conclusion
    assert "which holds 0" not in summed.conclusion


def test_the_planted_product_is_found_and_beats_the_schedulers_rule(multiplied: CompositionEffect) -> None:
    scores = overall(multiplied)

    assert scores[Rule.PRODUCT].is_better
    assert scores[Rule.LARGEST].is_worse
    assert scores[Rule.PRODUCT].error.estimate < 0.03 < scores[Rule.SUM].error.lower
    assert scores[Rule.SUM].bias.upper < 0
    assert "“product” errs least" in multiplied.conclusion
    assert "it beats the scheduler's, “sum of excesses”" in multiplied.conclusion


def test_a_planted_largest_is_found() -> None:
    found = effect(simulated(max))

    assert overall(found)[Rule.LARGEST].is_better
    assert "“largest” errs least" in found.conclusion


def test_without_noise_the_error_of_each_rule_is_what_arithmetic_says() -> None:
    cells = [*PAIRS, group("cpu", "memory", "single")]
    found = effect(simulated(planted_sum, cells, noise=0.0))

    composed = {one.member: one.composed for one in found.members}
    assert composed["cpu"] == pytest.approx({Rule.SUM: 2.8, Rule.PRODUCT: 3.6, Rule.LARGEST: 2.0})
    errors = {rule: one.error.estimate for rule, one in overall(found).items()}
    assert errors[Rule.SUM] == pytest.approx(0.0, abs=1e-9)
    assert errors[Rule.PRODUCT] == pytest.approx(3.2 / 2.6 - 1)  # of single; cpu: 3.6 / 2.8, memory: 2.88 / 2.4
    assert errors[Rule.LARGEST] == pytest.approx(1 - 1.8 / 2.4)  # of memory; cpu: 2.0 / 2.8, single: 2.0 / 2.6


def test_nothing_beats_where_one_neighbour_alone_slows() -> None:
    """All rules say the same then."""

    def truth(cell: Cell, member: Member) -> float:
        return 2.0 if Member(workload="memory") in cell.members and member.workload != "memory" else 0.9

    found = effect(simulated_runs([*PAIRS, *(group(*names) for names in GROUPS)], repetitions=6, truth=truth, noise=0))

    scores = overall(found)
    assert [one.error.estimate for one in scores.values()] == pytest.approx([0.0] * 3, abs=1e-9)
    assert not [rule for rule, one in scores.items() if one.is_better or one.is_worse]
    assert "no test: their errors hardly differ; difference 0.0% to 0.0%, which holds 0" in found.conclusion


def test_a_pair_that_was_not_measured_leaves_out_just_its_two_members() -> None:
    trio = group("cpu", "memory", "io")
    pairs = [cell for cell in PAIRS if {one.workload for one in cell.members} != {"cpu", "io"}]

    found = effect(simulated(planted_sum, [*pairs, trio]))

    assert {one.member: one.reasons for one in found.left_out} == {
        "cpu": ("no good run of cpu + io under stacked",),
        "io": ("no good run of cpu + io under stacked",),
    }
    assert [one.member for one in found.members] == ["memory"]
    assert overall(found)[Rule.SUM].error.reason == "1 cell to resample: an interval of 95% needs at least 6"


def test_pairs_under_another_isolation_or_with_more_instances_do_not_count() -> None:
    crowd = Cell(
        part=Part.FACTORIAL,
        members=(Member(workload="cpu", instances=4), Member(workload="single")),
        isolation=Isolation.NONE,
    )

    found = effect(simulated_runs([*PAIRS, crowd, group("cpu", "memory", "single", isolation=Isolation.NONE)]))

    assert found.members == ()
    assert found.left_out[0].reasons == (
        "no good run of cpu + memory under none",
        "no good run of cpu + single under none",
    )
    assert found.conclusion == "Which rule composes best is unknown: no member all of whose pairs were measured."


def test_pairs_that_ran_on_other_cpus_do_not_count() -> None:
    cells = [*PAIRS, group("cpu", "memory", "io"), group("cpu", "memory", "single")]
    seated = [
        dataclasses.replace(run, cpus=("1" if run.cell == "breadth/memory+io/stacked" else "0",) * len(run.members))
        for run in simulated(planted_sum, cells)
    ]

    found = effect(seated)

    assert {(one.cell, one.member, one.reasons) for one in found.left_out} == {
        ("composition/cpu+memory+io/stacked", name, ("io + memory under stacked ran on other CPUs",))
        for name in ("memory", "io")
    }


def test_pairs_of_several_parts_are_pooled() -> None:
    again = Cell(part=Part.FACTORIAL, members=PAIRS[0].members[::-1], isolation=Isolation.STACKED)
    runs = simulated(planted_sum, [*PAIRS, again, group("cpu", "memory", "io")])
    slower = [
        dataclasses.replace(
            run,
            readings=tuple(
                dataclasses.replace(one, rate_per_s=(one.rate_per_s or 0) / (2 if one.phase == "together" else 1))
                for one in run.readings
            ),
        )
        if run.part is Part.FACTORIAL
        else run
        for run in runs
    ]

    beside = next(one.beside for one in effect(slower).members if one.member == "cpu")

    assert 1.1 * PRESSURE["memory"] < beside["memory"] < 1.9 * PRESSURE["memory"]  # between once and twice
    assert beside["io"] == pytest.approx(PRESSURE["io"], rel=0.1)


def test_an_isolation_is_scored_for_itself_besides() -> None:
    free = [dataclasses.replace(one, isolation=Isolation.NONE) for one in (*PAIRS, group("cpu", "memory", "io"))]

    def truth(cell: Cell, member: Member) -> float:
        crowded = cell.isolation is Isolation.NONE and len(cell.members) > 2
        return 3.0 if crowded else 1.0 if cell.isolation is Isolation.NONE else 2.0

    cells = [*PAIRS, *free, group("cpu", "memory", "io")]
    found = effect(simulated_runs(cells, repetitions=6, truth=truth, noise=0))

    scores = {(one.isolation, one.rule): one for one in found.scores}
    assert [one.members for one in found.scores] == [6] * 3 + [3] * 6
    assert scores[Isolation.NONE, Rule.SUM].bias.estimate == pytest.approx(-2 / 3)
    assert "Over 6 members of 2 cells of three or more the rule" in found.conclusion
    assert "Under stacked: over 3 members of 1 cell of three or more the rule “largest” errs least" in found.conclusion
    assert scores[Isolation.STACKED, Rule.SUM].bias.estimate == pytest.approx(1 / 2)


def test_no_run_of_three_leaves_every_number_unknown() -> None:
    found = analyse(simulated(planted_sum, PAIRS[:2]))
    table = next(one for one in result_tables(found) if one.name == "composition")

    assert found.composition.conclusion == (
        "Which rule composes best is unknown: no good run of three or more at once."
    )
    assert [one.error.reason for one in found.composition.scores] == ["no good run of three or more at once"] * 3
    lines = table.csv().decode().splitlines()
    assert lines[1].startswith("all,sum of excesses,0,0,,,,no good run of three or more at once,")


def test_the_report_tells_the_rule_and_whom_it_left_out() -> None:
    runs = simulated(planted_sum, [*PAIRS[:-1], group("cpu", "memory", "io"), group("io", "latency", "single")])
    found = analyse(runs)
    design = parse_design(tomllib.loads(resources.files("benchmarks").joinpath("factorial.toml").read_text()))
    tables = (outcomes(found.tallies), reasons(runs), coverage(runs, design), *result_tables(found))

    told = document(
        Material(
            analysis=found,
            runs=runs,
            hosts={},
            design=design,
            drawings=(),
            tables={one.name: one for one in tables},
            is_simulated=True,
        )
    )

    assert escape(found.composition.conclusion) in told
    assert "<li>2 members of cells left out: no good run of latency + single under stacked.</li>" in told
    assert '<table id="table-composition"' in told


def test_the_figure_tells_the_error_of_each_rule_or_what_is_missing() -> None:
    found = analyse(simulated(planted_sum, [*PAIRS, group("cpu", "memory", "io")]))

    shown = composition(found, "simulated").svg.decode()
    missing = composition(analyse(simulated(planted_sum, PAIRS[:1])), "")

    for rule, one in overall(found.composition).items():
        assert f"<!-- {rule}: median error {one.error.estimate:.1%} -->" in shown
    assert missing.missing == "no good run of three or more at once"
    assert not missing.svg


def test_the_same_runs_in_any_order_give_the_same_scores(summed: CompositionEffect) -> None:
    assert effect(simulated(planted_sum)[::-1]) == summed


def test_the_glossary_names_every_rule() -> None:
    meaning = dict(GLOSSARY)["composition, rule"].lower()

    assert all(str(rule) in meaning for rule in Rule)
