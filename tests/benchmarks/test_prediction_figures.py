"""Figures of prediction: the scores, each held-out point, or the reason why there is none. Simulated records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.analysis import Analysis, analyse
from benchmarks.prediction_figures import predicted_against_measured, prediction
from benchmarks.questions import HeldOutScore
from benchmarks.report_folder import read_predictions
from benchmarks.runs import RunLog
from profiler.held_out_predictions import HeldOutPrediction
from profiler.registry import ModelRegistry
from profiler.scores import Errors, Scores
from profiler.training import train
from tests.benchmarks.simulated_runs import factorial_cells, simulated_runs
from tests.fakes.campaigns import HOST
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST as TRAITS
from tests.fakes.profiles import SAME_LLC


def analysed(noise_ratio: float | None = 0.011) -> Analysis:
    scores = Scores(
        lowo=Errors(median=0.123, mean=0.156), prior=Errors(median=0.234, mean=0.267), noise_floor=noise_ratio
    )
    score = HeldOutScore(model="m", observations=40, workloads=9, scores=scores)
    return analyse(simulated_runs(factorial_cells()[:1], repetitions=3), score=score)


def point(measured: float, predicted: float, **changes: float) -> HeldOutPrediction:
    return HeldOutPrediction(
        held_out="a",
        victim="a",
        aggressor="b",
        relation=SAME_LLC,
        measured=measured,
        spread=0.02,
        repetitions=4,
        predicted=predicted,
        prior=1.0,
        **changes,
    )


def test_prediction_shows_the_scores() -> None:
    shown = prediction(analysed(), "").svg.decode()

    assert all(f"<!--  {one} -->" in shown for one in ("12.3%", "15.6%", "23.4%", "1.1%", "unknown"))


def test_points_tell_models_from_the_prior_and_how_many_intervals_hold() -> None:
    points = [
        point(1.5, 1.4, lower=1.3, upper=1.6),
        point(2.0, 1.4, lower=1.2, upper=1.7),
        point(1.1, 1.2, lower=1.0, upper=1.3),
        point(1.2, 1.2),
    ]

    drawn = predicted_against_measured(analysed(), points, "", "simulated")

    shown = drawn.svg.decode()
    assert not drawn.missing
    assert all(
        f"<!-- {one} -->" in shown for one in ("measured SF", "predicted SF", "prior alone", "noise of one repetition")
    )
    assert "(67% of 3 hold what was measured; " in drawn.caption
    assert "(simulated)" in shown
    assert drawn.svg == predicted_against_measured(analysed(), points, "", "simulated").svg


def test_unknown_noise_is_no_band() -> None:
    shown = predicted_against_measured(analysed(None), [point(1.5, 1.4)], "", "").svg.decode()

    assert "<!-- measured SF -->" in shown
    assert "<!-- noise of one repetition -->" not in shown


def test_without_predictions_the_figure_is_missing_with_the_reason() -> None:
    drawn = predicted_against_measured(analysed(), [], "the model is old", "")

    assert (drawn.missing, drawn.svg) == ("the model is old", b"")


def test_only_predictions_for_the_class_of_host_of_the_record_are_taken(tmp_path: Path) -> None:
    profiles = made_up_profiles(3)
    trained = train(made_up_observations(profiles), profiles, TRAITS)
    log = RunLog(tmp_path, hosts={"one": HOST})
    registry = ModelRegistry(tmp_path / "models")

    assert "no model is in use" in read_predictions(log, tmp_path)[1]
    model_id = registry.save(trained)
    registry.activate(model_id)
    assert "of another class of host" in read_predictions(log, tmp_path)[1]

    log.hosts = {"one": replace(HOST, topology=TRAITS.fingerprint)}
    assert read_predictions(log, tmp_path) == (trained.held_out, "")

    file = tmp_path / "models" / model_id / "held_out.json"
    file.write_text("{}")
    assert "cannot be read" in read_predictions(log, tmp_path)[1]
    file.unlink()
    assert "train again" in read_predictions(log, tmp_path)[1]
