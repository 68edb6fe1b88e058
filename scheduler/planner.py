"""Where a workload goes: the feasible CPU set of lowest cost. Pure: same input, same answer.

Feasible: the upper end of every predicted interval keeps the bound of its owner; a resident that is over its bound
already must not get worse. The rules below are applied in order; the last one always decides. Best effort gives up the
newcomer's own bound only: nobody who was placed is pushed over theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from isolation.cpuset import CpuSet, NodeSet
from isolation.topology import NumaNode, Topology
from profiler.records import WorkloadProfile
from scheduler import explanation as words
from scheduler.bounds import Limit, limit_of
from scheduler.candidates import Choice, candidates
from scheduler.errors import NoFeasiblePlacement, NotEnoughCpus, NotEnoughMemory
from scheduler.ledger import Ledger
from scheduler.placement import Decision, EngineAdvice, Explanation, Resident, WorkloadRequest
from scheduler.predictor import Predictor
from scheduler.scoring import Score, score, standings, total_cost
from scheduler.ways import Allotment, allotment_of, apportion

_KEEPS_ALL, _BREAKS_OWN, _BREAKS_OTHERS = range(3)


def _tier(found: Score) -> int:
    if found.worst is not None:
        return _BREAKS_OTHERS
    return _BREAKS_OWN if found.own_breach else _KEEPS_ALL


#: What makes one CPU set better than another: name and key (lower is better), in order.
RULES: tuple[tuple[str, Callable[[Score], int | float]], ...] = (
    ("bounds kept", _tier),
    ("lowest cost", lambda found: round(found.cost, 9)),
    ("memory on its own NUMA nodes", lambda found: not found.choice.local_memory),
    ("fewest NUMA nodes", lambda found: found.choice.nodes),
    ("fewest packages", lambda found: found.choice.packages),
    ("fewest residents on its CPUs", lambda found: found.choice.occupied),
    ("fewest CPUs", lambda found: len(found.choice.cpus)),
    ("most physical cores", lambda found: -found.choice.cores),
    ("fewest last-level caches", lambda found: found.choice.caches),
    ("lowest CPU numbers", lambda found: found.choice.order),
)


class Rebalancing(NamedTuple):
    """Moves that lower the total cost, in the order to make them, each name at most once."""

    moves: list[tuple[str, Decision]]
    cost_before: float
    cost_after: float


def plan(
    request: WorkloadRequest,
    profile: WorkloadProfile | None,
    ledger: Ledger,
    predictor: Predictor,
    *,
    allow_best_effort: bool,
) -> Decision:
    """Choose CPUs for a newcomer, and what it gets of the caches there (scheduler/ways.py).

    Raises NotEnoughCpus, NotEnoughMemory and NoFeasiblePlacement.
    """
    decision = _seat(request, profile, ledger, predictor, allow_best_effort=allow_best_effort)
    newcomer = Resident(name=request.name, cpus=decision.cpus, profile=profile, slo=request.slo, weight=request.weight)
    return allotted(decision, allotment_of(newcomer, ledger, predictor))


def _seat(
    request: WorkloadRequest,
    profile: WorkloadProfile | None,
    ledger: Ledger,
    predictor: Predictor,
    *,
    allow_best_effort: bool,
) -> Decision:
    _refuse_more_memory(ledger.topology, request)
    choices = candidates(ledger, request.cpus, whole_cores=request.whole_cores)
    limit = limit_of(request.slo, profile, predictor.host_fingerprint)
    ranked = sorted(score(request, profile, choices, ledger, predictor), key=_rank)
    best = ranked[0]
    if _tier(best) > (_BREAKS_OWN if allow_best_effort else _KEEPS_ALL):
        nearest = min(ranked, key=_breach)
        raise NoFeasiblePlacement(words.refusal(nearest, request, limit))
    decided_by = _decided_by(ranked)
    parts = words.contributions(best)
    return Decision(
        cpus=best.choice.cpus,
        mems=memory_nodes(ledger.topology, best.choice.cpus, request.memory_bytes),
        predictions=words.predictions(best, request),
        explanation=Explanation(
            summary=words.summary(
                best, request, profile, limit, considered=len(ranked), decided_by=decided_by, parts=parts
            ),
            candidates=tuple(words.candidate(one, request, limit) for one in ranked[: words.LISTED]),
            candidates_considered=len(ranked),
            decided_by=decided_by,
            binding_constraint=_binding(ranked, request, limit),
            model_id=predictor.model_id,
            contributions=parts,
        ),
        fallback=predictor.fallback_for(profile),
        best_effort=_tier(best) == _BREAKS_OWN,
        engine_advice=_engine_advice(ledger.topology, best.choice),
    )


def rebalance(
    ledger: Ledger,
    requests: Mapping[str, WorkloadRequest],
    predictor: Predictor,
    *,
    max_moves: int,
    min_gain: float,
) -> Rebalancing:
    """Move the resident whose new place lowers the total cost most, then the next, each at most once.

    Only residents with a request can move. A move must save at least the share `min_gain` of the total cost before it.
    Nobody is moved out of a bound that is kept now. Each decision holds what its workload gets of the caches once all
    moves are made; what that changes for those who stay is told by scheduler.ways.apportion.
    """
    before = cost = total_cost(ledger, predictor)
    moves: list[tuple[str, Decision]] = []
    moved: set[str] = set()
    while len(moves) < max_moves and cost > 0:
        options = [
            (total_cost(after, predictor), position, decision, after)
            for position, resident in enumerate(ledger.residents)
            if resident.name in requests and resident.name not in moved
            for decision, after in _moves(resident, requests[resident.name], ledger, predictor)
        ]
        best = min(options, key=lambda option: option[:2], default=None)
        if best is None or cost - best[0] < max(min_gain * cost, 1e-9):
            break
        name = ledger.residents[best[1]].name
        moves.append((name, best[2]))
        moved.add(name)
        cost, ledger = best[0], best[3]
    allotments = apportion(ledger, predictor) if moves else {}
    return Rebalancing([(name, allotted(decision, allotments[name])) for name, decision in moves], before, cost)


def allotted(decision: Decision, allotment: Allotment) -> Decision:
    """Write into a decision what it gets beside CPUs, in place of what it had; predictions do not count on it."""
    if (decision.cache_ways, decision.memory_bandwidth) == (allotment.cache_ways, allotment.memory_bandwidth):
        return decision
    told = decision.explanation
    return replace(
        decision,
        cache_ways=allotment.cache_ways,
        memory_bandwidth=allotment.memory_bandwidth,
        explanation=replace(told, summary=words.with_allotment(told.summary, allotment)),
    )


def _moves(
    resident: Resident, request: WorkloadRequest, ledger: Ledger, predictor: Predictor
) -> list[tuple[Decision, Ledger]]:
    try:
        decision = _seat(request, resident.profile, ledger.without(resident.name), predictor, allow_best_effort=True)
    except (NoFeasiblePlacement, NotEnoughCpus, NotEnoughMemory):  # it has to stay where it is
        return []
    over = _over_bound(ledger, predictor)
    if decision.cpus == resident.cpus or (decision.best_effort and resident.name not in over):
        return []
    after = ledger.with_resident(replace(resident, cpus=decision.cpus))
    # who leaves a CPU leaves the others there more time to press on the caches of those whom the newcomer never meets
    if _over_bound(after, predictor) - over - {resident.name}:
        return []
    return [(decision, after)]


def _over_bound(ledger: Ledger, predictor: Predictor) -> set[str]:
    """Name those whose bound is predicted to be broken."""
    return {
        name
        for standing in standings(ledger, predictor)
        if standing.limit.broken(standing.present.upper)
        for name in standing.group.members
    }


def _rank(found: Score) -> tuple[int | float, ...]:
    return tuple(key(found) for _, key in RULES)


def _breach(found: Score) -> float:
    return max(found.own_breach, found.worst.breach if found.worst is not None else 0.0)


def _decided_by(ranked: list[Score]) -> str:
    if len(ranked) == 1:
        return "no other CPU set differs"
    return next(name for name, key in RULES if key(ranked[0]) != key(ranked[1]))


def _binding(ranked: list[Score], request: WorkloadRequest, limit: Limit) -> str:
    """Name the bound that ruled out something cheaper, or that best effort gave up."""
    best = ranked[0]
    if _tier(best) == _BREAKS_OWN:
        return words.reasons(best, request, limit)
    ruled_out = [one for one in ranked if _tier(one) != _KEEPS_ALL and round(one.cost, 9) < round(best.cost, 9)]
    cheapest = min(ruled_out, key=lambda one: (one.cost, one.choice.order), default=None)
    return "" if cheapest is None else words.reasons(cheapest, request, limit)


def _refuse_more_memory(topology: Topology, request: WorkloadRequest) -> None:
    """Refuse what all nodes together cannot hold; a node of unknown size may hold anything."""
    wanted, there = request.memory_bytes or 0, _capacity(list(topology.memory_nodes))
    if topology.memory_nodes and wanted > there:
        raise NotEnoughMemory(
            f"{wanted} bytes of memory were asked for {request.name!r}, all memory nodes of this host together have "
            f"{there:.0f}; ask for less, or leave memory_bytes out"
        )


def memory_nodes(topology: Topology, cpus: CpuSet, memory_bytes: int | None) -> NodeSet | None:
    """Give the memory nodes of the CPUs, or the nearest where those have none; None on a host with one node.

    More of the nearest nodes join while the workload's memory exceeds what the nodes have in total.
    """
    holders = list(topology.memory_nodes)
    if len(topology.nodes) < 2 or not holders:
        return None
    own = [node for node in topology.nodes if node.cpus & cpus]
    chosen = [node for node in own if node in holders]
    others = sorted(
        (node for node in holders if node not in chosen), key=lambda node: (_far(topology, own, node), node.id)
    )
    while others and (not chosen or _capacity(chosen) < (memory_bytes or 0)):
        chosen.append(others.pop(0))
    return NodeSet.of(node.id for node in chosen)


def _far(topology: Topology, own: list[NumaNode], node: NumaNode) -> int:
    position = topology.nodes.index(node)
    return min((one.distances[position] for one in own if position < len(one.distances)), default=0)


def _capacity(nodes: list[NumaNode]) -> float:
    return sum(float("inf") if node.memory_bytes is None else node.memory_bytes for node in nodes)


def _engine_advice(topology: Topology, choice: Choice) -> EngineAdvice:
    """Decode saturates memory with one thread a core; prefill gains from SMT siblings too."""
    numa = "" if len(topology.nodes) < 2 else "isolate" if choice.nodes == 1 else "distribute"
    return EngineAdvice(decode_threads=choice.cores, prefill_threads=len(choice.cpus), numa=numa)
