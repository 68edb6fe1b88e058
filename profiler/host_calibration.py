"""Measures this host, stage by stage; what is done when somebody interrupts is kept.

Everything but peak bandwidth is measured on one CPU of the largest last-level cache, peaks on one thread of every core.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isolation.cpuset import CpuSet
from isolation.topology import Cpu, Topology
from profiler.calibration import FOREIGN_LIMIT_RATIO, Calibration, CurvePoint, Estimate, Peak
from profiler.errors import ProfilerError
from profiler.host_costs import (
    disk_wake_wait,
    noise,
    peak_bandwidth,
    pinned,
    smt_cost,
    spread,
    time_share_cost,
    typical,
)
from profiler.memory_kernels import DependentLoads, RandomReads, Streaming, compile_loads, unit_times_s
from profiler.procfs import busy_s

_SMALLEST_BYTES = 256 << 10  # below, numpy's calls cost more than the reads
_LARGEST_BYTES = 1 << 30
_ASSUMED_LLC_BYTES, _ASSUMED_L2_BYTES = 32 << 20, 1 << 20
_MOST_DOMAINS = 8
#: Shares of the time, by stage; what a host does not have is not waited for.
_CURVE, _PEAK, _TIME_SHARE, _SMT, _WAKE, _NOISE = 0.46, 0.16, 0.1, 0.1, 0.1, 0.08

Report = Callable[[float, str], None]
Stage = tuple[float, str, Callable[[], None]]


@dataclass(slots=True)
class _Found:
    curve: list[CurvePoint] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def calibrate(
    topology: Topology, *, folder: Path, seconds: float = 60.0, on_progress: Report | None = None
) -> Calibration:
    """Measure the host for about so long, set-up not counted; Ctrl-C ends it early and gives what is done.

    The folder, on a disk, takes a scratch file of a few kilobytes.
    """
    report = on_progress or (lambda _share, _stage: None)
    found = _Found()
    started_s, busy_before_s, own_before_s = time.monotonic(), busy_s(topology.usable), _own_s()
    done = 0.0
    try:
        for share, what, act in _stages(topology, seconds, folder, found):
            report(min(1.0, done), what)
            try:
                act()
            except (ProfilerError, OSError, MemoryError) as error:
                found.notes.append(f"{what} failed: {error}")
            done += share
    except KeyboardInterrupt:
        found.notes.append(f"interrupted after {done:.0%}")
    elapsed_s = time.monotonic() - started_s
    foreign = (busy_s(topology.usable) - busy_before_s - _own_s() + own_before_s) / elapsed_s / len(topology.usable)
    if foreign > FOREIGN_LIMIT_RATIO:
        found.notes.append(
            f"others used {foreign:.0%} of the CPUs meanwhile, and so of caches and memory: stored, but the daemon does"
            " not use it; calibrate again when the host is quiet"
        )
    if (effective := effective_llc(found.curve, _l2_bytes(topology))) is not None:
        found.values["effective_llc_bytes"] = effective
    report(1.0, "done")
    return Calibration(
        host_fingerprint=topology.fingerprint,
        created_unix_s=time.time(),
        duration_s=elapsed_s,
        curve=tuple(found.curve),
        peaks=tuple(found.peaks),
        foreign_ratio=max(0.0, foreign) if math.isfinite(foreign) else None,
        notes=tuple(found.notes),
        **found.values,
    )


def _own_s() -> float:
    """Give the CPU seconds of this process and of the children it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _stages(topology: Topology, seconds: float, folder: Path, found: _Found) -> Iterator[Stage]:
    """Give share of the time, what, and how, one after the other."""
    cpus = [cpu for cpu in topology.cpus if cpu.id in topology.usable]
    largest = max(topology.llc_domains, key=lambda one: (one.size_bytes or 0, -one.id), default=None)
    home = next((cpu for cpu in reversed(cpus) if largest is None or cpu.id in largest.cpus), cpus[-1])
    llc_bytes = largest.size_bytes if largest and largest.size_bytes else _ASSUMED_LLC_BYTES
    l2_bytes = _l2_bytes(topology)
    sizes = working_sets(llc_bytes)
    yield from _curve_stages(home.id, sizes, seconds, found)
    groups = _groups(cpus, topology, found)
    for name, together in groups:

        def peak(name: str = name, together: CpuSet = together) -> None:
            result = peak_bandwidth(together, llc_bytes, _PEAK * seconds / len(groups))
            if isinstance(result, str):
                found.notes.append(f"peak bandwidth of {name} is unknown: {result}")
            else:
                found.peaks.append(Peak(of=name, cpus=str(together), bytes_per_s=result))

        yield _PEAK / len(groups), f"memory bandwidth of {name}, CPUs {together}", peak

    def keep(key: str, value: Callable[[], Estimate | str]) -> Callable[[], None]:
        def act() -> None:
            result = value()
            if isinstance(result, str):
                found.notes.append(f"{key} is unknown: {result}")
            else:
                found.values[key] = result

        return act

    share_s = _TIME_SHARE * seconds
    yield _TIME_SHARE, "sharing a CPU", keep("time_share_cost_sf", lambda: time_share_cost(home.id, l2_bytes, share_s))
    sibling = next((cpu for cpu in cpus if cpu.core == home.core and cpu.id != home.id), None)
    if sibling is None:
        found.notes.append("no cost of SMT: cores have one usable thread here")
    else:
        other, smt_s = sibling.id, _SMT * seconds
        yield _SMT, "sharing a core", keep("smt_cost_sf", lambda: smt_cost(home.id, other, l2_bytes, smt_s))
    waits = keep("disk_wake_wait_s", lambda: disk_wake_wait(home.id, folder, _WAKE * seconds))
    yield _WAKE, "waking from the disk on a busy CPU", waits
    yield _NOISE, "the noise floor", keep("noise_ratio", lambda: noise(home.id, llc_bytes, _NOISE * seconds))


def _curve_stages(cpu: int, sizes: Sequence[int], seconds: float, found: _Found) -> Iterator[Stage]:
    loads = compile_loads()
    if isinstance(loads, str):
        found.notes.append(loads)
    for size in sizes:

        def point(size: int = size) -> None:
            each_s = _CURVE * seconds / len(sizes) / 3
            with pinned(cpu):
                chains = None if isinstance(loads, str) else DependentLoads(loads, size)
                found.curve.append(
                    CurvePoint(
                        size_bytes=size,
                        read_bytes_per_s=_rate(typical(unit_times_s(Streaming(size), each_s))),
                        line_s=typical(_warm(RandomReads(size), size, each_s)),
                        load_s=None if chains is None else typical(_warm(chains, size, each_s)),
                    )
                )

        yield _CURVE / len(sizes), f"a working set of {size >> 10} KiB", point


def working_sets(llc_bytes: int) -> list[int]:
    """Give sizes by doubling up to four times the cache, with steps between where that cache ends."""
    largest = min(4 * llc_bytes, _LARGEST_BYTES)
    doubled = [_SMALLEST_BYTES << step for step in range((largest // _SMALLEST_BYTES).bit_length())]
    between = [size + size // 2 for size in doubled if llc_bytes // 8 <= size < 2 * llc_bytes]
    return sorted(size for size in (*doubled, *between) if size <= largest)


def effective_llc(curve: Sequence[CurvePoint], l2_bytes: int) -> Estimate | None:
    """Give how much of the last-level cache one thread keeps; None where the curve does not show it.

    Random reads over S bytes hit in C / S of all cases, so their time lies that far between those of cache and memory:
    C = S (t_memory - t) / (t_memory - t_cache). Sizes that say much (hits in 20 to 80 %) are asked, the median counts.
    """
    beyond = [one for one in curve if one.size_bytes > l2_bytes]
    if len(beyond) < 4:
        return None
    cache_s, memory_s = min(one.line_s.value for one in beyond), beyond[-1].line_s.value
    if memory_s < 1.5 * cache_s:
        return None
    hits = [(one.size_bytes, (memory_s - one.line_s.value) / (memory_s - cache_s)) for one in beyond[:-1]]
    told = [size * share for size, share in hits if 0.2 <= share <= 0.8]
    if len(told) >= 2:
        return spread(told)
    inside = [size for size, share in hits if share > 0.8]
    outside = [size for size, share in hits if share < 0.2]
    if not inside or not outside:
        return None
    low, high = float(max(inside)), float(min(outside))
    return Estimate(math.sqrt(low * high), low, high) if low <= high else None


def _warm(kernel: RandomReads | DependentLoads, size_bytes: int, seconds: float) -> list[float]:
    """Go round once, for at most half of the time, before measuring."""
    loads, until_s = 0, time.monotonic() + seconds / 2
    while loads < size_bytes // 64 and time.monotonic() < until_s:
        loads += kernel.step()
    return unit_times_s(kernel, seconds / 2)


def _rate(time_s: Estimate) -> Estimate:
    return Estimate(1 / time_s.value, 1 / time_s.high, 1 / time_s.low)


def _l2_bytes(topology: Topology) -> int:
    return next((one.size_bytes for one in topology.l2_domains if one.size_bytes), _ASSUMED_L2_BYTES)


def _groups(cpus: Sequence[Cpu], topology: Topology, found: _Found) -> list[tuple[str, CpuSet]]:
    """Give whose peak to measure: cache domains, and nodes that hold several of them; one thread of each core."""
    first = {cpu.core: cpu.id for cpu in reversed(cpus)}
    cores = CpuSet.of(first.values())
    domains = [(f"llc {one.id}", one.cpus & cores) for one in topology.llc_domains if one.cpus & cores]
    if not domains:
        found.notes.append("no last-level cache is known: the peak bandwidth is that of all CPUs")
        return [("llc 0", cores)]
    if len(domains) > _MOST_DOMAINS:
        found.notes.append(f"peak bandwidth of the first {_MOST_DOMAINS} of {len(domains)} cache domains only")
    nodes = [(f"node {one.id}", one.cpus & cores) for one in topology.nodes if one.cpus & cores]
    several = [one for one in nodes if sum(bool(one[1] & domain) for _, domain in domains) > 1]
    return domains[:_MOST_DOMAINS] + several
