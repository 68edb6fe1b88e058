"""The state of the host around a run: what it is, and what about it spoils measurements. Reads only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import HostUnreadable
from isolation.topology import read_topology

_PACKAGES = ("llama-cpp-python", "numpy", "xgboost-cpu", "scikit-learn")
_MAX_LOAD_PER_CPU = 0.25
_MAX_STEAL_RATIO = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Ticks since boot over all CPUs (first line of /proc/stat); guests are part of user."""

    busy: int  #: user, nice, system, irq, softirq
    steal: int  #: wanted by us, given to other machines by the hypervisor
    idle: int  #: idle and iowait

    def ratios_since(self, earlier: CpuTimes) -> tuple[float, float] | None:
        """Give (busy with steal, steal) as shares of the time since; None when no tick has passed."""
        steal = max(0, self.steal - earlier.steal)
        busy = max(0, self.busy - earlier.busy) + steal
        total = busy + max(0, self.idle - earlier.idle)  # iowait may run backwards
        return (busy / total, steal / total) if total else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One host at one moment; None = the kernel does not say."""

    fingerprint: str  #: Topology.fingerprint
    cpu_model: str
    kernel: str
    cpus: int
    load_1m: float
    steal_ratio: float | None  #: since boot
    governor: str | None  #: of the first CPU; None on most virtual machines
    huge_pages: str | None  #: always, madvise or never
    versions: tuple[tuple[str, str], ...]  #: (name, version), sorted

    @property
    def unmet(self) -> tuple[str, ...]:
        """Say which preconditions of a clean measurement do not hold, each with its remedy."""
        lines = []
        if self.cpus < 2:
            lines.append(f"{self.cpus} CPU: two workloads can only share it, not stand side by side")
        if self.load_1m > _MAX_LOAD_PER_CPU * self.cpus:
            lines.append(f"load {self.load_1m:.2f} on {self.cpus} CPUs: stop other work and wait a minute")
        if self.steal_ratio is not None and self.steal_ratio > _MAX_STEAL_RATIO:
            lines.append(f"{self.steal_ratio:.1%} of CPU time stolen by the hypervisor: ask for dedicated CPUs")
        if self.governor not in (None, "performance"):
            lines.append(f"frequency governor {self.governor!r}: set it to 'performance'")
        return tuple(lines)


def read_environment(root: Path = Path("/")) -> Environment:
    """Read the host below a root path; raises HostUnreadable for a /proc that is none."""
    topology = read_topology(root)
    since_boot = parse_cpu_times(_text(root / "proc/stat")).ratios_since(CpuTimes(busy=0, steal=0, idle=0))
    governor = root / f"sys/devices/system/cpu/cpu{min(topology.online)}/cpufreq/scaling_governor"
    huge_pages = root / "sys/kernel/mm/transparent_hugepage/enabled"
    return Environment(
        fingerprint=topology.fingerprint,
        cpu_model=topology.cpu_model,
        kernel=topology.kernel,
        cpus=len(topology.online),
        load_1m=parse_load(_text(root / "proc/loadavg")),
        steal_ratio=since_boot[1] if since_boot else None,
        governor=governor.read_text().strip() if governor.is_file() else None,
        huge_pages=parse_choice(_text(huge_pages)) if huge_pages.is_file() else None,
        versions=_versions(),
    )


def busy_ratio(window_s: float, *, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> float | None:
    """Watch for a while and give the share of all CPU time others used, steal included; None = no tick passed.

    Our own time is taken off, so it may be called from a thread beside work of this process.
    """
    before, own_before_s = parse_cpu_times(_text(root / "proc/stat")), time.process_time()
    sleep(window_s)
    after, own_s = parse_cpu_times(_text(root / "proc/stat")), time.process_time() - own_before_s
    own_ticks = round(own_s * os.sysconf("SC_CLK_TCK"))
    others = CpuTimes(busy=max(before.busy, after.busy - own_ticks), steal=after.steal, idle=after.idle + own_ticks)
    ratios = others.ratios_since(before)
    return ratios[0] if ratios else None


def parse_cpu_times(text: str) -> CpuTimes:
    """Read the "cpu" line of /proc/stat: user nice system idle iowait irq softirq steal ..., in ticks."""
    match = re.match(r"cpu\s+((?:\d+ ?){4,})", text)
    if match is None:
        raise HostUnreadable(f"/proc/stat begins with {text[:40]!r}, expected 'cpu' and at least four numbers")
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = (*map(int, match[1].split()), 0, 0, 0, 0)
    return CpuTimes(busy=user + nice + system + irq + softirq, steal=steal, idle=idle + iowait)


def parse_load(text: str) -> float:
    """Read the load of the last minute from /proc/loadavg."""
    try:
        return float(text.split(maxsplit=1)[0])
    except (IndexError, ValueError):
        raise HostUnreadable(f"/proc/loadavg holds {text[:40]!r}, expected numbers") from None


def parse_choice(text: str) -> str | None:
    """Read the chosen word from a kernel file such as "always [madvise] never"."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else None


def _versions() -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return tuple(sorted(found.items()))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise HostUnreadable(f"{str(path)!r} cannot be read: {error.strerror}; is /proc mounted?") from error
