"""Classes of service are few: which are merged first, and what that costs."""

from __future__ import annotations

from scheduler.ways import Rule
from tests.fakes.divided_caches import (
    info,
    l3,
    masks,
    resident,
    shared_out,
)


def test_with_few_classes_the_smallest_parts_are_merged() -> None:
    crowd = (
        resident("a", "0", "small"),
        resident("b", "1", "large"),
        resident("c", "2", "small"),
        resident("s", "3", "streaming"),
    )

    assert masks(shared_out(info(l3(closids=5)), *crowd)) == {"a": "0=7", "b": "0=7f8", "c": "0=3800", "s": "0=c000"}
    assert masks(shared_out(info(l3(closids=4)), *crowd)) == {"b": "0=ff", "a": "0=3f00", "c": "0=3f00", "s": "0=c000"}
    assert masks(shared_out(info(l3(closids=3)), *crowd)) == {
        "a": "0=3fff",
        "b": "0=3fff",
        "c": "0=3fff",
        "s": "0=c000",
    }
    assert masks(shared_out(info(l3(closids=2)), *crowd)) == {"a": "", "b": "", "c": "", "s": "0=c000"}
    assert set(masks(shared_out(info(l3(closids=1)), *crowd)).values()) == {""}


def test_with_few_classes_those_of_different_caches_become_one_before_any_part_is_merged() -> None:
    crowd = (
        resident("a", "0", "small"),
        resident("b", "1", "small"),
        resident("c", "4", "small"),
        resident("d", "5", "small"),
    )

    enough = shared_out(info(l3(caches=2, closids=5)), *crowd, caches=2)
    few = shared_out(info(l3(caches=2, closids=3)), *crowd, caches=2)

    assert masks(enough) == {"a": "0=ff", "b": "0=ff00", "c": "1=ff", "d": "1=ff00"}
    assert masks(few) == {"a": "0=ff 1=ff", "c": "0=ff 1=ff", "b": "0=ff00 1=ff00", "d": "0=ff00 1=ff00"}
    assert few["a"].rules == {0: Rule.BY_FOOTPRINT}


def test_classes_that_agree_where_both_run_become_one() -> None:
    found = shared_out(
        info(l3(caches=2, closids=3)),
        resident("wide", "1,4", "small"),
        resident("narrow", "1", "small"),
        resident("other", "0", "large"),
        caches=2,
    )

    assert masks(found) == {"wide": "0=fc00 1=ffff", "narrow": "0=fc00 1=ffff", "other": "0=3ff"}
