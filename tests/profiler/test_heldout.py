"""Whether a model may replace another, from what both say of held-out observations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from profiler.heldout import Rival, errors, verdict
from profiler.scores import Errors, Scores


def by(mean: float, median: float = 0.5) -> Errors:
    """Give errors of which the mean alone is to decide."""
    return Errors(median=median, mean=mean)


GOOD = Scores(lowo=by(0.1), prior=by(0.2, 0.1))
STORED = Rival(id="m0", scores=Scores(lowo=by(0.15), prior=by(0.2)))


def test_errors_that_are_no_numbers_are_unknown() -> None:
    assert errors([]) is None
    assert errors([np.array([0.1, np.nan])]) is None
    assert errors([np.array([1e4, 1e4])]) is None


@pytest.mark.parametrize(
    ("scores", "better"),
    [
        (GOOD, True),
        (Scores(lowo=by(0.3, 0.1), prior=by(0.2)), False),
        (
            Scores(lowo=by(0.1), families=by(0.25), families_prior=by(0.2), prior=by(0.2)),
            False,
        ),  # programs it has not seen
        (Scores(lowo=by(0.2), prior=by(0.2)), False),  # no better than the prior is not better
        (Scores(), False),
    ],
)
def test_the_first_model_must_beat_the_prior(scores: Scores, *, better: bool) -> None:
    found = verdict(scores, None)

    assert found.better == better
    assert bool(found.reason) != better


@pytest.mark.parametrize(("its", "better"), [(0.15, True), (0.1, False), (0.05, False)])
def test_without_common_observations_stored_scores_decide_and_that_is_said(its: float, *, better: bool) -> None:
    found = verdict(GOOD, Rival(id="m0", scores=Scores(lowo=by(its)), compared=3, new=by(0.9), own=by(0.1)))

    assert found.better == better
    assert "stored scores" in found.reason
    assert "only 3 observations" in found.reason


@pytest.mark.parametrize(("its", "better"), [(0.3, True), (0.25, False), (0.2, False)])
def test_errors_on_the_same_observations_decide_before_stored_scores(its: float, *, better: bool) -> None:
    found = verdict(GOOD, replace(STORED, compared=4, new=by(0.25), own=by(its)))

    assert found.better == better
    assert found.reason.startswith(
        f"mean error 25.0% against {its:.1%} of model m0, compared by 4 held-out observations"
    )


def test_a_model_that_has_no_score_gives_way() -> None:
    assert verdict(GOOD, Rival(id="m0", scores=Scores())).better
