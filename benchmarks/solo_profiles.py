"""Profiles of the experiment's workloads, each measured alone: what training knows of who slowed whom."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from benchmarks.design import CommandLine, Design, parse_design
from benchmarks.observations import observations, profile_name
from benchmarks.runs import PROFILES_FOLDER, RunLog
from isolation.cpuset import CpuSet
from isolation.topology import Topology
from profiler.collector import collect
from profiler.dataset import FAMILIES, OBSERVATIONS, PROFILES
from profiler.errors import ProfilerError
from profiler.exchange import profiles_to_json
from profiler.files import write_atomically
from profiler.records import WorkloadProfile
from profiler.registry import ModelRegistry
from profiler.store import ObservationStore, ProfileStore

#: Told the workload, its number, of how many, and its share done.
Report = Callable[[str, int, int, float], None]


def measure_profiles(
    design: Design,
    folder: Path,
    topology: Topology,
    report: Report,
    *,
    measure: Callable[..., WorkloadProfile] = collect,
) -> list[WorkloadProfile]:
    """Profile each workload of the design that has no profile yet, on one CPU; raises what the profiler raises.

    A service is profiled together with its load, as the experiment runs it: another profile than `cotenant profile
    NAME` takes of the server alone.
    """
    store = ProfileStore(folder / PROFILES_FOLDER)
    wanted = list(dict.fromkeys(member.workload for cell in design.repetitions for member in cell.members))
    known = set(store.names())
    found = []
    for number, workload in enumerate(wanted):
        name = profile_name(workload)
        if name not in known:
            line = design.workloads[workload]
            store.save(
                measure(
                    name,
                    (sys.executable, "-P", "-m", line.module, *line.arguments),
                    cpus=CpuSet.of([min(topology.usable)]),
                    on_progress=lambda share, _stage, at=number, of=workload: report(of, at, len(wanted), share),
                )
            )
        found.append(store.load(name))
    return found


def pack_training(log: RunLog, folder: Path, to: Path, topology: Topology) -> str:
    """Write observations and profiles of a record beside its runs; says what was written, or why nothing was.

    Which CPUs share what is not in the record, so this must be a host of the class that measured it.
    """
    if log.topologies != {topology.fingerprint}:
        return (
            f"no observations were written: the runs are of a host with topology {', '.join(sorted(log.topologies))}, "
            f"this one has {topology.fingerprint}"
        )
    store = ProfileStore(folder / PROFILES_FOLDER)
    profiles = [store.load(name) for name in store.names()]
    known = {one.name for one in profiles}
    told = observations(log.runs, topology)
    found = [one for one in told if {one.victim, *one.aggressors} <= known]
    strangers = {name for one in told for name in (one.victim, *one.aggressors)} - known
    path = to / OBSERVATIONS
    path.unlink(missing_ok=True)
    ObservationStore(path).append(found)
    write_atomically(to / PROFILES, profiles_to_json(profiles))
    write_atomically(to / FAMILIES, json.dumps(families(), indent=1).encode() + b"\n")
    left_out = (
        f"; {len(told) - len(found)} left out, without profile: {', '.join(sorted(strangers))}" if strangers else ""
    )
    return f"{path}: {len(found)} observations of workloads with a profile; {len(profiles)} profiles{left_out}"


def pack_model(log: RunLog, state: Path, to: Path) -> str:
    """Put the model in use beside the runs, so that its predictions are told wherever they are analysed.

    Says which, or why none. Raises StoreFailed.
    """
    models = ModelRegistry(state / "models")
    try:
        manifest = models.active().manifest
    except ProfilerError as error:
        return f"no model was packed: {error}"
    if log.topologies != {manifest.host_fingerprint}:
        return f"no model was packed: {manifest.id} is of another class of host"
    if (to / "models").resolve() == (state / "models").resolve():
        return f"no model was packed: {str(to)!r} is the state folder itself"
    packed = ModelRegistry(to / "models")
    packed.copy(manifest.id, models)
    for earlier in packed.list(on_damaged=lambda _error: None):
        if earlier.id != manifest.id:
            shutil.rmtree(to / "models" / earlier.id, ignore_errors=True)  # left over, it does no harm
    return f"{to / 'models'}: model {manifest.id}, {manifest.observations} observations"


def families() -> dict[str, str]:
    """Name for each workload of the project's design the program that it is a variant of, by profile name."""
    text = resources.files("benchmarks").joinpath("factorial.toml").read_text()
    lines = parse_design(tomllib.loads(text)).workloads
    return {profile_name(workload): _program(line) for workload, line in sorted(lines.items())}


def _program(line: CommandLine) -> str:
    """Give module and kind of work; options such as sizes and numbers of agents make variants."""
    return " ".join((line.module, *(one for one in line.arguments[:1] if not one.startswith("-"))))
