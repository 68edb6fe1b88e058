"""Where cpusets are mounted, which paths are accepted, and existing groups confined by their files."""

from __future__ import annotations

import errno

import pytest

from isolation.cgroup import CpusetGroups, CpusetHierarchy, find_hierarchy, resolve
from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Mechanism, Target
from isolation.errors import ApplyFailed, CgroupRefused, CgroupVanished
from isolation.process import identify
from isolation.spec import IsolationSpec
from tests.fakes.kernel import FakeGroup, FakeKernel
from tests.fakes.machines import make_topology

TOPOLOGY = make_topology(packages=2, cores_per_llc=2)
ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))


class Mounts(FakeKernel):
    """A host with the given mountinfo lines; cgroup v2 offers the given controllers."""

    def __init__(self, *lines: str, controllers: str = "cpuset cpu") -> None:
        super().__init__()
        self._lines = lines
        self._controllers = controllers

    def read(self, path: str) -> str:
        if path == "/proc/self/mountinfo":
            return "\n".join(self._lines)
        if path.endswith("cgroup.controllers"):
            return self._controllers
        return super().read(path)


V1 = "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset"
V1_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct"
V2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
JOINT = "34 31 0:31 / /cg rw - cgroup cgroup rw,cpuset,memory"
NOPREFIX = "34 31 0:31 / /cg rw - cgroup cgroup rw,noprefix,cpuset"
LEGACY = "34 31 0:31 / /dev/cpuset rw - cpuset none rw"


@pytest.mark.parametrize(
    ("lines", "controllers", "version", "mount"),
    [
        ((V1_CPU, V1), "", 1, "/sys/fs/cgroup/cpuset"),
        ((V2,), "cpuset", 2, "/sys/fs/cgroup/unified"),
        ((V1, V2), "hugetlb", 1, "/sys/fs/cgroup/cpuset"),
        ((JOINT, V2), "cpuset", 2, "/sys/fs/cgroup/unified"),
        (("34 31 0:31 / /with\\040space rw - cgroup cgroup rw,cpuset",), "", 1, "/with space"),
    ],
    ids=["v1", "v2", "hybrid", "usable-first", "escaped"],
)
def test_fault_44_the_hierarchy_is_found_by_mountinfo(
    lines: tuple[str, ...], controllers: str, version: int, mount: str
) -> None:
    found = find_hierarchy(files=Mounts(*lines, controllers=controllers))

    assert found == CpusetHierarchy(version=version, mount=mount)


def test_a_host_without_cpusets_has_none() -> None:
    assert find_hierarchy(files=Mounts(V1_CPU, V2, controllers="cpu memory")) is None


@pytest.mark.parametrize(("line", "why"), [(JOINT, "memory"), (NOPREFIX, "noprefix"), (LEGACY, "legacy")])
def test_fault_44_an_unusual_mount_is_refused_with_the_reason(line: str, why: str) -> None:
    found = find_hierarchy(files=Mounts(line))

    assert found is not None
    assert why in (found.refusal or "")


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("/", "/a/b", "/a/b"),
        ("/", "/../other", None),
        ("/docker/1", "/docker/1", "/"),
        ("/docker/1", "/docker/1/x", "/x"),
        ("/docker/1", "/docker/12", None),
    ],
)
def test_paths_are_told_relative_to_what_is_mounted(root: str, path: str, below: str | None) -> None:
    assert CpusetHierarchy(version=1, mount="/cg", root=root).below(path) == below


def groups_with(*paths: str, version: int = 1) -> tuple[FakeKernel, CpusetGroups]:
    kernel = FakeKernel(version=version)
    for path in paths:
        kernel.groups[path] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0-1"))
    hierarchy = CpusetHierarchy(version=version, mount=kernel.mount)
    return kernel, CpusetGroups(hierarchy, files=kernel, proc_root="/proc")


@pytest.mark.parametrize("text", ["/a/b", "a/b", "/a/b/", "/sys/fs/cgroup/cpuset/a/b"])
def test_a_path_is_taken_below_the_mount_or_absolute(text: str) -> None:
    _, groups = groups_with("/a", "/a/b")

    assert resolve(groups, text) == "/a/b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/a/../b", "'..'"),
        ("/../etc", "'..'"),
        ("/a//b", "''"),
        ("/a/./b", "'.'"),
        ("/a\0b", "NUL"),
        ("/a\nb", "line break"),
        ("/" + "x" * 300, "1 to 255"),
        ("/x" * 2100, "at most 4095"),
        ("/", "top of the hierarchy"),
        ("", "top of the hierarchy"),
        ("/sys/fs/cgroup/cpuset", "top of the hierarchy"),
        ("/sys/fs/cgroup/memory/a", "outside the cpuset mount"),
        ("/sys/fs/cgroup/cpuset/../memory/a", "'..'"),
    ],
)
def test_fault_45_a_path_that_plays_tricks_is_refused(text: str, why: str) -> None:
    _, groups = groups_with("/a", "/a/b")

    with pytest.raises(CgroupRefused, match=why):
        resolve(groups, text)


@pytest.mark.parametrize("text", ["/nothing", "/a/nothing", "/a/b/c"])
def test_a_path_to_nothing_is_told_as_vanished(text: str) -> None:
    _, groups = groups_with("/a", "/a/b")

    with pytest.raises(CgroupVanished, match="does not exist"):
        resolve(groups, text)


# --- existing groups as targets ------------------------------------------------------------------


def nested() -> FakeKernel:
    """Make a v1 group with two inner ones: one that shares CPUs with the wish, one that does not."""
    kernel, _ = groups_with("/a", "/a/in", "/a/out")
    kernel.groups["/a/in"].cpus = CpuSet.parse("1-2")
    kernel.groups["/a/out"].cpus = CpuSet.parse("3")
    for group in ("/a/in", "/a/out"):
        kernel.spawn(threads=2, group=group)
    return kernel


TARGET = Target(cgroup_path="/a")


def test_fault_39_inner_groups_follow_and_return() -> None:
    kernel = nested()
    before = kernel.picture()
    enforcer = kernel.enforcer(TOPOLOGY)
    undo = enforcer.snapshot("a", TARGET)
    applied = enforcer.apply("a", TARGET, IsolationSpec(cpus=CpuSet.parse("0-1")), undo)
    placed = [str(kernel.groups[group].cpus) for group in ("/a", "/a/in", "/a/out")]
    again = enforcer.apply("a", TARGET, IsolationSpec(cpus=CpuSet.parse("0-1")), undo)
    drifts = enforcer.verify(TARGET, IsolationSpec(cpus=CpuSet.parse("0-1")), undo)
    released = enforcer.release(undo)

    assert placed == ["0-1", "1", "0-1"]
    assert (applied.threads, again.writes, drifts) == (4, 0, ())
    assert released.left_over == ()
    assert kernel.picture() == before


def test_fault_39_a_failure_at_any_step_leaves_all_files_as_they_were() -> None:
    twin = nested()
    twin.enforcer(TOPOLOGY).apply("a", TARGET, ON_1, twin.enforcer(TOPOLOGY).snapshot("a", TARGET))
    assert twin.steps >= 3
    for step in range(1, twin.steps + 1):
        kernel = nested()
        kernel.fail_at[step] = errno.EBUSY
        before = kernel.picture()
        enforcer = kernel.enforcer(TOPOLOGY)
        with pytest.raises(ApplyFailed, match="EBUSY"):
            enforcer.apply("a", TARGET, ON_1, enforcer.snapshot("a", TARGET))
        assert kernel.picture() == before, f"step {step}"


def test_a_wish_outside_the_foreign_parent_fails_and_is_undone() -> None:
    kernel = nested()
    kernel.groups["/p"] = FakeGroup(CpuSet.parse("2-3"), NodeSet.parse("0"))
    kernel.groups["/p/q"] = FakeGroup(CpuSet.parse("2"), NodeSet.parse("0"))
    before = kernel.picture()
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(cgroup_path="/p/q")
    with pytest.raises(ApplyFailed, match="EACCES: outside what the parent group allows"):
        enforcer.apply("q", target, ON_1, enforcer.snapshot("q", target))

    assert kernel.picture() == before


def test_fault_38_v2_requests_are_checked_by_what_is_granted() -> None:
    kernel, _ = groups_with("/a", "/a/b", version=2)
    kernel.groups["/"].subtree.add("cpuset")
    kernel.groups["/a"].subtree.add("cpuset")
    kernel.groups["/a"].cpus = CpuSet.parse("2-3")
    kernel.groups["/a/b"].cpus = CpuSet()
    before = kernel.picture()
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(cgroup_path="/a/b")
    undo = enforcer.snapshot("b", target)
    with pytest.raises(ApplyFailed, match="wished 1, is 2-3"):
        enforcer.apply("b", target, ON_1, undo)
    assert kernel.picture() == before

    enforcer.apply("b", target, IsolationSpec(cpus=CpuSet.parse("3"), mems=NodeSet.parse("0")), undo)
    assert (str(kernel.groups["/a/b"].cpus), str(kernel.groups["/a/b"].mems)) == ("3", "0")
    enforcer.release(undo)
    assert kernel.picture() == before


def test_fault_41_v2_groups_without_the_controller_are_refused_with_the_command() -> None:
    kernel, _ = groups_with("/a", version=2)

    with pytest.raises(CgroupRefused, match=r"echo \+cpuset > /sys/fs/cgroup/cgroup.subtree_control"):
        kernel.enforcer(TOPOLOGY).snapshot("a", TARGET)


def test_v2_top_gets_the_controller_when_processes_are_placed() -> None:
    kernel = FakeKernel(version=2)
    pid = kernel.spawn()
    enforcer = kernel.enforcer(TOPOLOGY)
    target = Target(processes=(identify(pid, allowed_uids=None, files=kernel, own_pid=99),))
    applied = enforcer.apply("web", target, ON_1, enforcer.snapshot("web", target))

    assert applied.complete
    assert kernel.groups["/"].subtree == {"cpuset"}
    assert str(kernel.allowed(pid)) == "1"


def test_our_own_groups_are_no_targets() -> None:
    kernel, _ = groups_with("/cotenant", "/cotenant/web")

    with pytest.raises(CgroupRefused, match="group of a cotenant daemon"):
        kernel.enforcer(TOPOLOGY).snapshot("a", Target(cgroup_path="/cotenant/web"))


def test_affinity_cannot_confine_a_group() -> None:
    kernel, _ = groups_with("/a")

    with pytest.raises(CgroupRefused, match="needs a writable cpuset hierarchy"):
        kernel.enforcer(TOPOLOGY, mechanism=Mechanism.AFFINITY).snapshot("a", TARGET)


def test_fault_36_a_group_that_vanished_is_told_by_apply_verify_and_release() -> None:
    kernel, _ = groups_with("/a")
    enforcer = kernel.enforcer(TOPOLOGY)
    undo = enforcer.snapshot("a", TARGET)
    del kernel.groups["/a"]

    with pytest.raises(CgroupVanished):
        enforcer.apply("a", TARGET, ON_1, undo)
    assert "does not exist" in enforcer.verify(TARGET, ON_1, undo)[0].found
    assert enforcer.release(undo).gone == 2
