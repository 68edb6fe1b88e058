"""Which factors of the experiment, and which of their combinations, move the slowdown: analysis of variance. Pure.

Least squares with sum-to-zero contrasts, balanced or not. Type III compares the full model with the one that lacks a
term; type II lets each term compete only with terms that do not contain it. On balanced data both are the same.
Blocks (hosts, instances) enter additively, so that differences between machines are no noise of the effects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.sample import FloatArray, as_sample, flaw

BLOCK = "block"

_EXACT_RATIO = 1e-20  # residual over total sum of squares: below it only rounding is left

_Factors = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One line of the table. Shares of variance of unbalanced data need not add up to 1 or less."""

    name: str  #: factor, or factors joined by ":"; "block"
    degrees: int
    sum_of_squares: float
    f: float
    p: float
    eta_squared: float  #: share of the total variance
    partial_eta_squared: float  #: share of what this term and the noise make up
    omega_squared: float  #: eta squared without its bias; below 0 where F is below 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Anova:
    """The whole table; without terms, or with NaN, where the reason says why."""

    kind: Literal["II", "III"]
    n: int
    terms: tuple[Term, ...] = ()
    residual_degrees: int = 0
    residual_sum_of_squares: float = math.nan
    total_sum_of_squares: float = math.nan  #: around the mean
    r_squared: float = math.nan
    reason: str = ""

    def term(self, *factors: str) -> Term:
        """Give the line of a factor or of an interaction, in any order; raises KeyError if it was not computed."""
        for one in self.terms:
            if sorted(one.name.split(":")) == sorted(factors):
                return one
        raise KeyError(f"no term {':'.join(factors)!r} among {[one.name for one in self.terms]}; {self.reason}")


def anova(
    values: npt.ArrayLike,
    factors: Mapping[str, npt.ArrayLike],
    *,
    block: npt.ArrayLike | None = None,
    order: int | None = None,
    kind: Literal["II", "III"] = "III",
) -> Anova:
    """Split the variance of [n] values by factors (name -> [n] levels) and their interactions up to `order` factors.

    `order` None takes all interactions. A block with one level is left out. Raises ValueError for levels that are not
    as many as the values, and for names that the table could not tell apart.
    """
    y = as_sample(values)
    levels = {name: _levels(name, given, y.size) for name, given in factors.items()}
    if not levels or any(":" in name or name == BLOCK for name in levels):
        raise ValueError(f"factors need names other than {BLOCK!r} and without ':', not {list(levels)}")
    empty = Anova(kind=kind, n=y.size)
    if reason := flaw(y) or _one_level(levels):
        return replace(empty, reason=reason)
    largest = len(levels) if order is None else order
    terms: list[_Factors] = [one for size in range(1, largest + 1) for one in itertools.combinations(levels, size)]
    if block is not None and _count(grouped := _levels(BLOCK, block, y.size)) > 1:
        levels[BLOCK] = grouped
        terms.append((BLOCK,))
    coded = {name: _contrasts(given) for name, given in levels.items()}
    columns = {term: _product([coded[name] for name in term]) for term in terms}
    largest_value = float(np.abs(y).max())
    scaled = y / largest_value  # so that squares neither overflow nor vanish
    model = _Model(columns, scaled - scaled.mean())
    if reason := _not_separable(model, levels, terms):
        return replace(empty, reason=reason)
    return _table(empty, model, terms, largest_value * largest_value)


class _Model:
    """Least squares of one outcome on columns grouped by term; the long arrays are decomposed once."""

    def __init__(self, columns: Mapping[_Factors, FloatArray], outcome: FloatArray) -> None:
        ends = np.cumsum([1, *(one.shape[1] for one in columns.values())]).tolist()
        self._places = dict(zip(columns, map(range, ends, ends[1:]), strict=False))
        orthogonal, self._triangle = np.linalg.qr(np.hstack([np.ones((outcome.size, 1)), *columns.values()]))
        self._inside = orthogonal.T @ outcome
        rest = outcome - orthogonal @ self._inside
        self._outside = float(rest @ rest)
        self.total = float(outcome @ outcome)
        self.parameters = int(ends[-1])

    def degrees(self, term: _Factors) -> int:
        return len(self._places[term])

    def rank(self) -> int:
        return int(np.linalg.matrix_rank(self._triangle))

    def left(self, terms: Sequence[_Factors]) -> float:
        """Give the sum of squares that these terms leave over."""
        chosen = self._triangle[:, [0, *(place for term in terms for place in self._places[term])]]
        rest = self._inside - chosen @ np.linalg.lstsq(chosen, self._inside, rcond=None)[0]
        return self._outside + float(rest @ rest)


def _table(empty: Anova, model: _Model, terms: Sequence[_Factors], unit: float) -> Anova:
    degrees = empty.n - model.parameters
    residual = model.left(terms)
    exact = residual <= _EXACT_RATIO * model.total
    mean_square = math.nan if exact else residual / degrees
    lines = []
    for term in terms:
        rivals = [one for one in terms if empty.kind == "III" or not set(term) < set(one)]
        others = [one for one in rivals if one != term]
        squares = max(0.0, model.left(others) - model.left(rivals))  # below 0 by rounding only
        own = model.degrees(term)
        f = squares / own / mean_square
        lines.append(
            Term(
                name=":".join(term),
                degrees=own,
                sum_of_squares=squares * unit,
                f=f,
                p=float(stats.f.sf(f, own, degrees)),
                eta_squared=squares / model.total,
                partial_eta_squared=math.nan if exact else squares / (squares + residual),
                omega_squared=(squares - own * mean_square) / (model.total + mean_square),
            )
        )
    return replace(
        empty,
        terms=tuple(lines),
        residual_degrees=degrees,
        residual_sum_of_squares=residual * unit,
        total_sum_of_squares=model.total * unit,
        r_squared=1 - residual / model.total,
        reason="the factors explain every value exactly: there is no noise to test against" if exact else "",
    )


def _not_separable(model: _Model, levels: Mapping[str, npt.NDArray[np.intp]], terms: Sequence[_Factors]) -> str:
    for term in terms:
        seen = set(zip(*(levels[name].tolist() for name in term), strict=True))
        possible = math.prod(_count(levels[name]) for name in term)
        if len(seen) < possible:
            lacking = f"{possible - len(seen)} of {possible} combinations of {':'.join(term)} are without a value"
            return f"{lacking}: leave a level out, or take interactions of fewer factors"
    size = len(levels[terms[0][0]])
    if model.parameters >= size:
        lacking = f"{size} values for {model.parameters} parameters leave no noise to test against"
        return f"{lacking}: repeat cells, or take interactions of fewer factors"
    if model.rank() < model.parameters:
        return "blocks and factors cannot be told apart: some block holds only one level of a factor"
    return ""


def _levels(name: str, given: npt.ArrayLike, size: int) -> npt.NDArray[np.intp]:
    labels = np.asarray(given)
    if labels.shape != (size,):
        raise ValueError(f"{size} values need as many levels of {name!r}, not an array of shape {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]


def _count(levels: npt.NDArray[np.intp]) -> int:
    return 1 + int(np.max(levels, initial=-1))


def _one_level(levels: Mapping[str, npt.NDArray[np.intp]]) -> str:
    single = [name for name, given in levels.items() if _count(given) < 2]
    return f"{', '.join(map(repr, single))}: one level only, nothing to compare" if single else ""


def _contrasts(levels: npt.NDArray[np.intp]) -> FloatArray:
    """Code k levels as k - 1 columns that sum to zero over the levels."""
    count = _count(levels)
    return np.vstack([np.eye(count - 1), -np.ones((1, count - 1))])[levels]


def _product(blocks: Sequence[FloatArray]) -> FloatArray:
    """Give all products of one column of each, row by row."""
    found = blocks[0]
    for one in blocks[1:]:
        found = (found[:, :, None] * one[:, None, :]).reshape(len(found), -1)
    return found
