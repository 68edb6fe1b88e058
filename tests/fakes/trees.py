"""Small sysfs trees, written by a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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


def topology_files(cpu: int, **told: str) -> dict[str, str]:
    return {f"{CPU}/cpu{cpu}/topology/{name}": text for name, text in told.items()}
