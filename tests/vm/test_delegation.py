"""What enabling and disabling cpuset at the top of cgroup v2 does to others: the facts behind decision 20.

Only in a guest of make test-vm: it disables the controller for everybody.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isolation.capabilities import read_capabilities
from isolation.cgroup import CpusetGroups, CpusetHierarchy, find_hierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer, Target
from isolation.kernelfs import HOST_AFFINITY, HOST_FILES
from isolation.moving import Mover
from isolation.own_group import OwnGroup
from isolation.process import identify
from isolation.spec import IsolationSpec
from isolation.steps import Steps
from isolation.topology import read_topology
from tests.fakes.children import real_process

KEEPS_MASKS = tuple(map(int, platform.release().split(".")[:2])) >= (6, 2)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("COTENANT_VM_RESCTRL" not in os.environ, reason="needs a guest of make test-vm"),
]


@pytest.fixture
def mount() -> Iterator[Path]:
    """Return the top of the hierarchy, cpuset not enabled for the groups in it."""
    hierarchy = find_hierarchy()
    assert hierarchy is not None
    assert hierarchy.version == 2
    top = Path(hierarchy.mount)
    (top / "cgroup.subtree_control").write_text("-cpuset")
    yield top
    (top / "cgroup.subtree_control").write_text("+cpuset")


@contextmanager
def bystander(mount: Path) -> Iterator[tuple[int, Path]]:
    """Run a process with two pinned threads in a group of its own; return pid and group."""
    group = mount / "cotenant_test_bystander"
    group.mkdir()
    with real_process(threads=3, pinned=2) as pid:
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield pid, group
        finally:
            (mount / "cgroup.procs").write_text(str(pid))
            group.rmdir()


def masks(pid: int) -> list[str]:
    """Return which CPUs each thread may use, sorted."""
    return sorted(str(CpuSet.of(os.sched_getaffinity(int(task.name)))) for task in Path(f"/proc/{pid}/task").iterdir())


def test_enabling_cpuset_makes_kernels_before_6_2_forget_what_threads_of_others_asked_for(mount: Path) -> None:
    with bystander(mount) as (pid, _), real_process(threads=3, pinned=2) as at_the_top:
        before = masks(pid), masks(at_the_top)
        (mount / "cgroup.subtree_control").write_text("+cpuset")
        after = masks(pid), masks(at_the_top)

    assert before == (["0", "0-7", "1"],) * 2
    assert after == (["0", "0-7", "1"] if KEEPS_MASKS else ["0-7"] * 3, ["0", "0-7", "1"])


def test_the_enforcer_enables_cpuset_at_the_top_and_others_keep_what_they_asked_for(mount: Path) -> None:
    topology = read_topology()
    enforcer = Enforcer.for_host(topology, prefix=f"cotenant-test-{os.getpid()}")
    spec = IsolationSpec(cpus=CpuSet.parse("1"))
    with bystander(mount) as (pid, _), real_process() as placed:
        target = Target(processes=(identify(placed, allowed_uids=frozenset({os.getuid()})),))
        undo = enforcer.snapshot("web", target)
        enforcer.apply("web", target, spec, undo)
        others = masks(pid)
        enforcer.release(undo)

    assert "cpuset" in (mount / "cgroup.subtree_control").read_text().split()
    assert others == ["0", "0-7", "1"]


def test_a_placement_that_fails_takes_the_enabling_back_and_others_keep_what_they_asked_for(mount: Path) -> None:
    groups = CpusetGroups(CpusetHierarchy(version=2, mount=str(mount)), files=HOST_FILES, proc_root="/proc")
    mover = Mover(groups, files=HOST_FILES, affinity=HOST_AFFINITY, proc_root="/proc")
    own = OwnGroup(groups, mover, prefix=f"cotenant-test-{os.getpid()}")
    steps = Steps()
    with bystander(mount) as (pid, _), real_process() as placed:
        processes = (identify(placed, allowed_uids=frozenset({os.getuid()})),)
        undo = own.snapshot("web", processes)
        own.place(processes, IsolationSpec(cpus=CpuSet.parse("1")), undo, steps)
        enabled = (mount / "cgroup.subtree_control").read_text().split()
        failures = steps.undo_all()
        others = masks(pid)

    assert "cpuset" in enabled
    assert "cpuset" not in (mount / "cgroup.subtree_control").read_text().split()
    assert (failures, others) == ((), ["0", "0-7", "1"])


def test_disabling_cpuset_would_discard_the_settings_of_others_without_a_word(mount: Path) -> None:
    with bystander(mount) as (pid, group):
        (mount / "cgroup.subtree_control").write_text("+cpuset")
        (group / "cpuset.cpus").write_text("2-3")
        confined = masks(pid)
        (mount / "cgroup.subtree_control").write_text("-cpuset")
        (mount / "cgroup.subtree_control").write_text("+cpuset")
        found = (group / "cpuset.cpus").read_text(), masks(pid)

    assert "2-3" in confined
    assert found[0] == "\n"
    assert "0-7" in found[1]


def test_check_tells_what_enabling_costs(mount: Path) -> None:
    told = {one.name: one for one in read_capabilities()}

    assert told["cgroup v2 delegation"].detail == f"cpuset is not enabled for groups below {mount}"
    assert told["CPUs that threads asked for"].available is KEEPS_MASKS
    assert platform.release() in told["CPUs that threads asked for"].detail
