"""Sets of ids: the kernel's list format and its algebra."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.cpuset import CpuSet, NodeSet
from isolation.errors import CpuSetInvalid, SpecInvalid
from isolation.spec import IsolationSpec
from tests.fakes.machines import make_topology

IDS = st.frozensets(st.integers(0, 300))


@given(IDS)
def test_formatting_and_parsing_are_inverse(ids: frozenset[int]) -> None:
    one = CpuSet.of(ids)

    assert CpuSet.parse(str(one)) == one
    assert frozenset(one) == ids
    assert list(one) == sorted(ids)
    assert len(one) == len(ids)


@given(IDS, IDS)
def test_algebra_is_that_of_sets(left: frozenset[int], right: frozenset[int]) -> None:
    one, other = CpuSet.of(left), CpuSet.of(right)

    assert frozenset(one & other) == left & right
    assert frozenset(one | other) == left | right
    assert frozenset(one - other) == left - right
    assert (one <= other) == (left <= right)
    assert all((number in one) == (number in left) for number in range(301))


@pytest.mark.parametrize(("text", "ids"), [("", []), ("0", [0]), ("0-3,8", [0, 1, 2, 3, 8]), (" 2 , 1-1\n", [1, 2])])
def test_the_kernels_texts_are_read(text: str, ids: list[int]) -> None:
    assert list(CpuSet.parse(text)) == ids


@pytest.mark.parametrize("text", ["a", "-1", "1-", "3-1", "0x1", "1,,2", "8192", "0-99999", "1;2", "٣", "+1", "1 2"])
def test_what_is_no_list_is_refused_with_the_part(text: str) -> None:
    with pytest.raises(CpuSetInvalid, match="in list"):
        CpuSet.parse(text)


def test_ids_and_masks_out_of_range_are_refused() -> None:
    for wrong in (-1, 8192):
        with pytest.raises(CpuSetInvalid, match=f"id {wrong}"):
            CpuSet.of([wrong])
    with pytest.raises(CpuSetInvalid, match="outside"):
        CpuSet(1 << 8192)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (IsolationSpec(cpus=CpuSet()), "cpus is empty"),
        (IsolationSpec(cpus=CpuSet.parse("0,9")), "holds 9, not usable here; usable are 0-1"),
        (IsolationSpec(cpus=CpuSet.parse("0"), mems=NodeSet()), "mems is empty"),
        (IsolationSpec(cpus=CpuSet.parse("0"), mems=NodeSet.parse("0-1")), "node 1, absent here; nodes are 0"),
    ],
)
def test_a_wish_the_host_cannot_hold_is_refused_with_what_exists(spec: IsolationSpec, why: str) -> None:
    with pytest.raises(SpecInvalid, match=why):
        spec.check(make_topology())
