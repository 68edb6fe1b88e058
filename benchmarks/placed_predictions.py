"""What the scheduler tells of each measured cell, beside what was measured there: neighbours composed as it does. Pure.

Taken are cells whose members were confined, so that who sat where is known, and victims of one process. Pairs are what
a model was trained on; cells of several neighbours were no part of training, in any model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from benchmarks.cells import good_runs
from benchmarks.design import Isolation, Member
from benchmarks.observations import profile_name
from benchmarks.runs import Run
from benchmarks.slowdown import slowdown
from isolation.cpuset import CpuSet
from isolation.topology import Topology
from profiler.composition import compose
from profiler.heldout import errors
from profiler.records import WorkloadProfile
from profiler.scores import Errors
from scheduler.ledger import Ledger
from scheduler.placement import Resident, Slo
from scheduler.predictor import Composed, Predictor
from scheduler.scoring import standings

_CONFINED = frozenset({Isolation.PINNING, Isolation.STACKED})  # of cache ways predictions know nothing


class Neighbours(StrEnum):
    """Beside whom."""

    ONE = "one neighbour (trained on)"
    SAME_CPUS = "several on its CPUs"
    OTHER_CPUS = "several on other CPUs"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPrediction:
    """One victim in one cell, in slowdown factors."""

    cell: str
    member: str
    neighbours: Neighbours
    processes: int  #: of all neighbours
    n: int  #: good runs
    measured: float  #: median
    predicted: float
    lower: float
    upper: float
    plain_sum: float  #: as predicted if every pair counted in full


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedScore:
    """How good the predictions of one kind are."""

    neighbours: Neighbours
    predictions: int
    error: Errors
    bias: float  #: median of predicted / measured - 1
    plain_sum: Errors  #: of the plain sum of pairs
    kept: float  #: share of what was measured that lies below the upper end, which promises are judged by


def placed_predictions(
    runs: Sequence[Run], profiles: Mapping[str, WorkloadProfile], predictor: Predictor, topology: Topology
) -> tuple[PlacedPrediction, ...]:
    """Predict every confined cell all of whose workloads have a profile; the topology is that of the host measured."""
    cells: dict[tuple[str, tuple[str, ...]], list[Run]] = {}
    for run in good_runs(runs):
        if run.cpus and run.isolation in _CONFINED:
            cells.setdefault((run.cell, run.cpus), []).append(run)
    found = []
    for repetitions in cells.values():
        first = repetitions[0]
        names = {member: profile_name(member.workload) for member in first.members}
        if not set(names.values()) <= profiles.keys():
            continue
        seats = {member: CpuSet.parse(text) for member, text in zip(first.members, first.cpus, strict=True)}
        felt = _felt(seats, {member: profiles[name] for member, name in names.items()}, predictor, topology)
        for victim in first.members:
            factors = [one for run in repetitions if math.isfinite(one := slowdown(run, victim.workload))]
            if victim.instances == 1 and factors:
                told, plain_sum = felt[victim]
                found.append(
                    PlacedPrediction(
                        cell=first.cell,
                        member=str(victim),
                        neighbours=_kind(victim, seats),
                        processes=sum(member.instances for member in first.members if member != victim),
                        n=len(factors),
                        measured=float(np.median(factors)),
                        predicted=told.slowdown,
                        lower=told.lower,
                        upper=told.upper,
                        plain_sum=plain_sum,
                    )
                )
    return tuple(found)


def placed_scores(found: Sequence[PlacedPrediction]) -> tuple[PlacedScore, ...]:
    """Score each kind that there is."""
    scores = []
    for kind in Neighbours:
        some = [one for one in found if one.neighbours is kind]
        if not some:
            continue
        measured, predicted, plain = (
            np.log([getattr(one, name) for one in some]) for name in ("measured", "predicted", "plain_sum")
        )
        error, plain_error = errors([predicted - measured]), errors([plain - measured])
        if error is not None and plain_error is not None:
            scores.append(
                PlacedScore(
                    neighbours=kind,
                    predictions=len(some),
                    error=error,
                    bias=float(np.expm1(np.median(predicted - measured))),
                    plain_sum=plain_error,
                    kept=float(np.mean([one.measured <= one.upper for one in some])),
                )
            )
    return tuple(scores)


def _kind(victim: Member, seats: Mapping[Member, CpuSet]) -> Neighbours:
    others = [member for member in seats if member != victim]
    if sum(member.instances for member in others) == 1:
        return Neighbours.ONE
    shares = any(seats[victim] & seats[member] for member in others)
    return Neighbours.SAME_CPUS if shares else Neighbours.OTHER_CPUS


def _felt(
    seats: Mapping[Member, CpuSet],
    profiles: Mapping[Member, WorkloadProfile],
    predictor: Predictor,
    topology: Topology,
) -> dict[Member, tuple[Composed, float]]:
    """Give for each member what the scheduler tells of it and the plain sum of its pairs."""
    residents = [
        Resident(name=f"{member}#{number}", cpus=cpus, profile=profiles[member], slo=Slo())
        for member, cpus in seats.items()
        for number in range(member.instances)
    ]
    ledger = Ledger(topology, tuple(residents))
    present = {name: one.present for one in standings(ledger, predictor) for name in one.group.members}
    told = {}
    for victim in seats:
        others = [member for member in seats if member != victim]
        pairs = predictor.estimate_many(
            [(profiles[victim], profiles[one], ledger.relation(seats[victim], seats[one])) for one in others]
        )
        plain_sum = compose([one.slowdown for one in pairs], [float(member.instances) for member in others])
        told[victim] = present[f"{victim}#0"], plain_sum
    return told
