"""Hosts whose caches resctrl can divide, and workloads that want them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from isolation.cpuset import CpuSet
from isolation.resctrl_info import BandwidthControl, BandwidthUnit, CacheControl, ResctrlInfo
from isolation.resctrl_mask import WayMask
from isolation.topology import Topology
from profiler.records import WorkloadProfile
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo
from scheduler.ways import Allotment, apportion
from tests.fakes.crowds import predictor
from tests.fakes.machines import make_topology
from tests.fakes.predictions import make_profile

MIB = 2**20
#: On caches of 32 MiB. Pressure and sensitivity are those of probes, "plain" ones know footprints only.
PROFILES: dict[str, WorkloadProfile | None] = {
    "large": make_profile("large", cache_sensitivity_sf=2.0, cache_pressure_ratio=0.8, llc_footprint_bytes=24 * MIB),
    "small": make_profile("small", cache_sensitivity_sf=2.0, cache_pressure_ratio=0.3, llc_footprint_bytes=8 * MIB),
    "sized by pressure": make_profile("sized", cache_sensitivity_sf=1.5, cache_pressure_ratio=0.25),
    "of no known size": make_profile("sizeless", cache_sensitivity_sf=1.5),
    "streaming": make_profile("stream", cache_sensitivity_sf=1.0, cache_pressure_ratio=1.0, memory_bytes_per_s=9e9),
    "plain": make_profile("plain", llc_footprint_bytes=20 * MIB, memory_bytes_per_s=2e9),
    "plain streaming": make_profile("plain stream", llc_footprint_bytes=64 * MIB, memory_bytes_per_s=8e9),
    "calm": make_profile("calm", cache_sensitivity_sf=1.0, cache_pressure_ratio=0.1),
    "unknown": None,
}
PEAK = 20e9


def topology_of(caches: int = 1, cores: int = 4) -> Topology:
    """Make a host whose caches the kernel tells apart by 0, 1, ..."""
    made = make_topology(packages=caches, cores_per_llc=cores)
    domains = tuple(dataclasses.replace(one, kernel_id=one.id) for one in made.llc_domains)
    return dataclasses.replace(made, llc_domains=domains)


def l3(*, ways: int = 16, closids: int = 16, least: int = 1, caches: int = 1, shareable: str = "0") -> CacheControl:
    return CacheControl(
        resource="L3",
        closids=closids,
        cbm_mask=WayMask.run(0, ways),
        min_cbm_bits=least,
        shareable_bits=WayMask.parse(shareable),
        sparse_masks=False,
        domains=tuple(range(caches)),
        bit_usage={},
    )


def mb(
    unit: BandwidthUnit = BandwidthUnit.PERCENT, *, caches: int = 1, closids: int = 16, least: int = 10, step: int = 10
) -> BandwidthControl:
    return BandwidthControl(
        resource="MB",
        closids=closids,
        unit=unit,
        min_bandwidth=least,
        bandwidth_gran=step,
        thread_throttle_mode=None,
        domains=tuple(range(caches)),
        unlimited=dict.fromkeys(range(caches), 100),
    )


def info(*controls: CacheControl | BandwidthControl) -> ResctrlInfo:
    return ResctrlInfo(
        caches=tuple(one for one in controls if isinstance(one, CacheControl)),
        bandwidths=tuple(one for one in controls if isinstance(one, BandwidthControl)),
        monitoring=(),
    )


def resident(name: str, cpus: str, kind: str | WorkloadProfile, **slo: float) -> Resident:
    profile = PROFILES[kind] if isinstance(kind, str) else kind
    return Resident(name=name, cpus=CpuSet.parse(cpus), profile=profile, slo=Slo(max_slowdown=slo.get("bound")))


def shared_out(controls: ResctrlInfo | None, *residents: Resident, caches: int = 1) -> Mapping[str, Allotment]:
    ledger = Ledger(topology_of(caches), residents, controls=controls, peak_bytes_per_s=PEAK)
    return apportion(ledger, predictor())


def masks(found: Mapping[str, Allotment]) -> dict[str, str]:
    """Write allotments as "cache=mask"."""
    return {name: " ".join(f"{ways.cache_id}={ways.mask}" for ways in one.cache_ways) for name, one in found.items()}


def moving(gb_per_s: float) -> WorkloadProfile:
    return make_profile("moving", memory_bytes_per_s=gb_per_s * 1e9)
