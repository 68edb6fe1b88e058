"""Kinds of cores on hybrid machines: which are strong, which are weak. Reads sysfs below a root path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.sysfs import read_list, read_number, read_text

#: Intel's hybrid CPUs register one set of counters per kind of core, weakest first here.
_COUNTERS = ("cpu_lowpower", "cpu_atom", "cpu_core")
#: Implementer and part of MIDR_EL1 tell Arm cores apart; variant and revision are steppings of one kind.
_MIDR_KIND = 0xFF00FFF0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreKind:
    """Online CPUs whose cores are alike."""

    name: str  #: what the kernel tells them apart by, such as "cpu_atom" or "capacity 446"
    capacity: int | None  #: the kernel's cpu_capacity, 1024 = the strongest; the lowest within the kind
    cpus: CpuSet


def read_core_kinds(root: Path, folders: Mapping[int, Path], online: CpuSet) -> tuple[CoreKind, ...]:
    """Return the kinds, weakest first; empty where all cores are alike or the kernel does not say.

    Ways to know, best first: the counters of Intel's hybrid CPUs, Arm's MIDR, cpu_capacity, the base frequency.
    The highest frequency is no way: it differs among like cores (Turbo Boost Max 3.0). Neither is capacity where
    MIDR is told: it differs with the clock that a cluster can reach.
    """
    capacity = {cpu: read_number(folders[cpu] / "cpu_capacity") for cpu in online if cpu in folders}
    ways: tuple[Callable[[], dict[int, str]], ...] = (
        lambda: _by_counters(root),
        lambda: _by_midr(folders),
        lambda: {cpu: f"capacity {found}" for cpu, found in capacity.items() if found},
        lambda: _by_base_frequency(folders),
    )
    for way in ways:
        told = {cpu: name for cpu, name in way().items() if cpu in online}
        if len(told) == len(online) and len(set(told.values())) > 1:
            return _kinds(told, capacity)
    return ()


def _by_counters(root: Path) -> dict[int, str]:
    sets = {name: read_list(root / "sys/devices" / name / "cpus") or CpuSet() for name in _COUNTERS}
    return {cpu: name for name, cpus in sets.items() for cpu in cpus}


def _by_midr(folders: Mapping[int, Path]) -> dict[int, str]:
    told = {}
    for cpu, folder in folders.items():
        text = read_text(folder / "regs/identification/midr_el1") or ""
        try:
            kind = int(text, 16) & _MIDR_KIND
        except ValueError:  # no such register here
            continue
        told[cpu] = f"implementer {kind >> 24:#x} part {kind >> 4 & 0xFFF:#x}"
    return told


def _by_base_frequency(folders: Mapping[int, Path]) -> dict[int, str]:
    khz = {cpu: read_number(folder / "cpufreq/base_frequency") for cpu, folder in folders.items()}
    return {cpu: f"base {found / 1e6:.2f} GHz" for cpu, found in khz.items() if found}


def _kinds(told: Mapping[int, str], capacity: Mapping[int, int | None]) -> tuple[CoreKind, ...]:
    kinds = []
    for name in set(told.values()):
        cpus = CpuSet.of(cpu for cpu, other in told.items() if other == name)
        known = [found for cpu in cpus if (found := capacity.get(cpu))]
        kinds.append(CoreKind(name=name, capacity=min(known, default=None), cpus=cpus))
    return tuple(sorted(kinds, key=_strength))


def _strength(kind: CoreKind) -> tuple[int, int, int, str]:
    counters = _COUNTERS.index(kind.name) if kind.name in _COUNTERS else 0
    return (counters, kind.capacity or 0, len(kind.name), kind.name)
