"""Machines as sysfs tells them: this host and small written trees (captured ones: test_pictures)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.errors import TopologyUnreadable
from isolation.topology import read_topology
from tests.fakes.captured import consistent
from tests.fakes.machines import make_topology

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def cpu_files(cpu: int, siblings: str, llc: str, *, package: int = 0, cache_id: int | None = 0) -> dict[str, str]:
    files = {
        f"{CPU}/cpu{cpu}/topology/thread_siblings_list": siblings,
        f"{CPU}/cpu{cpu}/topology/physical_package_id": str(package),
        f"{CPU}/cpu{cpu}/cache/index0/level": "1",
        f"{CPU}/cpu{cpu}/cache/index0/type": "Data",
        f"{CPU}/cpu{cpu}/cache/index0/shared_cpu_list": siblings,
        f"{CPU}/cpu{cpu}/cache/index3/level": "3",
        f"{CPU}/cpu{cpu}/cache/index3/type": "Unified",
        f"{CPU}/cpu{cpu}/cache/index3/size": "2048K",
        f"{CPU}/cpu{cpu}/cache/index3/ways_of_associativity": "16",
        f"{CPU}/cpu{cpu}/cache/index3/shared_cpu_list": llc,
    }
    return files if cache_id is None else files | {f"{CPU}/cpu{cpu}/cache/index3/id": str(cache_id)}


def test_this_host_is_read_as_the_kernel_tells_it() -> None:
    topology = read_topology()

    consistent(topology)
    assert topology.online == CpuSet.parse(Path(f"/{CPU}/online").read_text(encoding="utf-8"))
    assert topology.usable == CpuSet.of(os.sched_getaffinity(0)) & topology.online
    assert topology.kernel == os.uname().release
    assert topology.cpu_model != "unknown"
    assert sum(node.memory_bytes or 0 for node in topology.nodes) > 0


def test_gaps_offline_cpus_and_nodes_without_cpus_load(tmp_path: Path) -> None:
    files = cpu_files(0, "0,4", "0,4") | cpu_files(4, "0,4", "0,4") | cpu_files(6, "6", "6", package=3, cache_id=9)
    root = write_tree(
        tmp_path,
        files
        | {
            f"{CPU}/online": "0,4,6",
            f"{CPU}/present": "0-7",
            f"{CPU}/isolated": "6",
            f"{NODE}/node1/cpulist": "0,4,6",
            f"{NODE}/node1/distance": "10 20",
            f"{NODE}/node5/cpulist": "",
            f"{NODE}/node5/distance": "20 10",
            f"{NODE}/node5/meminfo": "Node 5 MemTotal:       1024 kB",
            "proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-5",
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: Test CPU",
        },
    )
    topology = read_topology(root)

    consistent(topology)
    assert [(cpu.id, cpu.core, cpu.package, cpu.node, cpu.llc) for cpu in topology.cpus] == [
        (0, 0, 0, 1, 0),
        (4, 0, 0, 1, 0),
        (6, 6, 3, 1, 9),
    ]
    assert (str(topology.offline), str(topology.isolated), str(topology.usable)) == ("1-3,5,7", "6", "0,4")
    assert [(node.id, node.memory_bytes, str(node.cpus), node.distances) for node in topology.nodes] == [
        (1, None, "0,4,6", (10, 20)),
        (5, 1024**2, "", (20, 10)),
    ]
    assert [(one.id, one.level, one.size_bytes, one.ways) for one in topology.llc_domains] == [
        (0, 3, 2 * 1024**2, 16),
        (9, 3, 2 * 1024**2, 16),
    ]
    assert (topology.cpu_model, topology.kernel) == ("Test CPU", "unknown")


def test_old_kernels_with_bit_maps_and_no_lists_load(tmp_path: Path) -> None:
    files = {f"{CPU}/cpu5/online": "0", f"{NODE}/node0/cpumap": "00000000,0000003f"}
    for cpu in (0, 3, 5):
        files |= {
            f"{CPU}/cpu{cpu}/topology/thread_siblings": "00000000,00000009",
            f"{CPU}/cpu{cpu}/cache/index2/level": "2",
            f"{CPU}/cpu{cpu}/cache/index2/shared_cpu_map": "00000000,00000009",
        }
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert [(cpu.id, cpu.core, cpu.l2, cpu.llc) for cpu in topology.cpus] == [(0, 0, 0, 0), (3, 0, 0, 0)]
    assert topology.llc_domains[0].size_bytes is None
    assert str(topology.offline) == "5"


def test_cache_ids_that_repeat_are_replaced(tmp_path: Path) -> None:
    files = cpu_files(0, "0", "0", cache_id=7) | cpu_files(1, "1", "1", cache_id=7)
    topology = read_topology(write_tree(tmp_path, files))

    assert [domain.id for domain in topology.llc_domains] == [0, 1]


@pytest.mark.parametrize("text", ["", "garbage", "7-3", "99999999", "\x00"])
def test_damaged_files_are_unknown_not_fatal(tmp_path: Path, text: str) -> None:
    files = dict.fromkeys(cpu_files(0, "0", "0"), text) | dict.fromkeys(cpu_files(1, "1", "1"), text)
    files |= {f"{CPU}/online": text, f"{CPU}/present": text, f"{NODE}/node0/cpulist": text}
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert str(topology.online) == "0-1"
    assert topology.llc_domains == ()


def test_without_sysfs_the_cpus_come_from_cpuinfo(tmp_path: Path) -> None:
    topology = read_topology(write_tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\n\nprocessor\t: 1"}))

    consistent(topology)
    assert len(topology.cpus) == 2


def test_a_folder_without_any_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyUnreadable, match="no CPU found below"):
        read_topology(tmp_path)


def test_the_fingerprint_ignores_memory_and_kernel_but_no_cpu_or_cache() -> None:
    one = make_topology(cores_per_llc=4)
    same = make_topology(cores_per_llc=4, node_memory_bytes=None)
    others = [
        make_topology(cores_per_llc=4, llc_ways=12),
        make_topology(cores_per_llc=4, llc_size_bytes=None),
        make_topology(cores_per_llc=2, threads_per_core=2),
        make_topology(cores_per_llc=2, llcs_per_node=2),
        replace(one, cpu_model="Another CPU"),
    ]

    assert replace(same, kernel="7.0.1", usable=CpuSet.parse("1")).fingerprint == one.fingerprint
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_made_machines_are_numbered_as_linux_does() -> None:
    topology = make_topology(packages=2, nodes_per_package=2, llcs_per_node=2, cores_per_llc=2, threads_per_core=2)

    consistent(topology)
    assert len(topology.cpus) == 32
    assert (topology.cpus[0].core, topology.cpus[16].core) == (0, 0)
    assert [topology.cpus[cpu].package for cpu in (0, 7, 8, 15, 16, 31)] == [0, 0, 1, 1, 0, 1]
    assert [len(domain.cpus) for domain in topology.llc_domains] == [4] * 8
