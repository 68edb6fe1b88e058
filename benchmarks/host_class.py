"""Which machines may share one campaign, and which of them this is. Reads only."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from isolation.topology import Topology

_MEMORY_STEP_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HostClass:
    """What must be equal for runs to be compared: processor, caches, CPU count, kernel series."""

    processor: str
    cpus: int
    caches: tuple[str, ...]  #: such as "2 x L2 1024 KiB for 1 CPUs, ? ways"
    kernel_series: str  #: such as "6.18"

    @property
    def fingerprint(self) -> str:
        """Name it, 16 hexadecimal digits."""
        shape = [self.processor, self.cpus, list(self.caches), self.kernel_series]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        caches = ", ".join(self.caches)
        return f"{self.fingerprint} ({self.processor}, {self.cpus} CPUs, {caches}, Linux {self.kernel_series})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine since it was started."""

    kind: HostClass
    instance: str  #: hash of what names the machine and this start of it; tells instances apart, tells no name
    topology: str  #: Topology.fingerprint, as in profiles and observations
    kernel: str
    memory_gib: int
    mechanism: str  #: Mechanism of the enforcer
    without: tuple[str, ...]  #: what it cannot measure or do, with reasons
    versions: tuple[tuple[str, str], ...]


def host_class(topology: Topology) -> HostClass:
    """Describe the class of a machine."""
    domains = Counter(
        f"L{domain.level} {_kib(domain.size_bytes)} for {len(domain.cpus)} CPUs, {domain.ways or '?'} ways"
        for domain in (*topology.l2_domains, *topology.llc_domains)
    )
    return HostClass(
        processor=topology.cpu_model,
        cpus=len(topology.online),
        caches=tuple(f"{count} x {text}" for text, count in sorted(domains.items())),
        kernel_series=".".join(topology.kernel.split(".")[:2]),
    )


def read_instance(root: Path = Path("/")) -> str:
    """Name this machine since its start; equal names mean the same instance."""
    parts = []
    for name in ("etc/machine-id", "proc/sys/kernel/random/boot_id"):
        try:
            parts.append((root / name).read_text().strip())
        except OSError:  # a container without one: the other tells
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def memory_gib(topology: Topology) -> int:
    """Give the memory of all nodes, rounded to GiB: the last digits change from boot to boot."""
    return round(sum(node.memory_bytes or 0 for node in topology.nodes) / _MEMORY_STEP_BYTES)


def _kib(size_bytes: int | None) -> str:
    return "of unknown size" if size_bytes is None else f"{size_bytes >> 10} KiB"
