"""Do the probes tell the truth? Workloads of known footprint and of known bandwidth, and what is estimated of them.

    python -m benchmarks.probe_check [--rounds N]

Prints one line a workload; an estimate is off when it is more than a quarter from the truth and its interval (value
less and plus its spread) does not hold it. Known bandwidth is what the workload says it read in the very same slices.
Ends with 1 if one is off; says so where the host allows no probes.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.command import PinnedCommand
from profiler.probes import probe_command
from profiler.probing import ProbeResult, measure
from profiler.sensitivity import SENSITIVITY

_FOOTPRINTS_MIB = (1, 4, 16, 64)
_SHARES = (0.15, 0.4, 0.8, 1.0)  # not those the probes compare with, but for the last
_TOLERANCE = 0.25
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One number known and estimated; NaN estimate = the probes say they do not know."""

    what: str
    known: float
    estimate: float
    spread: float
    note: str = ""

    @property
    def verdict(self) -> str:
        """Judge: right, explained by its interval, unknown with a reason, or off."""
        if math.isnan(self.estimate):
            return "not told" if self.note else "off"
        if abs(self.estimate / self.known - 1) <= _TOLERANCE:
            return "right"
        return "interval" if abs(self.estimate - self.known) <= self.spread else "off"


def shared_cache() -> tuple[int, int, int] | None:
    """Give two usable CPUs that share a last-level cache, and its bytes; None where there are none."""
    topology = read_topology()
    domain = next((one for one in topology.llc_domains if len(one.cpus & topology.usable) > 1), None)
    if domain is None or domain.size_bytes is None:
        return None
    cpus = list(domain.cpus & topology.usable)
    return cpus[0], cpus[-1], domain.size_bytes


def probed(command: Sequence[str], cpu: int, probe_cpu: int, llc_bytes: int) -> ProbeResult:
    """Probe a command, once it works."""
    with tempfile.TemporaryDirectory(prefix="cotenant-check-") as folder:  # noqa: SIM117 - the command goes first
        with PinnedCommand(command, CpuSet.of([cpu]), Path(folder)) as workload:
            deadline_s = time.monotonic() + 30
            while workload.poll() and workload.progress.covered_s is None and time.monotonic() < deadline_s:
                time.sleep(0.05)
            time.sleep(1.0)
            return measure(
                workload,
                cpus=CpuSet.of([cpu]),
                probe_cpu=probe_cpu,
                llc_bytes=llc_bytes,
                folder=Path(folder),
                pids=workload.family(),
            )


def _check(what: str, known: float, name: str, found: ProbeResult, about: str) -> Check:
    feature = next((one for one in found.features if one.name == name), None)
    note = "; ".join(one for one in found.notes if about in one)
    if feature is None:
        return Check(what=what, known=known, estimate=math.nan, spread=math.nan, note=note)
    return Check(what=what, known=known, estimate=feature.value, spread=feature.spread or 0.0, note=note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and say by the exit code how it went."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probe_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args(arguments)
    cache = shared_cache()
    if cache is None:
        sys.stderr.write(
            "probe_check: nothing checked, it needs two CPUs that share a last-level cache of known size\n"
        )
        return 0
    first, last, llc_bytes = cache
    checks: list[Check] = []
    curves: dict[str, ProbeResult] = {}
    for _ in range(chosen.rounds):
        for mib in _FOOTPRINTS_MIB:
            command = (sys.executable, "-P", "-m", "benchmarks.workloads", "latency", "--bytes", f"{mib}M")
            found = probed(command, first, last, llc_bytes)
            curves[f"random reads, {mib} MiB"] = found
            checks.append(_check(f"footprint {mib} MiB", mib * _MIB, "llc_footprint_bytes", found, "footprint"))
        for share in _SHARES:
            found = probed(probe_command("stream", 4 * llc_bytes, share=share), first, last, llc_bytes)
            curves[f"streaming, {share:.0%}"] = found
            checks.append(_check(f"bandwidth, {share:.0%}", found.rate_per_s, "memory_bytes_per_s", found, "bandwidth"))
    _print(checks, curves)
    return 1 if any(one.verdict == "off" for one in checks) else 0


def _print(checks: Sequence[Check], curves: dict[str, ProbeResult]) -> None:
    console = Console(width=120)
    table = Table("known", "", "estimate", "spread", "ratio", "verdict", "note")
    for one in checks:
        unit = (_MIB, "MiB") if "MiB" in one.what else (1e9, "GB/s")
        told = "?" if math.isnan(one.estimate) else f"{one.estimate / unit[0]:.2f}"
        table.add_row(
            one.what,
            f"{one.known / unit[0]:.2f} {unit[1]}",
            told,
            "?" if math.isnan(one.spread) else f"{one.spread / unit[0]:.2f}",
            "?" if math.isnan(one.estimate) else f"{one.estimate / one.known:.2f}",
            one.verdict,
            one.note,
        )
    console.print(table)
    names = (*SENSITIVITY, "cache_pressure_ratio")
    table = Table("workload", *(name.removesuffix("_sf").removesuffix("_ratio").replace("_", " ") for name in names))
    for what, found in curves.items():
        values = {one.name: one for one in found.features}
        shown = [
            f"{values[name].value:.2f} ±{values[name].spread or 0:.2f}" if name in values else "?" for name in names
        ]
        table.add_row(what, *shown)
    console.print(table)
    ratios = [one.estimate / one.known for one in checks if not math.isnan(one.estimate)]
    if ratios:
        console.print(f"median estimate / known: {statistics.median(ratios):.2f}; {len(ratios)} of {len(checks)} told")


if __name__ == "__main__":
    sys.exit(main())
