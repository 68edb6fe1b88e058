"""The border between messages and domain values; also the journal's record format, since protobuf evolves well.

With the servicers (service.py, learning.py) and what mounts them (daemon.py) all of this layer that knows the stubs.
"""

from __future__ import annotations

import math

from cotenant.v1 import model_pb2, operation_pb2, placement_pb2, profile_pb2, workload_pb2
from isolation.cpuset import CpuSet, NodeSet
from isolation.resctrl_mask import WayMask
from isolation.spec import CacheWays, MemoryBandwidth
from profiler.records import Feature, Quality, Relation, SlowdownEstimate, Source, SteadyWindow, WorkloadProfile
from scheduler.errors import RequestInvalid, Violation
from scheduler.operations import Operation
from scheduler.placement import (
    Candidate,
    Contribution,
    Decision,
    EngineAdvice,
    Explanation,
    Placement,
    PlacementState,
    PredictedSlowdown,
    Slo,
    SloClass,
    WorkloadRequest,
)
from scheduler.status import status_of

_NEEDS_BOUND = {
    SloClass.LATENCY: ("ttft_ms", "tbt_ms", "max_slowdown"),
    SloClass.THROUGHPUT: ("ttlt_ms", "max_slowdown"),
    SloClass.COLLECTIVE: ("ttlt_ms", "max_slowdown"),
    SloClass.SERVICE: ("max_slowdown",),
}


def workload_from(message: workload_pb2.Workload, *, needs_target: bool) -> WorkloadRequest:
    """Translate a workload whose fields already passed their rules; raises RequestInvalid for what spans fields."""
    target = message.WhichOneof("target")
    if needs_target and target is None:
        raise RequestInvalid(
            (Violation("workload.pids", "is missing: give pids or cgroup_path, or set validate_only to plan a start"),)
        )
    pids = tuple(message.pids.pids)
    if len(set(pids)) != len(pids):
        twice = sorted({pid for pid in pids if pids.count(pid) > 1})
        raise RequestInvalid((Violation("workload.pids.pids", f"holds {twice} more than once"),))
    profile = message.WhichOneof("profile")
    return WorkloadRequest(
        name=message.name,
        cpus=message.cpus,
        pids=pids,
        cgroup_path=message.cgroup_path if target == "cgroup_path" else None,
        memory_bytes=message.memory_bytes or None,
        whole_cores=message.whole_cores,
        profile_name=message.profile_name if profile == "profile_name" else None,
        inline_profile=profile_from(message.inline_profile, "workload.inline_profile")
        if profile == "inline_profile"
        else None,
        slo=_slo_from(message.slo) if message.HasField("slo") else Slo(),
        weight=message.weight or 1.0,
    )


def _slo_from(message: workload_pb2.Slo) -> Slo:
    name = workload_pb2.SloClass.Name(message.slo_class).removeprefix("SLO_CLASS_")
    bounds = {field: getattr(message, field) or None for field in ("ttft_ms", "tbt_ms", "ttlt_ms", "max_slowdown")}
    set_bounds = [field for field, value in bounds.items() if value is not None]
    if name == "UNSPECIFIED":
        if set_bounds:
            problem = f"is unset though {set_bounds[0]} is given; say which class the bound belongs to"
            raise RequestInvalid((Violation("workload.slo.slo_class", problem),))
        name = "BEST_EFFORT"
    slo_class = SloClass(name)
    wanted = _NEEDS_BOUND.get(slo_class, ())
    if wanted and not any(field in wanted for field in set_bounds):
        problem = f"{slo_class} needs one of {', '.join(wanted)}"
        raise RequestInvalid((Violation("workload.slo.slo_class", problem),))
    if stray := [field for field in set_bounds if field not in wanted]:
        problem = f"is given but has no meaning for class {slo_class}"
        raise RequestInvalid((Violation(f"workload.slo.{stray[0]}", problem),))
    return Slo(
        slo_class=slo_class,
        ttft_ms=bounds["ttft_ms"],
        tbt_ms=bounds["tbt_ms"],
        ttlt_ms=bounds["ttlt_ms"],
        quantile=message.quantile or None,
        max_slowdown=bounds["max_slowdown"],
    )


def _slo_to(slo: Slo) -> workload_pb2.Slo:
    return workload_pb2.Slo(
        slo_class=workload_pb2.SloClass.Value(f"SLO_CLASS_{slo.slo_class}"),
        ttft_ms=slo.ttft_ms or 0.0,
        tbt_ms=slo.tbt_ms or 0.0,
        ttlt_ms=slo.ttlt_ms or 0.0,
        quantile=slo.quantile or 0.0,
        max_slowdown=slo.max_slowdown or 0.0,
    )


def workload_to(request: WorkloadRequest) -> workload_pb2.Workload:
    """Translate back what the caller described."""
    message = workload_pb2.Workload(
        name=request.name,
        cpus=request.cpus,
        memory_bytes=request.memory_bytes or 0,
        whole_cores=request.whole_cores,
        slo=_slo_to(request.slo),
        weight=request.weight,
    )
    if request.pids:
        message.pids.pids.extend(request.pids)
    if request.cgroup_path is not None:
        message.cgroup_path = request.cgroup_path
    if request.profile_name is not None:
        message.profile_name = request.profile_name
    if request.inline_profile is not None:
        message.inline_profile.CopyFrom(profile_to(request.inline_profile))
    return message


def profile_from(message: profile_pb2.Profile, where: str) -> WorkloadProfile:
    """Translate a profile; raises RequestInvalid naming the feature that is out of its range."""
    try:
        features = tuple(
            Feature(
                name=one.name,
                value=one.value,
                spread=one.spread if one.HasField("spread") else None,
                source=Source(one.source),
                window_s=one.window_s,
                samples=one.samples,
            )
            for one in message.features
        )
        return WorkloadProfile(
            name=message.name,
            cpus=message.cpus,
            features=features,
            host_fingerprint=message.host_fingerprint,
            created_unix_s=message.created_unix_s,
            quality=Quality(message.quality or Quality.STABLE),
            note=message.note,
            window=_window_from(message.window) if message.HasField("window") else None,
            schema_version=message.schema_version,
        )
    except ValueError as error:
        raise RequestInvalid((Violation(f"{where}.features", str(error)),)) from error


def profile_to(profile: WorkloadProfile) -> profile_pb2.Profile:
    """Translate a profile; unknown features stay absent."""
    return profile_pb2.Profile(
        name=profile.name,
        schema_version=profile.schema_version,
        cpus=profile.cpus,
        features=[
            profile_pb2.Feature(
                name=one.name,
                value=one.value,
                spread=one.spread,
                source=one.source,
                window_s=one.window_s,
                samples=one.samples,
            )
            for one in profile.features
        ],
        host_fingerprint=profile.host_fingerprint,
        created_unix_s=profile.created_unix_s,
        quality=profile.quality,
        note=profile.note,
        window=None if profile.window is None else _window_to(profile.window),
    )


def _window_from(message: profile_pb2.SteadyWindow) -> SteadyWindow:
    return SteadyWindow(start_s=message.start_s, length_s=message.length_s, decided_by=message.decided_by)


def _window_to(window: SteadyWindow) -> profile_pb2.SteadyWindow:
    return profile_pb2.SteadyWindow(start_s=window.start_s, length_s=window.length_s, decided_by=window.decided_by)


def prediction_to(one: PredictedSlowdown) -> placement_pb2.Prediction:
    """Translate one predicted slowdown."""
    return estimate_to(one.workload, one)


def estimate_to(workload: str, one: PredictedSlowdown | SlowdownEstimate) -> placement_pb2.Prediction:
    """Translate what is predicted for a workload, of all its neighbours or of one pair."""
    return placement_pb2.Prediction(
        workload=workload,
        slowdown=one.slowdown,
        lower=one.lower,
        upper=one.upper,
        prior=one.prior,
        far_from_training=one.far_from_training,
    )


def _prediction_from(message: placement_pb2.Prediction) -> PredictedSlowdown:
    return PredictedSlowdown(
        workload=message.workload,
        slowdown=message.slowdown,
        lower=message.lower,
        upper=message.upper,
        prior=message.prior,
        far_from_training=message.far_from_training,
    )


def contributions_to(aggressor: str, one: SlowdownEstimate) -> list[placement_pb2.Contribution]:
    """Translate the parts of a pair estimate."""
    causes = ("time_sharing", "smt", "cache", "bandwidth", "learned")
    return [
        placement_pb2.Contribution(aggressor=aggressor, cause=cause, factor=getattr(one, cause)) for cause in causes
    ]


def _explanation_to(one: Explanation) -> placement_pb2.Explanation:
    return placement_pb2.Explanation(
        summary=one.summary,
        candidates=[
            placement_pb2.Candidate(
                cpus=str(candidate.cpus),
                cost=candidate.cost,
                feasible=candidate.feasible,
                reason=candidate.reason,
                predictions=map(prediction_to, candidate.predictions),
            )
            for candidate in one.candidates
        ],
        candidates_considered=one.candidates_considered,
        decided_by=one.decided_by,
        binding_constraint=one.binding_constraint,
        model_id=one.model_id,
        contributions=[
            placement_pb2.Contribution(aggressor=part.aggressor, cause=part.cause, factor=part.factor)
            for part in one.contributions
        ],
    )


def _explanation_from(message: placement_pb2.Explanation) -> Explanation:
    return Explanation(
        summary=message.summary,
        candidates=tuple(
            Candidate(
                cpus=CpuSet.parse(one.cpus),
                cost=one.cost,
                feasible=one.feasible,
                reason=one.reason,
                predictions=tuple(map(_prediction_from, one.predictions)),
            )
            for one in message.candidates
        ),
        candidates_considered=message.candidates_considered,
        decided_by=message.decided_by,
        binding_constraint=message.binding_constraint,
        model_id=message.model_id,
        contributions=tuple(
            Contribution(aggressor=one.aggressor, cause=one.cause, factor=one.factor) for one in message.contributions
        ),
    )


def placement_to(placement: Placement) -> placement_pb2.Placement:
    """Translate a placement."""
    decision = placement.decision
    return placement_pb2.Placement(
        name=placement.name,
        workload=workload_to(placement.request),
        state=placement_pb2.PlacementState.Value(f"PLACEMENT_STATE_{placement.state}"),
        cpus=str(decision.cpus),
        mems="" if decision.mems is None else str(decision.mems),
        cache_ways=[placement_pb2.CacheWays(cache_id=one.cache_id, mask=str(one.mask)) for one in decision.cache_ways],
        memory_bandwidth=map(_bandwidth_to, decision.memory_bandwidth),
        engine_advice=placement_pb2.EngineAdvice(
            decode_threads=decision.engine_advice.decode_threads,
            prefill_threads=decision.engine_advice.prefill_threads,
            numa=decision.engine_advice.numa,
        ),
        predictions=map(prediction_to, decision.predictions),
        explanation=_explanation_to(decision.explanation),
        fallback=decision.fallback,
        etag=placement.etag,
        mechanism=placement.mechanism,
        threads=placement.threads,
        notes=placement.notes,
        created_unix_s=placement.created_unix_s,
        best_effort=decision.best_effort,
    )


def placement_from(message: placement_pb2.Placement) -> Placement:
    """Translate a placement back, for the journal."""
    advice = message.engine_advice
    return Placement(
        request=workload_from(message.workload, needs_target=False),
        decision=Decision(
            cpus=CpuSet.parse(message.cpus),
            mems=NodeSet.parse(message.mems) if message.mems else None,
            cache_ways=tuple(
                CacheWays(cache_id=one.cache_id, mask=WayMask.parse(one.mask)) for one in message.cache_ways
            ),
            memory_bandwidth=tuple(map(_bandwidth_from, message.memory_bandwidth)),
            predictions=tuple(map(_prediction_from, message.predictions)),
            explanation=_explanation_from(message.explanation),
            fallback=message.fallback,
            best_effort=message.best_effort,
            engine_advice=EngineAdvice(
                decode_threads=advice.decode_threads, prefill_threads=advice.prefill_threads, numa=advice.numa
            ),
        ),
        state=PlacementState(placement_pb2.PlacementState.Name(message.state).removeprefix("PLACEMENT_STATE_")),
        etag=message.etag,
        mechanism=message.mechanism,
        threads=message.threads,
        notes=tuple(message.notes),
        created_unix_s=message.created_unix_s,
    )


def _bandwidth_to(cap: MemoryBandwidth) -> placement_pb2.MemoryBandwidth:
    message = placement_pb2.MemoryBandwidth(cache_id=cap.cache_id)
    if cap.percent is not None:
        message.percent = cap.percent
    if cap.bytes_per_s is not None:
        message.bytes_per_s = cap.bytes_per_s
    return message


def _bandwidth_from(message: placement_pb2.MemoryBandwidth) -> MemoryBandwidth:
    return MemoryBandwidth(
        cache_id=message.cache_id,
        percent=message.percent if message.HasField("percent") else None,
        bytes_per_s=message.bytes_per_s if message.HasField("bytes_per_s") else None,
    )


def placement_to_bytes(placement: Placement) -> bytes:
    """Encode a placement for the journal."""
    return placement_to(placement).SerializeToString(deterministic=True)


def placement_from_bytes(record: bytes) -> Placement:
    """Decode a placement from the journal."""
    return placement_from(placement_pb2.Placement.FromString(record))


def relation_from(message: model_pb2.Relation) -> Relation:
    """Translate a relation; raises RequestInvalid when the shares contradict each other."""
    try:
        return Relation(
            message.same_cpu,
            message.same_core,
            message.same_l2,
            message.same_llc,
            message.same_node,
            message.same_package,
        )
    except ValueError as error:
        raise RequestInvalid((Violation("relation", str(error)),)) from error


def operation_to(operation: Operation) -> operation_pb2.Operation:
    """Translate a long piece of work."""
    message = operation_pb2.Operation(
        name=operation.name, done=operation.done, progress=operation.progress, stage=operation.stage
    )
    if operation.error is not None:
        message.error.CopyFrom(status_of(operation.error))
    elif operation.profile_name:
        message.profile_name = operation.profile_name
    elif operation.model_id:
        message.model_id = operation.model_id
    return message


def finite_or_none(value: float | None) -> float | None:
    """Give None for what a message cannot say: NaN stays unset."""
    return None if value is None or not math.isfinite(value) else value
