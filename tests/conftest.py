"""What tests of several layers share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from isolation.cgroup import CpusetHierarchy, find_hierarchy

settings.register_profile("untimed", deadline=None)  # on a busy machine any one example may take a second
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _no_dataset() -> Iterator[None]:
    """Let nothing that trains, here or in a daemon of ours, learn from what comes along for this class of host."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COTENANT_DATASET", "")
        yield


@pytest.fixture
def hierarchy() -> CpusetHierarchy:
    """Return the cpuset hierarchy, which groups can be made in."""
    found = find_hierarchy()
    if found is None or found.refusal is not None or not os.access(found.mount, os.W_OK):
        pytest.skip("needs root and a writable cpuset hierarchy")
    return found
