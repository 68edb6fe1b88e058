"""What a group of processes consumed, from /proc: totals at two moments, and rates between them.

A group is the given pids, their descendants, and everybody in a session that one of them leads.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isolation.cpuset import CpuSet
from profiler.records import Feature, Source, measured

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSample:
    """Totals of a group since its processes began; NaN = the kernel does not let us read it."""

    t_s: float  #: CLOCK_MONOTONIC
    user_s: float
    system_s: float
    minor_faults: float
    major_faults: float
    rss_bytes: float
    read_bytes: float
    written_bytes: float
    threads: int
    pids: frozenset[int]
    voluntary: dict[int, int] = field(default_factory=dict)  #: context switches by thread id
    involuntary: dict[int, int] = field(default_factory=dict)


def members(pids: Collection[int], root: Path = PROC) -> frozenset[int]:
    """Find the living processes of the group; zombies whose parent has not reaped them count as gone."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in os.listdir(root):  # noqa: PTH208 - a thousand Path objects per sample would be the larger cost
        if not entry.isdecimal() or (stat := _stat(root / entry)) is None or stat[0] in ("Z", "X"):
            continue
        pid, parent, session = int(entry), int(stat[1]), int(stat[3])
        parents[pid] = parent
        if pid in pids or session in pids:
            found.add(pid)
    grown = True
    while grown:
        born = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        grown = bool(born)
        found |= born
    return frozenset(found)


def sample(pids: Collection[int], root: Path = PROC, *, without: Collection[int] = ()) -> GroupSample:
    """Read the totals of the group now; processes that vanish while we read count as gone."""
    group = members(pids, root).difference(without)
    totals = [0.0] * 4
    rss_bytes, io, threads = 0.0, [0.0, 0.0], 0
    voluntary: dict[int, int] = {}
    involuntary: dict[int, int] = {}
    for pid in group:
        folder = root / str(pid)
        stat = _stat(folder)
        if stat is None:
            continue
        # fields as in man 5 proc minus 3; those of reaped children are added, or a shell that forks would look idle
        user, system, minor, major = ((11, 13), (12, 14), (7, 8), (9, 10))
        for place, columns in enumerate((user, system, minor, major)):
            totals[place] += sum(int(stat[column]) for column in columns)
        rss_bytes += int(stat[21]) * _PAGE_BYTES
        threads += int(stat[17])
        for place, value in enumerate(_io(folder)):
            io[place] += value
        _switches(folder, voluntary, involuntary)
    return GroupSample(
        t_s=time.monotonic(),
        user_s=totals[0] / _TICKS_PER_S,
        system_s=totals[1] / _TICKS_PER_S,
        minor_faults=totals[2],
        major_faults=totals[3],
        rss_bytes=rss_bytes,
        read_bytes=io[0],
        written_bytes=io[1],
        threads=threads,
        pids=group,
        voluntary=voluntary,
        involuntary=involuntary,
    )


def cpu_s(first: GroupSample, last: GroupSample) -> float:
    """Give the CPU seconds the group consumed between two samples."""
    return max(0.0, last.user_s + last.system_s - first.user_s - first.system_s)


def features_over(samples: Sequence[GroupSample], cpus: int) -> tuple[Feature, ...]:
    """Turn samples into features of the whole span, each with its spread over the slices between them."""
    if len(samples) < 2 or samples[-1].t_s <= samples[0].t_s:
        return ()
    slices = [_values(one, other, cpus) for one, other in itertools.pairwise(samples) if other.t_s > one.t_s]
    whole = _values(samples[0], samples[-1], cpus)
    window_s = samples[-1].t_s - samples[0].t_s
    return procfs_features(whole, window_s, slices if len(slices) > 1 else ())


def _values(first: GroupSample, last: GroupSample, cpus: int) -> dict[str, float]:
    window_s = last.t_s - first.t_s
    used_s = cpu_s(first, last)
    system_s = max(0.0, last.system_s - first.system_s)
    return {
        "cpu_cores": used_s / window_s,
        "cpu_utilisation_ratio": min(1.0, used_s / window_s / cpus),
        "system_time_ratio": min(1.0, system_s / used_s) if used_s > 0 else math.nan,
        "threads": float(last.threads),
        "voluntary_switches_per_s": _born_or_grown(first.voluntary, last.voluntary) / window_s,
        "involuntary_switches_per_s": _born_or_grown(first.involuntary, last.involuntary) / window_s,
        "minor_faults_per_s": (last.minor_faults - first.minor_faults) / window_s,
        "major_faults_per_s": (last.major_faults - first.major_faults) / window_s,
        "rss_bytes": last.rss_bytes,
        "io_read_bytes_per_s": (last.read_bytes - first.read_bytes) / window_s,
        "io_write_bytes_per_s": (last.written_bytes - first.written_bytes) / window_s,
    }


def procfs_features(
    values: dict[str, float], window_s: float, slices: Sequence[dict[str, float]] = ()
) -> tuple[Feature, ...]:
    """Keep what is known: NaN and values outside a feature's definition are left out."""
    found: list[Feature] = []
    for name, value in values.items():
        known = [one[name] for one in slices if math.isfinite(one.get(name, math.nan))]
        found += measured(name, value, Source.PROCFS, window_s, known)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class ProcessTime:
    """CPU time of one process; pid and started_ticks together are never used twice."""

    name: str
    started_ticks: int
    cpu_s: float


def process_times(root: Path = PROC) -> dict[int, ProcessTime]:
    """Read the CPU time of every process, without that of its children."""
    found = {}
    for entry in os.listdir(root):  # noqa: PTH208
        if not entry.isdecimal():
            continue
        try:
            text = (root / entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended
        fields = text[text.rindex(")") + 2 :].split()
        name = "".join(one if one.isprintable() else "?" for one in text[text.index("(") + 1 : text.rindex(")")])
        used_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        found[int(entry)] = ProcessTime(name, int(fields[19]), used_s)
    return found


def cpu_times_s(pid: int, root: Path = PROC) -> tuple[float, float]:
    """Give the CPU time of all threads of one process, in user and in kernel mode; NaN if it ended."""
    stat = _stat(root / str(pid))
    return (math.nan, math.nan) if stat is None else (int(stat[11]) / _TICKS_PER_S, int(stat[12]) / _TICKS_PER_S)


def is_running(pid: int, root: Path = PROC) -> bool:
    """Tell whether a process is there and not stopped."""
    stat = _stat(root / str(pid))
    return stat is not None and stat[0] not in "TtZX"


def busy_s(cpus: CpuSet, root: Path = PROC) -> float:
    """Give the seconds these CPUs were busy since boot, stolen time included; NaN if /proc/stat does not list one."""
    total, seen = 0, 0
    for line in (root / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields[:8])
            total += user + nice + system + irq + softirq + steal
            seen += 1
    return total / _TICKS_PER_S if seen == len(cpus) else math.nan


def _stat(folder: Path) -> list[str] | None:
    """Give the fields of stat after the command's name (which may hold spaces and parentheses); None = gone."""
    try:
        text = (folder / "stat").read_text(errors="replace")
    except OSError:  # it ended while we looked: ESRCH or ENOENT, both mean gone
        return None
    return text[text.rindex(")") + 2 :].split()


def _io(folder: Path) -> tuple[float, float]:
    """Give bytes read from and written to storage; NaN without the right to look (another user's process)."""
    try:
        lines = (folder / "io").read_text().splitlines()
    except OSError:
        return math.nan, math.nan
    values = {key: float(value) for key, _, value in (line.partition(": ") for line in lines)}
    return values.get("read_bytes", math.nan), values.get("write_bytes", math.nan)


def _switches(folder: Path, voluntary: dict[int, int], involuntary: dict[int, int]) -> None:
    """Add context switches of each thread; status of the process itself tells only of its first thread."""
    try:
        threads = os.listdir(folder / "task")  # noqa: PTH208
    except OSError:
        return
    for thread in threads:
        try:
            text = (folder / "task" / thread / "status").read_text(errors="replace")
        except OSError:
            continue  # the thread ended
        for line in text.splitlines()[-2:]:
            key, _, value = line.partition(":")
            if key == "voluntary_ctxt_switches":
                voluntary[int(thread)] = int(value)
            elif key == "nonvoluntary_ctxt_switches":
                involuntary[int(thread)] = int(value)


def _born_or_grown(first: dict[int, int], last: dict[int, int]) -> int:
    return sum(max(0, count - first.get(thread, 0)) for thread, count in last.items())
