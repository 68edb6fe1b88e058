"""Damaged and contradicting sysfs files: a consistent machine is read all the same."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation.drawing import draw_host
from isolation.topology import read_topology
from tests.fakes.captured import consistent
from tests.fakes.trees import CPU, NODE, cpu_files, write_tree

_TEXT = st.one_of(
    st.sampled_from(["", "0", "0-1", "0-3", "3,1", "-1", "00000003", "garbage", "0-8191", "9" * 30, "\x00"]),
    st.text(max_size=8).filter(lambda text: "\r" not in text),
)
_NAMES = [
    *(
        f"{CPU}/cpu{cpu}/topology/{name}"
        for cpu in range(3)
        for name in ("core_cpus", "package_cpus_list", "die_cpus", "die_id")
    ),
    *(
        f"{CPU}/cpu{cpu}/topology/{name}"
        for cpu in range(3)
        for name in ("core_id", "physical_package_id", "cluster_cpus")
    ),
    *(
        f"{CPU}/cpu{cpu}/cache/index{index}/{name}"
        for cpu in range(3)
        for index in (2, 3)
        for name in ("level", "id", "size", "shared_cpu_map")
    ),
    *(f"{NODE}/node{node}/{name}" for node in (0, 5) for name in ("cpulist", "distance", "meminfo")),
    *(f"{CPU}/{name}" for name in ("online", "present", "isolated")),
    *("sys/devices/cpu_atom/cpus", "proc/self/status", "proc/mounts", "proc/self/cgroup"),
]


@pytest.mark.parametrize("text", ["", "garbage", "7-3", "99999999", "\x00"])
def test_damaged_files_are_unknown_not_fatal(tmp_path: Path, text: str) -> None:
    files = dict.fromkeys(cpu_files(0, "0", "0"), text) | dict.fromkeys(cpu_files(1, "1", "1"), text)
    files |= {f"{CPU}/online": text, f"{CPU}/present": text, f"{NODE}/node0/cpulist": text}
    topology = read_topology(write_tree(tmp_path, files))

    consistent(topology)
    assert str(topology.online) == "0-1"
    assert topology.llc_domains == ()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(_NAMES), _TEXT, max_size=25))
def test_fault_63_whatever_sysfs_says_a_consistent_machine_is_read_and_drawn(files: dict[str, str]) -> None:
    with TemporaryDirectory() as folder:
        root = write_tree(Path(folder), {f"{CPU}/cpu0/topology/core_id": "0", "proc/cpuinfo": "processor\t: 0"} | files)
        topology = read_topology(root)

    consistent(topology)
    assert draw_host(topology, {0: ["llama"]})
    assert len(topology.fingerprint) == 16
