"""What prediction takes from the topology."""

from __future__ import annotations

import math

from isolation.topology import read_topology
from profiler.host import host_traits


def test_traits_of_this_host_are_known_or_unknown_never_zero() -> None:
    traits = host_traits(read_topology())

    assert traits.fingerprint
    assert math.isnan(traits.llc_bytes) or traits.llc_bytes > 0
    assert math.isnan(traits.memory_bytes_per_s), "unknown until the host is calibrated"
