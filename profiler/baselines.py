"""What other learners make of the same data, so that it can be said whether boosted trees are worth it.

Each takes the place of the trees and nothing else: the same rows, the same prior as start, the same weights, and the
prior alone where a row is far from training. Only training imports this; scikit-learn stays out of the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

    Unknown features count as the median of the known ones: a line has no branch for what is missing. A penalty chosen
    on fewer rows than columns is chosen by luck, but it is chosen: no error, a poor baseline.
    """
    learner = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), RidgeCV(_PENALTIES)
    )
    return [_residuals(data, one, learner, "ridgecv__sample_weight") for one in rounds]


def random_forest_residuals(data: TrainingData, rounds: Sequence[HeldOut], seed: int) -> list[NDArray[np.float64]]:
    """Give predicted - measured log SF of a random forest, held out as the rounds are, [k] each."""
    learner = RandomForestRegressor(_TREES, min_samples_leaf=_LEAST_LEAF, random_state=seed, n_jobs=1)
    return [_residuals(data, one, learner, "sample_weight") for one in rounds]


def _residuals(data: TrainingData, held: HeldOut, learner: Any, weight: str) -> NDArray[np.float64]:
    """Fit on what is not held out, forgetting any earlier fit, and predict what is; `weight` names fit's argument."""
    kept = np.ones(len(data.target), dtype=bool)
    kept[held.index] = False
    beyond_prior = (data.target[kept] - data.margin[kept]).astype(np.float64)
    learner.fit(data.rows[kept], beyond_prior, **{weight: data.weight[kept]})
    learned = np.where(held.far, 0.0, learner.predict(data.rows[held.index]))
    prior = data.margin[held.index].astype(np.float64)
    return np.asarray(prior + learned - data.target[held.index])
