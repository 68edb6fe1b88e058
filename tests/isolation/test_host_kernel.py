"""The real files, calls and handles, and which mechanism a host offers to whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isolation.enforcer import Enforcer, Mechanism
from isolation.errors import MechanismMissing
from isolation.kernelfs import HOST_FILES, HOST_HANDLES
from isolation.topology import read_topology
from tests.fakes.children import end_group, real_process

_AS_NOBODY = """
import os, subprocess, sys
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer, Target
from isolation.errors import ForeignProcess
from isolation.process import identify
from isolation.spec import IsolationSpec
from isolation.topology import read_topology
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # after all imports: Python itself may lie where nobody reads
own = subprocess.Popen(["/bin/sleep", "60"])
try:
    enforcer = Enforcer.for_host(read_topology())
    target = Target(processes=(identify(own.pid, allowed_uids=frozenset({65534})),))
    undo = enforcer.snapshot("own", target)
    before = os.sched_getaffinity(own.pid)
    applied = enforcer.apply("own", target, IsolationSpec(cpus=CpuSet.parse("1")), undo)
    placed = os.sched_getaffinity(own.pid)
    enforcer.release(undo)
    print(enforcer.mechanism, applied.complete, placed == {1}, os.sched_getaffinity(own.pid) == before)
    try:
        identify(int(sys.argv[1]), allowed_uids=frozenset({65534}))
    except ForeignProcess as refused:
        print(refused)
finally:
    own.kill()
    own.wait()
"""


def test_links_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("x", encoding="utf-8")

    assert HOST_FILES.folders(str(tmp_path)) == ("real",)


def test_a_file_of_any_length_is_read_whole_and_its_bytes_survive(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for data in (b"", b"\xff\r\n", b"x" * 65536, b"0123456789\n" * 30_000):
        target.write_bytes(data)

        assert HOST_FILES.read(str(target)).encode(errors="surrogateescape") == data


def test_a_list_that_the_kernel_hands_out_page_by_page_is_read_whole() -> None:
    text = HOST_FILES.read("/proc/self/maps")

    assert len(text) > 3 * os.sysconf("SC_PAGE_SIZE")
    assert "[stack]" in text  # among the last lines


def test_an_error_names_the_file_also_when_it_comes_after_opening(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        HOST_FILES.read(str(tmp_path))

    assert caught.value.filename == str(tmp_path)


def test_a_text_is_written_whole_or_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("", encoding="utf-8")
    HOST_FILES.write(str(target), "0-3")

    assert HOST_FILES.read(str(target)) == "0-3"
    with pytest.raises(FileNotFoundError):
        HOST_FILES.write(str(tmp_path / "absent"), "0")
    with pytest.raises(OSError, match="No space left"):
        HOST_FILES.write("/dev/full", "0")


def test_a_handle_tells_when_its_process_ends() -> None:
    with real_process() as pid:
        handle = HOST_HANDLES.open(pid)
        alive = HOST_HANDLES.alive(handle)
        end_group(pid)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        ended = not HOST_HANDLES.alive(handle)
        HOST_HANDLES.close(handle)

    assert (alive, ended) == (True, True)
    with pytest.raises(ProcessLookupError):
        HOST_HANDLES.open(pid)


def test_a_mechanism_that_is_not_there_is_missing_with_the_reason() -> None:
    topology = read_topology()
    found = Enforcer.for_host(topology).mechanism
    wrong = Mechanism.CGROUP_V2 if found is not Mechanism.CGROUP_V2 else Mechanism.CGROUP_V1

    with pytest.raises(MechanismMissing, match=f"mechanism '{wrong}' is not available: "):
        Enforcer.for_host(topology, mechanism=wrong)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an ordinary user")
def test_an_ordinary_user_places_own_processes_by_affinity_and_no_others(tmp_path: Path) -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    with real_process() as foreign:
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(foreign)],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": os.getcwd(), "HOME": str(tmp_path)},  # noqa: PTH109
        )

    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "affinity True True True"
    assert "belongs to user 0, allowed are 65534; start the daemon with --allow-uid 0" in done.stdout
