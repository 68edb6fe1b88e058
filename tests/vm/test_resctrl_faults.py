"""Faults of resctrl under the whole enforcer, on a real kernel: make test-vm boots it. Mounts resctrl anew."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Enforcer, Target, Undo
from isolation.errors import IsolationError, SpecInvalid
from isolation.process import allowed_cpus, identify, thread_ids
from isolation.resctrl_info import find_resctrl
from isolation.resctrl_mask import WayMask
from isolation.resctrl_monitor import read_monitor
from isolation.resctrl_schemata import Schemata
from isolation.spec import CacheWays, IsolationSpec, MemoryBandwidth
from isolation.topology import read_topology
from tests.fakes.children import real_process

pytestmark = pytest.mark.root

PREFIX = f"cotenant-faults{os.getpid()}"
SPEC = IsolationSpec(
    cpus=CpuSet.parse("4-5"),
    mems=NodeSet.parse("1"),
    cache_ways=(CacheWays(cache_id=1, mask=WayMask(0x7)),),
    memory_bandwidth=(MemoryBandwidth(cache_id=1, percent=50),),
)
CPUS_ONLY = replace(SPEC, cache_ways=(), memory_bandwidth=())


class Placed:
    """One process of eight threads and the enforcer of this host."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.enforcer = Enforcer.for_host(read_topology(), prefix=PREFIX)
        self.target = Target(processes=(identify(pid, allowed_uids=None),))
        self.undo: Undo = self.enforcer.snapshot("web", self.target)

    def apply(self, spec: IsolationSpec = SPEC) -> str:
        """Apply; return why there is no class, if there is none."""
        applied = self.enforcer.apply("web", self.target, spec, self.undo)
        assert applied.complete
        return applied.class_refused

    def drifts(self, spec: IsolationSpec = SPEC) -> list[str]:
        return [one.found for one in self.enforcer.verify(self.target, spec, self.undo)]

    def group(self) -> set[str]:
        """Say in which resctrl groups the threads are, the default one being ""."""
        tids = set(thread_ids(self.pid))
        found = set()
        for folder in (Path("/sys/fs/resctrl"), *Path("/sys/fs/resctrl").glob("*")):
            if (folder / "tasks").exists() and tids & set(map(int, (folder / "tasks").read_text().split())):
                found.add("" if folder.name == "resctrl" else folder.name)
        return found

    def cpus(self) -> set[str]:
        return {str(allowed_cpus(self.pid, tid)) for tid in thread_ids(self.pid)}


@pytest.fixture
def resctrl() -> Iterator[Path]:
    found = find_resctrl()
    if found is None or not (found.path / "info/L3").is_dir():
        pytest.skip("needs a mounted resctrl with L3 and without CDP; make test-vm boots such a kernel")
    if len(read_topology().nodes) < 2:
        pytest.skip("needs two NUMA nodes; make test-vm boots such a machine")
    yield found.path
    if "cdp" in (now := find_resctrl() or found).options or "mba_MBps" in now.options:
        unmount(found.path)
    if find_resctrl() is None:
        mount(found.path)


@pytest.fixture
def placed(resctrl: Path) -> Iterator[Placed]:
    assert resctrl.exists()
    with real_process(threads=8) as pid:
        placed = Placed(pid)
        yield placed
        placed.enforcer.release(placed.undo)


def mount(path: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "resctrl", "resctrl", *options, str(path)], check=True)


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


@contextmanager
def foreign(path: Path, count: int) -> Iterator[list[Path]]:
    """Make groups of another tool."""
    made = [path / f"other{number}" for number in range(count)]
    for one in made:
        one.mkdir()
    try:
        yield made
    finally:
        for one in made:
            one.rmdir()


def test_fault_46_all_classes_taken_costs_the_ways_not_the_placement(resctrl: Path, placed: Placed) -> None:
    controls = placed.enforcer.controls()
    assert controls is not None
    with foreign(resctrl, controls.closids - 1):
        refused = placed.apply()
        without = placed.group(), placed.cpus(), placed.drifts(CPUS_ONLY)
    again = placed.apply()

    assert "Out of CLOSIDs" in refused
    assert without == ({""}, {"4-5"}, [])
    assert again == ""
    assert placed.group() == {f"{PREFIX}:web"}


def test_fault_49_unmounted_under_us_keeps_the_cpus_and_the_ways_come_back(resctrl: Path, placed: Placed) -> None:
    placed.apply()
    unmount(resctrl)
    lost = placed.enforcer.controls(), placed.drifts(), placed.apply(), placed.cpus(), placed.drifts(CPUS_ONLY)
    mount(resctrl)
    back = placed.apply(), placed.drifts(), placed.group()

    assert lost[0] is None
    assert ["no resctrl is mounted" in told for told in lost[1]] == [True]
    assert "no resctrl is mounted" in lost[2]
    assert lost[3:] == ({"4-5"}, [])
    assert back == ("", [], {f"{PREFIX}:web"})


def test_fault_50_mounted_with_cdp_the_ways_are_those_of_code_and_data(resctrl: Path, placed: Placed) -> None:
    placed.apply()
    unmount(resctrl)
    mount(resctrl, "-o", "cdp")
    applied = placed.apply(), placed.drifts()
    schemata = Schemata.parse((resctrl / f"{PREFIX}:web" / "schemata").read_text())
    placed.enforcer.release(placed.undo)

    assert applied == ("", [])
    assert [schemata.domains(name)[1] for name in ("L3CODE", "L3DATA")] == [WayMask(0x7)] * 2
    assert placed.group() == {""}


def test_fault_50_mounted_with_another_unit_of_bandwidth_old_numbers_are_refused(resctrl: Path, placed: Placed) -> None:
    placed.apply()
    unmount(resctrl)
    try:
        mount(resctrl, "-o", "mba_MBps")
    except subprocess.CalledProcessError:
        mount(resctrl)
        pytest.skip("this kernel does not steer by MB/s here: it needs local bandwidth monitoring")
    with pytest.raises(SpecInvalid, match="limited in MiB/s here, and the two cannot be converted"):
        placed.apply()
    steered = replace(SPEC, memory_bandwidth=(MemoryBandwidth(cache_id=1, bytes_per_s=512 << 20),))

    assert placed.apply(steered) == ""
    assert placed.drifts(steered) == []
    placed.enforcer.release(placed.undo)


def test_fault_51_a_foreign_edit_and_a_moved_thread_are_repaired(resctrl: Path, placed: Placed) -> None:
    placed.apply()
    (resctrl / f"{PREFIX}:web/schemata").write_text("L3:1=7f0\n")
    (resctrl / "tasks").write_text(str(placed.pid))
    edited = placed.drifts()
    placed.apply()

    assert len(edited) == 2
    assert placed.drifts() == []


def test_fault_52_a_foreign_group_on_our_ways_is_told(resctrl: Path, placed: Placed) -> None:
    with foreign(resctrl, 1):
        applied = placed.enforcer.apply("web", placed.target, SPEC, placed.undo)

    assert applied.overlapping == ("other0",)


def test_fault_54_what_the_kernel_counts_is_a_number_or_missing(resctrl: Path, placed: Placed) -> None:
    placed.apply()
    found = read_monitor(resctrl / f"{PREFIX}:web")

    assert [(one.resource, one.domain) for one in found] == [("L3", 0), ("L3", 1)]
    values = [one.llc_occupancy_bytes for one in found] + [one.mbm_total_bytes for one in found]
    assert all(value is None or value >= 0 for value in values)
    assert any(value is not None for value in values)


def test_fault_55_our_group_removed_by_others_is_made_again(resctrl: Path, placed: Placed) -> None:
    placed.apply()
    (resctrl / f"{PREFIX}:web").rmdir()
    removed = placed.drifts()
    placed.apply()

    assert ["somebody removed the group" in told for told in removed] == [True]
    assert placed.drifts() == []
    assert placed.group() == {f"{PREFIX}:web"}


def test_fault_52_a_foreign_exclusive_group_is_planned_around(resctrl: Path, placed: Placed) -> None:
    with foreign(resctrl, 1) as (other,):
        default = (resctrl / "schemata").read_text()
        try:
            (resctrl / "schemata").write_text("L3:0=7f;1=7f\n")
            (other / "schemata").write_text("L3:0=180;1=180\n")
            (other / "mode").write_text("exclusive\n")  # the ways that hardware writes to, at the top, could not be
            taken = replace(SPEC, cache_ways=(CacheWays(cache_id=1, mask=WayMask(0x780)),))
            with pytest.raises(IsolationError, match="holds ways 7-8 of domain 1 for itself"):
                placed.apply(taken)
            applied = placed.apply()
            exclusive = (other / "mode").read_text()
        finally:
            placed.enforcer.release(placed.undo)
            (other / "mode").write_text("shareable\n")
            lines = [line.strip() for line in default.splitlines() if line.strip().startswith("L3:")]
            (resctrl / "schemata").write_text(f"{lines[0]}\n")

    assert applied == ""
    assert exclusive == "exclusive\n"
