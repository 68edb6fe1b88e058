"""The enforcer on this host's kernel, with real processes: cpuset groups (root) and affinity (anybody)."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from isolation.cgroup import CpusetHierarchy, find_hierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer, Mechanism, Target, Undo
from isolation.errors import ApplyFailed, ForeignProcess, ProcessGone, ProcessReused
from isolation.kernelfs import HOST_HANDLES
from isolation.process import identify, read_stat
from isolation.spec import IsolationSpec
from isolation.topology import read_topology
from tests.fakes.children import end_group, real_process
from tests.fakes.counted import CountedKernel
from tests.fakes.processes import wait_until

ON_1 = IsolationSpec(cpus=CpuSet.parse("1"))
REMEMBERS_MASKS = tuple(map(int, platform.release().split(".")[:2])) >= (6, 2)
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
PREFIX = f"cotenant-test-{os.getpid()}"


def _enforcer(kind: str) -> Enforcer:
    topology = read_topology()
    if not CpuSet.parse("0-1") <= topology.usable:
        pytest.skip("needs CPUs 0 and 1")
    if kind == "affinity":
        return Enforcer.for_host(topology, mechanism=Mechanism.AFFINITY, prefix=PREFIX)
    enforcer = Enforcer.for_host(topology, prefix=PREFIX)
    if enforcer.mechanism is Mechanism.AFFINITY:
        pytest.skip("needs root and a writable cpuset hierarchy")
    return enforcer


@pytest.fixture(params=["affinity", pytest.param("cgroup", marks=pytest.mark.root)])
def enforcer(request: pytest.FixtureRequest) -> Iterator[Enforcer]:
    one = _enforcer(request.param)
    yield one
    assert one.groups() == ()


def target_of(pid: int) -> Target:
    return Target(processes=(identify(pid, allowed_uids=frozenset({os.getuid()})),))


def picture(*pids: int) -> dict[int, tuple[str, str]]:
    """Return cgroups and allowed CPUs of every thread, as the kernel tells them; not of those that end meanwhile."""
    found = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                status = (task / "status").read_text(encoding="utf-8")
                cgroups = (task / "cgroup").read_text(encoding="utf-8")
            except (FileNotFoundError, ProcessLookupError):
                continue
            cpus = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
            if read_stat(int(task.name), proc_root=f"/proc/{pid}/task"):  # one that ends is in no group any more
                found[int(task.name)] = (cgroups, cpus.split()[1])
    return found


def tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [pid, *map(int, children)]


def test_every_thread_and_child_is_placed_and_everything_is_restored(enforcer: Enforcer) -> None:
    with real_process(threads=20, pinned=4, children=2) as pid:
        before = picture(*tree(pid))
        target = target_of(pid)
        undo = enforcer.snapshot("many", target)
        applied = enforcer.apply("many", target, ON_1, undo)
        placed = {cpus for _, cpus in picture(*tree(pid)).values()}
        again = enforcer.apply("many", target, ON_1, Undo.from_json(undo.to_json()))
        drifts = enforcer.verify(target, ON_1, undo)
        released = enforcer.release(undo)
        after = picture(*tree(pid))

    assert (applied.threads, applied.complete) == (24, True)
    assert placed == {"1"}
    assert again.writes == 0
    assert drifts == ()
    assert (released.restored, released.gone, released.left_over) == (24, 0, ())
    assert after == before
    assert {cpus for _, cpus in before.values()} == {"0", "1", str(CpuSet.of(os.sched_getaffinity(0)))}


def test_fault_34_own_masks_stay_narrow_inside_a_wide_placement(enforcer: Enforcer) -> None:
    with real_process(threads=5, pinned=2) as pid:
        target = target_of(pid)
        undo = enforcer.snapshot("wide", target)
        applied = enforcer.apply("wide", target, IsolationSpec(cpus=CpuSet.parse("0-1")), undo)
        enforcer.release(undo)

    forgotten = enforcer.mechanism is not Mechanism.AFFINITY and not REMEMBERS_MASKS  # a new cpuset wipes own masks
    assert len(applied.narrowed) == (0 if forgotten else 2)


def test_fault_32_thread_churn_is_caught_and_released(enforcer: Enforcer) -> None:
    with real_process(threads=4, churn=True) as pid:
        before = picture(pid)[pid]
        target = target_of(pid)
        undo = enforcer.snapshot("churn", target)
        applied = enforcer.apply("churn", target, ON_1, undo)
        time.sleep(0.1)
        found = enforcer.verify(target, ON_1, undo)
        released = enforcer.release(undo)
        time.sleep(0.1)
        states = picture(pid)

    assert applied.complete
    assert found == ()
    assert released.left_over == ()
    assert set(states.values()) == {before}


def test_children_born_while_placed_go_home_with_their_parent(enforcer: Enforcer) -> None:
    with real_process(threads=2) as parent:
        before = picture(parent)[parent]
        target = target_of(parent)
        undo = enforcer.snapshot("family", target)
        enforcer.apply("family", target, ON_1, undo)
        os.kill(parent, signal.SIGUSR1)  # one more thread and one more child
        wait_until(lambda: len(tree(parent)) == 2 and len(picture(parent)) == 3)
        grown = set(picture(*tree(parent)).values())
        released = enforcer.release(undo)
        after = picture(*tree(parent))

    assert {cpus for _, cpus in grown} == {"1"}
    assert released.left_over == ()
    assert set(after.values()) == {before}
    assert len(after) == 4


@pytest.mark.parametrize("kind", ["affinity", pytest.param("cgroup", marks=pytest.mark.root)])
def test_applying_200_placements_again_asks_the_kernel_for_no_change(kind: str) -> None:
    count = 50 if "COTENANT_VM_RESCTRL" in os.environ else 200  # under emulation each takes a sixth of a second
    mechanism = _enforcer(kind).mechanism
    counted = CountedKernel()
    enforcer = Enforcer(
        read_topology(),
        files=counted,
        affinity=counted,
        handles=HOST_HANDLES,
        hierarchy=find_hierarchy(),
        mechanism=mechanism,
        prefix=PREFIX,
    )
    with ExitStack() as stack:
        targets = {}
        for number in range(count):
            process = stack.enter_context(subprocess.Popen(["sleep", "600"]))
            stack.callback(process.kill)
            targets[f"w{number}"] = target_of(process.pid)
        undos = {name: enforcer.snapshot(name, target) for name, target in targets.items()}
        assert counted.changes == []
        first = sum(enforcer.apply(name, target, ON_1, undos[name]).writes for name, target in targets.items())
        done = len(counted.changes)
        again = sum(enforcer.apply(name, target, ON_1, undos[name]).writes for name, target in targets.items())
        drifts = [enforcer.verify(target, ON_1, undos[name]) for name, target in targets.items()]
        asked = counted.changes[done:]
        released = [enforcer.release(undo) for undo in undos.values()]

    assert first == done >= count
    assert (again, asked) == (0, [])
    assert set(drifts) == {()}
    assert {(one.restored, one.left_over) for one in released} == {(1, ())}
    assert enforcer.groups() == ()


def test_fault_31_a_process_that_died_before_apply_is_gone(enforcer: Enforcer) -> None:
    with real_process() as pid:
        target = target_of(pid)
        undo = enforcer.snapshot("short", target)
        end_group(pid)
        time.sleep(0.05)
        with pytest.raises(ProcessGone, match=f"process {pid} "):
            enforcer.apply("short", target, ON_1, undo)

    assert enforcer.groups() == ()


def test_a_process_that_died_after_apply_is_released_as_gone(enforcer: Enforcer) -> None:
    with real_process(threads=3) as pid:
        target = target_of(pid)
        undo = enforcer.snapshot("late", target)
        enforcer.apply("late", target, ON_1, undo)
        end_group(pid)
        time.sleep(0.05)
        released = enforcer.release(undo)

    assert (released.restored, released.gone, released.left_over) == (0, 3, ())


@pytest.mark.parametrize("delay_s", [0.0, 0.002])
def test_processes_that_are_just_dying_leave_no_group_behind(enforcer: Enforcer, delay_s: float) -> None:
    told: list[str] = []
    for _ in range(4 if "COTENANT_VM_RESCTRL" in os.environ else 20):  # one takes two seconds under emulation
        with real_process(threads=16) as pid:
            target = target_of(pid)
            undo = enforcer.snapshot("dying", target)
            enforcer.apply("dying", target, ON_1, undo)
            end_group(pid)
            time.sleep(delay_s)
            told += enforcer.release(undo).left_over

    assert told == []
    assert enforcer.groups() == ()


@pytest.mark.root
def test_an_existing_group_is_confined_by_its_files_and_restored(hierarchy: CpusetHierarchy) -> None:
    enforcer = _enforcer("cgroup")
    mount = Path(hierarchy.mount)
    group = mount / f"cotenant_test_existing_{os.getpid()}"
    inner = group / "inner"
    with real_process(threads=3) as pid:
        for folder in (group, inner):
            if hierarchy.version == 2:
                (folder.parent / "cgroup.subtree_control").write_text("+cpuset", encoding="utf-8")
            folder.mkdir()
            (folder / "cpuset.mems").write_text("0", encoding="utf-8")
            (folder / "cpuset.cpus").write_text("0-1" if folder == group else "0", encoding="utf-8")
        try:
            (inner / "cgroup.procs").write_text(str(pid), encoding="utf-8")
            before = picture(pid)
            target = Target(cgroup_path=f"/{group.name}")
            undo = enforcer.snapshot("existing", target)
            applied = enforcer.apply("existing", target, ON_1, undo)
            placed = {cpus for _, cpus in picture(pid).values()}
            drifts = enforcer.verify(target, ON_1, undo)
            again = enforcer.apply("existing", target, ON_1, undo)
            released = enforcer.release(undo)
            after = picture(pid)
            texts = [(folder / "cpuset.cpus").read_text(encoding="utf-8").strip() for folder in (group, inner)]
        finally:
            (mount / "cgroup.procs").write_text(str(pid), encoding="utf-8")
            inner.rmdir()
            group.rmdir()

    assert (applied.threads, again.writes, drifts) == (3, 0, ())
    assert placed == {"1"}
    assert released.left_over == ()
    assert texts == ["0-1", "0"]
    assert after == before


@pytest.mark.root
def test_fault_39_a_foreign_exclusive_group_makes_apply_fail_and_undo(hierarchy: CpusetHierarchy) -> None:
    if hierarchy.version != 1:
        pytest.skip("cgroup v2 has no cpu_exclusive")
    enforcer = _enforcer("cgroup")
    rival = Path(hierarchy.mount) / f"cotenant_test_rival_{os.getpid()}"
    rival.mkdir()
    with real_process(threads=3) as pid:
        try:
            (rival / "cpuset.mems").write_text("0", encoding="utf-8")
            (rival / "cpuset.cpus").write_text("1", encoding="utf-8")
            try:
                (rival / "cpuset.cpu_exclusive").write_text("1", encoding="utf-8")
            except OSError:
                pytest.skip("another group of this host overlaps, so none can be exclusive")
            before = picture(pid)
            target = target_of(pid)
            undo = enforcer.snapshot("web", target)
            with pytest.raises(ApplyFailed, match="EINVAL"):
                enforcer.apply("web", target, ON_1, undo)
            after = picture(pid)
        finally:
            rival.rmdir()

    assert after == before
    assert enforcer.groups() == ()


# --- processes that are not what they were (faults 25, 30, 33, 35) --------------------------------


def _take_over(pid: int) -> subprocess.Popen[bytes]:
    """Start a process that gets this pid, which nobody has."""
    for _ in range(200):  # others start processes meanwhile
        LAST_PID.write_text(str(pid - 1), encoding="ascii")
        process = subprocess.Popen(["sleep", "60"])
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    raise AssertionError(f"pid {pid} could not be had")


@pytest.mark.root
@pytest.mark.parametrize("moment", ["before apply", "before release"])
def test_fault_25_a_real_pid_given_to_another_process_is_never_touched(enforcer: Enforcer, moment: str) -> None:
    if not os.access(LAST_PID, os.W_OK):
        pytest.skip(f"needs root and {str(LAST_PID)!r}, which checkpoint/restore kernels have")
    with subprocess.Popen(["sleep", "60"]) as first:
        target = target_of(first.pid)
        undo = enforcer.snapshot("reused", target)
        if moment == "before release":
            enforcer.apply("reused", target, ON_1, undo)
        first.kill()
        first.wait()
    time.sleep(0.03)  # the start of a process is told in steps of 10 ms
    with _take_over(first.pid) as stranger:
        try:
            before = picture(stranger.pid)
            if moment == "before apply":
                with pytest.raises(ProcessReused, match=rf"process {first.pid} .* its pid belongs to"):
                    enforcer.apply("reused", target, ON_1, undo)
            drifts = enforcer.verify(target, ON_1, undo)
            released = enforcer.release(undo)
            after = picture(stranger.pid)
        finally:
            stranger.kill()

    assert after == before
    assert drifts == ()
    assert (released.restored, released.gone, released.left_over) == (0, 1, ())


def test_fault_35_a_process_stays_itself_over_exec_and_setuid(enforcer: Enforcer) -> None:
    user = 12345 if os.geteuid() == 0 else os.geteuid()
    change = f"import os; input(); os.setresuid({user}, {user}, {user}); os.execv('/bin/sleep', ['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-S", "-c", change], stdin=subprocess.PIPE) as process:
        try:
            target = target_of(process.pid)
            undo = enforcer.snapshot("changed", target)
            enforcer.apply("changed", target, ON_1, undo)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text(encoding="utf-8") == "sleep\n")
            drifts = enforcer.verify(target, ON_1, undo)
            again = enforcer.apply("changed", target, ON_1, undo)
            if user != os.geteuid():  # asked for anew, the policy looks at who it is now
                with pytest.raises(ForeignProcess, match="belongs to user 12345"):
                    target_of(process.pid)
            released = enforcer.release(undo)
            after = {cpus for _, cpus in picture(process.pid).values()}
        finally:
            process.kill()

    assert drifts == ()
    assert (again.threads, again.writes) == (1, 0)
    assert (released.restored, released.left_over) == (1, ())
    assert after == {str(CpuSet.of(os.sched_getaffinity(0)))}


@pytest.mark.root
def test_fault_30_a_real_process_of_another_pid_namespace_is_refused_by_number() -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "sleep", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda: process.poll() is not None or bool(children.read_text(encoding="ascii").strip()))
            if process.poll() is not None:
                pytest.skip("this user may not make a pid namespace")
            inside = int(children.read_text(encoding="ascii"))
            with pytest.raises(ForeignProcess, match=r"another pid namespace .* place its cgroup_path"):
                identify(inside, allowed_uids=None)
            found = identify(inside, allowed_uids=None, named=False)
        finally:
            process.kill()

    assert found.pid == inside


def test_fault_33_a_process_of_a_thousand_threads_is_placed_and_restored_in_one_go(enforcer: Enforcer) -> None:
    with real_process(threads=1000) as pid:
        target = target_of(pid)
        undo = enforcer.snapshot("crowd", target)
        applied = enforcer.apply("crowd", target, ON_1, undo)
        placed = {cpus for _, cpus in picture(pid).values()}
        released = enforcer.release(undo)
        after = {cpus for _, cpus in picture(pid).values()}

    assert (applied.threads, applied.complete) == (1000, True)
    assert placed == {"1"}
    assert (released.restored, released.left_over) == (1000, ())
    assert after == {str(CpuSet.of(os.sched_getaffinity(0)))}
