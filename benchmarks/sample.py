"""A sample as the statistics take it: one row of finite numbers, or the sentence that says why it is not. Pure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

_SAME_RATIO = 1e-12  # values that differ by less than that share of their size are equal: the rest is rounding


def as_sample(values: npt.ArrayLike) -> FloatArray:
    """Give the values as [n] float64; raises ValueError for any other shape."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"a sample has one dimension, this one has {found.ndim}, of shape {found.shape}")
    return found


def as_pairs(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Give two samples whose values belong together; raises ValueError if one is longer."""
    ours, theirs = as_sample(first), as_sample(second)
    if ours.size != theirs.size:
        raise ValueError(f"values that belong together must be equally many, not {ours.size} and {theirs.size}")
    return ours, theirs


def flaw(values: FloatArray, *, least: int = 2, varied: bool = True, name: str = "the sample") -> str:
    """Say why nothing can be computed from a sample; empty if something can."""
    if values.size < least:
        return f"{name} holds {counted(values.size)}, at least {least} are needed"
    unknown = int(np.count_nonzero(~np.isfinite(values)))
    if unknown:
        return f"{name} holds {unknown} unknown (NaN) or infinite among {counted(values.size)}: leave those runs out"
    if varied and constant(values):
        return f"{name} has no spread: all {counted(values.size)} are {values[0]:g}"
    return ""


def constant(values: FloatArray) -> bool:
    """Tell whether finite values differ by no more than rounding."""
    with np.errstate(over="ignore"):  # an infinite distance is one, too
        return bool(np.ptp(values) <= _SAME_RATIO * np.max(np.abs(values)))


@contextmanager
def unwarned() -> Iterator[None]:
    """Keep NumPy and SciPy from warning where the caller looks at the numbers that come out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def counted(count: int, noun: str = "value") -> str:
    """Give a number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
