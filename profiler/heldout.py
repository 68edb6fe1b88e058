"""What predictions of held-out observations say: scores, intervals, and whether a model may replace another. Pure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.registry import LoadedModel
from profiler.scores import Errors, Scores
from profiler.training_range import TrainingRange

COVERAGE = 0.9
LEAST_COMPARED = 4  #: held-out observations from which two models are compared on them
#: Interval factor when held-out data are too few to say anything.
_BLIND_FACTOR = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predicted minus measured log SF of the observations one round held out, [k] each."""

    index: NDArray[np.intp]
    model: NDArray[np.float64]
    prior: NDArray[np.float64]
    constant: NDArray[np.float64]
    nearest: NDArray[np.float64]
    far: NDArray[np.bool_]  #: from what the round was trained on, so that the prior stands for the model

    def only(self, kept: NDArray[np.bool_]) -> HeldOut:
        """Keep some of the observations."""
        parts = (self.model[kept], self.prior[kept], self.constant[kept], self.nearest[kept], self.far[kept])
        return HeldOut(self.index[kept], *parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a new model deserves to be the one in use, and why; the reason is empty when nothing stood against it."""

    better: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The model in use, and its errors beside the new one's where both were strangers."""

    id: str
    scores: Scores
    compared: int = 0  #: held-out observations of workloads it did not know
    new: Errors | None = None  #: on those; None when there are none
    own: Errors | None = None


def rival_of(
    current: LoadedModel,
    rounds: Mapping[str, HeldOut],
    digests: Mapping[str, str],
    *,
    rows: NDArray[np.float32],
    margin: NDArray[np.float32],
    target: NDArray[np.float32],
) -> Rival:
    """Let the model in use predict what the new one was held out from, where it does not know the workload either.

    `rounds` and `digests` are keyed by workload; rows [n, n_features], margin and target [n] are today's observations.
    A workload it knows by name counts as known even when its profile was taken anew: it has seen its slowdowns.
    """
    manifest = current.manifest
    strangers = [
        one
        for name, one in rounds.items()
        if name not in manifest.known_workloads and digests[name] not in manifest.known_profiles
    ]
    if not strangers:
        return Rival(id=manifest.id, scores=manifest.scores)
    index = np.concatenate([one.index for one in strangers])
    learned = current.forest.predict(rows[index], margin[index])
    far = TrainingRange(manifest.training_low, manifest.training_high).outside(rows[index])
    own = np.where(far, margin[index], learned).astype(np.float64) - target[index]
    return Rival(
        id=manifest.id,
        scores=manifest.scores,
        compared=len(np.unique(index)),
        new=errors([one.model for one in strangers]),
        own=errors([own]),
    )


def verdict(new: Scores, rival: Rival | None) -> Verdict:
    """Judge a new model by mean errors: it must beat the prior and the model in use; an equal score beats nobody.

    Means, because a scheduler is hurt by what is far off, which medians do not see. Two models are compared on the same
    observations, of workloads neither was trained on. Where there are too few of those, only the stored scores are
    left, each on the data of its own day.
    """
    if new.lowo is None or new.prior is None:
        return Verdict(better=False, reason="no workload could be held out, so nothing says that it is any good")
    # a program it has never seen has no variants in training
    for what, own, prior in (("", new.lowo, new.prior), (" with whole programs", new.families, new.families_prior)):
        if own is not None and prior is not None and own.mean >= prior.mean:
            reason = f"mean error{what} held out {own.mean:.1%} does not beat the prior's {prior.mean:.1%}"
            return Verdict(better=False, reason=reason)
    if rival is None:
        return Verdict(better=True, reason="")
    if rival.compared >= LEAST_COMPARED and rival.new is not None and rival.own is not None:
        mine, its = rival.new.mean, rival.own.mean
        where = f"{rival.compared} held-out observations of workloads that neither was trained on"
    elif rival.scores.lowo is not None:
        mine, its = new.lowo.mean, rival.scores.lowo.mean
        where = (
            f"their stored scores, each on its own data, because only {rival.compared} observations are of workloads "
            "that the model in use does not know"
        )
    else:
        return Verdict(better=True, reason=f"model {rival.id} has no score to compare with")
    said = f"mean error {mine:.1%} against {its:.1%} of model {rival.id}, compared by {where}"
    return Verdict(better=mine < its, reason=said)


def nearest(rows: NDArray[np.float32], known: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give for each row the mean target of the known rows most like it, the prior's factors among their columns.

    rows [k, f], known [n, f], target [n] -> [k]. Columns count in units of their spread over `known`; one that only
    one of two rows tells counts as one such unit, one that neither tells or that never varies not at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns nobody tells
        scale = np.nanstd(known, axis=0)
    varied = scale > 0
    ours, theirs = rows[:, varied] / scale[varied], known[:, varied] / scale[varied]
    found = np.empty(len(rows))
    for at, row in enumerate(ours):
        apart = (theirs - row) ** 2
        apart[np.isnan(theirs) != np.isnan(row)] = 1.0
        distance = np.nansum(apart, axis=1)
        found[at] = target[distance <= distance.min() * (1 + 1e-6)].mean()
    return found


def errors(residuals: Sequence[NDArray[np.float64]]) -> Errors | None:
    """Summarise predicted - measured log SF over everything held out; None when nothing could be, or not in numbers."""
    if not residuals:
        return None
    found = np.concatenate(residuals)
    with np.errstate(over="ignore"):
        both = float(np.median(np.abs(np.expm1(found)))), float(np.expm1(np.abs(found).mean()))
    return Errors(median=both[0], mean=both[1]) if all(map(math.isfinite, both)) else None


def worst_residuals(rounds: Sequence[HeldOut]) -> NDArray[np.float64]:
    """Give one |residual| per observation: a pair is held out once for each of its sides, the worse one counts."""
    worst: dict[int, float] = {}
    for one in rounds:
        for index, residual in zip(one.index.tolist(), np.abs(one.model).tolist(), strict=True):
            worst[index] = max(worst.get(index, 0.0), residual)
    return np.array(list(worst.values()), dtype=np.float64)


def noise_floor(spread: NDArray[np.float64]) -> float | None:
    """Median relative error a perfect prediction of one repetition would still show (0.674 sigma of log SF)."""
    return float(np.expm1(0.6745 * np.nanmedian(spread))) if np.isfinite(spread).any() else None


def interval(residuals: NDArray[np.float64]) -> tuple[float, str]:
    """Give the half width of log SF by split conformal prediction on held-out workloads, and the rule used."""
    count = len(residuals)
    rank = math.ceil((count + 1) * COVERAGE)  # finite-sample correction: the ceil((n+1) coverage)-th smallest
    if rank <= count and count > 0:
        return float(np.sort(residuals)[rank - 1]), f"conformal {COVERAGE:.0%} on {count} held-out observations"
    if count == 0:
        return math.log(_BLIND_FACTOR), f"assumed factor {_BLIND_FACTOR:g}: nothing could be held out"
    width = 1.5 * float(residuals.max())
    return max(width, math.log(1.1)), f"1.5 times the largest of only {count} held-out residuals ({rank} are needed)"
