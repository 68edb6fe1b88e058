"""The whole loop on this machine: profile, measure pairs, train, place through gRPC, measure, release, compare.

Everything is real: processes, daemon, cgroups or affinity, llama.cpp. What is compared with the daemon's placement is
the kernel's own (all workloads allowed on all CPUs), in turns within seconds of each other.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from types import FrameType

from benchmarks.colocation import Ratio, Stage, slowdowns
from benchmarks.daemon_process import DaemonProcess
from benchmarks.errors import DaemonSilent
from benchmarks.model_file import DEFAULT_SHAPE, ensure_model, named_shape
from benchmarks.workloads import Workload, catalogue
from cotenant.client import Client, CotenantError
from cotenant.v1 import model_pb2, placement_pb2
from isolation.cgroup import find_hierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer
from isolation.errors import IsolationError
from isolation.topology import Topology, read_topology
from profiler.collector import collect
from profiler.errors import TrainingImpossible
from profiler.records import Observation, Relation, WorkloadProfile
from profiler.store import ObservationStore, ProfileStore
from scheduler.sharing import Sharing
from scheduler.state import group_prefix

KINDS = ("agent", "cpu", "memory", "io")
#: The agent is promised a median time between tokens of at most this many times its solo one.
PROMISE = 1.9
_PAIR_ROUNDS = 2
_PAIR_S = 1.0
_FINAL_ROUNDS = 5
_FINAL_S = 2.4
_PROFILE_S = 4.0
_TRAINING_LIMIT_S = 120.0

#: (what is being done, share done 0 to 1)
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demonstration found."""

    placements: dict[str, placement_pb2.Placement]
    predicted: dict[str, placement_pb2.Prediction]
    measured: dict[str, dict[str, Ratio]]  #: setting ("cotenant", "kernel") -> workload -> slowdown
    tbt_ms: dict[str, tuple[float, float]]  #: setting -> median and 99th percentile of the agent's time between tokens
    solo_tbt_ms: float
    bound_tbt_ms: float
    model: model_pb2.Model | None
    refused: dict[str, str]  #: workload -> why
    differences: list[str]  #: what was not as before after the release
    compared: str  #: what was compared before and after


class Demonstration:
    """One run; `run` does everything and leaves nothing behind, whatever ends it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.topology = read_topology()
        self._near, self._far = _two_cpus(self.topology)
        self.profiles: dict[str, WorkloadProfile] = {}
        self.observations: list[Observation] = []
        self._promise: dict[str, float | str] = {}

    def run(self, on_profiles: Callable[[], None], on_model: Callable[[model_pb2.Model | None], None]) -> Outcome:
        """Go through all steps; the callbacks may print between them."""
        workloads = {one.name: one for one in catalogue() if one.name in KINDS}
        with ExitStack() as cleanup:
            cleanup.enter_context(_ended_by_sigterm())
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cotenant-demo-")))
            state = folder / "state"
            cleanup.callback(_sweep, self.topology, state)
            self._report("writing the model file (random weights, published shape)", 0.0)
            ensure_model(
                named_shape(DEFAULT_SHAPE), progress=lambda done, total: self._report("writing the model", done / total)
            )
            stage = cleanup.enter_context(Stage(folder))
            daemon = cleanup.enter_context(DaemonProcess(state))
            client = cleanup.enter_context(Client(daemon.socket, timeout_s=60))
            cleanup.callback(_release_all, client)
            for position, name in enumerate(KINDS):
                self._profile(workloads[name], ProfileStore(state / "profiles"), position)
            on_profiles()
            for position, name in enumerate(KINDS):
                self._report(f"starting {name}", position / len(KINDS))
                stage.start(workloads[name])
            self._pairs(stage, ObservationStore(state / "observations.jsonl"))
            model = self._train(client)
            on_model(model)
            return self._compare(stage, client, model)

    def _profile(self, workload: Workload, store: ProfileStore, position: int) -> None:
        def told(share: float, what: str) -> None:
            self._report(f"profiling {workload.name} alone: {what}", (position + share) / len(KINDS))

        cpus = CpuSet.of([self._near])
        profile = collect(workload.name, workload.argv, cpus=cpus, window_s=_PROFILE_S, on_progress=told)
        store.save(profile, replace=True)
        self.profiles[workload.name] = profile

    def _pairs(self, stage: Stage, store: ObservationStore) -> None:
        """Measure every pair on one CPU, and on two CPUs that share what the host has to share."""
        seats = [(self._near, self._near)] + ([(self._near, self._far)] if self._far is not None else [])
        steps = [(pair, seat) for pair in combinations(KINDS, 2) for seat in seats]
        for number, (pair, (one, other)) in enumerate(steps):
            where = "one CPU" if one == other else "two CPUs"
            self._report(f"measuring {pair[0]} beside {pair[1]} on {where}", number / len(steps))
            stage.members[pair[0]].pin(CpuSet.of([one]))
            stage.members[pair[1]].pin(CpuSet.of([other]))
            found = slowdowns(stage, pair, {"": lambda: None}, rounds=_PAIR_ROUNDS, seconds=_PAIR_S)[""]
            relation = _relation(self.topology, one, other)
            for victim, aggressor in (pair, pair[::-1]):
                ratio = found[victim]
                if ratio.values:
                    self.observations.append(self._observation(victim, aggressor, relation, ratio))
        store.append(self.observations)
        for running in stage.members.values():
            running.pin(self.topology.usable)

    def _observation(self, victim: str, aggressor: str, relation: Relation, ratio: Ratio) -> Observation:
        return Observation(
            victim=victim,
            aggressors=(aggressor,),
            relations=(relation,),
            slowdown=ratio.slowdown,
            spread=ratio.spread_log,
            repetitions=len(ratio.values),
            window_s=_PAIR_S,
            host_fingerprint=self.topology.fingerprint,
            created_unix_s=time.time(),
            isolation="pinning",
        )

    def _train(self, client: Client) -> model_pb2.Model | None:
        operation = client.train()
        started_s = time.monotonic()
        while not operation.done:
            waited_s = time.monotonic() - started_s
            self._report("training in a child process", min(0.95, waited_s / 10))
            if waited_s > _TRAINING_LIMIT_S:
                raise DaemonSilent(f"training did not end within {_TRAINING_LIMIT_S:g} s")
            time.sleep(0.2)
            operation = client.operation(operation.name)
        if operation.HasField("error"):
            raise TrainingImpossible(operation.error.message)
        return next((one for one in client.models() if one.active), None)

    def _compare(self, stage: Stage, client: Client, model: model_pb2.Model | None) -> Outcome:
        pids = {name: running.process.pid for name, running in stage.members.items()}
        before = _state_of(pids.values())
        solo_tbt_ms = self.profiles["agent"].value("tbt_s") * 1e3
        self._promise = {"class": "latency", "tbt_ms": solo_tbt_ms * PROMISE, "quantile": 0.5}
        placements: dict[str, placement_pb2.Placement] = {}
        predicted: dict[str, placement_pb2.Prediction] = {}
        refused: dict[str, str] = {}
        windows: dict[str, list[tuple[float, float]]] = {}

        def by_cotenant() -> None:
            for name in KINDS:
                placed = self._place(client, name, pids[name], refused)
                if placed is not None:
                    placements[name] = placed
                    predicted.update({one.workload: one for one in placed.predictions})

        def by_kernel() -> None:
            _release_all(client)

        def measured(setting: str, start_s: float, end_s: float) -> None:
            windows.setdefault(setting, []).append((start_s, end_s))
            _release_all(client)  # solo windows are the kernel's own too

        found = slowdowns(
            stage,
            KINDS,
            {"cotenant": by_cotenant, "kernel": by_kernel},
            rounds=_FINAL_ROUNDS,
            seconds=_FINAL_S,
            on_round=lambda number: self._report("comparing with the kernel's own placement", number / _FINAL_ROUNDS),
            on_window=measured,
        )
        _release_all(client)
        after = _state_of(pids.values())
        return Outcome(
            placements=placements,
            predicted=predicted,
            measured=found,
            tbt_ms={setting: _tbt_ms(stage, spans) for setting, spans in windows.items()},
            solo_tbt_ms=solo_tbt_ms,
            bound_tbt_ms=solo_tbt_ms * PROMISE,
            model=model,
            refused=refused,
            differences=_differences(before, after),
            compared=f"{sum(key.startswith('/proc') for key in before)} threads, "
            f"{sum(not key.startswith('/proc') for key in before)} cpuset files",
        )

    def _place(self, client: Client, name: str, pid: int, refused: dict[str, str]) -> placement_pb2.Placement | None:
        try:
            return client.place(
                name,
                pids=[pid],
                cpus=1,
                profile=name,
                slo=self._promise if name == "agent" else None,
                allow_best_effort=True,
            )
        except CotenantError as error:
            if error.reason != "NO_FEASIBLE_PLACEMENT":
                raise
            refused[name] = str(error)
            return None


def _two_cpus(topology: Topology) -> tuple[int, int | None]:
    """Choose a CPU, and another that shares its last-level cache but not its core if there is one."""
    usable = [cpu for cpu in topology.cpus if cpu.id in topology.usable]
    first = usable[0]
    near = [cpu for cpu in usable[1:] if cpu.llc == first.llc and cpu.core != first.core]
    others = near or usable[1:]
    return first.id, others[0].id if others else None


def _relation(topology: Topology, victim: int, aggressor: int) -> Relation:
    return Sharing(topology).relation(CpuSet.of([victim]), CpuSet.of([aggressor]))


def _tbt_ms(stage: Stage, spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Give median and 99th percentile of the agent's time between tokens within these windows, milliseconds."""
    gaps = []
    for start_s, end_s in spans:
        inside = [one for one in stage.members["agent"].log.events if start_s <= one.t_s <= end_s]
        gaps += [
            (later.t_s - earlier.t_s) * 1e3
            for earlier, later in pairwise(inside)
            if earlier.kind == later.kind == "token"
        ]
    if len(gaps) < 2:
        return math.nan, math.nan
    return statistics.median(gaps), statistics.quantiles(gaps, n=100)[98]


def _release_all(client: Client) -> None:
    for placement in list(client.placements()):
        client.release(placement.name)


def _sweep(topology: Topology, state: Path) -> None:
    """Remove groups of a daemon that died on the way; those of a living one are gone by now."""
    try:
        enforcer = Enforcer.for_host(topology, prefix=group_prefix(state.absolute()))
        for name in enforcer.groups():
            enforcer.remove_orphan(name)
    except IsolationError as error:
        os.write(2, f"cotenant: groups of the demonstration could not be removed: {error}\n".encode())


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: through every clean-up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _state_of(pids: Iterable[int]) -> dict[str, str]:
    """Read what a placement may change: affinity and cgroup of every thread, and every cpuset file of the host."""
    found: dict[str, str] = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = (task / "status").read_text(encoding="ascii", errors="replace")
            allowed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
            found[str(task)] = f"{allowed} {(task / 'cgroup').read_text(encoding='utf-8')}"
    hierarchy = find_hierarchy()
    if hierarchy is not None:
        for kind in ("cpuset.cpus", "cpuset.mems"):
            for file in Path(hierarchy.mount).rglob(kind):
                found[str(file)] = file.read_text(encoding="ascii")
    return found


def _differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'absent')!r} before, {after.get(key, 'absent')!r} after"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
