"""What a mounted resctrl can control and monitor, read from info/ below a root path. Reads only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from isolation.errors import ResctrlInvalid, ResctrlUnreadable
from isolation.resctrl_mask import WayMask
from isolation.resctrl_schemata import Amount, Schemata
from isolation.sysfs import read_number, read_text

_CACHES = re.compile(r"L[0-9](CODE|DATA)?")
_BANDWIDTHS = ("MB", "SMBA")
_HIGHEST_PERCENT = 100
_HIGHEST_AMOUNT = 2**32 - 1  #: "no limit" with mba_MBps
_NOT_OURS = "EP"  # bit_usage: exclusive to a group, or pseudo-locked


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheControl:
    """Ways of one cache level that groups can be given (info/L3 and its like; with CDP on L3CODE and L3DATA)."""

    resource: str
    closids: int  #: groups the level can tell apart, the default group among them; CDP halves it
    cbm_mask: WayMask  #: all ways
    min_cbm_bits: int
    shareable_bits: WayMask  #: ways that hardware such as network cards (DDIO) writes too
    sparse_masks: bool | None  #: masks with gaps are taken; None = not told, so rather not
    domains: tuple[int, ...]  #: cache ids, as in schemata; they can have gaps
    bit_usage: Mapping[int, str]  #: by domain, highest way first; empty = not told

    def available(self, domain: int) -> WayMask:
        """Return the longest run of ways that no other group holds for itself, the lowest of equals."""
        return max((self.cbm_mask - self.held_exclusively(domain)).runs(), key=len, default=WayMask())

    def held_exclusively(self, domain: int) -> WayMask:
        """Return the ways that an exclusive or pseudo-locked group holds in a domain."""
        usage = reversed(self.bit_usage.get(domain, ""))
        return WayMask(sum(1 << way for way, sign in enumerate(usage) if sign in _NOT_OURS))

    def misfits(self, mask: WayMask, domain: int | None = None) -> tuple[str, ...]:
        """Say why the kernel would refuse this mask (in this domain); empty = it fits."""
        name = f"way mask {str(mask)!r}"
        reasons = []
        if not mask.bits:
            reasons.append(f"{name} gives no way")
        if beyond := mask - self.cbm_mask:
            reasons.append(f"{name} has ways {ways_text(beyond)} beyond the {len(self.cbm_mask)} of {self.resource}")
        if 0 < len(mask) < self.min_cbm_bits:
            reasons.append(f"{name} has {len(mask)} ways, {self.resource} takes {self.min_cbm_bits} or more")
        if mask.bits and not mask.contiguous and not self.sparse_masks:
            reasons.append(f"{name} has gaps, {self.resource} takes neighbouring ways only")
        if domain is not None and domain not in self.domains:
            reasons.append(_no_domain(self.resource, domain, self.domains))
        elif domain is not None and (held := mask & self.held_exclusively(domain)):
            reasons.append(f"{name}: another group holds ways {ways_text(held)} of domain {domain} for itself")
        return tuple(reasons)


class BandwidthUnit(Enum):
    """What a number in schemata means; the kernel says so nowhere, and it differs by mount option and maker."""

    PERCENT = "percent"
    MIB_PER_S = "MiB/s"  #: mount option mba_MBps: the kernel steers by measured bandwidth
    EIGHTH_GB_PER_S = "1/8 GB/s"  #: AMD: absolute, per domain

    @property
    def bytes_per_s(self) -> int | None:
        """How much one is; None = percent are no bytes."""
        return {"MiB/s": 2**20, "1/8 GB/s": 10**9 // 8}.get(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthControl:
    """Memory bandwidth that groups can be held to (info/MB; info/SMBA for slow memory)."""

    resource: str
    closids: int
    unit: BandwidthUnit
    min_bandwidth: int  #: in the hardware's unit: percent with MIB_PER_S too
    bandwidth_gran: int
    thread_throttle_mode: str | None  #: "max" = a core's threads all get the lowest; "per-thread"; None = not told
    domains: tuple[int, ...]
    unlimited: Mapping[int, int]  #: by domain: the amount that limits nothing

    def rounded(self, amount: int) -> int:
        """Return what the kernel keeps of an amount: up to the next step, but what it steers itself as it is."""
        if self.unit is BandwidthUnit.MIB_PER_S:
            return amount
        return -(-amount // self.bandwidth_gran) * self.bandwidth_gran

    def misfits(self, amount: int, domain: int | None = None) -> tuple[str, ...]:
        """Say why the kernel would refuse this amount (in this domain); empty = it fits.

        The upper limit of AMD's unit is not told, so it is not checked.
        """
        reasons = []
        lowest = 0 if self.unit is BandwidthUnit.MIB_PER_S else self.min_bandwidth
        highest = _HIGHEST_PERCENT if self.unit is BandwidthUnit.PERCENT else _HIGHEST_AMOUNT
        if not lowest <= amount <= highest:
            limits = f"{lowest} to {highest} {self.unit.value}"
            reasons.append(f"bandwidth {amount} is outside the {limits} of {self.resource}")
        if domain is not None and domain not in self.domains:
            reasons.append(_no_domain(self.resource, domain, self.domains))
        return tuple(reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """What can be read of a group (info/L3_MON)."""

    resource: str  #: the level it watches, such as "L3"
    rmids: int  #: upper bound of groups, control and monitoring ones together
    features: tuple[str, ...]  #: file names in mon_data, such as llc_occupancy
    max_threshold_occupancy_bytes: int | None  #: a freed RMID waits until it holds less
    mbm_assign_mode: str | None  #: how bandwidth counters are given out, where there are fewer than RMIDs
    mbm_counters: Mapping[int, int]  #: assignable ones by domain; empty = not told, one per RMID


@dataclass(frozen=True, slots=True, kw_only=True)
class ResctrlInfo:
    """All that one mounted resctrl offers; what it does not is absent from the tuples."""

    caches: tuple[CacheControl, ...]
    bandwidths: tuple[BandwidthControl, ...]
    monitoring: tuple[Monitoring, ...]
    foreign_groups: int = 0  #: control groups of other tools, each of which holds a class of service

    @property
    def closids(self) -> int:
        """Control groups that can exist, the default group among them: the scarcest resource decides."""
        counts = [*(cache.closids for cache in self.caches), *(one.closids for one in self.bandwidths)]
        return min(counts, default=1)

    @property
    def cdp_levels(self) -> tuple[str, ...]:
        """Cache levels that are split into code and data, such as "L3"."""
        return tuple(cache.resource.removesuffix("CODE") for cache in self.caches if cache.resource.endswith("CODE"))

    def cache(self, resource: str) -> CacheControl | None:
        """Return the control of this exact name; None = not offered."""
        return next((cache for cache in self.caches if cache.resource == resource), None)

    def bandwidth(self, resource: str = "MB") -> BandwidthControl | None:
        """Return the control of this exact name; None = not offered."""
        return next((one for one in self.bandwidths if one.resource == resource), None)

    @property
    def rounding(self) -> dict[str, Callable[[int], int]]:
        """How the kernel rounds, by resource: for Schemata.missing_in."""
        return {control.resource: control.rounded for control in self.bandwidths}

    def misfits(self, schemata: Schemata) -> tuple[str, ...]:
        """Say why the kernel would refuse this text, or take it but not as meant; empty = it fits."""
        reasons: list[str] = []
        for resource, domain, amount in schemata.entries:
            cache, bandwidth = self.cache(resource), self.bandwidth(resource)
            if cache is not None and isinstance(amount, WayMask):
                reasons += cache.misfits(amount, domain)
            elif bandwidth is not None and isinstance(amount, int):
                reasons += bandwidth.misfits(amount, domain)
            else:
                reasons.append(f"this resctrl has no {resource}")
        return tuple(dict.fromkeys(reasons))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResctrlMount:
    """Where resctrl is mounted, and how."""

    path: Path
    options: frozenset[str]  #: such as cdp, mba_MBps


def find_resctrl(root: Path = Path("/")) -> ResctrlMount | None:
    """Return the one mount that there can be; None = not mounted."""
    for line in (read_text(root / "proc/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "resctrl":
            return ResctrlMount(path=root / fields[1].lstrip("/"), options=frozenset(fields[3].split(",")))
    return None


def read_resctrl(path: Path, options: frozenset[str] | None = None) -> ResctrlInfo:
    """Read what the resctrl mounted at the path offers; options = the mount's, None = unknown (a captured tree).

    Raises ResctrlUnreadable when there is none, or a file does not hold what the kernel documents.
    """
    if not (path / "info").is_dir():
        raise ResctrlUnreadable(f"there is no folder {str(path / 'info')!r}; is resctrl mounted at {str(path)!r}?")
    text = read_text(path / "schemata")
    if text is None:
        raise ResctrlUnreadable(f"{str(path / 'schemata')!r} cannot be read; run as root")
    try:
        schemata = Schemata.parse(text)
    except ResctrlInvalid as cause:
        raise ResctrlUnreadable(f"{str(path / 'schemata')!r} is not understood: {cause}") from cause
    folders = sorted(folder for folder in (path / "info").iterdir() if folder.is_dir())
    return ResctrlInfo(
        caches=tuple(_cache(one, schemata) for one in folders if _CACHES.fullmatch(one.name)),
        bandwidths=tuple(_bandwidth(one, schemata, path, options) for one in folders if one.name in _BANDWIDTHS),
        monitoring=tuple(_monitoring(one) for one in folders if one.name.endswith("_MON")),
    )


def _cache(folder: Path, schemata: Schemata) -> CacheControl:
    sparse = read_number(folder / "sparse_masks")
    full, shareable = _mask(folder / "cbm_mask"), _mask(folder / "shareable_bits")
    return CacheControl(
        resource=folder.name,
        closids=_number(folder / "num_closids"),
        cbm_mask=full,
        min_cbm_bits=_number(folder / "min_cbm_bits"),
        shareable_bits=shareable,
        sparse_masks=None if sparse is None else sparse != 0,
        domains=tuple(schemata.domains(folder.name)),
        bit_usage=dict(_by_domain(folder / "bit_usage")),
    )


def _bandwidth(folder: Path, schemata: Schemata, path: Path, options: frozenset[str] | None) -> BandwidthControl:
    amounts = schemata.domains(folder.name)
    unit = _unit(folder, amounts.values(), path, options)
    highest = {BandwidthUnit.PERCENT: _HIGHEST_PERCENT, BandwidthUnit.MIB_PER_S: _HIGHEST_AMOUNT}
    return BandwidthControl(
        resource=folder.name,
        closids=_number(folder / "num_closids"),
        unit=unit,
        min_bandwidth=_number(folder / "min_bandwidth"),
        bandwidth_gran=max(_number(folder / "bandwidth_gran"), 1),
        thread_throttle_mode=read_text(folder / "thread_throttle_mode") or None,
        domains=tuple(amounts),
        # AMD tells no highest amount; the default group has it as long as nobody limited that
        unlimited={one: highest.get(unit, amount) for one, amount in amounts.items() if isinstance(amount, int)},
    )


def _unit(folder: Path, amounts: Iterable[Amount], path: Path, options: frozenset[str] | None) -> BandwidthUnit:
    """Tell the unit: AMD is the one that is not linear; a captured tree tells the rest by what no percentage can be."""
    if read_number(folder / "delay_linear") == 0:
        return BandwidthUnit.EIGHTH_GB_PER_S
    if options is not None:
        steered = "mba_MBps" in options
    else:
        over = any(isinstance(one, int) and one > _HIGHEST_PERCENT for one in amounts)
        steered = over or (path / "mba_MBps_event").exists()
    return BandwidthUnit.MIB_PER_S if steered else BandwidthUnit.PERCENT


def _monitoring(folder: Path) -> Monitoring:
    return Monitoring(
        resource=folder.name.removesuffix("_MON"),
        rmids=_number(folder / "num_rmids"),
        features=tuple((read_text(folder / "mon_features") or "").split()),
        max_threshold_occupancy_bytes=read_number(folder / "max_threshold_occupancy"),
        mbm_assign_mode=_chosen(read_text(folder / "mbm_assign_mode")),
        mbm_counters={domain: int(text) for domain, text in _by_domain(folder / "num_mbm_cntrs") if text.isdecimal()},
    )


def _number(path: Path) -> int:
    found = read_number(path)
    if found is None or found < 0:
        raise ResctrlUnreadable(
            f"{str(path)!r} says {read_text(path)!r}, not a number; is this kernel's resctrl newer?"
        )
    return found


def _mask(path: Path) -> WayMask:
    text = read_text(path)
    try:
        return WayMask.parse(text or "")
    except ResctrlInvalid as cause:
        raise ResctrlUnreadable(f"{str(path)!r} says {text!r}: {cause}") from cause


def _by_domain(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the parts of "0=XXSS;1=SSSS"; what is no such part is left out."""
    for part in (read_text(path) or "").split(";"):
        if found := re.fullmatch(r"\s*([0-9]{1,5})=(\S+)\s*", part, re.ASCII):
            yield int(found[1]), found[2]


def _chosen(text: str | None) -> str | None:
    """Return the word in brackets: "[mbm_event] default" says mbm_event."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found[1] if found else None


def _no_domain(resource: str, domain: int, domains: Iterable[int]) -> str:
    return f"{resource} has no domain {domain}, only {','.join(str(one) for one in domains)}"


def ways_text(mask: WayMask) -> str:
    """Format ways for people: "0-3,8"; no way = empty."""
    runs = ((min(run), max(run)) for run in mask.runs())
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
