"""What prediction needs to know of this host, taken from its topology. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter

from isolation.topology import Topology
from profiler.records import HostTraits


def host_traits(topology: Topology) -> HostTraits:
    """Describe the host; peak bandwidth and SMT cost stay unknown or assumed until it is calibrated."""
    sizes = [domain.size_bytes for domain in topology.llc_domains if domain.size_bytes]
    return HostTraits(
        fingerprint=fingerprint(topology),
        llc_bytes=float(min(sizes)) if sizes else math.nan,
        memory_bytes_per_s=math.nan,
    )


def fingerprint(topology: Topology) -> str:
    """Name the class of host: CPU model, cores, caches, nodes; machines of one type share it, whatever their kernel."""
    shape = {
        "cpu_model": topology.cpu_model,
        "cpus": len(topology.cpus),
        "cores": len({cpu.core for cpu in topology.cpus}),
        "packages": len({cpu.package for cpu in topology.cpus}),
        "nodes": len(topology.nodes),
        "llc": sorted(
            (str(size), len_cpus, count)
            for (size, len_cpus), count in Counter((d.size_bytes, len(d.cpus)) for d in topology.llc_domains).items()
        ),
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]
