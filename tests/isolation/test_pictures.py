"""Every captured machine against the pictures that hwloc drew of it; each difference is listed with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isolation.cli import app
from isolation.drawing import draw_host
from isolation.topology import Cpu, NumaNode, Topology, read_topology
from tests.fakes.captured import TOPOLOGY, Picture, consistent, pictures_of, unpack

_MERGED = "the picture merges levels that hold the same CPUs"
_FILTERED = "the picture was asked for without caches"
_NEAREST = "the picture hangs memory without CPUs beside the nearest ones; ours has none, only distances"
_MEMORY_LEFT = "the picture keeps what has no allowed CPU but allowed memory"
_EFFECTIVE = "the cpuset's effective_cpus is 0-87 and effective_mems 0, which holds; the picture took cpus and mems"
_CONFLICT = "the maps contradict each other: the picture drops one, ours takes each CPU by its word"

#: Picture: what differs: (pictured / ours, why).
DIFFERENCES: dict[str, dict[str, tuple[str, str]]] = {
    "16amd64-4n4c-cgroup-distance-merge": {
        "Core": ("0 / 4", _MERGED),
        "L2Cache": ("0 / 4", _MERGED),
        "Package": ("3 / 1", _MEMORY_LEFT),
    },
    "16amd64-8n2c-cpusets-xml": {"Package": ("7 / 6", _MEMORY_LEFT)},
    "16amd64-8n2c-cpusets": {"Package": ("7 / 6", _MEMORY_LEFT)},
    "16em64t-4s2c2t-merge": {"L2Cache": ("0 / 8", _MERGED), "L3Cache": ("0 / 4", _MERGED)},
    "16em64t-4s2c2t-nocaches": {"L2Cache": ("0 / 8", _FILTERED), "L3Cache": ("0 / 4", _FILTERED)},
    "16em64t-4s2ca2c-cpusetreorder-merge": {"Core": ("0 / 11", _MERGED), "L3Cache": ("0 / 4", _MERGED)},
    "2ps3-2t": {"Package": ("0 / 1", "the kernel tells of no package; ours always has one")},
    "32amd64-4s2n4c-cgroup2": {"Package": ("3 / 1", _MEMORY_LEFT), "L3Cache": ("6 / 2", _MEMORY_LEFT)},
    "40intel64-4n10c+pci-conflicts": {"Package": ("3 / 5", _CONFLICT), "L3Cache": ("3 / 5", _CONFLICT)},
    "4fake-4gr1nu1pu": {"Core": ("0 / 2", "the kernel tells of no core; ours takes each CPU for one")},
    "8em64t-2s2ca2c-buggynuma": {
        "nodes": (
            "1 / 8",
            "eight nodes claim all CPUs: the picture drops seven, ours keeps their memory, without CPUs",
        ),
    },
    "fakeheterocpunuma": {
        "CPUs of nodes": ("0,2,4,5", "drawn with overlapping nodes allowed; a CPU has one node here, the lowest"),
        "kinds": ("3 / 2", "the picture splits a kind by maximum frequency; ours goes by capacity"),
    },
    "fakeheteromemtiers": {"CPUs of nodes": ("4,6,8,9", _NEAREST)},
    "fakememinitiators-1np2c+1npp+gi": {"CPUs of nodes": ("5,6,7,8,9,10", _NEAREST)},
    "nvidia-dgx-gb10-nomidr": {"kinds": ("5 / 2", "drawn without MIDR on purpose; ours reads it")},
    "nvidiagpunumanodes-kept": {
        "PU": ("32 / 16", _EFFECTIVE),
        "Core": ("8 / 4", _EFFECTIVE),
        "Package": ("2 / 1", _EFFECTIVE),
        "L2Cache": ("4 / 2", _EFFECTIVE),
        "L3Cache": ("4 / 2", _EFFECTIVE),
        "nodes": ("8 / 1", _EFFECTIVE),
    },
    "nvidiagpunumanodes": {
        "PU": ("32 / 16", _EFFECTIVE),
        "Core": ("8 / 4", _EFFECTIVE),
        "Package": ("2 / 1", _EFFECTIVE),
        "L2Cache": ("4 / 2", _EFFECTIVE),
        "L3Cache": ("4 / 2", _EFFECTIVE),
        "nodes": ("2 / 1", _EFFECTIVE),
    },
    "offline-cpu0-node0": {
        "CPUs of nodes": ("1", "node 0 is offline: the picture gives its CPUs to none, ours to the one that is left"),
    },
}


def _groups(topology: Topology, shown: set[int], key: Callable[[Cpu], Hashable]) -> set[frozenset[int]]:
    """Return the shown CPUs grouped by key; None = in no group."""
    groups: dict[Hashable, set[int]] = {}
    for cpu in topology.cpus:
        if cpu.id in shown and key(cpu) is not None:
            groups.setdefault(key(cpu), set()).add(cpu.id)
    return {frozenset(cpus) for cpus in groups.values()}


def _nodes(topology: Topology, picture: Picture) -> dict[int, NumaNode]:
    """Return the nodes that the picture was asked to show."""
    shown = topology.nodes
    if "disallowed" not in picture.options and topology.usable_mems is not None:
        shown = tuple(node for node in shown if node.id in topology.usable_mems)
    if not picture.name.endswith("-kept"):
        shown = tuple(node for node in shown if not node.device_memory)
    return {node.id: node for node in shown}


def differences(topology: Topology, picture: Picture) -> dict[str, str]:
    """Return "pictured / ours" for each kind of thing whose sets of CPUs differ."""
    shown = set(topology.online if "disallowed" in picture.options else topology.usable)
    levels = {domain.id: domain.level for domain in topology.llc_domains}
    packages = _groups(topology, shown, lambda cpu: cpu.package)
    ours = {
        ("PU",): _groups(topology, shown, lambda cpu: cpu.id),
        ("Core",): _groups(topology, shown, lambda cpu: cpu.core),
        ("Package",): packages,
        # hwloc draws no die that is its package
        ("Die",): _groups(topology, shown, lambda cpu: cpu.die) - packages,
        ("L2Cache", "L2dCache"): _groups(topology, shown, lambda cpu: cpu.l2),
        ("L3Cache",): _groups(topology, shown, lambda cpu: cpu.llc if levels.get(cpu.llc or 0) == 3 else None),
    }
    found = {
        kinds[0]: f"{picture.count(*kinds)} / {len(sets)}"
        for kinds, sets in ours.items()
        if picture.count(*kinds) != len(sets) or picture.sets(*kinds) != sets
    }
    nodes, drawn = _nodes(topology, picture), picture.nodes()
    if set(nodes) != set(drawn):
        found["nodes"] = f"{len(drawn)} / {len(nodes)}"
    both = [number for number in nodes if number in drawn]
    if moved := [number for number in both if set(nodes[number].cpus) & shown != drawn[number].cpus]:
        found["CPUs of nodes"] = ",".join(str(number) for number in moved)
    sizes = {number: drawn[number].memory_bytes for number in both if drawn[number].memory_bytes is not None}
    if wrong := [number for number, size in sizes.items() if nodes[number].memory_bytes != size]:
        found["memory of nodes"] = ",".join(str(number) for number in wrong)
    place = {node.id: position for position, node in enumerate(topology.nodes)}
    apart = [
        (one, other)
        for (one, other), distance in picture.distances.items()
        if one in nodes and other in nodes and nodes[one].distances and nodes[one].distances[place[other]] != distance
    ]
    if apart:
        found["distances"] = str(len(apart))
    if picture.kinds != {frozenset(kind.cpus) for kind in topology.core_kinds}:
        found["kinds"] = f"{len(picture.kinds)} / {len(topology.core_kinds)}"
    return found


@pytest.mark.skipif(not TOPOLOGY.is_dir(), reason="the captured trees of other machines are not beside the project")
@pytest.mark.parametrize("archive", sorted(TOPOLOGY.glob("*.tar.bz2")), ids=lambda path: path.name[:-8])
def test_fault_63_a_captured_machine_agrees_with_its_pictures(archive: Path, tmp_path: Path) -> None:
    topology = read_topology(unpack(archive, tmp_path))
    pictures = list(pictures_of(archive))

    consistent(topology)
    assert pictures
    for picture in pictures:
        listed = {what: counts for what, (counts, _) in DIFFERENCES.get(picture.name, {}).items()}
        assert listed == differences(topology, picture), picture.name
    record = json.loads(CliRunner().invoke(app, ["host", "--sysfs", str(tmp_path), "--json"]).output)
    assert [cpu["id"] for cpu in record["cpus"]] == list(topology.online)
    assert record["fingerprint"] == topology.fingerprint
    assert {"nodes", "llc_domains", "l2_domains", "core_kinds", "usable", "usable_mems", "offline"} <= set(record)
    lines = draw_host(topology, {}, width=100).splitlines()
    boxed = [line for line in lines if line[0] in "+|"]
    assert {len(line) for line in boxed} == {100}
    assert sum(line.startswith("+- package") for line in boxed) == len({cpu.package for cpu in topology.cpus})


@pytest.mark.skipif(not TOPOLOGY.is_dir(), reason="the captured trees of other machines are not beside the project")
def test_all_42_machines_are_there_and_every_listed_difference_belongs_to_a_picture() -> None:
    archives = list(TOPOLOGY.glob("*.tar.bz2"))
    names = {picture.name for archive in archives for picture in pictures_of(archive)}

    assert len(archives) == 42
    assert set(DIFFERENCES) <= names
    assert names == {path.stem for path in TOPOLOGY.glob("*.test")}
