"""The 1-to-5 scale at and around its ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sensitivity_scale import GRADE_ENDS_SF, grade


@pytest.mark.parametrize(
    ("slowdown", "expected"),
    [(0.9, 1), (1.0, 1), (1.049, 1), (1.05, 2), (1.19, 2), (1.2, 3), (1.5, 4), (1.99, 4), (2.0, 5), (math.inf, 5)],
)
def test_each_grade_holds_its_lower_end(slowdown: float, expected: int) -> None:
    assert grade(slowdown) == expected


def test_an_unknown_slowdown_has_no_grade() -> None:
    assert grade(math.nan) is None


@given(st.floats(0.1, 10), st.floats(0.1, 10))
@settings(deadline=None)
def test_a_larger_slowdown_never_has_a_smaller_grade(first: float, second: float) -> None:
    small, large = sorted((first, second))

    assert 1 <= (grade(small) or 0) <= (grade(large) or 0) <= len(GRADE_ENDS_SF) + 1
