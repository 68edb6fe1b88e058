"""What the suites on a booted kernel share."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation.cgroup import find_hierarchy
from isolation.topology import read_topology


@pytest.fixture(scope="module")
def mount() -> Path:
    """Return the top of cgroup v2 on a machine with two memory nodes."""
    hierarchy = find_hierarchy()
    if hierarchy is None or hierarchy.version != 2:
        pytest.skip("needs cgroup v2 with the cpuset controller; make test-vm boots such a kernel")
    if sum(bool(node.cpus) for node in read_topology().nodes) < 2:
        pytest.skip("needs two NUMA nodes with CPUs; make test-vm boots such a machine")
    return Path(hierarchy.mount)
