"""One honest report of what this host allows, and what is lost without it. Reads; changes nothing."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isolation.cgroup import CpusetHierarchy, find_hierarchy
from isolation.cpuset import CpuSet
from isolation.errors import ResctrlUnreadable, TopologyUnreadable
from isolation.kernelfs import HOST_FILES
from isolation.perf import perf_event_open
from isolation.resctrl_info import (
    BandwidthControl,
    BandwidthUnit,
    CacheControl,
    Monitoring,
    ResctrlInfo,
    find_resctrl,
    read_resctrl,
    ways_text,
)
from isolation.sysfs import read_field, read_text
from isolation.topology import Topology, read_topology

_HARDWARE, _SOFTWARE = 0, 1  # perf_event types, include/uapi/linux/perf_event.h
_INSTRUCTIONS, _TASK_CLOCK = 1, 1
_ATTR_BYTES = 64  # PERF_ATTR_SIZE_VER0: every kernel takes it
_EXCLUDE_KERNEL = 1 << 5
_KEEPS_REQUESTED = (6, 2)  # Linux since which a thread's own mask outlives a change of its cpuset
_CAP_SYS_NICE, _CAP_PERFMON, _CAP_SYS_ADMIN = 23, 38, 21

_RESCTRL_FLAGS = frozenset({"cat_l3", "cat_l2", "cdp_l3", "mba", "cqm_llc", "cqm_mbm_total", "cqm_mbm_local"})
_PERF_REMEDY = {
    errno.ENOENT: "ask the provider of this virtual machine for counters (vPMU), or use bare metal",
    errno.EACCES: "set kernel.perf_event_paranoid to 2 or less, or grant CAP_PERFMON",
    errno.EPERM: "set kernel.perf_event_paranoid to 2 or less, or grant CAP_PERFMON; containers: allow perf_event_open",
    errno.ENOSYS: "use a kernel with CONFIG_PERF_EVENTS",
    errno.EOPNOTSUPP: "use a CPU that has such a counter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One thing a host can or cannot do."""

    name: str
    available: bool | None  #: None = cannot be told here (a captured tree)
    detail: str  #: what was found
    loss: str  #: what is lost without it
    remedy: str  #: how to enable it


def read_capabilities(root: Path = Path("/"), *, resctrl: Path | None = None) -> tuple[Capability, ...]:
    """Report on the host whose /sys and /proc lie below the root; resctrl = a captured tree of it, read instead.

    Of a captured tree, what only a live kernel tells is unknown.
    """
    live = root == Path("/")
    try:
        topology = read_topology(root)
    except TopologyUnreadable:
        topology = None
    return (
        _privileges(root, live=live),
        *_cgroups(live=live),
        _affinity(live=live),
        _requested_affinity(root),
        *_resctrl(root, resctrl),
        _counters(live=live),
        _software_events(live=live),
        *_shape(topology),
        _cache_ids(root),
        _pressure(root),
        _virtual(root),
    )


def _privileges(root: Path, *, live: bool) -> Capability:
    caps = int(read_field(root / "proc/self/status", "CapEff") or "0", 16)
    known = {"CAP_SYS_NICE": _CAP_SYS_NICE, "CAP_PERFMON": _CAP_PERFMON, "CAP_SYS_ADMIN": _CAP_SYS_ADMIN}
    held = [name for name, bit in known.items() if caps >> bit & 1]
    nested = len((read_field(root / "proc/self/status", "NSpid") or "").split()) > 1
    where = "; inside a pid namespace, so other processes of the host are out of sight" if nested else ""
    return Capability(
        name="privileges",
        available=os.geteuid() == 0 and not nested if live else None,
        detail=f"user {os.geteuid()}, of the useful capabilities: {', '.join(held) or 'none'}{where}",
        loss="only processes of this user can be placed, by affinity",
        remedy="run the daemon as root in the host's pid namespace",
    )


def _cgroups(*, live: bool) -> Iterator[Capability]:
    hierarchy = find_hierarchy() if live else None
    writable = hierarchy is not None and hierarchy.refusal is None and os.access(hierarchy.mount, os.W_OK)
    yield Capability(
        name="cpuset cgroup",
        available=writable if live else None,
        detail=_hierarchy_detail(hierarchy, writable=writable) if live else "unknown in a captured tree",
        loss="CPUs are given by affinity, which a workload can undo, and memory nodes cannot be given at all",
        remedy="mount cgroup2 with the cpuset controller (any systemd since 2020 does) and run as root",
    )
    if hierarchy is not None and hierarchy.version == 2:
        enabled = "cpuset" in HOST_FILES.read(f"{hierarchy.mount}/cgroup.subtree_control").split()
        yield Capability(
            name="cgroup v2 delegation",
            available=enabled or writable,
            detail=f"cpuset is {'enabled' if enabled else 'not enabled'} for groups below {hierarchy.mount}",
            loss="no group can be confined by its path",
            remedy=f"run: echo +cpuset > {hierarchy.mount}/cgroup.subtree_control",
        )


def _hierarchy_detail(hierarchy: CpusetHierarchy | None, *, writable: bool) -> str:
    if hierarchy is None:
        return "no mount carries the cpuset controller"
    if hierarchy.refusal:
        return hierarchy.refusal
    return f"version {hierarchy.version} at {hierarchy.mount}, {'writable' if writable else 'not writable'}"


def _affinity(*, live: bool) -> Capability:
    usable = len(os.sched_getaffinity(0)) if live else 0
    return Capability(
        name="affinity",
        available=True if live else None,
        detail=f"this process may use {usable} CPUs" if live else "unknown in a captured tree",
        loss="nothing can be placed without cgroups",
        remedy="use Linux",
    )


def _requested_affinity(root: Path) -> Capability:
    release = read_text(root / "proc/sys/kernel/osrelease")
    number = re.match(r"(\d+)\.(\d+)", release or "")
    keeps = None if number is None else (int(number[1]), int(number[2])) >= _KEEPS_REQUESTED
    return Capability(
        name="CPUs that threads asked for",
        available=keeps,
        detail=f"Linux {release} {'keeps' if keeps else 'forgets'} them when a cpuset changes" if number else "unknown",
        loss="release gives the threads it moved their masks back; when the first placement enables cpuset at the top"
        " of cgroup v2, all others get theirs (taskset, sched_setaffinity) back, but for threads born in that moment",
        remedy="use Linux 6.2 or newer; or enable cpuset at boot, before services start: echo +cpuset >"
        " /sys/fs/cgroup/cgroup.subtree_control",
    )


def _resctrl(root: Path, captured: Path | None) -> Iterator[Capability]:
    """Report what is mounted on the host of the root, or was captured at the path."""
    mount = None if captured else find_resctrl(root)
    kernel = any(line.split()[-1:] == ["resctrl"] for line in (read_text(root / "proc/filesystems") or "").splitlines())
    flags = set((read_field(root / "proc/cpuinfo", "flags") or "").split()) & _RESCTRL_FLAGS
    found, info = f"CPU flags: {', '.join(sorted(flags)) or 'none'}; kernel support: {'yes' if kernel else 'no'}", None
    try:
        if captured is not None:
            found, info = f"captured at {captured}", read_resctrl(captured)
        elif mount is not None:
            found, info = f"{found}; mounted: {mount.path}", read_resctrl(mount.path, mount.options)
        else:
            found = f"{found}; mounted: no"
    except ResctrlUnreadable as cause:
        found = f"{found}; {cause}"
    yield Capability(
        name="resctrl",
        available=info is not None,
        detail=found if info is None else f"{found}; {_plural(info.closids - 1, 'group')} beside the default",
        loss="no cache ways, no bandwidth caps, no occupancy readings: only CPUs keep neighbours apart",
        remedy="run: mount -t resctrl resctrl /sys/fs/resctrl"
        if kernel
        else "needs a CPU with RDT or PQoS, passed through if this is a virtual machine, and CONFIG_X86_CPU_RESCTRL",
    )
    yield from _resctrl_features(info)


def _resctrl_features(info: ResctrlInfo | None) -> Iterator[Capability]:
    absent = "not offered" if info else "no resctrl to ask"
    for level, loss in (("L3", "neighbours evict each other's data"), ("L2", "SMT siblings and clusters share it all")):
        caches = [] if info is None else [one for one in info.caches if one.resource.startswith(level)]
        yield Capability(
            name=f"{level} cache ways",
            available=bool(caches),
            detail="; ".join(dict.fromkeys(_cache_detail(one) for one in caches)) or absent,
            loss=f"the {level} cannot be divided: {loss}",
            remedy=f"needs a CPU with CAT of the {level} (flag cat_{level.lower()})",
        )
    levels = () if info is None else info.cdp_levels
    yield Capability(
        name="code and data ways (CDP)",
        available=bool(levels),
        detail=f"on for {', '.join(levels)}, which halves the CLOSIDs" if levels else "off" if info else absent,
        loss="code and data get the same ways, which is enough for most, and twice the groups remain",
        remedy="mount resctrl with -o cdp on a CPU with the flag cdp_l3; unmounting first deletes all groups",
    )
    yield Capability(
        name="memory bandwidth limits",
        available=bool(info and info.bandwidths),
        detail="; ".join(_bandwidth_detail(one) for one in info.bandwidths) if info and info.bandwidths else absent,
        loss="a neighbour that streams cannot be slowed down, only kept on another node",
        remedy="needs a CPU with MBA (flag mba)",
    )
    yield Capability(
        name="cache and bandwidth monitoring",
        available=bool(info and info.monitoring),
        detail="; ".join(_monitoring_detail(one) for one in info.monitoring) if info and info.monitoring else absent,
        loss="nobody's cache occupancy or memory traffic can be read, so the model must guess them",
        remedy="needs a CPU with CMT and MBM (flags cqm_occup_llc, cqm_mbm_total)",
    )


def _cache_detail(control: CacheControl) -> str:
    gaps = {None: "gaps not told", True: "gaps allowed", False: "no gaps"}[control.sparse_masks]
    shared = f"ways {ways_text(control.shareable_bits)}" if control.shareable_bits else "none"
    return (
        f"{control.closids} CLOSIDs, {len(control.cbm_mask)} ways, {control.min_cbm_bits} or more a mask, {gaps},"
        f" {shared} shared with I/O, domains {CpuSet.of(control.domains)}"
    )


def _bandwidth_detail(control: BandwidthControl) -> str:
    mode = f", threads of a core: {control.thread_throttle_mode}" if control.thread_throttle_mode else ""
    hardware = {
        BandwidthUnit.PERCENT: f"{control.min_bandwidth} to 100 percent in steps of {control.bandwidth_gran}",
        BandwidthUnit.MIB_PER_S: f"in MiB/s, steered by the kernel in steps of {control.bandwidth_gran} percent"
        f" from {control.min_bandwidth}",
        BandwidthUnit.EIGHTH_GB_PER_S: f"from {control.min_bandwidth} in steps of {control.bandwidth_gran} x 1/8 GB/s",
    }[control.unit]
    return f"{control.resource}: {control.closids} CLOSIDs, {hardware}{mode}, domains {CpuSet.of(control.domains)}"


def _monitoring_detail(one: Monitoring) -> str:
    counters = f", {sum(one.mbm_counters.values())} assignable counters" if one.mbm_counters else ""
    return f"{one.resource}: {one.rmids} RMIDs, {', '.join(one.features) or 'no feature'}{counters}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _counters(*, live: bool) -> Capability:
    code = _perf_open(_HARDWARE, _INSTRUCTIONS) if live else None
    return Capability(
        name="hardware counters",
        available=None if code is None else code == 0,
        detail=_perf_detail(code),
        loss="no instructions, cycles or cache misses: interference is estimated by probes instead",
        remedy=_PERF_REMEDY.get(code or 0, "see man perf_event_open"),
    )


def _software_events(*, live: bool) -> Capability:
    code = _perf_open(_SOFTWARE, _TASK_CLOCK) if live else None
    return Capability(
        name="software counters",
        available=None if code is None else code == 0,
        detail=_perf_detail(code),
        loss="CPU time and context switches come from /proc, less exactly",
        remedy=_PERF_REMEDY.get(code or 0, "see man perf_event_open"),
    )


def _perf_detail(code: int | None) -> str:
    if code is None:
        return "unknown in a captured tree"
    return "perf_event_open works" if code == 0 else f"perf_event_open: {errno.errorcode.get(code, code)}"


def _perf_open(kind: int, config: int) -> int:
    """Open and close one counter of our own thread; return 0 or the error number."""
    attributes = bytearray(_ATTR_BYTES)
    attributes[0:4] = kind.to_bytes(4, "little")
    attributes[4:8] = _ATTR_BYTES.to_bytes(4, "little")
    attributes[8:16] = config.to_bytes(8, "little")
    attributes[40:48] = _EXCLUDE_KERNEL.to_bytes(8, "little")
    try:
        os.close(perf_event_open(bytes(attributes)))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _shape(topology: Topology | None) -> Iterator[Capability]:
    nodes = 0 if topology is None else len(topology.nodes)
    threads = 0 if topology is None else len(topology.cpus)
    cores = 0 if topology is None else len({cpu.core for cpu in topology.cpus})
    domains = () if topology is None else topology.llc_domains
    told = sum(domain.size_bytes is not None for domain in domains)
    yield Capability(
        name="NUMA",
        available=nodes > 1,
        detail=f"{nodes} memory node{'' if nodes == 1 else 's'}",
        loss="memory cannot be kept near or apart; on one node nothing is lost",
        remedy="enable NUMA in the firmware, or give the virtual machine nodes",
    )
    yield Capability(
        name="SMT",
        available=threads > cores,
        detail=f"{threads} CPUs on {cores} cores",
        loss="none: without SMT no sibling disturbs (a virtual machine may hide that it has siblings)",
        remedy="enable it in the firmware, or pass it through to the virtual machine",
    )
    yield Capability(
        name="last-level cache",
        available=bool(domains) and told == len(domains),
        detail=f"{len(domains)} domain{'' if len(domains) == 1 else 's'}, sizes known of {told}",
        loss="who shares a cache is unknown: only cores and nodes count when placing",
        remedy="pass the cache topology through to the virtual machine (host-cache-info=on in QEMU)",
    )


def _cache_ids(root: Path) -> Capability:
    told = any((root / "sys/devices/system/cpu").glob("cpu*/cache/index*/id"))
    return Capability(
        name="cache ids",
        available=told,
        detail="numbered by the kernel" if told else "not numbered by the kernel; numbered by lowest CPU instead",
        loss="cache ways could not be tied to the right cache",
        remedy="use a kernel since 4.10 on a CPU that names its caches",
    )


def _pressure(root: Path) -> Capability:
    text = read_text(root / "proc/pressure/cpu")
    return Capability(
        name="pressure stall information",
        available=bool(text),
        detail=text.splitlines()[0] if text else "/proc/pressure cannot be read",
        loss="stalls of CPU, memory and IO are not seen after a placement",
        remedy="boot with psi=1 on a kernel with CONFIG_PSI",
    )


def _virtual(root: Path) -> Capability:
    flags = (read_field(root / "proc/cpuinfo", "flags") or "").split()
    product = read_text(root / "sys/class/dmi/id/product_name")
    guest = "hypervisor" in flags
    return Capability(
        name="bare metal",
        available=None if not flags else not guest,
        detail=f"{'virtual machine' if guest else 'no hypervisor seen'}{f' ({product})' if product else ''}",
        loss="caches and cores may be shared with machines we cannot see, so single timings are noisy",
        remedy="use a dedicated host, or trust only ratios of runs measured close together",
    )
