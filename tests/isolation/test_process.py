"""Who a pid is, and whom we never touch."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.errors import ForeignProcess, KernelThread, ProcessGone, ProcessRefused, ReservedProcess
from isolation.process import ProcessIdentity, Stat, allowed_cpus, boot_id, family, identify, read_stat, still, threads
from tests.fakes.children import real_process
from tests.fakes.kernel import FakeKernel

_KERNEL_THREAD = 0x00200000


def who(kernel: FakeKernel, pid: int, uids: frozenset[int] | None = None, own: int = 99) -> ProcessIdentity:
    return identify(pid, allowed_uids=uids, files=kernel, own_pid=own)


@given(st.text(alphabet=st.characters(exclude_characters="\n\0"), max_size=16))
def test_stat_survives_any_name(comm: str) -> None:
    stat = Stat.parse(f"42 ({comm}) S 7 1 1 0 -1 4194304 {'0 ' * 12}12345 0 0\n")

    assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.starttime_ticks) == (42, comm, "S", 7, 12345)


@pytest.mark.parametrize("comm", ["a b", "(sd-pam)", "x) S 1 (", ")", ") Z 0 0 0"])
def test_a_name_that_looks_like_fields_is_a_name(comm: str) -> None:
    kernel = FakeKernel()

    assert who(kernel, kernel.spawn(comm=comm)).comm == comm


@pytest.mark.parametrize("pid", [0, -1, -(2**40), 32769, 2**40])
def test_fault_26_what_is_no_pid_is_refused_with_the_bounds(pid: int) -> None:
    with pytest.raises(ProcessRefused, match=f"pid {pid} is no process id: it must be from 1 to 32768") as caught:
        who(FakeKernel(), pid)

    assert caught.value.pid == pid


@pytest.mark.parametrize("zombie", [True, False])
def test_fault_31_the_ended_and_the_zombie_are_gone(zombie: bool) -> None:  # noqa: FBT001
    kernel = FakeKernel()
    pid = kernel.spawn()
    kernel.end(pid, zombie=zombie)

    with pytest.raises(ProcessGone, match=f"process {pid} does not exist"):
        who(kernel, pid)


def test_fault_28_a_kernel_thread_is_refused() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(comm="rcu_preempt", flags=_KERNEL_THREAD)

    with pytest.raises(KernelThread, match="'rcu_preempt'"):
        who(kernel, pid)


def test_fault_27_init_ourselves_and_our_ancestors_are_refused_but_not_our_children() -> None:
    kernel = FakeKernel()
    shell = kernel.spawn(comm="shell")
    daemon = kernel.fork(shell)
    child = kernel.fork(daemon)

    for pid in (1, shell, daemon):
        with pytest.raises(ReservedProcess, match=f"process {pid} "):
            who(kernel, pid, own=daemon)
    assert who(kernel, child, own=daemon).pid == child


@pytest.mark.parametrize("comm", ["systemd", "containerd-shim", "conmon"])
def test_fault_27_who_keeps_the_processes_of_others_is_refused_by_number(comm: str) -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(comm=comm)

    with pytest.raises(ReservedProcess, match="place one that it has started, or its cgroup"):
        who(kernel, pid)
    assert identify(pid, allowed_uids=None, files=kernel, own_pid=99, named=False).comm == comm


def test_fault_29_another_users_process_is_refused_with_the_option_that_allows_it() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(uid=1000, comm="db")

    with pytest.raises(ForeignProcess, match=r"\('db'\) belongs to user 1000, allowed are 0; .* --allow-uid 1000"):
        who(kernel, pid, frozenset({0}))
    assert who(kernel, pid, frozenset({0, 1000})).uid == 1000
    assert who(kernel, pid, None).uid == 1000


def test_fault_30_a_process_of_another_pid_namespace_is_refused() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(namespaces=2)

    with pytest.raises(ForeignProcess, match="cgroup_path"):
        who(kernel, pid)


def test_fault_30_a_process_of_another_pid_namespace_may_be_found_in_a_cgroup() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(namespaces=2)

    assert identify(pid, allowed_uids=None, files=kernel, own_pid=99, named=False).pid == pid


def test_fault_35_a_process_stays_itself_over_exec_and_setuid_but_the_policy_looks_anew() -> None:
    kernel = FakeKernel()
    identity = who(kernel, kernel.spawn(comm="sh"), frozenset({0}))
    kernel.processes[identity.pid].comm, kernel.processes[identity.pid].uid = "db", 1000

    assert still(identity, files=kernel)
    with pytest.raises(ForeignProcess, match=r"\('db'\) belongs to user 1000"):
        who(kernel, identity.pid, frozenset({0}))


def test_a_thread_is_refused_with_its_process() -> None:
    kernel = FakeKernel()
    pid = kernel.spawn(threads=2)

    with pytest.raises(ProcessRefused, match=f"is a thread of process {pid}"):
        who(kernel, max(kernel.processes[pid].threads))


@pytest.mark.parametrize(
    "change",
    [
        lambda kernel, pid: kernel.end(pid),
        lambda kernel, pid: kernel.end(pid, zombie=True),
        lambda kernel, pid: (kernel.end(pid), kernel.spawn(pid=pid)),
        lambda kernel, _: setattr(kernel, "boot_id", "another"),
    ],
    ids=["gone", "zombie", "reused", "rebooted"],
)
def test_an_identity_ends_with_its_process(change: Callable[[FakeKernel, int], object]) -> None:
    kernel = FakeKernel()
    identity = who(kernel, kernel.spawn())

    assert still(identity, files=kernel)
    change(kernel, identity.pid)
    assert not still(identity, files=kernel)


def test_real_process_threads_and_family() -> None:
    with real_process(threads=6, children=2) as pid:
        identity = identify(pid, allowed_uids=frozenset({os.getuid()}))
        found = threads(pid)
        everybody = family(pid)

        assert still(identity)
        assert not still(replace(identity, starttime_ticks=identity.starttime_ticks - 1))
        assert (identity.pid, identity.uid, identity.boot_id) == (pid, os.getuid(), boot_id())
        assert len({thread.tid for thread in found}) == 6
        assert (next(iter(everybody)), len(everybody)) == (pid, 3)
        assert everybody[pid] == tuple(thread.tid for thread in found)
        assert allowed_cpus(pid, pid) is not None
    assert not still(identity)
    assert threads(pid) == ()
    assert family(pid) == {}
    assert allowed_cpus(pid, pid) is None


def test_fault_27_real_init_ourselves_and_a_zombie_are_refused() -> None:
    for pid in (1, os.getpid(), os.getppid()):
        with pytest.raises(ReservedProcess):
            identify(pid, allowed_uids=None)
    with subprocess.Popen(["true"]) as process:
        assert process.stdin is None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGone):
            identify(process.pid, allowed_uids=None)


def test_a_real_thread_is_refused_with_its_process() -> None:
    with real_process(threads=2) as pid:
        tid = max(thread.tid for thread in threads(pid))
        with pytest.raises(ProcessRefused, match=f"is a thread of process {pid}"):
            identify(tid, allowed_uids=None)


def test_fault_28_a_real_kernel_thread_is_refused() -> None:
    stat = read_stat(2)
    if stat is None or stat.comm != "kthreadd":
        pytest.skip("pid 2 is no kernel thread here: this is a pid namespace")
    with pytest.raises(KernelThread, match="kthreadd"):
        identify(2, allowed_uids=None)


def test_a_status_without_cpus_is_an_error_and_not_a_thread_that_ended() -> None:
    class Strange(FakeKernel):
        """A kernel whose status files end early."""

        def read(self, path: str) -> str:
            return super().read(path).partition("Cpus_allowed_list")[0]

    kernel = Strange()
    pid = kernel.spawn()

    with pytest.raises(ValueError, match=f"'/proc/{pid}/task/{pid}/status' has no State or no Cpus_allowed_list"):
        allowed_cpus(pid, pid, files=kernel)


def test_family_works_without_children_files() -> None:
    class Older(FakeKernel):
        """A kernel without CONFIG_PROC_CHILDREN."""

        def read(self, path: str) -> str:
            if path.endswith("/children"):
                raise FileNotFoundError(2, "no such file", path)
            return super().read(path)

    kernel = Older()
    pid = kernel.spawn(threads=3)
    child = kernel.fork(pid)
    grandchild = kernel.fork(child)
    kernel.spawn()

    assert tuple(family(pid, files=kernel)) == (pid, child, grandchild)


def test_our_own_threads_are_found_while_they_come_and_go() -> None:
    stop = threading.Event()
    ours = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in ours:
        thread.start()
    found = {thread.tid for thread in threads(os.getpid())}
    stop.set()
    for thread in ours:
        thread.join()

    assert {thread.native_id for thread in ours} <= found
