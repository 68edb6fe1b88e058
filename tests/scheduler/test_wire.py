"""What crosses the border comes back as it was; records of earlier versions read as they were meant."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cotenant.v1 import host_pb2, placement_pb2, profile_pb2
from isolation.cpuset import CpuSet, NodeSet
from isolation.errors import ResctrlInvalid, SpecInvalid
from isolation.resctrl_info import Monitoring, read_resctrl
from isolation.resctrl_mask import WayMask
from isolation.spec import CacheWays, MemoryBandwidth
from isolation.topology import read_topology
from profiler.records import PROFILE_SCHEMA_VERSION, Quality, SteadyWindow, WorkloadProfile
from scheduler import wire
from scheduler.cli import explain_to
from scheduler.placement import Placement, PlacementState, WorkloadRequest
from scheduler.service import host_to
from tests.fakes.captured import RESCTRL, TOPOLOGY, unpack
from tests.fakes.crowds import TWO_CPUS, put
from tests.fakes.divided_caches import info, l3, mb, topology_of
from tests.fakes.predictions import hog
from tests.fakes.profiles import profile_of

IDS = st.integers(0, 2**32 - 1)
WAYS = st.builds(CacheWays, cache_id=IDS, mask=st.integers(1, 2**32 - 1).map(WayMask))
CAPS = st.builds(MemoryBandwidth, cache_id=IDS, percent=st.integers(1, 100)) | st.builds(
    MemoryBandwidth, cache_id=IDS, bytes_per_s=st.integers(0, 2**52)
)


def placement(**changes: object) -> Placement:
    decision = dataclasses.replace(put(TWO_CPUS, hog()), **changes)  # type: ignore[arg-type]
    return Placement(
        request=WorkloadRequest(name="new", cpus=1),
        decision=decision,
        state=PlacementState.ACTIVE,
        etag="e",
        mechanism="cgroup_v2",
        threads=3,
        notes=("a note",),
        created_unix_s=1.5,
    )


@given(st.lists(WAYS, max_size=3).map(tuple), st.lists(CAPS, max_size=3).map(tuple), st.integers(0, 2**40))
def test_a_placement_comes_back_from_the_journal_as_it_was(
    ways: tuple[CacheWays, ...], caps: tuple[MemoryBandwidth, ...], nodes: int
) -> None:
    placed = placement(cache_ways=ways, memory_bandwidth=caps, mems=NodeSet(nodes) if nodes else None)

    assert wire.placement_from_bytes(wire.placement_to_bytes(placed)) == placed


def test_masks_are_hexadecimal_on_the_wire() -> None:
    message = wire.placement_to(placement(cache_ways=(CacheWays(cache_id=2, mask=WayMask(0xFF0)),)))

    assert [(one.cache_id, one.mask) for one in message.cache_ways] == [(2, "ff0")]


def test_a_record_without_cache_ways_reads_as_not_restricted() -> None:
    message = wire.placement_to(placement())
    assert not message.cache_ways

    read = wire.placement_from(message).decision

    assert (read.cache_ways, read.memory_bandwidth) == ((), ())


def test_damaged_records_are_refused_by_what_is_wrong() -> None:
    message = wire.placement_to(placement())
    message.cache_ways.add(cache_id=0, mask="0g")
    with pytest.raises(ResctrlInvalid, match="'0g' is not hexadecimal"):
        wire.placement_from(message)

    message = wire.placement_to(placement())
    message.memory_bandwidth.add(cache_id=0)
    with pytest.raises(SpecInvalid, match="exactly one of them"):
        wire.placement_from(message)


def told(message: placement_pb2.Placement) -> str:
    said = io.StringIO()
    explain_to(Console(file=said, width=200), message)
    return said.getvalue()


def test_an_explanation_shows_what_the_workload_got() -> None:
    placed = placement(
        mems=NodeSet.parse("1"),
        cache_ways=(CacheWays(cache_id=0, mask=WayMask(0xF0)), CacheWays(cache_id=1, mask=WayMask(0xFF))),
        memory_bandwidth=(MemoryBandwidth(cache_id=0, percent=50), MemoryBandwidth(cache_id=1, bytes_per_s=2**31)),
    )

    assert "CPUs 0; memory nodes 1; cache ways 0=f0;1=ff; memory bandwidth 0=50 %;1=2.15 GB/s\n" in told(
        wire.placement_to(placed)
    )
    assert "cache ways" not in told(wire.placement_to(placement()))


# --- profiles -----------------------------------------------------------------------------------

SECONDS = st.floats(0, 1e6)
PROFILES = st.builds(
    WorkloadProfile,
    name=st.just("any"),
    cpus=st.integers(1, 8192),
    features=st.just(profile_of(cpu_cores=0.5, cache_half_sf=1.25).features),
    host_fingerprint=st.just("h"),
    created_unix_s=SECONDS,
    quality=st.sampled_from(Quality),
    note=st.text(),
    window=st.none() | st.builds(SteadyWindow, start_s=SECONDS, length_s=SECONDS, decided_by=st.text()),
)


@given(PROFILES)
def test_a_profile_crosses_the_border_with_its_window_and_its_marks(profile: WorkloadProfile) -> None:
    message = wire.profile_to(profile)
    received = type(message).FromString(message.SerializeToString())

    assert received.HasField("window") == (profile.window is not None)
    assert wire.profile_from(received, "profile") == profile


def test_a_client_that_knows_no_window_sends_a_profile_without_one() -> None:
    message = profile_pb2.Profile(name="old", schema_version=1, cpus=1)

    assert wire.profile_from(message, "profile").window is None
    assert wire.profile_to(profile_of()).schema_version == PROFILE_SCHEMA_VERSION


# --- the host -----------------------------------------------------------------------------------


def host(**parts: object) -> host_pb2.Host:
    given = {"topology": topology_of(2), "controls": None} | parts
    return host_to(capabilities=(), occupants={}, mechanism="", version="", model_id="", **given)  # type: ignore[arg-type]


def test_the_host_says_what_resctrl_offers() -> None:
    control = dataclasses.replace(l3(ways=8, shareable="c0"), bit_usage={0: "SSSSEESS"})
    controls = dataclasses.replace(
        info(control, mb()),
        monitoring=(
            Monitoring(
                resource="L3",
                rmids=32,
                features=("llc_occupancy",),
                max_threshold_occupancy_bytes=None,
                mbm_assign_mode=None,
                mbm_counters={},
            ),
        ),
    )

    found = host(controls=controls).resctrl

    assert (found.closids, found.monitoring[0].rmids, list(found.monitoring[0].features)) == (16, 32, ["llc_occupancy"])
    (cache,) = found.caches
    assert (cache.resource, cache.cbm_mask, cache.shareable_bits, cache.sparse_masks) == ("L3", "ff", "c0", False)
    assert dict(cache.available) == {0: "f0"}
    (bandwidth,) = found.bandwidths
    assert (bandwidth.unit, bandwidth.min_bandwidth) == (host_pb2.BANDWIDTH_UNIT_PERCENT, 10)


def test_the_host_says_when_there_is_no_resctrl() -> None:
    assert not host().HasField("resctrl")


@pytest.mark.skipif(not RESCTRL.is_dir(), reason="the captured resctrl trees are not beside the project")
@pytest.mark.parametrize("tree", sorted(RESCTRL.glob("resctrl.*")), ids=lambda tree: tree.name)
def test_every_captured_resctrl_crosses_the_border(tree: Path) -> None:
    controls = read_resctrl(tree)

    found = host(controls=controls).resctrl

    assert [one.resource for one in found.caches] == [one.resource for one in controls.caches]
    assert [list(one.domains) for one in found.bandwidths] == [list(one.domains) for one in controls.bandwidths]


def test_cache_ids_of_the_wire_are_those_of_resctrl() -> None:
    topology = topology_of(2)
    first, second = topology.llc_domains
    domains = (dataclasses.replace(first, kernel_id=None), dataclasses.replace(second, kernel_id=8))

    found = host(topology=dataclasses.replace(topology, llc_domains=domains))

    assert [one.HasField("kernel_id") for one in found.llc_domains] == [False, True]
    assert (found.llc_domains[1].kernel_id, found.llc_domains[1].level) == (8, 3)
    assert (found.online, found.usable, found.offline, found.usable_mems) == ("0-7", "0-7", "", "")


@pytest.mark.skipif(not TOPOLOGY.is_dir(), reason="the captured topology trees are not beside the project")
@pytest.mark.parametrize(
    ("machine", "kinds", "dies", "clusters"),
    [
        ("128arm-2pa2n8cluster4co", [], 0, 32),
        ("20em64t-hybrid-1p6c2t+2ca4co1t", ["base 1.40 GHz", "base 1.90 GHz"], 1, 8),
    ],
)
def test_a_captured_machine_crosses_the_border(
    machine: str, kinds: list[str], dies: int, clusters: int, tmp_path: Path
) -> None:
    topology = read_topology(unpack(TOPOLOGY / f"{machine}.tar.bz2", tmp_path))

    found = host(topology=topology)

    assert CpuSet.parse(found.online) == CpuSet.of(cpu.id for cpu in found.cpus)
    assert [one.cpus for one in found.l2_domains] == [str(one.cpus) for one in topology.l2_domains]
    assert [one.name for one in found.core_kinds] == kinds
    assert len({cpu.die for cpu in found.cpus if cpu.HasField("die")}) == dies
    assert len({cpu.cluster for cpu in found.cpus if cpu.HasField("cluster")}) == clusters
    assert found.usable_mems == ("" if topology.usable_mems is None else str(topology.usable_mems))
