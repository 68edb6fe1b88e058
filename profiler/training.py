"""Fits the pair model. The only module that imports xgboost, and nothing the daemon imports may import this one.

    python -m profiler.training --state DIR [--only-if-better] [--dataset DIR]      prints one line of JSON

Trees learn log(measured SF / prior) of observations with one aggressor; several aggressors are composition's business.
Scores hold out whole workloads: every observation in which the workload is victim or aggressor; one score holds out
all workloads of one program together, where a dataset tells which are variants of one. Intervals for workloads
training has not seen come from both, whichever erred more on an observation: a stranger has no variants in training.
Those for two workloads that it has seen come from holding out pairs: what one pair shares, both directions.
Repetitions of one cell never stand on both sides.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from cotenant.paths import default_state
from isolation.topology import read_topology
from profiler.baselines import random_forest_residuals, ridge_residuals
from profiler.calibration import find_calibration
from profiler.dataset import default_dataset, load_dataset
from profiler.errors import ModelDamaged, ModelMissing, ProfilerError
from profiler.features import FEATURE_NAMES, SCHEMA_HASH
from profiler.held_out_predictions import HeldOutPrediction
from profiler.heldout import (
    COVERAGE,
    HeldOut,
    Rival,
    errors,
    interval,
    nearest,
    noise_floor,
    rival_of,
    verdict,
    worst_residuals,
)
from profiler.host import host_traits
from profiler.prior import PRIOR_HALF_WIDTH_LOG
from profiler.records import HostTraits, Observation, WorkloadProfile
from profiler.registry import Manifest, ModelRegistry, TrainedModel
from profiler.scores import Scores
from profiler.store import ObservationStore, ProfileStore
from profiler.training_data import TrainingData, training_data
from profiler.training_range import TrainingRange

_ROUNDS = (1, 10, 25, 50, 100, 150)  #: boosting rounds to choose from; one is next to the prior alone
_INNER_FOLDS = 5
_PAIR_FOLDS = 20
_LEAST_LEAF_SHARE = 0.04  #: of the weight of all observations that a leaf speaks for
_PARAMETERS: dict[str, Any] = {
    "objective": "reg:absoluteerror",  # squares chase the few that nothing explains, and cost the many that are fine
    "base_score": 0.0,  # the margin of each row is its prior; nothing is added to all
    "nthread": 1,
    "max_depth": 4,
    "eta": 0.05,
    "lambda": 2.0,
}


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """A model, what it was fitted on, and what each held-out workload said."""

    model: TrainedModel
    data: TrainingData
    rounds: dict[str, HeldOut]


def train(
    observations: Sequence[Observation],
    profiles: Mapping[str, WorkloadProfile],
    host: HostTraits,
    *,
    seed: int = 0,
    created_unix_s: float | None = None,
    families: Mapping[str, str] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> TrainedModel:
    """Fit and score a model; raises TrainingImpossible saying how much of what is missing. Same input, same model."""
    return _train(training_data(observations, profiles, host, families), host, seed, created_unix_s, progress).model


def _train(
    data: TrainingData,
    host: HostTraits,
    seed: int,
    created_unix_s: float | None,
    progress: Callable[[float, str], None] | None,
) -> _Fitted:
    workloads = data.workloads()
    report = progress or (lambda _share, _stage: None)
    by_workload: dict[str, HeldOut] = {}
    for number, workload in enumerate(workloads):
        report(number / (len(workloads) + 1), f"holding out {workload}")
        kept = data.without({workload})
        if kept.sum() >= 2:
            by_workload[workload] = _hold_out(data, kept, seed)
    rounds = list(by_workload.values())
    report(len(workloads) / (len(workloads) + 1), "fitting on everything")
    final = _fit(data, np.ones(len(data.target), bool), seed)
    final.feature_names = list(FEATURE_NAMES)  # only now: checking them in each round takes half of the time
    kin = _hold_out_kin(data, by_workload, seed)
    half_width, rule = interval(worst_residuals([*rounds, *kin]))
    pairs = _hold_out_pairs(data, seed)
    known_half_width, known_rule = interval(worst_residuals(pairs))
    seen = TrainingRange.of(data.rows)
    manifest = Manifest(
        id="",
        sha256="",
        size_bytes=0,
        feature_names=FEATURE_NAMES,
        schema_hash=SCHEMA_HASH,
        xgboost_version=str(xgboost.__version__),
        data_hash=data.digest(),
        host_fingerprint=host.fingerprint,
        created_unix_s=time.time() if created_unix_s is None else created_unix_s,
        observations=len(data.target),
        workloads=len(workloads),
        scores=Scores(
            lowo=errors([one.model for one in rounds]),
            families=errors([one.model for one in kin]),
            families_prior=errors([one.prior for one in kin]),
            pairs=errors([one.model for one in pairs]),
            prior=errors([one.prior for one in rounds]),
            constant=errors([one.constant for one in rounds]),
            nearest=errors([one.nearest for one in rounds]),
            ridge=errors(ridge_residuals(data, rounds)),
            random_forest=errors(random_forest_residuals(data, rounds, seed)),
            noise_floor=noise_floor(data.spreads()),
        ),
        half_width_log=half_width,
        known_half_width_log=known_half_width if pairs else half_width,
        known_profiles=tuple(sorted(data.digests.values())),
        known_workloads=tuple(workloads),
        host=host,
        interval_coverage=COVERAGE,
        interval_rule=rule,
        known_interval_rule=known_rule if pairs else rule,
        training_low=seen.low,
        training_high=seen.high,
    )
    report(1.0, "fitted")
    predictions = _predictions(data, by_workload, half_width)
    model = TrainedModel(manifest=manifest, model_json=bytes(final.save_raw("json")), held_out=predictions)
    return _Fitted(model, data, by_workload)


def train_state(
    state: Path,
    host: HostTraits,
    *,
    only_if_better: bool,
    dataset: Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Train on what a state folder and a dataset hold, store the model, activate it (if better); gives plain data."""
    registry = ModelRegistry(state / "models")
    notes: list[str] = []
    profiles = ProfileStore(state / "profiles").load_all(on_damaged=lambda error: notes.append(str(error)))
    observed = ObservationStore(state / "observations.jsonl").load()
    families: Mapping[str, str] = {}
    if dataset is not None:
        shipped = load_dataset(dataset, host.fingerprint, lambda error: notes.append(str(error)))
        profiles = {**{one.name: one for one in shipped.profiles}, **profiles}
        observed = [*shipped.observations, *observed]
        families = shipped.families
        here = f"the dataset in {str(dataset)!r}"
        notes.append(
            f"{len(shipped.observations)} observations are of {here}"
            if shipped.observations
            else f"{here} holds no observation of this class of host ({host.fingerprint})"
        )
    data = training_data(observed, profiles, host, families)
    fitted = _train(data, host, 0, None, progress)
    model = fitted.model
    activated = True
    if only_if_better:
        rival = _rival(
            registry, fitted, host, notes, lambda theirs: training_data(observed, profiles, theirs, families)
        )
        found = verdict(model.manifest.scores, rival)
        activated = found.better
        if found.reason:
            notes.append(found.reason if activated else f"not activated: {found.reason}")
    elif reason := verdict(model.manifest.scores, None).reason:
        notes.append(f"activated as asked, though {reason}")
    model_id = registry.save(model)
    if activated:
        registry.activate(model_id)
    manifest = model.manifest
    return {
        "id": model_id,
        "activated": activated,
        "observations": manifest.observations,
        "workloads": manifest.workloads,
        "scores": asdict(manifest.scores),
        "interval_factor": math.exp(manifest.half_width_log),
        "interval_rule": manifest.interval_rule,
        "known_interval_factor": math.exp(manifest.known_half_width_log),
        "known_interval_rule": manifest.known_interval_rule,
        "notes": notes,
    }


def _rival(
    registry: ModelRegistry,
    fitted: _Fitted,
    host: HostTraits,
    notes: list[str],
    data_of: Callable[[HostTraits], TrainingData],
) -> Rival | None:
    """Give the model in use as far as it can be one; None when anything sound may take its place.

    `data_of` gives the same observations beside the prior of other traits of this host: a model keeps those that it
    was trained with, whatever was calibrated since.
    """
    try:
        current = registry.active()
    except ModelDamaged as error:
        notes.append(str(error))
        return None
    except ModelMissing:  # the first model
        return None
    if current.manifest.host_fingerprint != host.fingerprint:
        notes.append(f"model {current.manifest.id} is of another class of host and is not used here")
        return None
    data = data_of(current.manifest.host)
    return rival_of(current, fitted.rounds, data.digests, rows=data.rows, margin=data.margin, target=data.target)


def _fit(data: TrainingData, kept: NDArray[np.bool_], seed: int) -> xgboost.Booster:
    return _boost(data, kept, seed, _rounds(data, kept, seed))


def _rounds(data: TrainingData, kept: NDArray[np.bool_], seed: int) -> int:
    """Choose how far to leave the prior by holding out pairs among what is kept: with few data hardly at all."""
    errors = np.zeros(len(_ROUNDS))
    for out in data.folds(_INNER_FOLDS):
        inside, outside = kept & ~out, kept & out
        if inside.sum() < 2 or not outside.any():
            continue
        booster = _boost(data, inside, seed, _ROUNDS[-1])
        for position, rounds in enumerate(_ROUNDS):
            predicted = booster.inplace_predict(
                data.rows[outside],
                base_margin=data.margin[outside],
                validate_features=False,
                iteration_range=(0, rounds),
            )
            errors[position] += np.abs(predicted - data.target[outside]).sum()
    return _ROUNDS[int(np.argmin(errors))]  # ties: the fewest


def _boost(data: TrainingData, kept: NDArray[np.bool_], seed: int, rounds: int) -> xgboost.Booster:
    matrix = xgboost.DMatrix(
        data.rows[kept],
        label=data.target[kept],
        weight=data.weight[kept],
        base_margin=data.margin[kept],
        nthread=1,
    )
    least = max(1.0, _LEAST_LEAF_SHARE * float(data.weight[kept].sum()))
    return xgboost.train({**_PARAMETERS, "min_child_weight": least, "seed": seed}, matrix, rounds)


def _hold_out(data: TrainingData, kept: NDArray[np.bool_], seed: int) -> HeldOut:
    out = ~kept
    target = data.target[out].astype(np.float64)
    booster = _fit(data, kept, seed)
    learned = booster.inplace_predict(data.rows[out], base_margin=data.margin[out], validate_features=False)
    far = TrainingRange.of(data.rows[kept]).outside(data.rows[out])  # as in use: that is left to the prior
    predicted = np.where(far, data.margin[out], learned)
    return HeldOut(
        index=np.flatnonzero(out),
        model=predicted.astype(np.float64) - target,
        prior=data.margin[out] - target,
        constant=float(np.median(data.target[kept])) - target,
        nearest=nearest(data.rows[out], data.rows[kept], data.target[kept]) - target,
        far=far,
    )


def _hold_out_pairs(data: TrainingData, seed: int) -> list[HeldOut]:
    """Hold out relations of pairs, in at most _PAIR_FOLDS folds; only what both workloads show elsewhere counts."""
    found = []
    named = data.pairs
    for out in data.folds(_PAIR_FOLDS):
        kept = ~out
        seen = {name for index in np.flatnonzero(kept) for name in named[index]}
        if kept.sum() < 2:
            continue
        held = _hold_out(data, kept, seed)
        both = np.array([set(named[index]) <= seen for index in held.index], dtype=bool)
        if both.any():
            found.append(held.only(both))
    return found


def _hold_out_kin(data: TrainingData, by_workload: Mapping[str, HeldOut], seed: int) -> list[HeldOut]:
    """Hold out all variants of one program together; nothing when no two workloads are variants of one."""
    kinds = data.kinds()
    if all(len(kin) == 1 for kin in kinds):
        return []
    rounds = []
    for kin in kinds:
        kept = data.without(kin)
        if len(kin) > 1 and kept.sum() >= 2:
            rounds.append(_hold_out(data, kept, seed))
        elif len(kin) == 1 and kin <= by_workload.keys():
            rounds.append(by_workload[min(kin)])
    return rounds


def _predictions(
    data: TrainingData, rounds: Mapping[str, HeldOut], half_width_log: float
) -> tuple[HeldOutPrediction, ...]:
    """Write down what each round said of what it held out."""
    return tuple(
        HeldOutPrediction(
            held_out=workload,
            victim=one.victim,
            aggressor=one.aggressors[0],
            relation=one.relations[0],
            measured=one.slowdown,
            spread=one.spread,
            repetitions=one.repetitions,
            predicted=one.slowdown * math.exp(residual),
            prior=math.exp(data.margin[index]),
            lower=one.slowdown * math.exp(residual - width),
            upper=one.slowdown * math.exp(residual + width),
        )
        for workload, held in rounds.items()
        for index, residual, is_far in zip(held.index.tolist(), held.model.tolist(), held.far.tolist(), strict=True)
        for one in (data.observations[index],)
        for width in (max(half_width_log, PRIOR_HALF_WIDTH_LOG) if is_far else half_width_log,)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as a child process: the result on standard output, the reason of a failure on standard error."""
    parser = argparse.ArgumentParser(prog="python -m profiler.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, default=default_state())
    parser.add_argument("--only-if-better", action="store_true")
    parser.add_argument("--dataset", default=default_dataset(), help="measured runs besides; empty = none")
    chosen = parser.parse_args(arguments)
    dataset = Path(chosen.dataset) if chosen.dataset else None
    try:
        host = host_traits(read_topology(), find_calibration(chosen.state))
        result = train_state(chosen.state, host, only_if_better=chosen.only_if_better, dataset=dataset)
    except ProfilerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
