"""Boosted trees as plain arrays: reads the XGBoost JSON format and predicts with numpy alone.

Pure. The daemon predicts with this, so a damaged model file raises instead of killing the process inside a C++
parser, and xgboost (over a second of import) stays in the training process. Same float32 sums, same order as xgboost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.errors import ModelDamaged

OBJECTIVES = frozenset({"reg:absoluteerror", "reg:squarederror"})  #: whose prediction is margin plus leaves
_MAX_TREES = 10_000
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    """One checked tree, nodes in breadth-first order; a leaf points at itself."""

    feature: NDArray[np.intp]
    threshold: NDArray[np.float32]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    default_left: NDArray[np.bool_]
    leaf: NDArray[np.float32]  #: 0 in inner nodes
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """All trees, nodes of one after those of the other: every array is [n_nodes] but roots [n_trees]."""

    feature_names: tuple[str, ...]
    roots: NDArray[np.intp]
    feature: NDArray[np.intp]
    threshold: NDArray[np.float32]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    default_left: NDArray[np.bool_]
    leaf: NDArray[np.float32]
    depth: int

    @classmethod
    def from_json(cls, text: str | bytes, *, feature_names: Sequence[str]) -> Forest:
        """Read a model saved by xgboost as JSON; raises ModelDamaged for all but numeric trees of these OBJECTIVES.

        feature_names are the columns the caller will predict with; the model must have been fitted on just these.
        """
        try:
            learner = json.loads(text)["learner"]
            names = tuple(learner["feature_names"])
            if names != tuple(feature_names):
                raise ModelDamaged(_names_differ(names, tuple(feature_names)))
            count = int(learner["learner_model_param"]["num_feature"])
            if count != len(names):
                raise ModelDamaged(f"the model says it has {count} features but names {len(names)}")
            if (objective := learner["objective"]["name"]) not in OBJECTIVES:
                raise ModelDamaged(f"objective {objective!r} is none of {', '.join(sorted(OBJECTIVES))}")
            booster = learner["gradient_booster"]
            if booster["name"] != "gbtree":
                raise ModelDamaged(f"booster {booster['name']!r} is not 'gbtree'")
            raw_trees = booster["model"]["trees"]
            if len(raw_trees) > _MAX_TREES:
                raise ModelDamaged(f"{len(raw_trees)} trees, at most {_MAX_TREES} are accepted")
            trees = [_read_tree(number, raw, len(names)) for number, raw in enumerate(raw_trees)]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise ModelDamaged(f"not a tree model in xgboost's JSON format: {type(error).__name__}: {error}") from error
        return cls._join(names, trees)

    @classmethod
    def _join(cls, names: tuple[str, ...], trees: list[_Tree]) -> Forest:
        sizes = np.array([len(tree.feature) for tree in trees], dtype=np.intp)
        roots = np.cumsum(sizes) - sizes

        def shifted(column: str) -> NDArray[np.intp]:
            parts = [getattr(tree, column) + root for tree, root in zip(trees, roots, strict=True)]
            return np.concatenate(parts) if parts else np.zeros(0, np.intp)

        def joined(column: str, dtype: Any) -> NDArray[Any]:
            return np.concatenate([np.zeros(0, dtype), *(getattr(tree, column) for tree in trees)])

        return cls(
            feature_names=names,
            roots=roots,
            feature=joined("feature", np.intp),
            threshold=joined("threshold", np.float32),
            left=shifted("left"),
            right=shifted("right"),
            default_left=joined("default_left", np.bool_),
            leaf=joined("leaf", np.float32),
            depth=max((tree.depth for tree in trees), default=0),
        )

    def predict(self, rows: NDArray[np.float32], base_margin: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add all trees to the margin: rows [n, n_features], base_margin [n] -> [n], all float32.

        NaN follows each node's default side. As in xgboost the model's base_score does not count: a margin is given.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.feature_names) or base_margin.shape != rows.shape[:1]:
            wanted = f"[n, {len(self.feature_names)}] and [n]"
            raise ValueError(f"rows {rows.shape} and base_margin {base_margin.shape} must be {wanted}")
        rows = rows.astype(np.float32, copy=False)
        node = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        row = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            value = rows[row, self.feature[node]]
            goes_left = np.where(np.isnan(value), self.default_left[node], value < self.threshold[node])
            node = np.where(goes_left, self.left[node], self.right[node])
        terms = np.concatenate([base_margin.astype(np.float32)[:, None], self.leaf[node]], axis=1)
        # accumulate, not sum: numpy's pairwise sum differs from xgboost's in the last bit
        return np.add.accumulate(terms, axis=1, dtype=np.float32)[:, -1]


def _names_differ(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    strange = sorted(set(found) ^ set(wanted))
    what = f"differing: {', '.join(strange[:5])}" if strange else "same names in another order"
    return (
        f"the model was fitted on {len(found)} features, not on the {len(wanted)} of this version ({what}): train again"
    )


def _read_tree(number: int, raw: dict[str, Any], features: int) -> _Tree:
    """Check one tree and renumber its reachable nodes breadth first."""
    where = f"tree {number}"
    if any(raw.get(key) for key in ("categories", "categories_nodes")) or any(raw.get("split_type", ())):
        raise ModelDamaged(f"{where} has categorical splits, which this project never makes")
    if int(raw["tree_param"].get("size_leaf_vector", "1")) > 1:
        raise ModelDamaged(f"{where} has vector leaves, which this project never makes")
    lefts, rights = _integers(raw["left_children"]), _integers(raw["right_children"])
    indices, conditions = _integers(raw["split_indices"]), [float(value) for value in raw["split_conditions"]]
    defaults = _integers(raw["default_left"])
    if len({len(lefts), len(rights), len(indices), len(conditions), len(defaults)}) != 1 or not lefts:
        raise ModelDamaged(f"{where} is empty or has columns of unequal length")

    order, children, depth = _walk(where, lefts, rights)
    for node, pair in zip(order, children, strict=True):
        if pair is not None and not 0 <= indices[node] < features:
            raise ModelDamaged(f"{where}, node {node}: splits on feature {indices[node]} of {features}")

    values = np.array([conditions[node] for node in order], dtype=np.float64)
    if not np.all(np.abs(values) <= np.finfo(np.float32).max):
        raise ModelDamaged(f"{where} has a split or leaf value that is no finite float32")
    is_leaf = np.array([pair is None for pair in children])
    places = [pair or (position, position) for position, pair in enumerate(children)]
    return _Tree(
        feature=np.array([0 if leaf else indices[node] for node, leaf in zip(order, is_leaf, strict=True)], np.intp),
        threshold=values.astype(np.float32),
        left=np.array([left for left, _ in places], np.intp),
        right=np.array([right for _, right in places], np.intp),
        default_left=np.array([bool(defaults[node]) for node in order]),
        leaf=np.where(is_leaf, values, 0.0).astype(np.float32),
        depth=depth,
    )


def _walk(where: str, lefts: list[int], rights: list[int]) -> tuple[list[int], list[tuple[int, int] | None], int]:
    """Visit what the root reaches, breadth first: node ids, new places of each node's children (None = leaf), depth."""
    order, depths, seen = [0], [0], {0}
    children: list[tuple[int, int] | None] = []
    for position, node in enumerate(order):  # order grows while we walk
        pair = (lefts[node], rights[node])
        if pair == (-1, -1):
            children.append(None)
            continue
        for child in pair:
            if not 0 < child < len(lefts) or child in seen:
                raise ModelDamaged(f"{where}, node {node}: child {child} is out of range or reached twice")
            seen.add(child)
            depths.append(depths[position] + 1)
        children.append((len(order), len(order) + 1))
        order.extend(pair)
    if depths[-1] > _MAX_DEPTH:
        raise ModelDamaged(f"{where} is {depths[-1]} deep, at most {_MAX_DEPTH} are accepted")
    return order, children, depths[-1]


def _integers(values: Any) -> list[int]:
    numbers = list(values)
    if any(type(value) is not int for value in numbers):
        raise TypeError("a node index is no whole number")
    return numbers
