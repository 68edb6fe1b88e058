"""Several neighbours: excesses add."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.composition import compose
from profiler.errors import RecordInvalid

SLOWDOWNS = st.floats(0.5, 50)


def test_three_hogs_on_one_cpu_take_three_times_as_long() -> None:
    assert compose([2.0, 2.0]) == 3.0


def test_alone_is_unharmed() -> None:
    assert compose([]) == 1.0


def test_a_gift_of_one_does_not_pay_for_the_harm_of_another() -> None:
    assert compose([0.8, 1.5]) == 1.5
    assert compose([0.8, 0.9]) == 0.9


@given(SLOWDOWNS)
def test_one_neighbour_stays_as_it_is(slowdown: float) -> None:
    assert compose([slowdown]) == pytest.approx(slowdown)


@given(st.lists(SLOWDOWNS, min_size=1), SLOWDOWNS)
def test_another_neighbour_never_helps_and_order_does_not_matter(slowdowns: list[float], other: float) -> None:
    assert compose([*slowdowns, other]) >= compose(slowdowns) - 1e-9
    assert compose([other, *slowdowns]) == compose([*slowdowns, other])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_slowdown_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(RecordInvalid, match="must be finite and above 0"):
        compose([1.5, bad])
