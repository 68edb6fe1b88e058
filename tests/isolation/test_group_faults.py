"""What happens to groups under a placement (faults 36 to 45), on the fake and on this host's kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from isolation.cgroup import CpusetHierarchy
from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Drift, Enforcer, Released, Target, Undo
from isolation.errors import ApplyFailed, CgroupRefused, CgroupVanished
from isolation.process import identify
from isolation.spec import IsolationSpec
from isolation.topology import read_topology
from tests.fakes.children import real_process
from tests.fakes.kernel import FakeGroup, FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(packages=2, cores_per_llc=2)  # CPUs 0-3, nodes 0-1
ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))


@pytest.fixture
def hierarchy(hierarchy: CpusetHierarchy) -> CpusetHierarchy:
    if not CpuSet.parse("0-1") <= read_topology().usable:
        pytest.skip("needs CPUs 0 and 1")
    return hierarchy


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
        try:
            yield group
        finally:
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


def fake_group(version: int, cpus: str = "0-3") -> FakeKernel:
    kernel = FakeKernel(version=version)
    kernel.groups["/"].subtree.add("cpuset")
    kernel.groups["/app"] = FakeGroup(CpuSet.parse(cpus), NodeSet.parse("0-1"))
    return kernel


APP = Target(cgroup_path="/app")


# --- 36: the group vanishes meanwhile -------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_fault_36_a_group_that_vanishes_at_any_step_is_told_as_such(version: int) -> None:
    spec = IsolationSpec(cpus=CpuSet.parse("1"), mems=NodeSet.parse("1"))
    for step in (1, 2):
        kernel = fake_group(version)
        enforcer = kernel.enforcer(TOPOLOGY)
        undo = enforcer.snapshot("web", APP)

        def vanish(kernel: FakeKernel = kernel, step: int = step) -> None:
            del kernel.groups["/app"]
            kernel.fail_at[step] = errno.ENODEV

        kernel.at_step[step] = vanish
        with pytest.raises(CgroupVanished, match="the group vanished"):
            enforcer.apply("web", APP, spec, undo)
        assert enforcer.release(undo) == Released(restored=0, gone=2)


@pytest.mark.root
def test_fault_36_a_real_group_that_vanished_is_told_by_all(hierarchy: CpusetHierarchy) -> None:
    enforcer = enforcer_of(hierarchy)
    with real_group(hierarchy, "gone") as group:
        target = Target(cgroup_path=f"/{group.name}")
        undo = enforcer.snapshot("gone", target)
        group.rmdir()
        with pytest.raises(CgroupVanished, match="does not exist"):
            enforcer.apply("gone", target, ON_1, undo)
        drifts = enforcer.verify(target, ON_1, undo)
        released = enforcer.release(undo)

    assert "does not exist" in drifts[0].found
    assert released == Released(restored=0, gone=2)


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
        kernel.fail_at[2] = errno.ENODEV

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


# --- 40: a group that can hold no task ------------------------------------------------------------


def test_fault_40_a_kernel_that_takes_no_task_is_told_with_the_group_and_undone() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn()
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
    enforcer, before = kernel.enforcer(TOPOLOGY), kernel.picture()
    undo = enforcer.snapshot("web", target)
    kernel.pretend_at = {6}  # cpuset.cpus of the new group, said to be written, stays empty
    with pytest.raises(ApplyFailed, match=r"'/cotenant/web/cpuset\.cpus': wished 1, granted none"):
        enforcer.apply("web", target, ON_1, undo)

    assert kernel.picture() == before


# --- 43: partitions -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["root", "isolated"])
def test_fault_43_a_partition_is_refused_before_anything_is_written(kind: str) -> None:
    kernel = fake_group(2)
    kernel.groups["/app"].partition = kind
    enforcer = kernel.enforcer(TOPOLOGY)
    undo = enforcer.snapshot("web", APP)
    with pytest.raises(CgroupRefused, match=f"{kind!r} partition.*echo member > /sys/fs/cgroup/app/cpuset.cpus.part"):
        enforcer.apply("web", APP, ON_1, undo)

    assert kernel.steps == 0


def test_fault_43_a_partition_made_or_become_invalid_later_is_told_and_the_plain_cpuset_is_written_again() -> None:
    kernel = fake_group(2)
    enforcer = kernel.enforcer(TOPOLOGY)
    undo = enforcer.snapshot("web", APP)
    enforcer.apply("web", APP, ON_1, undo)
    kernel.groups["/app"].partition = "root"
    made = enforcer.verify(APP, ON_1, undo)
    kernel.groups["/app"].partition = "root invalid (Cpu list in cpuset.cpus not exclusive)"
    kernel.groups["/app"].cpus = CpuSet.parse("2-3")
    invalid = enforcer.verify(APP, ON_1, undo)
    enforcer.apply("web", APP, ON_1, undo)

    assert made == (Drift(path="/app/cpuset.cpus.partition", expected="member", found="root"),)
    assert [(one.path, one.found) for one in invalid] == [
        ("/app/cpuset.cpus", "2-3 (root invalid (Cpu list in cpuset.cpus not exclusive))")
    ]
    assert enforcer.verify(APP, ON_1, undo) == ()


@pytest.mark.root
def test_fault_43_a_real_partition_is_refused_and_an_invalid_one_is_a_plain_group(hierarchy: CpusetHierarchy) -> None:
    if hierarchy.version != 2:
        pytest.skip("cgroup v1 has no partitions; make test-vm boots a kernel with cgroup v2")
    last = str(max(read_topology().usable))
    enforcer = enforcer_of(hierarchy)
    with real_group(hierarchy, "whole") as group, real_group(hierarchy, "rival") as rival:
        (group / "cpuset.cpus").write_text(last)
        (group / "cpuset.cpus.partition").write_text("root")
        kind = (group / "cpuset.cpus.partition").read_text().strip()
        target = Target(cgroup_path=f"/{group.name}")
        undo = enforcer.snapshot("whole", target)
        with pytest.raises(CgroupRefused, match="'root' partition"):
            enforcer.apply("whole", target, ON_1, undo)
        (group / "cpuset.cpus.partition").write_text("member")
        (rival / "cpuset.cpus").write_text(last)
        (group / "cpuset.cpus.partition").write_text("root")
        invalid = (group / "cpuset.cpus.partition").read_text().strip()
        applied = enforcer.apply("whole", target, ON_1, undo)
        released = enforcer.release(undo)
        after = (group / "cpuset.cpus").read_text().strip()

    assert kind == "root"
    assert invalid.startswith("root invalid")
    assert (applied.writes, released.left_over, after) == (1, (), last)


# --- 44: unusual mounts ---------------------------------------------------------------------------

_ELSEWHERE = """
import subprocess, sys
from isolation.cgroup import find_hierarchy
earlier, elsewhere = sys.argv[1:]
subprocess.run(["umount", earlier], check=True)
print(find_hierarchy())
subprocess.run(["mount", "-t", "cgroup", "-o", "cpuset", "cpuset", elsewhere], check=True)
found = find_hierarchy()
print(found.version, found.mount, found.refusal)
"""


@pytest.mark.root
def test_fault_44_a_real_mount_at_an_unusual_place_is_found(hierarchy: CpusetHierarchy, tmp_path: Path) -> None:
    if hierarchy.version != 1:
        pytest.skip("cgroup v1 only: v2 is mounted once, with all its controllers")
    elsewhere = tmp_path / "a folder"
    elsewhere.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", _ELSEWHERE, hierarchy.mount, str(elsewhere)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if "unshare" in done.stderr or "umount" in done.stderr:
        pytest.skip(f"mounts cannot be changed here, not even in a namespace of our own: {done.stderr[-200:]}")

    assert done.stdout.splitlines() == ["None", f"1 {elsewhere} None"]


# --- 42: somebody resets the value ----------------------------------------------------------------


@pytest.mark.root
def test_fault_42_a_real_value_that_is_reset_is_seen_and_written_again(hierarchy: CpusetHierarchy) -> None:
    enforcer = enforcer_of(hierarchy)
    with real_group(hierarchy, "reset") as group, real_process(threads=2) as pid:
        (group / "cgroup.procs").write_text(str(pid))
        target = Target(cgroup_path=f"/{group.name}")
        undo = enforcer.snapshot("reset", target)
        enforcer.apply("reset", target, ON_1, undo)
        (group / "cpuset.cpus").write_text("0-1")
        drifts = enforcer.verify(target, ON_1, undo)
        enforcer.apply("reset", target, ON_1, undo)
        again = (group / "cpuset.cpus").read_text().strip()
        released = enforcer.release(undo)
        after = (group / "cpuset.cpus").read_text().strip()

    assert drifts[0] == Drift(path=f"/{group.name}/cpuset.cpus", expected="1", found="0-1")
    assert (again, released.left_over, after) == ("1", (), "0-1")
