"""One placement from end to end on a machine with two NUMA nodes and cgroup v2: what make test-vm boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotenant import Client
from cotenant.v1 import placement_pb2
from isolation.cpuset import CpuSet
from tests.fakes.children import real_process

pytestmark = pytest.mark.root


def picture(mount: Path) -> dict[str, str]:
    """Return every cpuset file and subtree_control of every group, as the kernel tells them."""
    names = ("cgroup.subtree_control", "cpuset.cpus", "cpuset.mems", "cpuset.cpus.effective", "cpuset.mems.effective")
    found = {}
    for folder in (mount, *(one for one in mount.rglob("*") if one.is_dir())):
        found.update({str(folder / name): (folder / name).read_text() for name in names if (folder / name).exists()})
    return found


def threads(pid: int) -> dict[int, tuple[str, str, str]]:
    """Return Cpus_allowed_list, Mems_allowed_list and cgroup of every thread."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        cgroup = (task / "cgroup").read_text().strip()
        found[int(task.name)] = (status["Cpus_allowed_list"], status["Mems_allowed_list"], cgroup)
    return found


def test_every_thread_is_seen_where_the_answer_says_and_everything_is_restored(mount: Path, client: Client) -> None:
    with real_process(threads=20, pinned=4) as pid:
        groups_before, threads_before = picture(mount), threads(pid)
        placed = client.place("db", pids=[pid], cpus=2)
        during = threads(pid)
        groups = {cgroup for _, _, cgroup in during.values()}
        group = mount / next(iter(groups)).removeprefix("0::/")
        effective = {kind: (group / f"cpuset.{kind}.effective").read_text().strip() for kind in ("cpus", "mems")}
        released = client.release("db")
        groups_after, threads_after = picture(mount), threads(pid)

    cpus = CpuSet.parse(placed.cpus)
    assert (placed.state, placed.mechanism, placed.threads, len(cpus)) == (
        placement_pb2.PLACEMENT_STATE_ACTIVE,
        "cgroup_v2",
        20,
        2,
    )
    assert len(groups) == 1
    assert effective["cpus"] == placed.cpus
    assert effective["mems"] == (placed.mems or "0-1")
    assert {allowed for allowed, _, _ in during.values()} - {"0", "1"} == {placed.cpus}
    assert all(CpuSet.parse(allowed) <= cpus for allowed, _, _ in during.values())
    assert {mems for _, mems, _ in during.values()} == {effective["mems"]}
    assert released.state == placement_pb2.PLACEMENT_STATE_RELEASED
    assert threads_after == threads_before
    assert groups_after == groups_before


def test_two_placements_share_no_cpu_and_each_leaves_alone(mount: Path, client: Client) -> None:
    with real_process(threads=4) as first, real_process(threads=4) as second:
        before = picture(mount), threads(first), threads(second)
        one = client.place("one", pids=[first], cpus=2)
        two = client.place("two", pids=[second], cpus=2)
        client.release("one")
        left = {allowed for allowed, _, _ in threads(second).values()}
        client.release("two")
        after = picture(mount), threads(first), threads(second)

    assert not CpuSet.parse(one.cpus) & CpuSet.parse(two.cpus)
    assert left == {two.cpus}
    assert after == before


def test_an_existing_group_is_confined_by_its_files_and_restored(mount: Path, client: Client) -> None:
    group = mount / "cotenant_test_service"
    group.mkdir()
    with real_process(threads=4) as pid:
        try:
            (group / "cgroup.procs").write_text(str(pid))
            before = picture(mount), threads(pid)
            placed = client.place("service", cgroup_path="/cotenant_test_service", cpus=2)
            during = threads(pid)
            client.release("service")
            after = picture(mount), threads(pid)
        finally:
            (mount / "cgroup.procs").write_text(str(pid))
            group.rmdir()
    for kind, name in (("cpu", "cpuset.cpus"), ("node", "cpuset.mems")):
        # What is given to a group with tasks cannot become empty again; all that there can be means the same.
        full = Path(f"/sys/devices/system/{kind}/possible").read_text()
        assert before[0].pop(f"{group}/{name}") == "\n"
        assert after[0].pop(f"{group}/{name}") in {"\n", full}
    assert {(cpus, cgroup) for cpus, _, cgroup in during.values()} == {(placed.cpus, "0::/cotenant_test_service")}
    assert after == before
