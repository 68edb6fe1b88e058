"""What tests of several layers ask of this host."""

from __future__ import annotations

import os

import pytest

from isolation.cgroup import CpusetHierarchy, find_hierarchy


@pytest.fixture
def hierarchy() -> CpusetHierarchy:
    """Return the cpuset hierarchy, which groups can be made in."""
    found = find_hierarchy()
    if found is None or found.refusal is not None or not os.access(found.mount, os.W_OK):
        pytest.skip("needs root and a writable cpuset hierarchy")
    return found
