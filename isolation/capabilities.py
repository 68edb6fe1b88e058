"""One honest report of what this host allows, and what is lost without it. Reads; changes nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isolation.cgroup import CpusetHierarchy, find_hierarchy
from isolation.errors import TopologyUnreadable
from isolation.kernelfs import HOST_FILES
from isolation.topology import Topology, read_topology

_PERF_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_HARDWARE, _SOFTWARE = 0, 1  # perf_event types, include/uapi/linux/perf_event.h
_INSTRUCTIONS, _TASK_CLOCK = 1, 1
_ATTR_BYTES = 64  # PERF_ATTR_SIZE_VER0: every kernel takes it
_EXCLUDE_KERNEL = 1 << 5
_CAP_SYS_NICE, _CAP_PERFMON, _CAP_SYS_ADMIN = 23, 38, 21

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


def read_capabilities(root: Path = Path("/")) -> tuple[Capability, ...]:
    """Report on the host whose /sys and /proc lie below the root.

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
        *_resctrl(root),
        _counters(live=live),
        _software_events(live=live),
        *_shape(topology),
        _cache_ids(root),
        _pressure(root),
        _virtual(root),
    )


def _privileges(root: Path, *, live: bool) -> Capability:
    caps = int(_field(root / "proc/self/status", "CapEff") or "0", 16)
    known = {"CAP_SYS_NICE": _CAP_SYS_NICE, "CAP_PERFMON": _CAP_PERFMON, "CAP_SYS_ADMIN": _CAP_SYS_ADMIN}
    held = [name for name, bit in known.items() if caps >> bit & 1]
    nested = len((_field(root / "proc/self/status", "NSpid") or "").split()) > 1
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


def _resctrl(root: Path) -> Iterator[Capability]:
    kernel = any(line.split()[-1:] == ["resctrl"] for line in _text(root / "proc/filesystems").splitlines())
    flags = set((_field(root / "proc/cpuinfo", "flags") or "").split())
    cpu = sorted(flags & {"cat_l3", "cat_l2", "cdp_l3", "mba", "cqm_llc", "cqm_mbm_total", "cqm_mbm_local"})
    mounts = [line.split() for line in _text(root / "proc/mounts").splitlines()]
    mounted = next((mount[1] for mount in mounts if len(mount) > 2 and mount[2] == "resctrl"), None)
    has = f"CPU flags: {', '.join(cpu) or 'none'}; kernel support: {'yes' if kernel else 'no'}"
    yield Capability(
        name="resctrl",
        available=mounted is not None,
        detail=f"{has}; mounted: {mounted or 'no'}",
        loss="no cache ways, no bandwidth caps, no occupancy readings: only CPUs keep neighbours apart",
        remedy="run: mount -t resctrl resctrl /sys/fs/resctrl"
        if kernel
        else "needs a CPU with RDT or PQoS, passed through if this is a virtual machine, and CONFIG_X86_CPU_RESCTRL",
    )


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
    number = _PERF_OPEN.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    attributes = bytearray(_ATTR_BYTES)
    attributes[0:4] = kind.to_bytes(4, "little")
    attributes[4:8] = _ATTR_BYTES.to_bytes(4, "little")
    attributes[8:16] = config.to_bytes(8, "little")
    attributes[40:48] = _EXCLUDE_KERNEL.to_bytes(8, "little")
    library = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_char * _ATTR_BYTES).from_buffer(attributes)
    descriptor = library.syscall(ctypes.c_long(number), buffer, 0, -1, -1, ctypes.c_ulong(0))
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
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
    text = _text(root / "proc/pressure/cpu")
    return Capability(
        name="pressure stall information",
        available=bool(text),
        detail=text.splitlines()[0] if text else "/proc/pressure cannot be read",
        loss="stalls of CPU, memory and IO are not seen after a placement",
        remedy="boot with psi=1 on a kernel with CONFIG_PSI",
    )


def _virtual(root: Path) -> Capability:
    flags = (_field(root / "proc/cpuinfo", "flags") or "").split()
    product = _text(root / "sys/class/dmi/id/product_name")
    guest = "hypervisor" in flags
    return Capability(
        name="bare metal",
        available=None if not flags else not guest,
        detail=f"{'virtual machine' if guest else 'no hypervisor seen'}{f' ({product})' if product else ''}",
        loss="caches and cores may be shared with machines we cannot see, so single timings are noisy",
        remedy="use a dedicated host, or trust only ratios of runs measured close together",
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # absent or unreadable is what is being asked
        return ""


def _field(path: Path, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.*)$", _text(path), re.MULTILINE)
    return found[1] if found else None
