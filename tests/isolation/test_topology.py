"""Machines as sysfs tells them: this host and small written trees (captured ones: test_pictures)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.drawing import draw_host
from isolation.errors import TopologyUnreadable
from isolation.topology import read_topology
from tests.fakes.captured import consistent
from tests.fakes.machines import make_topology
from tests.fakes.trees import CPU, NODE, cpu_files, topology_files, write_tree


def test_this_host_is_read_as_the_kernel_tells_it() -> None:
    topology = read_topology()

    consistent(topology)
    assert topology.online == CpuSet.parse(Path(f"/{CPU}/online").read_text(encoding="utf-8"))
    assert topology.usable == CpuSet.of(os.sched_getaffinity(0)) & topology.online
    assert topology.kernel == os.uname().release
    assert topology.cpu_model != "unknown"
    assert sum(node.memory_bytes or 0 for node in topology.nodes) > 0


def test_fault_63_gaps_offline_cpus_and_nodes_without_cpus_load(tmp_path: Path) -> None:
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


def test_fault_63_cache_ids_that_repeat_are_replaced(tmp_path: Path) -> None:
    files = cpu_files(0, "0", "0", cache_id=7) | cpu_files(1, "1", "1", cache_id=7)
    topology = read_topology(write_tree(tmp_path, files))

    assert [domain.id for domain in topology.llc_domains] == [0, 1]


def test_without_sysfs_the_cpus_come_from_cpuinfo(tmp_path: Path) -> None:
    topology = read_topology(write_tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\n\nprocessor\t: 1"}))

    consistent(topology)
    assert len(topology.cpus) == 2


def test_a_folder_without_any_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyUnreadable, match="no CPU found below"):
        read_topology(tmp_path)


def test_fault_62_the_fingerprint_ignores_memory_and_kernel_but_no_cpu_or_cache() -> None:
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


def test_dies_clusters_and_second_level_caches_are_told_apart(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for cpu in range(8):
        die, cluster = f"{cpu // 4 * 4}-{cpu // 4 * 4 + 3}", f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        files |= cpu_files(cpu, str(cpu), die, cache_id=cpu // 4)
        files |= topology_files(cpu, die_id=str(cpu // 4), die_cpus_list=die, cluster_cpus_list=cluster)
        files |= topology_files(cpu, package_cpus_list="0-7")
        cache = f"{CPU}/cpu{cpu}/cache/index2"
        files |= {f"{cache}/level": "2", f"{cache}/shared_cpu_list": cluster, f"{cache}/id": str(100 + cpu // 2)}
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert [cpu.die for cpu in topology.cpus] == [0, 0, 0, 0, 4, 4, 4, 4]
    assert [cpu.cluster for cpu in topology.cpus] == [cpu.l2 for cpu in topology.cpus] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert [(one.id, one.kernel_id, str(one.cpus)) for one in topology.l2_domains] == [
        *((100, 100, "0-1"), (101, 101, "2-3"), (102, 102, "4-5"), (103, 103, "6-7"))
    ]
    assert draw_host(topology, {}).splitlines()[-2:] == ["dies: 0-3 4-7", "L2 shared by cores: 0-1 2-3 4-5 6-7"]


def test_a_die_that_the_kernel_does_not_number_is_unknown(tmp_path: Path) -> None:
    files = cpu_files(0, "0", "0") | topology_files(0, die_id="-1", die_cpus_list="0")

    assert read_topology(write_tree(tmp_path, files)).cpus[0].die is None


@pytest.mark.parametrize(
    ("ids", "siblings", "packages"),
    [
        (("0", "0", "512", "512"), ("0", "1", "2", "3"), [0, 1, 2, 3]),
        (("-1", "-1", "-1", "-1"), ("0-1", "0-1", "2-3", "2-3"), [0, 0, 1, 1]),
        (("3", "3", "7", "7"), ("0-1", "0-1", "2-3", "2-3"), [3, 3, 7, 7]),
        (("3", "3", "7", "7"), (None, None, None, None), [3, 3, 7, 7]),
        ((None, None, None, None), (None, None, None, None), [0, 0, 0, 0]),
    ],
)
def test_packages_are_told_apart_whatever_firmware_numbers_them(
    tmp_path: Path, ids: tuple[str | None, ...], siblings: tuple[str | None, ...], packages: list[int]
) -> None:
    files: dict[str, str] = {}
    for cpu in range(4):
        told = {"physical_package_id": ids[cpu], "core_siblings_list": siblings[cpu], "core_id": str(cpu)}
        files |= topology_files(cpu, **{name: text for name, text in told.items() if text is not None})
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert [cpu.package for cpu in topology.cpus] == packages


def test_bit_maps_are_not_read_as_lists(tmp_path: Path) -> None:
    files = topology_files(0, thread_siblings="01") | topology_files(1, thread_siblings="02")
    topology = read_topology(write_tree(tmp_path, files))

    assert [cpu.core for cpu in topology.cpus] == [0, 1]


def test_siblings_with_core_ids_of_their_own_are_cores(tmp_path: Path) -> None:
    files = topology_files(0, thread_siblings_list="0-1", core_id="0")
    files |= topology_files(1, thread_siblings_list="0-1", core_id="1")

    assert [cpu.core for cpu in read_topology(write_tree(tmp_path, files)).cpus] == [0, 1]


def test_a_cache_that_nobody_is_said_to_share_is_the_cores(tmp_path: Path) -> None:
    files = cpu_files(0, "0,2", "") | cpu_files(1, "1", "") | cpu_files(2, "0,2", "")
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert [str(domain.cpus) for domain in topology.llc_domains] == ["0,2", "1"]


@pytest.mark.parametrize(
    ("files", "kinds"),
    [
        (
            {"sys/devices/cpu_core/cpus": "0-1", "sys/devices/cpu_atom/cpus": "2-3"},
            [("cpu_atom", "2-3"), ("cpu_core", "0-1")],
        ),
        ({"sys/devices/cpu_core/cpus": "0-1", "sys/devices/cpu_atom/cpus": "2"}, []),
        (
            {f"{CPU}/cpu{cpu}/cpu_capacity": text for cpu, text in enumerate(("446", "446", "1024", "1024"))},
            [("capacity 446", "0-1"), ("capacity 1024", "2-3")],
        ),
        (
            {
                f"{CPU}/cpu{cpu}/regs/identification/midr_el1": f"0x00000000410fd{part}"
                for cpu, part in enumerate(("871", "870", "851", "851"))
            }
            | {f"{CPU}/cpu{cpu}/cpu_capacity": text for cpu, text in enumerate(("718", "731", "997", "1024"))},
            [("implementer 0x41 part 0xd87", "0-1"), ("implementer 0x41 part 0xd85", "2-3")],
        ),
        (
            {
                f"{CPU}/cpu{cpu}/cpufreq/base_frequency": text
                for cpu, text in enumerate(("1900000", "1900000", "1400000", "1400000"))
            },
            [("base 1.40 GHz", "2-3"), ("base 1.90 GHz", "0-1")],
        ),
        ({f"{CPU}/cpu{cpu}/cpu_capacity": "1024" for cpu in range(4)}, []),
    ],
)
def test_kinds_of_cores_come_weakest_first_or_not_at_all(
    tmp_path: Path, files: dict[str, str], kinds: list[tuple[str, str]]
) -> None:
    topology = read_topology(
        write_tree(
            tmp_path,
            {f"{CPU}/online": "0-3", f"{CPU}/cpu0/online": "1"}
            | files
            | {f"{CPU}/cpu{cpu}/topology/core_id": str(cpu) for cpu in range(4)},
        )
    )

    consistent(topology)
    assert [(kind.name, str(kind.cpus)) for kind in topology.core_kinds] == kinds


@pytest.mark.parametrize(
    ("files", "usable", "mems"),
    [
        ({"proc/self/status": "Cpus_allowed_list:\t1\nMems_allowed_list:\t0"}, "1", "0"),
        ({"proc/self/status": "Cpus_allowed_list:\tgarbage"}, "0-1", None),
        (
            {
                "proc/mounts": "x\nnone /c cgroup2 rw 0 0",
                "c/cgroup.controllers": "cpu cpuset",
                "proc/self/cgroup": "0::/a/b",
                "c/a/b/cpuset.cpus.effective": "0",
                "c/a/b/cpuset.mems.effective": "1",
            },
            *("0", "1"),
        ),
        (
            {
                "proc/mounts": "none /c cgroup rw,cpuset 0 0",
                "proc/self/cgroup": "3:cpu:/x\n2:cpuset:/a",
                "c/a/cpuset.cpus": "0-1",
                "c/a/cpuset.effective_cpus": "1",
                "c/a/cpuset.mems": "0",
            },
            *("1", "0"),
        ),
        (
            {"proc/mounts": "none /c cpuset rw 0 0", "proc/self/cpuset": "/a", "c/a/cpus": "1", "c/a/mems": "0-1"},
            "1",
            "0-1",
        ),
        ({"proc/mounts": "none /c cpuset rw 0 0", "proc/self/cpuset": "/../a", "a/cpus": "1"}, "0-1", None),
        (
            {"proc/mounts": "none /c cgroup2 rw 0 0", "c/cgroup.controllers": "cpu", "proc/self/cgroup": "0::/"},
            "0-1",
            None,
        ),
    ],
)
def test_a_restricted_cpuset_is_found_in_a_captured_tree(
    tmp_path: Path, files: dict[str, str], usable: str, mems: str | None
) -> None:
    topology = read_topology(write_tree(tmp_path, {f"{CPU}/online": "0-1"} | files))

    assert (str(topology.usable), None if topology.usable_mems is None else str(topology.usable_mems)) == (usable, mems)
    assert str(topology.online) == "0-1"


def test_only_nodes_with_memory_for_workloads_count_as_such(tmp_path: Path) -> None:
    files = {f"{CPU}/online": "0-1", "proc/driver/nvidia/gpus/0000:01/numa_status": "Node:      7\nStatus: online"}
    files["proc/self/status"] = "Cpus_allowed_list:\t0-1\nMems_allowed_list:\t0-1,5,7"
    for node, cpus, size in ((0, "0-1", 1024), (1, "", 0), (5, "", 2048), (6, "", 2048), (7, "", 4096)):
        files |= {f"{NODE}/node{node}/cpulist": cpus, f"{NODE}/node{node}/meminfo": f"Node {node} MemTotal: {size} kB"}
        files[f"{NODE}/node{node}/distance"] = "10 20 30 40 50"
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert [node.id for node in topology.memory_nodes] == [0, 5]
    assert draw_host(topology, {}).splitlines()[-5:] == [
        "node 1: neither memory nor CPUs, nearest node 0 (distance 10)",
        "node 5: 2.0 MiB of memory without CPUs, nearest node 0 (distance 10)",
        "node 6: 2.0 MiB of memory without CPUs, nearest node 0 (distance 10)",
        "node 7: 4.0 MiB of a device's memory",
        "nodes 6: memory not usable by this process",
    ]


@pytest.mark.parametrize(("nodes", "memory_bytes"), [(1, 24 << 20), (2, 10 << 20)])
def test_the_only_node_has_all_memory_whatever_it_tells(tmp_path: Path, nodes: int, memory_bytes: int) -> None:
    files = cpu_files(0, "0", "0") | {f"{CPU}/online": "0", "proc/meminfo": "MemTotal: 24576 kB"}
    for node in range(nodes):
        files |= {f"{NODE}/node{node}/cpulist": "" if node else "0"}
        files |= {f"{NODE}/node{node}/meminfo": f"Node {node} MemTotal: 10240 kB"}

    assert read_topology(write_tree(tmp_path, files)).nodes[0].memory_bytes == memory_bytes


def test_distances_that_do_not_match_the_nodes_are_unknown(tmp_path: Path) -> None:
    files = {f"{CPU}/online": "0", f"{NODE}/node1/cpulist": "0", f"{NODE}/node1/distance": "21 10"}

    assert read_topology(write_tree(tmp_path, files)).nodes[0].distances == ()


def test_a_cpu_of_an_offline_node_goes_where_its_package_has_memory(tmp_path: Path) -> None:
    files = {f"{NODE}/node{node}/cpulist": cpus for node, cpus in ((0, "0"), (1, "2"))}
    for cpu, package in enumerate((0, 0, 1, 1, 2)):
        files |= topology_files(cpu, physical_package_id=str(package), core_id=str(cpu))
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert [cpu.node for cpu in topology.cpus] == [0, 0, 1, 1, 0]
