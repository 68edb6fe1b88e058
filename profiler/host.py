"""What prediction needs to know of this host, taken from its topology and its calibration. Pure."""

from __future__ import annotations

import math

from isolation.topology import Topology
from profiler.calibration import Calibration
from profiler.records import HostTraits


def host_traits(topology: Topology, calibration: Calibration | None = None) -> HostTraits:
    """Describe the host; without a quiet calibration of this very host, costs are assumed and the peak is unknown.

    The size of the cache stays the nominal one, which models were trained with; what it is worth stands beside it.
    """
    sizes = [domain.size_bytes for domain in topology.llc_domains if domain.size_bytes]
    assumed = HostTraits(
        fingerprint=topology.fingerprint,
        llc_bytes=float(min(sizes)) if sizes else math.nan,
        memory_bytes_per_s=math.nan,
    )
    if calibration is None or not calibration.quiet or calibration.host_fingerprint != topology.fingerprint:
        return assumed
    effective, smt, wait = calibration.effective_llc_bytes, calibration.smt_cost_sf, calibration.disk_wake_wait_s
    return HostTraits(
        fingerprint=assumed.fingerprint,
        llc_bytes=assumed.llc_bytes,
        memory_bytes_per_s=calibration.memory_bytes_per_s,
        effective_llc_bytes=effective.value if effective else math.nan,
        smt_cost_sf=smt.value if smt else assumed.smt_cost_sf,
        disk_wake_wait_s=wait.value if wait else assumed.disk_wake_wait_s,
    )
