"""What happens to groups under a placement (faults 36 to 45), on the fake and on this host's kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from isolation.cgroup import CpusetHierarchy, find_hierarchy
from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Drift, Enforcer, Released, Target, Undo
from isolation.errors import CgroupVanished
from isolation.spec import IsolationSpec
from isolation.topology import read_topology
from tests.fakes.children import real_process
from tests.fakes.kernel import FakeGroup, FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(packages=2, cores_per_llc=2)  # CPUs 0-3, nodes 0-1
ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))


@pytest.fixture
def hierarchy() -> CpusetHierarchy:
    found = find_hierarchy()
    if found is None or found.refusal is not None or not os.access(found.mount, os.W_OK):
        pytest.skip("needs root and a writable cpuset hierarchy")
    if not CpuSet.parse("0-1") <= read_topology().usable:
        pytest.skip("needs CPUs 0 and 1")
    return found


@contextmanager
def real_group(hierarchy: CpusetHierarchy, name: str) -> Iterator[Path]:
    """Make a group with CPUs 0-1 and node 0 below the top; who is in it goes to the top at the end."""
    mount = Path(hierarchy.mount)
    group = mount / f"cotenant_test_{name}_{os.getpid()}"
    with ExitStack() as stack:
        control = mount / "cgroup.subtree_control"
        if hierarchy.version == 2 and "cpuset" not in control.read_text().split():
            control.write_text("+cpuset")
            stack.callback(control.write_text, "-cpuset")
        make(group)
        yield group
        if group.exists():
            empty(group)
            group.rmdir()


def make(group: Path, cpus: str = "0-1") -> None:
    group.mkdir()
    (group / "cpuset.mems").write_text("0")
    (group / "cpuset.cpus").write_text(cpus)


def empty(group: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        (group.parent / "cgroup.procs").write_text(pid)


def enforcer_of(hierarchy: CpusetHierarchy) -> Enforcer:
    enforcer = Enforcer.for_host(read_topology(), prefix=f"cotenant-test-{os.getpid()}")
    assert enforcer.mechanism == f"cgroup_v{hierarchy.version}"
    return enforcer


# --- 37: the same path, another group -------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_fault_37_a_group_made_anew_is_another_workloads_and_left_alone(version: int) -> None:
    kernel = FakeKernel(version=version)
    kernel.groups["/"].subtree.add("cpuset")
    kernel.groups["/app"] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0-1"))
    enforcer, target = kernel.enforcer(TOPOLOGY), Target(cgroup_path="/app")
    undo = Undo.from_json(enforcer.snapshot("web", target).to_json())
    enforcer.apply("web", target, ON_1, undo)
    kernel.groups["/app"] = FakeGroup(CpuSet.parse("2-3"), NodeSet.parse("0"))
    before, steps = kernel.picture(), kernel.steps

    assert "made anew" in enforcer.verify(target, ON_1, undo)[0].found
    with pytest.raises(CgroupVanished, match="'/app' was removed and made anew"):
        enforcer.apply("web", target, ON_1, undo)
    assert enforcer.release(undo) == Released(restored=0, gone=2)
    assert (kernel.picture(), kernel.steps) == (before, steps)


def test_fault_37_a_group_made_anew_while_it_is_confined_does_not_get_the_old_ones_cpus() -> None:
    kernel = FakeKernel()
    kernel.groups["/app"] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0-1"))
    enforcer, target = kernel.enforcer(TOPOLOGY), Target(cgroup_path="/app")
    undo = enforcer.snapshot("web", target)

    def replace_and_fail() -> None:
        kernel.groups["/app"] = FakeGroup(CpuSet.parse("2"), NodeSet.parse("0"))
        kernel.fail_at[2] = 19  # ENODEV

    kernel.at_step[2] = replace_and_fail
    with pytest.raises(CgroupVanished, match="ENODEV"):
        enforcer.apply("web", target, IsolationSpec(cpus=CpuSet.parse("1"), mems=NodeSet.parse("1")), undo)

    assert (str(kernel.groups["/app"].cpus), str(kernel.groups["/app"].mems)) == ("2", "0")


def test_fault_37_records_without_inodes_are_still_released() -> None:
    kernel = FakeKernel()
    kernel.groups["/app"] = FakeGroup(CpuSet.parse("1"), NodeSet.parse("0"))
    record = (
        '{"files": [["/app/cpuset.cpus", "0-3"], ["/app/cpuset.mems", "0"]], "group": null, '
        '"mechanism": "cgroup_v1", "resctrl": null, "schema_version": 2, "threads": []}'
    )

    assert kernel.enforcer(TOPOLOGY).release(Undo.from_json(record)) == Released(restored=2, gone=0)
    assert str(kernel.groups["/app"].cpus) == "0-3"


@pytest.mark.root
def test_fault_37_a_real_group_made_anew_is_left_alone(hierarchy: CpusetHierarchy) -> None:
    enforcer = enforcer_of(hierarchy)
    with real_group(hierarchy, "anew") as group, real_process(threads=2) as pid:
        (group / "cgroup.procs").write_text(str(pid))
        target = Target(cgroup_path=f"/{group.name}")
        undo = enforcer.snapshot("anew", target)
        enforcer.apply("anew", target, ON_1, undo)
        confined = (group / "cpuset.cpus").read_text().strip()
        empty(group)
        group.rmdir()
        make(group, "0")
        drifts = enforcer.verify(target, ON_1, undo)
        released = enforcer.release(undo)
        after = (group / "cpuset.cpus").read_text().strip()

    assert confined == "1"
    assert [isinstance(one, Drift) and "made anew" in one.found for one in drifts] == [True]
    assert released == Released(restored=0, gone=2)
    assert after == "0"
