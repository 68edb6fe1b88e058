"""Who gets which cache ways: laws on any host, then the rule sentence by sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation.cpuset import CpuSet
from isolation.resctrl_info import BandwidthUnit, read_resctrl
from isolation.resctrl_mask import WayMask
from isolation.resctrl_wish import schemata_of
from isolation.spec import CacheWays, IsolationSpec
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo
from scheduler.ways import Allotment, Rule, allotment_of, apportion
from tests.fakes.captured import RESCTRL
from tests.fakes.crowds import predictor
from tests.fakes.divided_caches import (
    MIB,
    PEAK,
    PROFILES,
    info,
    l3,
    masks,
    mb,
    moving,
    resident,
    shared_out,
    topology_of,
)
from tests.fakes.predictions import make_profile

# --- laws ---------------------------------------------------------------------------------------


@st.composite
def hosts(draw: st.DrawFn) -> Ledger:
    caches = draw(st.integers(1, 3))
    ways = draw(st.integers(1, 20))
    held = draw(st.integers(0, (1 << ways) - 1).map(WayMask) | st.just(WayMask()))
    control = dataclasses.replace(
        l3(ways=ways, closids=draw(st.integers(1, 16)), least=draw(st.integers(1, 3)), caches=caches),
        shareable_bits=draw(st.sampled_from([WayMask(), WayMask.run(0, 1), WayMask.run(ways - 1, 1)])),
        bit_usage={0: "".join("E" if way in tuple(held) else "S" for way in reversed(range(ways)))},
    )
    units = draw(st.sampled_from([None, *BandwidthUnit]))
    controls = info(control) if units is None else info(control, mb(units, caches=caches))
    topology = topology_of(caches, cores=3)
    residents = draw(
        st.lists(
            st.tuples(
                st.integers(1, topology.usable.mask).map(CpuSet),
                st.sampled_from(list(PROFILES)),
                st.sampled_from([None, 2.0]),
                st.booleans(),
            ),
            max_size=9,
        )
    )
    return Ledger(
        topology,
        tuple(
            Resident(
                name=f"r{number}",
                cpus=cpus & topology.llc_domains[0].cpus if single and cpus & topology.llc_domains[0].cpus else cpus,
                profile=PROFILES[kind],
                slo=Slo(max_slowdown=bound),
            )
            for number, (cpus, kind, bound, single) in enumerate(residents)
        ),
        controls=controls,
        peak_bytes_per_s=PEAK,
    )


def classes(found: Mapping[str, Allotment]) -> int:
    """Count the classes of service; whoever is capped in bytes needs one alone."""
    restricted = {name: one for name, one in found.items() if one != Allotment()}
    alone = [one for one in restricted.values() if any(cap.bytes_per_s for cap in one.memory_bandwidth)]
    return len(alone) + len({one for one in restricted.values() if one not in alone})


@settings(max_examples=200, deadline=None)
@given(hosts())
def test_what_is_given_is_legal_and_there_are_classes_enough(ledger: Ledger) -> None:
    controls = ledger.controls
    assert controls is not None
    found = apportion(ledger, predictor())

    assert set(found) == {one.name for one in ledger.residents}
    assert classes(found) <= controls.closids - 1
    for one in ledger.residents:
        given = found[one.name]
        assert all(ways.mask.contiguous for ways in given.cache_ways)
        for ways in given.cache_ways:
            assert controls.caches[0].misfits(ways.mask, ways.cache_id) == ()
        for cap in given.memory_bandwidth:
            control = controls.bandwidths[0]
            unit = {BandwidthUnit.MIB_PER_S: MIB, BandwidthUnit.EIGHTH_GB_PER_S: 125_000_000}.get(control.unit)
            amount = cap.percent if unit is None else (cap.bytes_per_s or 0) // unit
            assert amount is not None
            assert control.misfits(amount, cap.cache_id) == ()
            assert control.rounded(amount) == amount


@settings(max_examples=100, deadline=None)
@given(hosts(), st.randoms(use_true_random=False))
def test_the_order_in_which_they_came_changes_nothing(ledger: Ledger, chance: object) -> None:
    mixed = list(ledger.residents)
    chance.shuffle(mixed)  # type: ignore[attr-defined]

    again = apportion(dataclasses.replace(ledger, residents=tuple(mixed)), predictor())

    assert dict(again) == dict(apportion(ledger, predictor()))


@settings(max_examples=150, deadline=None)
@given(hosts())
def test_the_newcomer_is_told_what_it_gets_once_it_is_there(ledger: Ledger) -> None:
    model = predictor()
    for one in ledger.residents:
        assert allotment_of(one, ledger.without(one.name), model) == apportion(ledger, model)[one.name]
        assert allotment_of(one, ledger, model) == apportion(ledger, model)[one.name]


@settings(max_examples=100, deadline=None)
@given(hosts())
def test_parts_of_one_cache_do_not_overlap(ledger: Ledger) -> None:
    """Whoever runs in a cache has all of it, or a part that is another's wholly or not at all."""
    found = apportion(ledger, predictor())
    controls = ledger.controls
    assert controls is not None
    for cache in ledger.topology.llc_domains:
        run = controls.caches[0].available(cache.id)
        here = {
            ways.mask
            for one in ledger.residents
            for ways in found[one.name].cache_ways
            if ways.cache_id == cache.id and one.cpus & cache.cpus and ways.mask != run
        }
        assert sum(len(mask) for mask in here) == len(WayMask(sum(mask.bits for mask in here)))
        assert sum(len(mask) for mask in here) <= len(run)


@settings(max_examples=50, deadline=None)
@given(hosts())
def test_nothing_is_given_without_resctrl(ledger: Ledger) -> None:
    found = apportion(dataclasses.replace(ledger, controls=None), predictor())

    assert all(one == Allotment() for one in found.values())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(list(PROFILES)), max_size=8))
def test_nothing_is_divided_among_workloads_that_share_no_cache_at_once(kinds: list[str]) -> None:
    """All on one CPU, they take turns: the prior's cache factor is 1."""
    found = shared_out(info(l3()), *(resident(f"r{number}", "1", kind) for number, kind in enumerate(kinds)))

    assert set(masks(found).values()) <= {""}


# --- the rule -----------------------------------------------------------------------------------


def test_hungry_workloads_divide_by_footprint_in_the_order_of_their_cpus() -> None:
    found = shared_out(info(l3()), resident("a", "2", "large"), resident("b", "0", "small"))

    assert masks(found) == {"a": "0=fff0", "b": "0=f"}
    assert found["a"].rules == {0: Rule.BY_FOOTPRINT}


def test_streaming_workloads_share_a_few_ways_at_the_top() -> None:
    found = shared_out(
        info(l3()), resident("s", "0", "streaming"), resident("t", "1", "plain streaming"), resident("h", "2", "small")
    )

    assert masks(found) == {"s": "0=c000", "t": "0=c000", "h": "0=3fff"}
    assert found["s"].rules == {0: Rule.STREAMING}


def test_streaming_workloads_go_where_hardware_writes_too() -> None:
    low, high = (
        shared_out(info(l3(shareable=bits)), resident("s", "0", "streaming"), resident("h", "2", "small"))
        for bits in ("3", "8000")
    )

    assert masks(low) == {"s": "0=3", "h": "0=fffc"}
    assert masks(high) == {"s": "0=c000", "h": "0=3fff"}


def test_streaming_ways_are_a_tenth_and_at_least_what_the_hardware_takes() -> None:
    crowd = (resident("s", "0", "streaming"), resident("h", "2", "small"))

    assert masks(shared_out(info(l3(ways=10)), *crowd))["s"] == "0=200"
    assert masks(shared_out(info(l3(ways=11)), *crowd))["s"] == "0=600"
    assert masks(shared_out(info(l3(ways=10, least=3)), *crowd))["s"] == "0=380"


def test_the_calm_and_the_unknown_keep_all_ways() -> None:
    found = shared_out(
        info(l3()),
        resident("s", "0", "streaming"),
        resident("h", "1", "small"),
        resident("c", "2", "calm"),
        resident("u", "3", "unknown"),
    )

    assert (found["c"], found["u"]) == (Allotment(), Allotment())
    assert masks(found)["h"] == "0=3fff"


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        (("small",), "nobody beside it"),
        (("streaming", "streaming"), "nobody gains from ways"),
        (("plain streaming", "plain streaming"), "what does not fit twice over gains nothing from half"),
        (("small", "calm"), "the calm one is not restricted, so keeping it off is not possible"),
        (("small", "unknown"), "of the unknown one the prior sees no harm"),
        (("of no known size", "of no known size"), "without pressure or footprint the prior sees no harm"),
    ],
)
def test_a_cache_is_left_whole_where_dividing_gains_nothing(kinds: tuple[str, ...], why: str) -> None:
    found = shared_out(info(l3()), *(resident(f"r{cpu}", str(cpu), kind) for cpu, kind in enumerate(kinds)))

    assert set(masks(found).values()) == {""}, why


def test_what_is_not_known_of_a_size_is_pressure_times_cache_or_the_mean_of_the_others() -> None:
    found = shared_out(
        info(l3(ways=20)),
        resident("a", "0", "large"),  # 24 MiB
        resident("b", "1", "sized by pressure"),  # 8 MiB
        resident("c", "2", "of no known size"),  # 16 MiB
    )

    assert [len(found[name].cache_ways[0].mask) for name in "abc"] == [10, 3, 7]


def test_workloads_on_the_same_cpus_share_a_part_as_large_as_their_footprints_together() -> None:
    found = shared_out(
        info(l3()), resident("a", "0", "small"), resident("b", "0", "small"), resident("c", "1", "sized by pressure")
    )

    assert masks(found) == {"a": "0=7ff", "b": "0=7ff", "c": "0=f800"}


def test_a_tiny_workload_gets_the_least_the_hardware_takes() -> None:
    tiny = make_profile("tiny", cache_sensitivity_sf=2.0, cache_pressure_ratio=0.3, llc_footprint_bytes=1.0)

    found = shared_out(info(l3(least=2)), resident("a", "0", tiny), resident("b", "1", "large"))

    assert masks(found) == {"a": "0=3", "b": "0=fffc"}


def test_more_parts_than_ways_put_the_smallest_into_one_last_part() -> None:
    found = shared_out(
        info(l3(ways=4, least=2)),
        resident("a", "0", "small"),
        resident("b", "1", "large"),
        resident("c", "2", "small"),
    )

    assert masks(found) == {"b": "0=3", "a": "0=c", "c": "0=c"}


def test_copies_of_unknown_size_count_each_as_the_mean() -> None:
    found = shared_out(
        info(l3(ways=20)),
        resident("a", "0", "small"),
        *(resident(name, "1", "of no known size") for name in ("b", "c", "d")),
    )

    assert [len(found[name].cache_ways[0].mask) for name in "abcd"] == [5, 15, 15, 15]


def test_harm_by_the_unrestricted_alone_divides_nothing() -> None:
    faint = make_profile("faint", cache_sensitivity_sf=2.0, cache_pressure_ratio=0.03)

    found = shared_out(info(l3()), resident("a", "0", faint), resident("b", "1", faint), resident("c", "2", "calm"))

    assert set(masks(found).values()) == {""}


def test_ways_that_others_hold_are_left_out() -> None:
    held = dataclasses.replace(l3(), bit_usage={0: "SSSSSSSSSSEESSSS"})

    found = shared_out(info(held), resident("a", "0", "small"), resident("b", "1", "small"))

    assert masks(found) == {"a": "0=7c0", "b": "0=f800"}


def test_too_few_ways_are_not_divided() -> None:
    few = info(l3(ways=3, least=2))

    for beside in ("streaming", "large"):
        found = shared_out(few, resident("h", "2", "small"), resident("b", "0", beside))
        assert set(masks(found).values()) == {""}


def test_who_has_a_part_in_one_cache_gets_all_ways_of_its_other() -> None:
    found = shared_out(info(l3(caches=2)), resident("wide", "1,4", "small"), resident("s", "0", "streaming"), caches=2)

    assert masks(found) == {"wide": "0=3fff 1=ffff", "s": "0=c000"}
    assert found["wide"].rules == {0: Rule.BY_FOOTPRINT, 1: Rule.REST}


def test_code_and_data_ways_are_counted_once() -> None:
    code, data = (dataclasses.replace(l3(), resource=name) for name in ("L3CODE", "L3DATA"))

    found = shared_out(info(code, data), resident("a", "0", "small"), resident("b", "1", "small"))

    assert masks(found) == {"a": "0=ff", "b": "0=ff00"}


@pytest.mark.parametrize("change", [{"kernel_id": None}, {"kernel_id": 7}, {"level": 2}])
def test_a_cache_that_resctrl_does_not_know_is_left_alone(change: dict[str, int | None]) -> None:
    topology = topology_of()
    domain = dataclasses.replace(topology.llc_domains[0], **change)  # type: ignore[arg-type]
    ledger = Ledger(
        dataclasses.replace(topology, llc_domains=(domain,)),
        (resident("a", "0", "small"), resident("b", "1", "small")),
        controls=info(l3()),
    )

    assert set(masks(apportion(ledger, predictor())).values()) == {""}


# --- captured controls --------------------------------------------------------------------------

VARIANTS = {  #: ways of the hungry and of the streaming one in cache 0; the wide one gets what is between
    "resctrl.full": ("0=1f", "0=c0000"),
    "resctrl.l2": ("", ""),
    "resctrl.l2cdp": ("0=7", "0=c00"),
    "resctrl.l2l3mb": ("0=1f", "0=c0000"),
    "resctrl.nol3": ("", ""),
    "resctrl.nol3.mbps": ("", ""),
    "resctrl.nomb": ("0=1f", "0=c0000"),
    "resctrl.nomb.cdp": ("0=1f", "0=c0000"),
}


@pytest.mark.skipif(not RESCTRL.is_dir(), reason="the captured resctrl trees are not beside the project")
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_captured_controls_take_what_is_given(variant: str) -> None:
    controls = read_resctrl(RESCTRL / variant)
    ledger = Ledger(
        topology_of(4),
        (
            resident("hungry", "0", "small"),
            resident("streaming", "1", "streaming"),
            resident("bound", "2", moving(16), bound=2.0),
            resident("wide", "3-4", "plain"),
        ),
        controls=controls,
        peak_bytes_per_s=PEAK,
    )

    found = apportion(ledger, predictor())

    assert (masks(found)["hungry"], masks(found)["streaming"]) == VARIANTS[variant]
    assert any(one.memory_bandwidth for one in found.values()) == bool(controls.bandwidths)
    for one in found.values():
        spec = IsolationSpec(cpus=CpuSet.parse("0"), cache_ways=one.cache_ways, memory_bandwidth=one.memory_bandwidth)
        assert controls.misfits(schemata_of(spec, controls)) == ()


def test_an_allotment_is_what_the_kernel_is_asked_for() -> None:
    assert Allotment(cache_ways=(CacheWays(cache_id=0, mask=WayMask(1)),), rules={0: Rule.REST}) == Allotment(
        cache_ways=(CacheWays(cache_id=0, mask=WayMask(1)),)
    )
