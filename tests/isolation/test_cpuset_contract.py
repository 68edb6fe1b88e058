"""The fake cpuset and the real one obey the same rules; the enforcer's tests rest on that."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from isolation.cgroup import find_hierarchy
from isolation.cpuset import CpuSet
from isolation.kernelfs import HOST_AFFINITY, HOST_FILES, AffinityCalls, KernelFiles
from isolation.process import allowed_cpus
from tests.fakes.children import real_process
from tests.fakes.kernel import FakeKernel


class World(Protocol):
    files: KernelFiles
    affinity: AffinityCalls
    top: str  # a folder of ours below the mount, with all CPUs and nodes

    def spawn(self, threads: int) -> int: ...

    def zombie(self) -> int: ...


class FakeWorld:
    def __init__(self) -> None:
        self.kernel = FakeKernel(cpus="0-1", mems="0")
        self.files: KernelFiles = self.kernel
        self.affinity: AffinityCalls = self.kernel
        self.top = f"{self.kernel.mount}/contract"

    def spawn(self, threads: int) -> int:
        return self.kernel.spawn(threads=threads)

    def zombie(self) -> int:
        pid = self.kernel.spawn()
        self.kernel.end(pid, zombie=True)
        return pid


class RealWorld:
    def __init__(self, mount: str, stack: ExitStack) -> None:
        self.files: KernelFiles = HOST_FILES
        self.affinity: AffinityCalls = HOST_AFFINITY
        self.top = f"{mount}/cotenant-contract-{os.getpid()}"
        self._stack = stack

    def spawn(self, threads: int) -> int:
        return self._stack.enter_context(real_process(threads=threads))

    def zombie(self) -> int:
        process = self._stack.enter_context(subprocess.Popen(["true"]))
        while Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
            pass
        return process.pid


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        one: World = FakeWorld() if request.param == "fake" else _real(stack)
        one.files.mkdir(one.top)
        stack.callback(_remove_all, one.files, one.top)  # runs before the processes end: tasks go to the mount first
        one.files.write(f"{one.top}/cpuset.mems", "0")
        one.files.write(f"{one.top}/cpuset.cpus", "0-1")
        yield one


def _real(stack: ExitStack) -> RealWorld:
    hierarchy = find_hierarchy()
    if hierarchy is None or hierarchy.version != 1 or not os.access(hierarchy.mount, os.W_OK):
        pytest.skip("needs root and a writable cgroup v1 cpuset hierarchy")
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    return RealWorld(hierarchy.mount, stack)


def _remove_all(files: KernelFiles, folder: str) -> None:
    for name in files.folders(folder):
        _remove_all(files, f"{folder}/{name}")
    for pid in files.read(f"{folder}/cgroup.procs").split():
        files.write(f"{folder.rpartition('/')[0]}/cgroup.procs", pid)
    files.rmdir(folder)


@pytest.fixture
def group(world: World) -> str:
    """Make a group with both CPUs."""
    path = f"{world.top}/one"
    world.files.mkdir(path)
    world.files.write(f"{path}/cpuset.mems", "0")
    world.files.write(f"{path}/cpuset.cpus", "0-1")
    return path


def code_of(act: Callable[[], None]) -> str:
    try:
        act()
    except OSError as cause:
        return errno.errorcode[cause.errno or 0]
    return "no error"


def write_code(world: World, path: str, text: str) -> str:
    return code_of(lambda: world.files.write(path, text))


def where(world: World, pid: int, tid: int) -> str:
    return world.files.read(f"/proc/{pid}/task/{tid}/cgroup").split("cpuset:")[1].splitlines()[0]


def cpus_of(world: World, pid: int) -> str:
    return str(allowed_cpus(pid, pid, files=world.files))


def test_a_new_group_is_empty_and_takes_no_task(world: World) -> None:
    path = f"{world.top}/new"
    world.files.mkdir(path)
    pid = world.spawn(1)

    assert world.files.read(f"{path}/cpuset.cpus").strip() == ""
    assert world.files.read(f"{path}/cpuset.mems").strip() == ""
    assert write_code(world, f"{path}/tasks", str(pid)) == "ENOSPC"
    world.files.write(f"{path}/cpuset.cpus", "0")
    assert write_code(world, f"{path}/cgroup.procs", str(pid)) == "ENOSPC"  # mems are still empty


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("cpuset.cpus", "99999", "ERANGE"),
        ("cpuset.cpus", "a", "EINVAL"),
        ("cpuset.mems", "63", "EINVAL"),
        ("cpuset.cpus", "0," * 2100, "E2BIG"),
        ("tasks", "-5", "EINVAL"),
        ("tasks", "1,2", "EINVAL"),
        ("tasks", "2", "EINVAL"),
        ("cgroup.procs", "nobody", "EINVAL"),
        ("cpuset.nothing", "1", "ENOENT"),
    ],
)
def test_a_wrong_text_is_refused_with_the_kernels_number(
    world: World, group: str, name: str, text: str, code: str
) -> None:
    assert write_code(world, f"{group}/{name}", text) == code


def test_an_empty_text_does_nothing_and_a_newline_empties(world: World, group: str) -> None:
    world.files.write(f"{group}/cpuset.cpus", "")
    assert world.files.read(f"{group}/cpuset.cpus").strip() == "0-1"

    world.files.write(f"{group}/cpuset.cpus", "\n")
    assert world.files.read(f"{group}/cpuset.cpus").strip() == ""


def test_a_group_with_tasks_cannot_be_emptied_or_removed(world: World, group: str) -> None:
    world.files.write(f"{group}/cgroup.procs", str(world.spawn(1)))

    assert write_code(world, f"{group}/cpuset.cpus", "\n") == "ENOSPC"
    assert code_of(lambda: world.files.rmdir(group)) == "EBUSY"


def test_child_and_parent_must_fit(world: World, group: str) -> None:
    inner = f"{group}/inner"
    world.files.mkdir(inner)
    world.files.write(f"{inner}/cpuset.cpus", "1")

    assert write_code(world, f"{group}/cpuset.cpus", "0") == "EBUSY"
    world.files.write(f"{group}/cpuset.cpus", "1")
    assert write_code(world, f"{inner}/cpuset.cpus", "0") == "EACCES"
    assert code_of(lambda: world.files.rmdir(group)) == "EBUSY"


def test_folders_are_made_once_and_listed(world: World, group: str) -> None:
    assert code_of(lambda: world.files.mkdir(group)) == "EEXIST"
    assert code_of(lambda: world.files.mkdir(f"{group}/a/b")) == "ENOENT"
    assert code_of(lambda: world.files.rmdir(f"{group}/a")) == "ENOENT"
    assert code_of(lambda: _ignore(world.files.folders(f"{group}/a"))) == "ENOENT"
    assert world.files.folders(world.top) == ("one",)


def _ignore(value: object) -> None:
    assert value is not None


def test_procs_moves_every_thread_and_tasks_moves_one(world: World, group: str) -> None:
    pid = world.spawn(5)
    other = f"{world.top}/other"
    world.files.mkdir(other)
    for name, text in (("cpuset.mems", "0"), ("cpuset.cpus", "1")):
        world.files.write(f"{other}/{name}", text)
    tids = [int(name) for name in world.files.folders(f"/proc/{pid}/task")]

    world.files.write(f"{group}/cgroup.procs", str(pid))
    world.files.write(f"{other}/tasks", str(tids[-1]))

    inside = {int(line) for line in world.files.read(f"{group}/tasks").split()}
    assert len(tids) == 5
    assert inside == set(tids[:-1])
    assert where(world, pid, tids[-1]).endswith("/other")
    assert str(allowed_cpus(pid, tids[-1], files=world.files)) == "1"
    assert world.files.read(f"{group}/cgroup.procs").split() == [str(pid)]


def test_a_dead_pid_is_no_task_and_a_zombie_is_accepted_for_nothing(world: World, group: str) -> None:
    world.files.write(f"{group}/cgroup.procs", str(world.zombie()))

    assert write_code(world, f"{group}/cgroup.procs", "4000000") == "ESRCH"
    world.files.rmdir(group)


def test_numbers_are_read_in_any_base(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.files.write(f"{group}/tasks", f" {hex(pid)} ")

    assert where(world, pid, pid).endswith("/one")


def test_a_threads_own_mask_is_remembered_under_every_cpuset(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.affinity.set(pid, CpuSet.parse("0"))
    world.files.write(f"{group}/cgroup.procs", str(pid))
    seen = [cpus_of(world, pid)]
    for cpus in ("1", "0-1"):
        world.files.write(f"{group}/cpuset.cpus", cpus)
        seen.append(cpus_of(world, pid))

    assert seen == ["0", "1", "0"]


def test_affinity_is_cut_to_the_cpuset_and_refused_outside(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.files.write(f"{group}/cpuset.cpus", "0")
    world.files.write(f"{group}/cgroup.procs", str(pid))

    assert code_of(lambda: world.affinity.set(pid, CpuSet.parse("1"))) == "EINVAL"
    world.affinity.set(pid, CpuSet.parse("0-1"))
    assert str(world.affinity.get(pid)) == "0"
    world.files.write(f"{group}/cpuset.cpus", "0-1")
    assert str(world.affinity.get(pid)) == "0-1"


def test_affinity_of_a_dead_thread_is_no_such_process(world: World) -> None:
    assert code_of(lambda: _ignore(world.affinity.get(4000000))) == "ESRCH"
    assert code_of(lambda: world.affinity.set(4000000, CpuSet.parse("0"))) == "ESRCH"
