"""What prediction needs to know of this host, taken from its topology. Pure."""

from __future__ import annotations

import math

from isolation.topology import Topology
from profiler.records import HostTraits


def host_traits(topology: Topology) -> HostTraits:
    """Describe the host; peak bandwidth and SMT cost stay unknown or assumed until it is calibrated."""
    sizes = [domain.size_bytes for domain in topology.llc_domains if domain.size_bytes]
    return HostTraits(
        fingerprint=topology.fingerprint,
        llc_bytes=float(min(sizes)) if sizes else math.nan,
        memory_bytes_per_s=math.nan,
    )
