"""What tests of this layer ask of this host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def cgroup2() -> Path:
    """Return the top of cgroup v2, with whatever controllers, where groups can be made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, kind = line.split()[1:3]
        if kind == "cgroup2" and os.access(mount, os.W_OK):
            return Path(mount)
    pytest.skip("needs root and cgroup v2")
