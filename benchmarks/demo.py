"""The whole loop on this machine: profile, measure pairs, train, place through gRPC, measure, release, compare.

Everything is real: processes, daemon, cgroups or affinity, llama.cpp. What is compared with the daemon's placement is
the kernel's own (all workloads allowed on all CPUs), in turns within seconds of each other.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from benchmarks.colocation import Ratio, Stage, Window, slowdowns
from benchmarks.daemon_process import DaemonProcess
from benchmarks.errors import DaemonSilent
from benchmarks.host_state import differences, read_state
from benchmarks.model_file import DEFAULT_SHAPE, ensure_model, named_shape
from benchmarks.workloads import Workload, catalogue
from cotenant.client import Client, CotenantError
from cotenant.v1 import model_pb2, placement_pb2
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer
from isolation.errors import IsolationError
from isolation.topology import Topology, read_topology
from profiler.collector import collect
from profiler.errors import TrainingImpossible
from profiler.interruption import ended_by_signals
from profiler.progress import ProgressEvent
from profiler.records import Observation, Relation, WorkloadProfile
from profiler.store import ObservationStore, ProfileStore
from profiler.tokens import between_tokens_s, quantile
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
    #: setting -> median and 99th percentile of the agent's time between tokens while it was placed; NaN = unknown
    tbt_ms: dict[str, tuple[float, float]]
    solo_tbt_ms: float  #: NaN = unknown, and so is the bound: nothing was promised
    bound_tbt_ms: float
    model: model_pb2.Model | None
    refused: dict[str, str]  #: workload -> why, of the last round, as placements and predictions are
    withdrawn: str  #: why the agent had to be placed without a promise; empty = the promise was made
    differences: list[str]  #: what was not as before after the release
    compared: str  #: how much was compared before and after


class Demonstration:
    """One run; `run` does everything and leaves nothing behind, whatever ends it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.topology = read_topology()
        self._near, self._far = _two_cpus(self.topology)
        self.profiles: dict[str, WorkloadProfile] = {}
        self.observations: list[Observation] = []
        self._promise: dict[str, float | str] | None = None
        self._withdrawn = ""

    def run(self, on_profiles: Callable[[], None], on_model: Callable[[model_pb2.Model | None], None]) -> Outcome:
        """Go through all steps; the callbacks may print between them."""
        workloads = {one.name: one for one in catalogue() if one.name in KINDS}
        with ExitStack() as cleanup:
            cleanup.enter_context(ended_by_signals())
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
            return self._compare(stage, client, model, group_prefix(state.absolute()))

    def _profile(self, workload: Workload, store: ProfileStore, position: int) -> None:
        def told(share: float, what: str) -> None:
            self._report(f"profiling {workload.name} alone: {what}", (position + share) / len(KINDS))

        cpus = CpuSet.of([self._near])
        profile = collect(workload.name, workload.argv, cpus=cpus, window_s=_PROFILE_S, curve=False, on_progress=told)
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

    def _compare(self, stage: Stage, client: Client, model: model_pb2.Model | None, prefix: str) -> Outcome:
        pids = {name: running.process.pid for name, running in stage.members.items()}
        before = read_state(pids.values(), prefix)
        solo_tbt_ms = self.profiles["agent"].value("tbt_s") * 1e3
        if math.isfinite(solo_tbt_ms):
            self._promise = {"class": "latency", "tbt_ms": solo_tbt_ms * PROMISE, "quantile": 0.5}
        placements: dict[str, placement_pb2.Placement] = {}
        refused: dict[str, str] = {}
        windows: dict[str, list[Window]] = {"cotenant": [], "kernel": []}

        def by_cotenant() -> None:
            place_all()
            if refused and self._promise is not None:
                # the daemon keeps the agent's promise by refusing its neighbours; all four are to be placed, so the
                # promise is taken back, and the report says so
                self._withdrawn = next(iter(refused.values()))
                self._promise = None
                _release_all(client)
                place_all()

        def place_all() -> None:
            placements.clear()
            refused.clear()
            for name in KINDS:
                placed = self._place(client, name, pids[name])
                if isinstance(placed, str):
                    refused[name] = placed
                else:
                    placements[name] = placed

        def by_kernel() -> None:
            _release_all(client)

        def measured(setting: str, window: Window) -> None:
            if setting == "kernel" or "agent" in placements:  # a refused agent was promised nothing
                windows[setting].append(window)
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
        after = read_state(pids.values(), prefix)
        events = stage.members["agent"].log.events
        return Outcome(
            placements=placements,
            predicted={one.workload: one for placed in placements.values() for one in placed.predictions},
            measured=found,
            tbt_ms={setting: time_between_tokens_ms(events, spans) for setting, spans in windows.items()},
            solo_tbt_ms=solo_tbt_ms,
            bound_tbt_ms=solo_tbt_ms * PROMISE,
            model=model,
            refused=refused,
            withdrawn=self._withdrawn,
            differences=differences(before, after),
            compared=str(before),
        )

    def _place(self, client: Client, name: str, pid: int) -> placement_pb2.Placement | str:
        """Place one; gives the reason if the daemon refuses."""
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
            return str(error)


def _two_cpus(topology: Topology) -> tuple[int, int | None]:
    """Choose a CPU, and another that shares its last-level cache but not its core if there is one."""
    usable = [cpu for cpu in topology.cpus if cpu.id in topology.usable]
    first = usable[0]
    near = [cpu for cpu in usable[1:] if cpu.llc == first.llc and cpu.core != first.core]
    others = near or usable[1:]
    return first.id, others[0].id if others else None


def _relation(topology: Topology, victim: int, aggressor: int) -> Relation:
    return Sharing(topology).relation(CpuSet.of([victim]), CpuSet.of([aggressor]))


def time_between_tokens_ms(events: Sequence[ProgressEvent], windows: Iterable[Window]) -> tuple[float, float]:
    """Give median and 99th percentile of the time between tokens in these windows, milliseconds; NaN = unknown."""
    found_s = [one for it in windows for one in between_tokens_s(events, it.start_s, it.end_s, it.seen_s)]
    if not found_s:
        return math.nan, math.nan
    return statistics.median(found_s) * 1e3, quantile(found_s, 0.99) * 1e3


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
