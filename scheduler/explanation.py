"""Why a CPU set was chosen, or none: scores put into records and sentences. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from isolation.resctrl_info import ways_text
from isolation.spec import MemoryBandwidth
from profiler.records import SlowdownEstimate, WorkloadProfile
from scheduler.bounds import Limit
from scheduler.placement import Candidate, Contribution, PredictedSlowdown, WorkloadRequest
from scheduler.scoring import UNSEEN, Effect, Score, felt_by_newcomer, prediction
from scheduler.ways import Allotment

LISTED = 8  # candidates in an explanation
_LISTED_RESIDENTS = 4  # residents per listed candidate, worst hit first
_LISTED_CONTRIBUTIONS = 12
_LISTED_NOTES = 3
_TOLD_EXCESS = 0.005
_GETS = "; it gets "  # begins the last clause of a summary


def reasons(found: Score, request: WorkloadRequest, limit: Limit) -> str:
    """Name every kind of bound a candidate breaks; empty when it breaks none."""
    said = []
    if found.own_breach:
        said.append(limit.says(request.name, found.upper))
    if found.worst is not None:
        said.append(_resident_bound(found.worst))
    return "; ".join(said)


def refusal(nearest: Score, request: WorkloadRequest, limit: Limit) -> str:
    """Say which bound stands in the way where it is nearest to being kept, and what the caller can do."""
    remedies = ["raise the bound"]
    if request.cpus > 1:
        remedies.append("ask for fewer CPUs")
    remedies.append("release a neighbour")
    if nearest.worst is None:  # a caller can give up only its own bound
        remedies.append("allow best effort")
    return (
        f"no place for {request.name!r} on {request.cpus} CPU{'s' if request.cpus > 1 else ''}: every CPU set breaks a "
        f"bound; nearest is {cpus_word(nearest)}, where {reasons(nearest, request, limit)}; "
        f"{', '.join(remedies[:-1])} or {remedies[-1]}"
    )


def predictions(found: Score, request: WorkloadRequest) -> tuple[PredictedSlowdown, ...]:
    """Give the newcomer's prediction and that of every resident it shares anything with."""
    return (_newcomer(found, request), *(one for effect in found.effects for one in effect.predictions))


def candidate(found: Score, request: WorkloadRequest, limit: Limit) -> Candidate:
    """Record one CPU set, with the residents it hits worst."""
    reason = reasons(found, request, limit)
    hit = heapq.nlargest(_LISTED_RESIDENTS, found.effects, key=lambda effect: (effect.breach, effect.cost))
    residents = [one for effect in hit for one in effect.predictions[:_LISTED_RESIDENTS]]
    return Candidate(
        cpus=found.choice.cpus,
        cost=found.cost,
        feasible=not reason,
        reason=reason,
        predictions=(_newcomer(found, request), *residents[:_LISTED_RESIDENTS]),
    )


def contributions(found: Score) -> tuple[Contribution, ...]:
    """Take the newcomer's slowdown apart: largest factors first; those of one aggressor multiply.

    Of one that runs only half of the time, because others share its CPUs, half of each factor's excess counts. What a
    full CPU costs beyond these pairs belongs to no aggressor: the summary tells it.
    """
    parts = [
        (abs(math.log(counted)), position, cause, counted)
        for position, (estimate, running) in enumerate(found.neighbours)
        for cause, factor in _causes(estimate)
        for counted in (1.0 + running / len(found.effects[position].standing.group.members) * (factor - 1.0),)
        if abs(counted - 1.0) >= UNSEEN
    ]
    parts.sort(key=lambda part: (-part[0], part[1], part[2]))
    listed: list[Contribution] = []
    for _, position, cause, factor in parts[:_LISTED_CONTRIBUTIONS]:
        room = _LISTED_CONTRIBUTIONS - len(listed)
        members = found.effects[position].standing.group.members[:room]
        listed += [Contribution(aggressor=name, cause=cause, factor=factor) for name in members]
    return tuple(listed)


def summary(
    found: Score,
    request: WorkloadRequest,
    profile: WorkloadProfile | None,
    limit: Limit,
    *,
    considered: int,
    decided_by: str,
    parts: Sequence[Contribution],
) -> str:
    """Say in one sentence where it goes, what that costs whom, and what decided; then what the answer leaves open."""
    felt = felt_by_newcomer(found)
    said = [f"{request.name} goes to {cpus_word(found)}: "]
    if found.neighbours:
        said.append(
            f"there it is predicted to take {felt.slowdown:.2f}x ({felt.lower:.2f}-{felt.upper:.2f}) as long as alone"
        )
        is_crowd = 2 * found.crowd_excess > felt.slowdown - 1.0
        said.append(f", most of it {parts[0].cause} with {parts[0].aggressor}" if parts and not is_crowd else "")
        if found.crowd_excess >= _TOLD_EXCESS:
            said.append(f", {found.crowd_excess:.2f}x of it because its CPUs are full")
        said.append(_worst_hit(found))
    else:
        said.append("nobody there shares anything with it")
    said.append("; no other CPU set differs" if considered == 1 else f"; best of {considered} CPU sets by {decided_by}")
    if found.own_breach:
        said.append(f"; best effort, because its bound cannot be kept: {limit.says(request.name, found.upper)}")
    limits = [(request.name, limit)]
    limits += [(effect.standing.group.members[0], effect.standing.limit) for effect in found.effects]
    said.append(_noted("not judged", [f"{bound} of {name!r}" for name, one in limits for bound in one.unjudged]))
    said.append(
        _noted("not at their own quantile", [f"{bound} of {name!r}" for name, one in limits for bound in one.inexact])
    )
    if far := sum(estimate.far_from_training for estimate, _ in found.neighbours):
        said.append(f"; beside {far} of {len(found.neighbours)} kinds of neighbours the prior speaks for the model")
    if profile is not None and profile.cpus != request.cpus:
        said.append(
            f"; profile {profile.name!r} was taken on {profile.cpus} CPU{'s' if profile.cpus > 1 else ''}, not "
            f"{request.cpus}: its demand per CPU is taken as measured"
        )
    return "".join(said) + "."


def with_allotment(summary: str, allotment: Allotment) -> str:
    """Say in a summary what the workload gets of the caches where it runs, by which rule; what was said before goes."""
    said = [
        f"cache ways {ways_text(one.mask)} of cache {one.cache_id}, {allotment.rules[one.cache_id].value}"
        for one in allotment.cache_ways
        if one.cache_id in allotment.rules
    ]
    said += [f"{bandwidth_text(one)}, what those with a bound leave it" for one in allotment.memory_bandwidth]
    rest = summary.partition(_GETS)[0].removesuffix(".")
    return f"{rest}{_GETS}{'; '.join(said)} (not in the prediction)." if said else f"{rest}."


def bandwidth_text(cap: MemoryBandwidth) -> str:
    """Write "memory bandwidth of cache 0 held to 40 %"."""
    amount = f"{(cap.bytes_per_s or 0) / 1e9:.3g} GB/s" if cap.percent is None else f"{cap.percent} %"
    return f"memory bandwidth of cache {cap.cache_id} held to {amount}"


def cpus_word(found: Score) -> str:
    """Write "CPU 1" or "CPUs 0-3"."""
    return f"CPU{'s' if len(found.choice.cpus) > 1 else ''} {found.choice.cpus}"


def _noted(what: str, notes: Sequence[str]) -> str:
    if not notes:
        return ""
    more = f" and {len(notes) - _LISTED_NOTES} more" if len(notes) > _LISTED_NOTES else ""
    return f"; {what}: {', '.join(notes[:_LISTED_NOTES])}{more}"


def _worst_hit(found: Score) -> str:
    def rise(effect: Effect) -> float:
        return effect.after.slowdown / effect.standing.present.slowdown

    worst = max(found.effects, key=rise)
    if rise(worst) < 1.0 + UNSEEN:
        return "; no neighbour is slowed"
    before, after = worst.standing.present.slowdown, worst.after.slowdown
    return f"; hit worst is {worst.standing.group.members[0]}, from {before:.2f}x to {after:.2f}x"


def _resident_bound(effect: Effect) -> str:
    standing = effect.standing
    text = standing.limit.says(standing.group.members[0], effect.after.upper)
    if standing.limit.broken(standing.present.upper):
        text += f" (at {standing.present.upper:.2f}x it is over already and must not get worse)"
    return text


def _causes(estimate: SlowdownEstimate) -> tuple[tuple[str, float], ...]:
    return (
        ("time_sharing", estimate.time_sharing),
        ("smt", estimate.smt),
        ("cache", estimate.cache),
        ("bandwidth", estimate.bandwidth),
        ("learned", estimate.learned),
    )


def _newcomer(found: Score, request: WorkloadRequest) -> PredictedSlowdown:
    return prediction(request.name, felt_by_newcomer(found))
