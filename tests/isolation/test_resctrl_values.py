"""Way masks and schemata as values: parse and format are inverse, the algebra holds, the kernel's forms are read."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.errors import ResctrlInvalid
from isolation.resctrl_mask import WayMask
from isolation.resctrl_monitor import counted_between, parse_count
from isolation.resctrl_schemata import Schemata

MASKS = st.integers(0, 2**32 - 1).map(WayMask)
DOMAINS = st.integers(0, 300)
SCHEMATA = st.builds(
    lambda caches, bandwidths: Schemata.of({**caches, **bandwidths}),
    st.dictionaries(
        st.sampled_from(["L2", "L2CODE", "L2DATA", "L3", "L3CODE", "L3DATA"]),
        st.dictionaries(DOMAINS, MASKS, min_size=1, max_size=5),
    ),
    st.dictionaries(
        st.sampled_from(["MB", "SMBA"]), st.dictionaries(DOMAINS, st.integers(0, 2**32 - 1), min_size=1, max_size=5)
    ),
)


@given(MASKS, MASKS)
def test_masks_are_sets_of_ways(one: WayMask, other: WayMask) -> None:
    assert WayMask.parse(str(one)) == one
    assert WayMask.parse(f"  0x{one.bits:08x}\n") == one
    assert set(one & other) == set(one) & set(other)
    assert set(one | other) == set(one) | set(other)
    assert set(one - other) == set(one) - set(other)
    assert one.covers(other) == (set(other) <= set(one))
    assert len(one) == len(list(one)) == one.bits.bit_count()


@given(MASKS)
def test_runs_make_up_the_mask_and_never_touch(mask: WayMask) -> None:
    runs = mask.runs()

    assert sum(run.bits for run in runs) == mask.bits
    assert all(max(run) - min(run) + 1 == len(run) for run in runs)
    assert all(min(after) - max(before) > 1 for before, after in pairwise(runs))
    assert mask.contiguous == (len(runs) == 1)


@given(MASKS, st.integers(0, 33))
def test_windows_are_all_runs_of_that_many_ways_inside(mask: WayMask, count: int) -> None:
    windows = mask.windows(count)
    expected = sum(max(len(run) - count + 1, 0) for run in mask.runs()) if count else 0

    assert len(set(windows)) == len(windows) == expected
    assert all(window.contiguous and len(window) == count and mask.covers(window) for window in windows)


@given(st.integers(0, 31), st.integers(0, 32))
def test_a_run_is_what_it_was_asked_for_or_refused(first: int, count: int) -> None:
    if count and first + count > 32:
        with pytest.raises(ResctrlInvalid, match="outside 0 to 32 bits"):
            WayMask.run(first, count)
    else:
        assert list(WayMask.run(first, count)) == list(range(first, first + count))


@pytest.mark.parametrize("text", ["", "xyz", "0x", "-1", "f f", "1_0", "٣", "fffffffff", "f" * 40])
def test_what_is_no_mask_is_refused(text: str) -> None:
    with pytest.raises(ResctrlInvalid, match="way mask"):
        WayMask.parse(text)


def test_masks_and_runs_below_zero_are_refused() -> None:
    for first, count in ((-1, 1), (0, -1)):
        with pytest.raises(ResctrlInvalid, match="negative"):
            WayMask.run(first, count)
    with pytest.raises(ResctrlInvalid, match="outside"):
        WayMask(-1)


@given(SCHEMATA)
def test_formatting_and_parsing_schemata_are_inverse(schemata: Schemata) -> None:
    text = str(schemata)

    assert Schemata.parse(text) == schemata
    assert hash(Schemata.parse(text)) == hash(schemata)
    assert all(line.endswith("\n") for line in text.splitlines(keepends=True)), "the kernel refuses an open line"


@given(SCHEMATA, st.integers(0, 9), st.randoms(use_true_random=False))
def test_padding_and_the_order_of_lines_do_not_matter(schemata: Schemata, width: int, random: object) -> None:
    lines = []
    for name in schemata.resources:
        parts = [
            f"{domain}={amount.bits:0{width}x}" if isinstance(amount, WayMask) else f"{domain}={amount:>{width}}"
            for domain, amount in schemata.domains(name).items()
        ]
        lines.append(f"{name:>{width}}:{';'.join(parts)}")
    getattr(random, "shuffle")(lines)  # noqa: B009 - hypothesis types it as an object

    assert Schemata.parse("\n".join(lines) + "\n") == schemata


@given(SCHEMATA, SCHEMATA)
def test_writing_only_the_changes_makes_the_earlier_the_later(earlier: Schemata, wish: Schemata) -> None:
    later = earlier.updated(wish)

    assert earlier.updated(wish.changes_from(earlier)) == later
    assert wish.missing_in(later, {}) == ()
    assert later.changes_from(later) == Schemata()


def test_the_kernels_own_forms_are_read() -> None:
    schemata = Schemata.parse(
        "    MB:0=  100;1=   16\nL3CODE:0=00fff;7=3\nL3DATA:0=0ffff\n\nL2:uninitialized\nXX:0=abc\n"
    )

    assert schemata.resources == ("L3CODE", "L3DATA", "MB")
    assert schemata.domains("MB") == {0: 100, 1: 16}
    assert schemata.domains("L3CODE") == {0: WayMask(0xFFF), 7: WayMask(3)}
    assert schemata.domains("L2") == {}
    assert schemata.unknown == ("L2:uninitialized", "XX:0=abc")
    assert str(schemata) == "L3CODE:0=fff;7=3\nL3DATA:0=ffff\nMB:0=100;1=16\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("L3:", "'' in the schemata of 'L3'"),
        ("L3:0", "'0' in the schemata of 'L3'"),
        ("L3:0=f;0=3", "domain 0 stands twice"),
        ("L3:0=f\nL3:1=f", "second for 'L3'"),
        ("L3:0=zz", "way mask 'zz' is not hexadecimal"),
        ("MB:0=ff", "bandwidth 'ff'"),
        ("MB:-1=10", "'-1=10'"),
    ],
)
def test_damaged_schemata_are_refused_with_the_part(text: str, why: str) -> None:
    with pytest.raises(ResctrlInvalid, match=why):
        Schemata.parse(text)


def test_amounts_of_the_wrong_kind_are_refused() -> None:
    for wrong in ({"L3": {0: 15}}, {"MB": {0: WayMask(15)}}, {"XX": {0: 1}}, {"MB": {0: -1}}, {"MB": {-1: 1}}):
        with pytest.raises(ResctrlInvalid):
            Schemata.of(wrong)
    with pytest.raises(ResctrlInvalid, match=r"use Schemata\.of"):
        Schemata((("MB", 1, 10), ("MB", 0, 10)))


def test_what_the_kernel_rounds_is_no_difference_but_anything_else_is() -> None:
    wish = Schemata.of({"MB": {0: 33, 1: 40}, "L3": {0: WayMask(3)}})
    held = Schemata.parse("MB:0=40;1=40;2=100\nL3:0=3;1=fff\n")
    rounding = {"MB": lambda amount: -(-amount // 10) * 10}

    assert wish.missing_in(held, rounding) == ()
    assert wish.missing_in(held, {}) == ("MB of domain 0: wished 33, is 40",)
    assert wish.missing_in(Schemata.parse("L3:0=7"), rounding) == (
        "L3 of domain 0: wished 3, is 7",
        "MB of domain 0: wished 40, is absent",
        "MB of domain 1: wished 40, is absent",
    )


@pytest.mark.parametrize("text", ["Unavailable", "Error", "Unassigned", "", "-1", "1.5", "0x10", None])
def test_fault_54_what_is_not_counted_is_missing_and_never_zero(text: str | None) -> None:
    assert parse_count(text) is None
    assert parse_count("0") == 0
    assert counted_between(parse_count(text), 5) is None
    assert counted_between(5, parse_count(text)) is None
    assert counted_between(5, 4) is None
    assert counted_between(5, 5) == 0
