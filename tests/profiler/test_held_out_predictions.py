"""Held-out predictions kept with a model: complete, for reports only, and refused when they are of another model."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, median

import pytest

from profiler.errors import ModelDamaged, ModelMissing, RecordInvalid
from profiler.held_out_predictions import predictions_from_json, predictions_to_json
from profiler.prior import PRIOR_HALF_WIDTH_LOG
from profiler.registry import ModelRegistry
from profiler.training import train
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST

PROFILES = made_up_profiles(3)
OBSERVATIONS = made_up_observations(PROFILES)
TRAINED = train(OBSERVATIONS, PROFILES, HOST, created_unix_s=1e9)


def test_the_scores_are_those_of_the_rows() -> None:
    rows, scores = TRAINED.held_out, TRAINED.manifest.scores

    assert scores.lowo is not None
    assert scores.prior is not None
    assert scores.lowo.median == pytest.approx(median(abs(one.predicted / one.measured - 1) for one in rows), rel=1e-5)
    assert scores.prior.median == pytest.approx(median(abs(one.prior / one.measured - 1) for one in rows), rel=1e-5)
    log_errors = [abs(math.log(one.predicted / one.measured)) for one in rows]
    assert scores.lowo.mean == pytest.approx(math.exp(fmean(log_errors)) - 1, rel=1e-5)
    widths = [math.log(one.upper / one.predicted) for one in rows if one.upper is not None]
    usual = TRAINED.manifest.half_width_log
    assert {round(one, 6) for one in widths} == {round(usual, 6), round(max(usual, PRIOR_HALF_WIDTH_LOG), 6)}, (
        "far: wide"
    )


def test_each_observation_has_a_row_for_each_of_its_workloads() -> None:
    told = sorted((one.held_out, one.victim, one.aggressor, one.measured) for one in TRAINED.held_out)

    assert told == sorted(
        (name, one.victim, one.aggressors[0], one.slowdown)
        for one in OBSERVATIONS
        for name in {one.victim, one.aggressors[0]}
    )
    assert {(one.spread, one.repetitions) for one in TRAINED.held_out} == {(0.02, 3)}


def test_rows_are_the_same_when_read(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    model_id = registry.save(TRAINED)

    assert registry.held_out(model_id) == TRAINED.held_out
    with pytest.raises(ModelMissing):
        registry.held_out("m1")


def test_a_model_stored_before_rows_were_kept_has_none(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    model_id = registry.save(TRAINED)
    (tmp_path / model_id / "held_out.json").unlink()

    assert registry.held_out(model_id) == ()
    assert registry.activate(model_id).manifest.id == model_id


def test_damaged_rows_are_told_and_keep_no_model_from_use(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    model_id = registry.save(TRAINED)
    file = tmp_path / model_id / "held_out.json"
    file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(ModelDamaged, match=r"held_out\.json cannot be read"):
        registry.held_out(model_id)
    assert registry.activate(model_id).manifest.id == model_id


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        (b'"schema_version":1', b'"schema_version":2', "schema_version is 2, this version reads 1"),
        (b'"model":"m1"', b'"model":"m2"', "are of model 'm2', not of 'm1'"),
        (b'"measured":', b'"measured":-', "must be finite and above 0"),
        (b'"same_llc":1.0', b'"same_llc":0.0', "shares a CPU"),
        (b'"held_out":', b'"left_out":', "held_out: Field required"),
    ],
)
def test_other_rows_are_refused(was: bytes, becomes: bytes, message: str) -> None:
    data = predictions_to_json(TRAINED.held_out[:1], "m1")
    assert was in data

    with pytest.raises(RecordInvalid, match=message):
        predictions_from_json(data.replace(was, becomes), "m1")
