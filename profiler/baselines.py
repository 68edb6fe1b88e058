"""What other learners make of the same data, so that it can be said whether boosted trees are worth it.

Each takes the place of the trees and nothing else: the same rows, the same prior as start, the same weights, and the
prior alone where a row is far from training. Only training imports this; scikit-learn stays out of the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from profiler.heldout import HeldOut
from profiler.training_data import TrainingData

_PENALTIES = np.logspace(-1, 5, 13)  #: to choose from by generalised cross-validation
_TREES = 100
_LEAST_LEAF = 3  #: observations


def ridge_residuals(data: TrainingData, rounds: Sequence[HeldOut]) -> list[NDArray[np.float64]]:
    """Give predicted - measured log SF of a linear model of all features, held out as the rounds are, [k] each.

    Unknown features count as the median of the known ones: a line has no branch for what is missing.
    """
    found = []
    for one in rounds:
        kept = _kept(data, one)
        # a penalty chosen on fewer rows than columns is chosen by luck, but it is chosen: no error, a poor baseline
        learner = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), RidgeCV(_PENALTIES)
        )
        learner.fit(data.rows[kept], _beyond_prior(data, kept), ridgecv__sample_weight=data.weight[kept])
        found.append(_residuals(data, one, learner.predict(data.rows[one.index])))
    return found


def random_forest_residuals(data: TrainingData, rounds: Sequence[HeldOut], seed: int) -> list[NDArray[np.float64]]:
    """Give predicted - measured log SF of a random forest, held out as the rounds are, [k] each."""
    found = []
    for one in rounds:
        kept = _kept(data, one)
        learner = RandomForestRegressor(_TREES, min_samples_leaf=_LEAST_LEAF, random_state=seed, n_jobs=1)
        learner.fit(data.rows[kept], _beyond_prior(data, kept), sample_weight=data.weight[kept])
        found.append(_residuals(data, one, learner.predict(data.rows[one.index])))
    return found


def _kept(data: TrainingData, held: HeldOut) -> NDArray[np.bool_]:
    kept = np.ones(len(data.target), dtype=bool)
    kept[held.index] = False
    return kept


def _beyond_prior(data: TrainingData, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    return (data.target[kept] - data.margin[kept]).astype(np.float64)


def _residuals(data: TrainingData, held: HeldOut, learned: NDArray[np.float64]) -> NDArray[np.float64]:
    beyond = np.where(held.far, 0.0, learned)
    prior = data.margin[held.index].astype(np.float64)
    return np.asarray(prior + beyond - data.target[held.index])
