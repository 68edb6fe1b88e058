"""What each CPU set would cost: newcomer and residents, in both directions, from one batch of predictions. Pure.

Cost = sum over workloads of weight * class factor * change of log slowdown, so that the planner minimises the weighted
geometric mean of all slowdowns: halving one workload's speed costs as much whoever it is, crowds do not drown a few.
Class factors: latency and service 4, collective 2, throughput 2, best effort 1: somebody waits for the first two.
Predictions below 1 count as 1: a neighbour's gift is noise.

Neighbours on other CPUs count as often as they run there at once (profiler/crowding.py). That a newcomer leaves the
others on its CPUs less time, to the relief of third parties, is not counted for it; it is told once it is placed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from isolation.cpuset import CpuSet
from profiler.composition import compose
from profiler.crowding import Demand, crowd_excess, demand_of, running_share
from profiler.records import SlowdownEstimate, WorkloadProfile
from scheduler.bounds import Limit, limit_of
from scheduler.candidates import Choice
from scheduler.ledger import Group, Ledger
from scheduler.placement import PredictedSlowdown, Slo, SloClass, WorkloadRequest
from scheduler.predictor import ALONE, Composed, Pair, Predictor, crowded, together, upper_end
from scheduler.sharing import COMMON_CPUS

CLASS_FACTOR: dict[SloClass, float] = {
    SloClass.LATENCY: 4.0,
    SloClass.SERVICE: 4.0,
    SloClass.COLLECTIVE: 2.0,
    SloClass.THROUGHPUT: 2.0,
    SloClass.BEST_EFFORT: 1.0,
}
UNSEEN = 0.001  #: changes of a slowdown below this share count as none


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one group of residents fares now."""

    group: Group
    present: Composed
    limit: Limit
    share: float  #: of one member in the cost
    pairs: Composed  #: present, as far as pairs tell it
    demand: Demand
    crowd: tuple[tuple[Demand, float], ...]  #: of those who use all of its CPUs
    crowd_told: float  #: slowdown by those as their pairs tell it


class Effect(NamedTuple):
    """What a newcomer does to one group of residents."""

    standing: Standing
    after: Composed
    cost: float  #: of all members together
    breach: float  #: upper end over the highest value allowed; 0 = nobody's bound is broken by this
    predictions: tuple[PredictedSlowdown, ...]  #: one per member


class Score(NamedTuple):
    """One CPU set judged."""

    choice: Choice
    cost: float
    upper: float  #: newcomer's, all neighbours composed
    neighbours: tuple[tuple[SlowdownEstimate, float], ...]  #: what the groups it meets do, and how many run at once
    crowd_excess: float  #: what a full CPU costs it beyond these pairs
    effects: tuple[Effect, ...]  #: what it does to them
    own_breach: float  #: newcomer's upper end over its limit; 0 = kept
    worst: Effect | None  #: whose bound is broken worst


class _Encounter:
    """What a newcomer suffers from each group and does to it, by relation; filled as relations come up."""

    def __init__(self, groups: int) -> None:
        self.suffered: list[dict[int, tuple[SlowdownEstimate, float]]] = [{} for _ in range(groups)]
        self.effects: list[dict[tuple[int, float], Effect]] = [{} for _ in range(groups)]


def share(slo: Slo, weight: float) -> float:
    """Give a workload's share in the cost."""
    return weight * CLASS_FACTOR[slo.slo_class]


def log_slowdown(slowdown: float) -> float:
    """Give log SF, 0 for anything below 1."""
    return math.log(slowdown) if slowdown > 1.0 else 0.0


def standings(ledger: Ledger, predictor: Predictor) -> tuple[Standing, ...]:
    """Say how everybody fares now; kept with the ledger as long as the predictor is the same."""
    return ledger.derive(("standings", predictor), lambda: _standings(ledger, predictor))


def total_cost(ledger: Ledger, predictor: Predictor) -> float:
    """Sum up weight * class factor * log slowdown over all residents."""
    return math.fsum(
        one.share * len(one.group.members) * log_slowdown(one.present.slowdown) for one in standings(ledger, predictor)
    )


def score(
    request: WorkloadRequest,
    profile: WorkloadProfile | None,
    choices: Sequence[Choice],
    ledger: Ledger,
    predictor: Predictor,
) -> list[Score]:
    """Judge every choice, in order; the choices must come from the same ledger."""
    limit = limit_of(request.slo, profile, predictor.host_fingerprint)
    whole = ledger.sharing.whole
    own_share = share(request.slo, request.weight)
    crowd, demand = standings(ledger, predictor), demand_of(profile)
    shares = [_running(demand, one.cpus, ledger, len(one.cpus) * demand.utilisation) for one in choices]
    encounter = _encounter(profile, choices, shares, ledger, predictor)
    suffered, caused = encounter.suffered, encounter.effects
    scores: list[Score] = []
    for choice, runs in zip(choices, shares, strict=True):
        neighbours = tuple([suffered[index][toward] for index, toward, _ in choice.meets])
        effects = tuple([caused[index][back, 1.0 if back & COMMON_CPUS else runs] for index, _, back in choice.meets])
        on_all = [(crowd[index].demand, *suffered[index][code]) for index, code, _ in choice.meets if whole(code)]
        excess = _newcomers_excess(demand, on_all) if on_all else 0.0
        slowdown, upper = _felt(neighbours, excess)
        worst = max(effects, key=_breach, default=None)
        scores.append(
            Score(
                choice=choice,
                cost=own_share * log_slowdown(slowdown) + math.fsum([effect.cost for effect in effects]),
                upper=upper,
                neighbours=neighbours,
                crowd_excess=excess,
                effects=effects,
                own_breach=upper / limit.allowed_sf if limit.broken(upper) else 0.0,
                worst=worst if worst is not None and worst.breach > 0 else None,
            )
        )
    return scores


def prediction(workload: str, felt: Composed) -> PredictedSlowdown:
    """Put a composed slowdown into the record of the answer."""
    return PredictedSlowdown(
        workload=workload,
        slowdown=felt.slowdown,
        lower=felt.lower,
        upper=felt.upper,
        prior=felt.prior,
        far_from_training=felt.far_from_training,
    )


def _breach(effect: Effect) -> float:
    return effect.breach


def felt_by_newcomer(found: Score) -> Composed:
    """Compose what a newcomer would suffer there."""
    return crowded(together(found.neighbours), found.crowd_excess)


def _felt(neighbours: Sequence[tuple[SlowdownEstimate, float]], excess: float) -> tuple[float, float]:
    """Give slowdown and upper end of `felt_by_newcomer`, without the rest: it is asked of every choice."""
    slowdown = compose([one.slowdown for one, _ in neighbours], [count for _, count in neighbours])
    upper = upper_end(slowdown, neighbours)
    return (max(1.0, slowdown) + excess, max(1.0, upper) + excess) if excess else (slowdown, upper)


def _newcomers_excess(demand: Demand, on_all: Sequence[tuple[Demand, SlowdownEstimate, float]]) -> float:
    told = compose([one.slowdown for _, one, _ in on_all], [count for *_, count in on_all])
    return crowd_excess(demand, [(other, count) for other, _, count in on_all], told)


def _wanted_of(ledger: Ledger) -> Sequence[float]:
    """Give how much of each CPU its residents are known to want, index = CPU number."""

    def make() -> list[float]:
        sets = [ledger.topology.online, *(group.cpus for group in ledger.groups)]
        wanted = [0.0] * max(one.mask.bit_length() for one in sets)
        for group in ledger.groups:
            demand = demand_of(group.profile)
            for cpu in group.cpus if demand.is_known else ():
                wanted[cpu] += len(group.members) * demand.utilisation
        return wanted

    return ledger.derive("wanted", make)


def _running(demand: Demand, cpus: CpuSet, ledger: Ledger, more: float = 0.0) -> float:
    """Give the share of its demand that who sits on these CPUs gets, all of it where that is unknown.

    `more` is what is wanted of them beside the residents' demands.
    """
    return running_share(len(cpus), more + _wanted_on(cpus, ledger)) if demand.is_known else 1.0


def _wanted_on(cpus: CpuSet, ledger: Ledger) -> float:
    """Give how many of these CPUs their residents want; kept, since it is asked for every choice of every request."""
    sums: dict[int, float] = ledger.derive("wanted on sets", dict)
    found = sums.get(cpus.mask)
    if found is None:
        wanted = _wanted_of(ledger)
        found = sums[cpus.mask] = math.fsum([wanted[cpu] for cpu in cpus])
    return found


def _encounter(
    profile: WorkloadProfile | None,
    choices: Sequence[Choice],
    shares: Sequence[float],
    ledger: Ledger,
    predictor: Predictor,
) -> _Encounter:
    """Make sure that every (group, relation) of the choices is predicted, the new ones in one batch.

    `shares`, [n_choices], is how much of its demand the newcomer would get there.
    """
    crowd = standings(ledger, predictor)
    met = ledger.derive(("encounter", predictor, predictor.key(profile)), lambda: _Encounter(len(crowd)))
    toward: dict[tuple[int, int], None] = {}
    back: dict[tuple[int, int, float], None] = {}
    for choice, runs in zip(choices, shares, strict=True):
        for index, suffered, caused in choice.meets:
            if suffered not in met.suffered[index]:
                toward[index, suffered] = None
            times = 1.0 if caused & COMMON_CPUS else runs
            if (caused, times) not in met.effects[index]:
                back[index, caused, times] = None
    if not toward and not back:
        return met
    unpack = ledger.sharing.unpack
    pairs: list[Pair] = [(profile, crowd[index].group.profile, unpack(code)) for index, code in toward]
    pairs += [(crowd[index].group.profile, profile, unpack(code)) for index, code, _ in back]
    answers = iter(predictor.estimate_many(pairs))
    for index, code in toward:
        group, own = crowd[index].group, crowd[index].demand
        running = len(group.members) * (1.0 if code & COMMON_CPUS else _running(own, group.cpus, ledger))
        met.suffered[index][code] = (next(answers), running)
    demand, whole = demand_of(profile), ledger.sharing.whole
    for index, code, times in back:
        newcomer = demand if whole(code) else None
        met.effects[index][code, times] = _effect(crowd[index], next(answers), times, newcomer)
    return met


def _effect(standing: Standing, added: SlowdownEstimate, times: float, newcomer: Demand | None) -> Effect:
    """Say what a newcomer does that counts so many times; `newcomer` = its demand if it uses all CPUs of the group."""
    present, limit, members = standing.present, standing.limit, standing.group.members
    before = ((standing.pairs, 1.0),) if standing.pairs is not ALONE else ()
    after = together((*before, (added, times)))
    crowd, told = standing.crowd, standing.crowd_told
    if newcomer is not None:
        crowd, told = (*crowd, (newcomer, 1.0)), compose((told, added.slowdown))
    after = crowded(after, crowd_excess(standing.demand, crowd, told))
    cost = standing.share * len(members) * (log_slowdown(after.slowdown) - log_slowdown(present.slowdown))
    breach = 0.0
    if limit.broken(present.upper):
        # Over its bound already: it may stay, but not be made worse. A wider interval alone does not make it worse.
        if after.slowdown > present.slowdown * (1.0 + UNSEEN):
            breach = after.upper / limit.allowed_sf
    elif limit.broken(after.upper):
        breach = after.upper / limit.allowed_sf
    return Effect(standing, after, cost, breach, tuple(prediction(name, after) for name in members))


def _standings(ledger: Ledger, predictor: Predictor) -> tuple[Standing, ...]:
    groups, code, unpack = ledger.groups, ledger.sharing.code, ledger.sharing.unpack
    pairs: dict[tuple[int, int, int], Pair] = {}
    beside: list[list[tuple[tuple[int, int, int], float]]] = []
    crowds: list[list[tuple[Demand, tuple[int, int, int], int]]] = []
    demands = [demand_of(group.profile) for group in groups]
    running = [_running(demand, group.cpus, ledger) for demand, group in zip(demands, groups, strict=True)]
    kinds = [(predictor.key(group.profile), group.cpus.mask, len(group.members), group) for group in groups]
    for victim_key, victim_mask, _, victim in kinds:
        met: list[tuple[tuple[int, int, int], float]] = []
        crowd: list[tuple[Demand, tuple[int, int, int], int]] = []
        for demand, runs, (key, mask, members, aggressor) in zip(demands, running, kinds, strict=True):
            relation = code(victim_mask, mask)
            count = members - (aggressor is victim)
            if relation and count:
                pair = (victim_key, key, relation)
                if pair not in pairs:
                    pairs[pair] = (victim.profile, aggressor.profile, unpack(relation))
                met.append((pair, count if relation & COMMON_CPUS else count * runs))
                if not victim_mask & ~mask:
                    crowd.append((demand, pair, count))
        beside.append(met)
        crowds.append(crowd)
    found = dict(zip(pairs, predictor.estimate_many(list(pairs.values())), strict=True))
    pairwise = [together((found[pair], count) for pair, count in met) if met else ALONE for met in beside]
    faring: list[Standing] = []
    for group, felt, demand, met_on_all in zip(groups, pairwise, demands, crowds, strict=True):
        who = tuple((other, float(count)) for other, _, count in met_on_all)
        told = compose([found[pair].slowdown for _, pair, _ in met_on_all], [count for *_, count in met_on_all])
        faring.append(
            Standing(
                group=group,
                present=crowded(felt, crowd_excess(demand, who, told)),
                limit=limit_of(group.slo, group.profile, predictor.host_fingerprint),
                share=share(group.slo, group.weight),
                pairs=felt,
                demand=demand,
                crowd=who,
                crowd_told=told,
            )
        )
    return tuple(faring)
