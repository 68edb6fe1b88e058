"""Designs and runs for tests of the experiment; the runs are simulated, no machine has done them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.design import Cell, Design, Isolation, Member, Part, parse_design
from benchmarks.host_class import Host, HostClass
from benchmarks.runs import Outcome, Phase, Reading, Run

CELL = Cell(
    part=Part.FACTORIAL,
    members=(Member(workload="memory", instances=4), Member(workload="single")),
    isolation=Isolation.PINNING,
)
HOST = Host(
    kind=HostClass(processor="Model X", cpus=2, caches=("1 x L3",), kernel_series="6.18"),
    instance="a1",
    topology="t",
    kernel="6.18.1",
    memory_gib=24,
    mechanism="cgroup_v1",
    without=(),
    versions=(),
)


def document(**changes: Any) -> dict[str, Any]:
    """Give a small design: two ordinary workloads, an agent, two isolations."""
    line = {"module": "benchmarks.workloads", "unit": "bytes", "about": "some"}
    return {
        "schema": 1,
        "seed": 7,
        "windows": {
            "solo_s": 0.15,
            "solo_agents_s": 0.3,
            "together_s": 0.2,
            "crowd_processes": 9,
            "crowd_together_s": 0.5,
        },
        "workloads": {
            "cpu": {**line, "arguments": ["cpu"]},
            "memory": {**line, "arguments": ["memory", "--bytes", "1M"]},
            "single": {"module": "benchmarks.agents", "unit": "tokens", "about": "agent", "arguments": ["--replay"]},
        },
        "factorial": {
            "traditional": ["cpu", "memory"],
            "agents": ["single"],
            "isolation": ["none", "pinning", "cat"],
            "concurrency": [1, 4],
            "repetitions": 3,
        },
        **changes,
    }


def design(**changes: Any) -> Design:
    """Parse `document`."""
    return parse_design(document(**changes))


def reading(member: str, phase: Phase, **values: Any) -> Reading:
    """Give a reading of which only these values are told."""
    return Reading(**{"member": member, "phase": phase, "seconds": 1.0, "rate_per_s": None, "cpu_s": None, **values})


def simulated_run(cell: Cell = CELL, *, readings: tuple[Reading, ...] = (), **changes: Any) -> Run:
    """Give a run as if it had been done."""
    run = Run(
        part=cell.part,
        cell=cell.name,
        members=cell.members,
        isolation=cell.isolation,
        repetition=0,
        attempt=1,
        block=0,
        seed=7,
        revision="abc",
        host=HOST.kind.fingerprint,
        instance=HOST.instance,
        started_unix_s=1.0,
        took_s=7.0,
        outcome=Outcome.OK,
        readings=readings,
    )
    return replace(run, **changes)


def bracketed(member: str, values: Mapping[str, tuple[Any, Any, Any]]) -> tuple[Reading, ...]:
    """Give the three readings of a member: each value before, together, after."""
    return tuple(
        reading(member, phase, **{name: three[place] for name, three in values.items()})
        for place, phase in enumerate(Phase)
    )


def slowed_run(
    *members: Member, cpus: tuple[str, ...], factor: float, isolation: Isolation | None = None, **changes: Any
) -> Run:
    """Give a run in which everybody takes `factor` times as long together; pinned, unless without CPUs or told so."""
    kept_apart = isolation or (Isolation.PINNING if cpus else Isolation.NONE)
    cell = Cell(part=Part.BREADTH, members=members, isolation=kept_apart)
    readings = tuple(
        one for member in members for one in bracketed(member.workload, {"rate_per_s": (10.0, 10.0 / factor, 10.0)})
    )
    return simulated_run(cell, readings=readings, cpus=cpus, **changes)
