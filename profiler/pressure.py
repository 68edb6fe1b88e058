"""How long somebody waited for CPUs, memory or storage: the kernel's pressure stall information (PSI).

Of a cgroup (v2) from its *.pressure files, of the whole host from /proc/pressure; absent where the kernel keeps none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from profiler.procfs import PROC
from profiler.records import Feature, Source, measured

KINDS = ("cpu", "memory", "io")


def parse_pressure(text: str | None) -> int | None:
    """Read the microseconds in which somebody waited; None where the kernel tells none."""
    for line in (text or "").splitlines():
        kind, *values = line.split()
        if kind == "some":
            totals = [one.removeprefix("total=") for one in values if one.startswith("total=")]
            return int(totals[0]) if totals and totals[0].isdecimal() else None
    return None


def read_pressure(files: Mapping[str, Path]) -> dict[str, int]:
    """Read the microseconds by kind; what cannot be read is left out."""
    found = {}
    for kind, path in files.items():
        try:
            total_us = parse_pressure(path.read_text())
        except OSError:  # not kept by this kernel, or the group ended
            continue
        if total_us is not None:
            found[kind] = total_us
    return found


def host_pressure(root: Path = PROC) -> dict[str, Path]:
    """Give the files that tell of everybody on this host."""
    return {kind: root / "pressure" / kind for kind in KINDS}


def group_pressure(pids: Collection[int], root: Path = PROC) -> dict[str, Path]:
    """Give the files of the one cgroup that holds these processes and no others; empty where there is none."""
    mount = next(
        (fields[1] for line in _lines(root / "mounts") if len(fields := line.split()) > 2 and fields[2] == "cgroup2"),
        None,
    )
    groups = {line[3:] for pid in pids for line in _lines(root / str(pid) / "cgroup") if line.startswith("0::")}
    if mount is None or len(groups) != 1:
        return {}
    folder = Path(f"{mount}{groups.pop()}")
    if {int(one) for one in _lines(folder / "cgroup.procs")} != set(pids):
        return {}
    return {kind: folder / f"{kind}.pressure" for kind in KINDS}


def pressure_features(before: Mapping[str, int], after: Mapping[str, int], elapsed_s: float) -> tuple[Feature, ...]:
    """Give shares of the time in which somebody waited."""
    shares = {
        kind: (after[kind] - before[kind]) / 1e6 / elapsed_s
        for kind in before
        if kind in after and after[kind] >= before[kind] and elapsed_s > 0
    }
    return tuple(
        one
        for kind, share in shares.items()
        for one in measured(f"{kind}_pressure_ratio", min(1.0, share), Source.PROCFS, elapsed_s)
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:  # it ended, or there is none
        return []
