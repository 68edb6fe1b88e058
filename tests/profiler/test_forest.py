"""The forest against xgboost itself as the oracle, and damaged models against the parser."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from profiler.errors import ModelDamaged
from profiler.forest import Forest

NAMES = ("a", "b", "c", "d")


def booster(seed: int = 0, depth: int = 4, rounds: int = 30) -> xgboost.Booster:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, len(NAMES))).astype(np.float32)
    y = x[:, 0] * 2 + np.abs(x[:, 1]) + rng.normal(size=200) / 10
    x[rng.random(x.shape) < 0.2] = np.nan
    data = xgboost.DMatrix(x, label=y, base_margin=rng.normal(size=200), feature_names=list(NAMES))
    return xgboost.train({"max_depth": depth, "nthread": 1, "seed": seed}, data, rounds)


BOOSTER = booster()
TEXT = bytes(BOOSTER.save_raw("json"))
FOREST = Forest.from_json(TEXT, feature_names=NAMES)
NUMBERS = st.one_of(st.just(float("nan")), st.floats(-4, 4, width=32), st.sampled_from([float("inf"), -float("inf")]))


@settings(max_examples=60, deadline=None)
@given(rows=npst.arrays(np.float32, (7, len(NAMES)), elements=NUMBERS), margin=st.floats(-3, 3, width=32))
def test_the_forest_predicts_what_xgboost_predicts(rows: np.ndarray[Any, np.dtype[np.float32]], margin: float) -> None:
    margins = np.full(len(rows), margin, np.float32)

    expected = BOOSTER.inplace_predict(rows, base_margin=margins)

    np.testing.assert_allclose(expected, FOREST.predict(rows, margins), atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_forests_of_any_depth_agree_bit_by_bit_on_many_rows(depth: int) -> None:
    model = booster(seed=depth, depth=depth, rounds=80)
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(2000, len(NAMES))).astype(np.float32)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    margin = rng.normal(size=2000).astype(np.float32)

    expected = model.inplace_predict(rows, base_margin=margin)

    forest = Forest.from_json(bytes(model.save_raw("json")), feature_names=NAMES)
    np.testing.assert_array_equal(expected, forest.predict(rows, margin))


def test_a_value_on_the_threshold_goes_where_xgboost_sends_it() -> None:
    thresholds = np.unique(FOREST.threshold)[:50]
    rows = np.repeat(thresholds[:, None], len(NAMES), axis=1)
    zero = np.zeros(len(rows), np.float32)

    np.testing.assert_array_equal(BOOSTER.inplace_predict(rows, base_margin=zero), FOREST.predict(rows, zero))


def test_a_model_without_trees_gives_the_margin_back() -> None:
    raw = json.loads(TEXT)
    raw["learner"]["gradient_booster"]["model"]["trees"] = []

    forest = Forest.from_json(json.dumps(raw), feature_names=NAMES)

    assert forest.predict(np.zeros((2, 4), np.float32), np.array([1, 2], np.float32)).tolist() == [1, 2]


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows \(1, 3\)"):
        FOREST.predict(np.zeros((1, 3), np.float32), np.zeros(1, np.float32))


def damaged(**changes: Any) -> str:
    raw = copy.deepcopy(json.loads(TEXT))
    raw["learner"]["gradient_booster"]["model"]["trees"][3].update(changes)
    return json.dumps(raw)


TREE = json.loads(TEXT)["learner"]["gradient_booster"]["model"]["trees"][3]


def with_item(key: str, position: int, value: Any) -> dict[str, Any]:
    column = list(TREE[key])
    column[position] = value
    return {key: column}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_item("left_children", 1, 0), "child 0 is out of range"),
        (with_item("left_children", 1, 10_000), "child 10000 is out of range"),
        (with_item("left_children", 1, -7), "child -7 is out of range"),
        (with_item("left_children", 1, -1), "child -1 is out of range"),
        (with_item("left_children", 1, TREE["left_children"][0]), "reached twice"),
        (with_item("left_children", 1, 3.5), "no whole number"),
        (with_item("split_indices", 0, 4), "splits on feature 4 of 4"),
        (with_item("split_indices", 0, -1), "splits on feature -1 of 4"),
        (with_item("split_conditions", 0, float("nan")), "no finite float32"),
        (with_item("split_conditions", -1, float("inf")), "no finite float32"),
        (with_item("split_conditions", -1, 1e39), "no finite float32"),
        (with_item("split_conditions", -1, "x"), "could not convert"),
        (with_item("split_type", 0, 1), "categorical"),
        ({"categories_nodes": [1]}, "categorical"),
        ({"left_children": TREE["left_children"][:-1]}, "unequal length"),
        ({"left_children": None}, "not a tree model"),
        ({"tree_param": {"size_leaf_vector": "3"}}, "vector leaves"),
    ],
)
def test_a_damaged_tree_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelDamaged, match=message):
        Forest.from_json(damaged(**changes), feature_names=NAMES)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"learner": 3}', "[" * 100_000, TEXT[: len(TEXT) // 2], b"\xff\xfe"]
)
def test_text_that_is_no_model_is_refused(text: str | bytes) -> None:
    with pytest.raises(ModelDamaged, match="not a tree model"):
        Forest.from_json(text, feature_names=NAMES)


@pytest.mark.parametrize("names", [NAMES[::-1], NAMES[:3], (*NAMES, "e")])
def test_other_feature_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ModelDamaged, match="train again"):
        Forest.from_json(TEXT, feature_names=names)


@settings(max_examples=60, deadline=None)
@given(positions=st.lists(st.integers(0, len(TEXT) - 1), min_size=1, max_size=4), digit=st.integers(0, 255))
def test_flipped_bytes_are_refused_or_give_finite_numbers(positions: list[int], digit: int) -> None:
    data = bytearray(TEXT)
    for position in positions:
        data[position] = digit

    try:
        forest = Forest.from_json(bytes(data), feature_names=NAMES)
    except ModelDamaged:
        return
    assert np.isfinite(forest.predict(np.zeros((1, 4), np.float32), np.zeros(1, np.float32))).all()
