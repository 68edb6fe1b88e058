"""Requests and placements as frozen values. Knows no protobuf, no kernel files, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from isolation.cpuset import CpuSet, NodeSet
from isolation.spec import CacheWays, MemoryBandwidth
from profiler.records import WorkloadProfile


class PlacementState(StrEnum):
    """Life of a placement; the names are those of the API."""

    PLANNED = "PLANNED"
    APPLYING = "APPLYING"
    ACTIVE = "ACTIVE"
    PARTIAL = "PARTIAL"
    CONTESTED = "CONTESTED"
    RELEASING = "RELEASING"
    RELEASED = "RELEASED"


#: States in which a placement holds CPUs.
LIVE = frozenset(
    {
        PlacementState.APPLYING,
        PlacementState.ACTIVE,
        PlacementState.PARTIAL,
        PlacementState.CONTESTED,
        PlacementState.RELEASING,
    }
)


class SloClass(StrEnum):
    """Kinds of promise."""

    LATENCY = "LATENCY"
    THROUGHPUT = "THROUGHPUT"
    COLLECTIVE = "COLLECTIVE"
    SERVICE = "SERVICE"
    BEST_EFFORT = "BEST_EFFORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Bounds a workload was promised; None = no such bound."""

    slo_class: SloClass = SloClass.BEST_EFFORT
    ttft_ms: float | None = None
    tbt_ms: float | None = None
    ttlt_ms: float | None = None
    quantile: float | None = None  #: of the bounds in milliseconds; None = TBT at P99, the others at the median
    max_slowdown: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequest:
    """One workload as the caller described it, checked."""

    name: str
    cpus: int
    pids: tuple[int, ...] = ()
    cgroup_path: str | None = None
    memory_bytes: int | None = None
    whole_cores: bool = False
    profile_name: str | None = None
    inline_profile: WorkloadProfile | None = None
    slo: Slo = field(default_factory=Slo)
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A workload that already sits somewhere, as the planner sees it."""

    name: str
    cpus: CpuSet
    profile: WorkloadProfile | None  #: None = unknown
    slo: Slo
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSlowdown:
    """Predicted slowdown factor of one workload after the placement, all its neighbours composed."""

    workload: str
    slowdown: float
    lower: float
    upper: float
    prior: float
    far_from_training: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One factor of the newcomer's slowdown."""

    aggressor: str
    cause: str  #: time_sharing, smt, cache, bandwidth or learned
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One CPU set looked at."""

    cpus: CpuSet
    cost: float
    feasible: bool
    reason: str  #: why not feasible; empty otherwise
    predictions: tuple[PredictedSlowdown, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why it was placed there."""

    summary: str
    candidates: tuple[Candidate, ...]  #: best first, at most 8
    candidates_considered: int
    decided_by: str
    binding_constraint: str
    model_id: str
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAdvice:
    """What an LLM engine should be told."""

    decode_threads: int
    prefill_threads: int
    numa: str  #: llama.cpp --numa value; empty = nothing to set


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The planner's answer: where, with which predictions, and why."""

    cpus: CpuSet
    mems: NodeSet | None
    predictions: tuple[PredictedSlowdown, ...]
    explanation: Explanation
    fallback: str  #: why the model was not used; empty when it was
    best_effort: bool  #: a bound is predicted to be broken and the request allowed it
    engine_advice: EngineAdvice
    cache_ways: tuple[CacheWays, ...] = ()  #: empty = all ways, like everybody else
    memory_bandwidth: tuple[MemoryBandwidth, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A decision and what became of it."""

    request: WorkloadRequest
    decision: Decision
    state: PlacementState
    etag: str
    mechanism: str
    threads: int
    notes: tuple[str, ...]
    created_unix_s: float

    @property
    def name(self) -> str:
        """The workload's name is the placement's."""
        return self.request.name
