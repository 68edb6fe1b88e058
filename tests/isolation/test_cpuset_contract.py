"""The fake cpuset and the real one obey the same rules; the enforcer's tests rest on that."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from isolation.cpuset import CpuSet
from isolation.process import allowed_cpus
from tests.isolation.worlds import World, enter

REAL_1 = pytest.param("real v1", marks=pytest.mark.root)
REAL_2 = pytest.param("real v2", marks=pytest.mark.root)
FAKES_2 = ("fake v2", "old fake v2")  # old = before Linux 6.2, which forgets what threads asked for themselves
version_1 = pytest.mark.parametrize("world", ["fake v1", REAL_1], indirect=True)
version_2 = pytest.mark.parametrize("world", [*FAKES_2, REAL_2], indirect=True)


@pytest.fixture(params=["fake v1", REAL_1, *FAKES_2, REAL_2])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield enter(request.param, stack)


@pytest.fixture
def group(world: World) -> str:
    """Make a group with both CPUs."""
    path = f"{world.top}/one"
    if world.version == 2:
        world.files.write(f"{world.top}/cgroup.subtree_control", "+cpuset")
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
    text = world.files.read(f"/proc/{pid}/task/{tid}/cgroup")
    return text.split("cpuset:" if world.version == 1 else "0::")[1].splitlines()[0]


def cpus_of(world: World, pid: int) -> str:
    return str(allowed_cpus(pid, pid, files=world.files))


@version_1
def test_fault_40_a_new_group_is_empty_and_takes_no_task(world: World) -> None:
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
        ("cpuset.cpus", "0," * 50000, "E2BIG"),  # more than 100 + 6 * NR_CPUS, with any NR_CPUS
        ("cgroup.procs", "0" * 4096 + "1", "E2BIG"),
        ("TASKS", "-5", "EINVAL"),
        ("TASKS", "1,2", "EINVAL"),
        ("TASKS", "2", "EINVAL"),
        ("cgroup.procs", "-5", "EINVAL"),
        ("cgroup.procs", "2", "EINVAL"),
        ("cgroup.procs", "nobody", "EINVAL"),
        ("cpuset.nothing", "1", "ENOENT"),
    ],
)
def test_a_wrong_text_is_refused_with_the_kernels_number(
    world: World, group: str, name: str, text: str, code: str
) -> None:
    name = name.replace("TASKS", "tasks" if world.version == 1 else "cgroup.threads")

    assert write_code(world, f"{group}/{name}", text) == code


def test_an_empty_text_does_nothing_and_a_newline_empties(world: World, group: str) -> None:
    world.files.write(f"{group}/cpuset.cpus", "")
    assert world.files.read(f"{group}/cpuset.cpus").strip() == "0-1"

    world.files.write(f"{group}/cpuset.cpus", "\n")
    assert world.files.read(f"{group}/cpuset.cpus").strip() == ""


@version_1
def test_a_group_with_tasks_cannot_be_emptied_or_removed(world: World, group: str) -> None:
    world.files.write(f"{group}/cgroup.procs", str(world.spawn(1)))

    assert write_code(world, f"{group}/cpuset.cpus", "\n") == "ENOSPC"
    assert code_of(lambda: world.files.rmdir(group)) == "EBUSY"


@version_1
def test_fault_39_child_and_parent_must_fit(world: World, group: str) -> None:
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


@version_1
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


def test_fault_31_a_dead_pid_is_no_task_and_a_zombie_is_accepted_for_nothing(world: World, group: str) -> None:
    world.files.write(f"{group}/cgroup.procs", str(world.zombie()))

    assert write_code(world, f"{group}/cgroup.procs", "4000000") == "ESRCH"
    world.files.rmdir(group)


def test_numbers_are_read_in_any_base(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.files.write(f"{group}/cgroup.procs", f" {hex(pid)} ")

    assert where(world, pid, pid).endswith("/one")


def test_a_threads_own_mask_is_remembered_under_every_cpuset_since_linux_6_2(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.affinity.set(pid, CpuSet.parse("0"))
    world.files.write(f"{group}/cgroup.procs", str(pid))
    seen = [cpus_of(world, pid)]
    for cpus in ("1", "0-1"):
        world.files.write(f"{group}/cpuset.cpus", cpus)
        seen.append(cpus_of(world, pid))

    assert seen == (["0", "1", "0"] if world.remembers_masks else ["0-1", "1", "0-1"])


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


# --- cgroup v2 only --------------------------------------------------------------------------------


@version_2
def test_a_new_v2_group_has_what_its_parent_has_and_takes_tasks(world: World) -> None:
    world.files.write(f"{world.top}/cgroup.subtree_control", "+cpuset")
    path = f"{world.top}/new"
    world.files.mkdir(path)
    pid = world.spawn(3)
    world.files.write(f"{path}/cgroup.procs", str(pid))

    assert world.files.read(f"{path}/cpuset.cpus").strip() == ""
    assert world.files.read(f"{path}/cpuset.mems").strip() == ""
    assert world.files.read(f"{path}/cpuset.cpus.effective").strip() == "0-1"
    assert world.files.read(f"{path}/cpuset.mems.effective").strip() == "0"
    assert len(world.files.read(f"{path}/cgroup.threads").split()) == 3
    assert cpus_of(world, pid) == "0-1"


@version_2
def test_fault_38_v2_accepts_what_the_parent_lacks_and_grants_what_it_has(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.files.write(f"{group}/cgroup.procs", str(pid))
    seen = []
    for upper, lower in (("0", "0-1"), ("0", "1"), ("1", "1")):
        world.files.write(f"{world.top}/cpuset.cpus", upper)
        world.files.write(f"{group}/cpuset.cpus", lower)
        texts = [world.files.read(f"{group}/cpuset.cpus{name}").strip() for name in ("", ".effective")]
        seen.append((*texts, cpus_of(world, pid)))

    assert seen == [("0-1", "0", "0"), ("1", "0", "0"), ("1", "1", "1")]


@version_2
def test_a_v2_group_with_tasks_cannot_be_emptied_or_removed(world: World, group: str) -> None:
    world.files.write(f"{group}/cgroup.procs", str(world.spawn(1)))

    assert write_code(world, f"{group}/cpuset.cpus", "\n") == "ENOSPC"
    assert write_code(world, f"{group}/cpuset.mems", "\n") == "ENOSPC"
    assert code_of(lambda: world.files.rmdir(group)) == "EBUSY"


@version_2
def test_v2_moves_processes_and_no_single_thread(world: World, group: str) -> None:
    pid = world.spawn(3)
    other = f"{world.top}/other"
    world.files.mkdir(other)
    tids = [int(name) for name in world.files.folders(f"/proc/{pid}/task")]
    world.files.write(f"{group}/cgroup.procs", str(tids[-1]))  # any thread names its whole process

    assert write_code(world, f"{other}/cgroup.threads", str(tids[-1])) == "ENOTSUP"
    assert write_code(world, f"{group}/cgroup.threads", str(tids[-1])) == "no error"
    assert {where(world, pid, tid).rpartition("/")[2] for tid in tids} == {"one"}
    assert world.files.read(f"{group}/cgroup.procs").split() == [str(pid)]


@version_2
def test_fault_41_without_the_controller_a_v2_group_has_no_cpuset_and_forgets_it(world: World, group: str) -> None:
    pid = world.spawn(1)
    world.files.write(f"{group}/cgroup.procs", str(pid))
    world.files.write(f"{group}/cpuset.cpus", "1")
    world.files.write(f"{world.top}/cgroup.subtree_control", "-cpuset")
    without = write_code(world, f"{group}/cpuset.cpus", "1"), cpus_of(world, pid)
    world.files.write(f"{world.top}/cgroup.subtree_control", "+cpuset")

    assert without == ("ENOENT", "0-1")
    assert world.files.read(f"{group}/cpuset.cpus").strip() == ""


@version_2
def test_v2_tasks_are_either_in_a_group_or_in_those_below_that_have_a_cpuset(world: World, group: str) -> None:
    inner = f"{group}/inner"
    pid, other = world.spawn(1), world.spawn(1)
    world.files.write(f"{group}/cgroup.procs", str(pid))
    world.files.write(f"{group}/cgroup.subtree_control", "+cpuset")
    world.files.mkdir(inner)
    with_tasks_above = write_code(world, f"{inner}/cgroup.procs", str(other))
    world.files.write(f"{world.mount}/cgroup.procs", str(pid))
    alone = write_code(world, f"{inner}/cgroup.procs", str(other))
    then_above = write_code(world, f"{group}/cgroup.procs", str(pid))

    assert (with_tasks_above, alone, then_above) == ("ENOTSUP", "no error", "EBUSY")
    assert write_code(world, f"{world.top}/cgroup.subtree_control", "-cpuset") == "EBUSY"


@version_2
def test_v2_controllers_that_are_not_there_are_refused(world: World, group: str) -> None:
    assert write_code(world, f"{group}/cgroup.subtree_control", "+nothing") == "EINVAL"
    world.files.write(f"{world.top}/cgroup.subtree_control", "-cpuset")
    assert write_code(world, f"{group}/cgroup.subtree_control", "+cpuset") == "ENOENT"
