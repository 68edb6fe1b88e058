"""The experiment's design: cells, order, choices, and what is refused."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.design import Isolation, Part, parse_design
from benchmarks.errors import DesignInvalid
from tests.fakes.campaigns import design, document


def test_the_project_s_own_design_is_the_108_cells_of_26_repetitions() -> None:
    found = parse_design(tomllib.loads(resources.files("benchmarks").joinpath("factorial.toml").read_text()))
    factorial = {cell: count for cell, count in found.repetitions.items() if cell.part is Part.FACTORIAL}

    assert len(factorial) == 108
    assert sum(factorial.values()) == 2808
    assert Counter(cell.isolation for cell in factorial) == dict.fromkeys(
        (Isolation.NONE, Isolation.PINNING, Isolation.CAT, Isolation.COMBINED), 27
    )
    assert all(len(found.agents_of(cell)) == 1 for cell in factorial)
    assert {len(cell.members) for cell in found.repetitions if cell.part is Part.COMPOSITION} == {3, 4}


def test_each_block_holds_each_cell_once_and_every_repetition_comes() -> None:
    steps = design().steps()

    assert len(steps) == len({step.key for step in steps}) == 2 * 3 * 2 * 3
    for block in {step.block for step in steps}:
        inside = [step.cell for step in steps if step.block == block]
        assert len(inside) == len(set(inside)) == 12


def test_the_order_is_shuffled_by_the_seed_and_the_same_twice() -> None:
    one, same, other = design().steps(), design().steps(), design(seed=8).steps()

    assert one == same
    assert [step.key for step in one] != [step.key for step in other]
    first, second = ([step.cell for step in one if step.block == block] for block in (0, 1))
    assert first != second, "blocks are shuffled apart"


def test_a_digest_names_what_a_run_depends_on_and_nothing_else() -> None:
    whole, reseeded, longer = design(), design(seed=8), design()
    longer = replace(longer, windows=longer.windows.model_copy(update={"solo_s": 9.0}))
    cells = list(whole.repetitions)
    other = {cell: whole.digest(cell) for cell in cells if cell.members != cells[0].members}

    assert whole.digest(cells[0]) == reseeded.digest(cells[0])
    assert whole.digest(cells[0]) != longer.digest(cells[0])
    assert whole.digest(cells[0]) not in {found for cell, found in other.items() if {
        member.workload for member in cell.members} != {member.workload for member in cells[0].members}}  # fmt: skip


@given(st.sampled_from(["*", "memory*", "*/pinning", "cpu:4+single"]), st.integers(1, 5))
def test_a_choice_of_cells_keeps_their_order_and_never_adds_runs(pattern: str, repetitions: int) -> None:
    whole = design()
    chosen = whole.chosen([Part.FACTORIAL], cells=pattern, repetitions=repetitions)
    kept = {step.key for step in chosen.steps()}

    assert kept <= {step.key for step in whole.steps()}
    assert [step.key for step in whole.steps() if step.key in kept] == [step.key for step in chosen.steps()]


def test_services_that_are_added_stand_beside_what_the_factorial_part_is_made_of() -> None:
    added = design().with_services(["redis"]).beside_services()

    assert {cell.name for cell in added} == {
        f"breadth/redis+{other}/{isolation}"
        for other in ("cpu", "memory", "single")
        for isolation in ("pinning", "stacked")
    }
    assert design().beside_services() == {}


def test_a_crowd_that_shares_cpus_is_watched_longer() -> None:
    found = design(windows={**document()["windows"], "crowd_processes": 5})
    seconds = {cell.name: found.together_s(cell) for cell in found.repetitions}

    assert seconds["factorial/cpu:4+single/none"] == 0.5
    assert seconds["factorial/cpu:4+single/pinning"] == 0.2
    assert seconds["factorial/cpu+single/none"] == 0.2


def test_a_table_of_pairs_leaves_out_its_diagonal_and_mirror_images() -> None:
    table = {"left": ["cpu", "memory"], "right": ["memory", "cpu"], "isolation": ["stacked"], "repetitions": 1}
    found = design(factorial=None, breadth=[table])

    assert [cell.name for cell in found.repetitions] == ["breadth/cpu+memory/stacked"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema": 2}, "schema 2"),
        ({"windows": {"solo_s": 0}}, "windows.solo_s"),
        ({"factorial": {**document()["factorial"], "isolation": ["glass"]}}, "factorial.isolation.0"),
        ({"factorial": {**document()["factorial"], "traditional": ["disk"]}}, "'disk' is no workload"),
        ({"factorial": {**document()["factorial"], "repetitions": 0}}, "factorial.repetitions"),
        ({"composition": {"isolation": ["none"], "groups": [["cpu", "cpu", "single"]], "repetitions": 1}}, "twice"),
        ({"workloads": {"A B": document()["workloads"]["cpu"]}}, "'A B'"),
        ({"factorial": None}, "no cell"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_design_that_cannot_be_is_refused_with_the_entry_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(DesignInvalid) as refusal:
        design(**changes)

    assert named in str(refusal.value)


def test_services_are_added_beside_what_the_factorial_part_is_made_of() -> None:
    found = design().with_services(["redis"])
    added = [cell.name for cell in found.repetitions if cell.part is Part.BREADTH]

    assert added == [
        f"breadth/redis+{other}/{isolation}"
        for other in ("cpu", "single", "memory")
        for isolation in ("pinning", "stacked")
    ]
    with pytest.raises(DesignInvalid, match="cpu: the design has"):
        design().with_services(["cpu"])


def test_a_pattern_that_fits_nothing_tells_how_cells_are_named() -> None:
    with pytest.raises(DesignInvalid, match=r"'gpu'.*factorial/cpu\+single/none"):
        design().chosen([Part.FACTORIAL], cells="gpu")
