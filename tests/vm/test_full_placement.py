"""CPUs, memory nodes and cache ways of one PlaceWorkload, seen in the kernel's own files: what make test-vm boots."""

from __future__ import annotations

import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cotenant import Client
from cotenant.v1 import placement_pb2, profile_pb2
from isolation.cpuset import CpuSet
from tests.fakes.children import real_process
from tests.vm.test_place import picture, threads

pytestmark = pytest.mark.root

ACTIVE = placement_pb2.PLACEMENT_STATE_ACTIVE
HUNGRY = {"cpu_utilisation_ratio": 1.0, "cache_sensitivity_sf": 2.0, "cache_pressure_ratio": 0.4}
STREAMING = {"cpu_utilisation_ratio": 1.0, "cache_sensitivity_sf": 1.0, "cache_pressure_ratio": 1.0}
_PAGES = 2000


def simulated(name: str, values: dict[str, float]) -> profile_pb2.Profile:
    """Make a profile of chosen numbers: what is tested is where they lead, not what they are."""
    features = [
        profile_pb2.Feature(name=key, value=value, source="probe", window_s=1.0, samples=1)
        for key, value in values.items()
    ]
    return profile_pb2.Profile(name=name, schema_version=1, cpus=1, features=features, quality="stable")


def classes(resctrl: Path) -> dict[str, str]:
    """Return schemata and tasks of every resctrl group; of the default one, the schemata only."""
    found = {"": (resctrl / "schemata").read_text()}
    for folder in sorted(path for path in resctrl.iterdir() if path.is_dir() and (path / "tasks").exists()):
        if folder.name != "info":
            found[folder.name] = (folder / "schemata").read_text() + (folder / "tasks").read_text()
    return found


def group_of(resctrl: Path, tid: int) -> str:
    for folder in resctrl.iterdir():
        if (folder / "tasks").exists() and str(tid) in (folder / "tasks").read_text().split():
            return folder.name
    return ""


def ways(resctrl: Path, group: str, cache_id: int) -> set[str]:
    """Return the masks that a group has in one cache; with CDP those of code and data."""
    found = set()
    for line in (resctrl / group / "schemata").read_text().splitlines():
        name, _, rest = line.strip().partition(":")
        if name in {"L3", "L3CODE", "L3DATA"}:
            amounts = dict(part.split("=") for part in rest.replace(" ", "").split(";"))
            found.add(f"{int(amounts[str(cache_id)], 16):x}")
    return found


def anonymous_pages(pid: int) -> dict[int, int]:
    """Count the process' own pages by node, as /proc/PID/numa_maps tells."""
    found: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if "anon=" in line:
            for node, pages in re.findall(r" N(\d+)=(\d+)", line):
                found[int(node)] = found.get(int(node), 0) + int(pages)
    return found


def test_ways_mems_and_cpus_are_seen_in_the_kernel_and_release_restores_every_byte(
    mount: Path, resctrl: Path, client: Client
) -> None:
    with real_process(threads=12) as db, real_process(threads=4) as scan:
        before = picture(mount), classes(resctrl), threads(db), threads(scan)
        client.place("db", pids=[db], cpus=6, profile=simulated("db", HUNGRY))
        placed = client.place("scan", pids=[scan], cpus=2, profile=simulated("scan", STREAMING))
        neighbour = client.get("db")
        during = threads(scan)
        groups = {pid: {group_of(resctrl, tid) for tid in threads(pid)} for pid in (db, scan)}
        cgroup = mount / next(iter(during.values()))[2].removeprefix("0::/")
        effective = {kind: (cgroup / f"cpuset.{kind}.effective").read_text().strip() for kind in ("cpus", "mems")}
        seen = {
            pid: [(one.cache_id, one.mask, ways(resctrl, next(iter(groups[pid])), one.cache_id)) for one in answer]
            for pid, answer in ((db, neighbour.cache_ways), (scan, placed.cache_ways))
        }
        client.release("scan")
        alone = {group_of(resctrl, tid) for tid in threads(db)}
        client.release("db")
        after = picture(mount), classes(resctrl), threads(db), threads(scan)

    assert (placed.state, neighbour.state) == (ACTIVE, ACTIVE)
    assert placed.cache_ways
    assert neighbour.cache_ways
    assert [len(one) for one in groups.values()] == [1, 1]  # every thread in the same one
    for answer in seen.values():
        assert all(found == {mask} for _, mask, found in answer)
    masks = {pid: {cache: int(mask, 16) for cache, mask, _ in answer} for pid, answer in seen.items()}
    met = masks[db].keys() & masks[scan].keys()
    assert any(not masks[db][cache] & masks[scan][cache] for cache in met)
    assert effective == {"cpus": placed.cpus, "mems": placed.mems}
    assert len(CpuSet.parse(placed.cpus)) == 2
    assert {allowed for allowed, _, _ in during.values()} == {placed.cpus}
    assert {mems for _, mems, _ in during.values()} == {placed.mems}
    assert alone == {""}  # nobody left to keep off, so no ways and no class
    assert after == before


def test_pages_follow_the_memory_nodes_of_the_answer(mount: Path, client: Client) -> None:
    """On v2 the kernel moves the pages of who enters a group, and new ones come from its nodes."""
    assert mount.exists()
    code = (
        f"import sys\nm = bytearray({_PAGES} * {mmap.PAGESIZE})\n"
        f"for i in range(0, len(m), {mmap.PAGESIZE}): m[i] = 1\nprint('ready', flush=True)\n"
        f"sys.stdin.readline()\nn = bytearray({_PAGES} * {mmap.PAGESIZE})\n"
        f"for i in range(0, len(n), {mmap.PAGESIZE}): n[i] = 1\nprint('ready', flush=True)\nsys.stdin.readline()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            placed = client.place("pages", pids=[process.pid], cpus=2)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            found = anonymous_pages(process.pid)
            client.release("pages")
        finally:
            process.kill()
    assert placed.mems in {"0", "1"}
    node = int(placed.mems)
    assert found[node] >= 2 * _PAGES
    assert sum(found.values()) - found[node] < _PAGES / 10
