"""Training: learns what the prior leaves over, holds out whole workloads, and says when data are too few."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isolation.topology import read_topology
from profiler.errors import TrainingImpossible
from profiler.features import FEATURE_NAMES
from profiler.heldout import verdict
from profiler.host import host_traits
from profiler.prediction import PairModel
from profiler.records import Observation, WorkloadProfile
from profiler.registry import ModelRegistry, TrainedModel
from profiler.scores import Errors, Scores
from profiler.store import ObservationStore, ProfileStore
from profiler.training import train, train_state
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import APART, HOST, SAME_CPU, SAME_LLC, SMT_SIBLINGS, profile_of

PROFILES = made_up_profiles()
OBSERVATIONS = made_up_observations(PROFILES)
TRAINED = train(OBSERVATIONS, PROFILES, HOST, created_unix_s=1e9)


def stored(tmp_path: Path) -> PairModel:
    registry = ModelRegistry(tmp_path / "models")
    return PairModel(registry.activate(registry.save(TRAINED)), HOST)


def test_the_model_beats_prior_and_constant_on_workloads_it_never_saw() -> None:
    scores = TRAINED.manifest.scores

    assert scores.lowo is not None
    assert scores.prior is not None
    assert scores.constant is not None
    assert scores.lowo.mean < 0.5 * scores.prior.mean
    assert scores.lowo.mean < 0.5 * scores.constant.mean
    assert scores.noise_floor == pytest.approx(math.expm1(0.6745 * 0.02))


def test_the_same_data_give_the_same_model() -> None:
    again = train(OBSERVATIONS, PROFILES, HOST, created_unix_s=1e9)

    assert again.model_json == TRAINED.model_json
    assert again.manifest == TRAINED.manifest


def test_estimates_follow_the_measurements(tmp_path: Path) -> None:
    model = stored(tmp_path)
    estimates = model.estimate(
        [(PROFILES[one.victim], PROFILES[one.aggressors[0]], one.relations[0]) for one in OBSERVATIONS]
    )

    errors = [abs(est.slowdown / obs.slowdown - 1) for est, obs in zip(estimates, OBSERVATIONS, strict=True)]
    inside = [est.lower <= obs.slowdown <= est.upper for est, obs in zip(estimates, OBSERVATIONS, strict=True)]

    assert np.median(errors) < 0.05
    assert np.mean(inside) >= 0.9
    assert not any(est.far_from_training for est in estimates)


def test_an_estimate_is_the_product_of_its_parts(tmp_path: Path) -> None:
    for model in (stored(tmp_path), PairModel(None, HOST)):
        (estimate,) = model.estimate([(PROFILES["w5"], PROFILES["w4"], SAME_LLC)])
        parts = estimate.time_sharing * estimate.smt * estimate.cache * estimate.bandwidth

        assert estimate.prior == pytest.approx(parts)
        assert estimate.slowdown == pytest.approx(parts * estimate.learned, rel=1e-5)
        assert estimate.lower < estimate.slowdown < estimate.upper


def test_without_a_model_the_prior_answers_with_a_wide_interval() -> None:
    (estimate,) = PairModel(None, HOST).estimate([(None, None, SAME_CPU)])

    assert estimate.learned == 1.0
    assert estimate.slowdown == pytest.approx(2.0)
    assert estimate.lower == pytest.approx(2 / 1.5)
    assert estimate.upper == pytest.approx(3.0)
    assert PairModel(None, HOST).estimate([]) == []


def test_strangers_are_marked_far_from_training(tmp_path: Path) -> None:
    model = stored(tmp_path)
    known = PROFILES["w1"]
    stranger = profile_of("stranger", cpu_utilisation_ratio=0.5, rss_bytes=1e12, kv_bytes=1e9)
    pairs = [(known, known, SAME_CPU), (stranger, known, SAME_CPU), (known, None, SAME_CPU), (known, known, APART)]

    assert [one.far_from_training for one in model.estimate(pairs)] == [False, True, True, True]


def test_what_is_far_from_training_is_left_to_the_prior_with_a_wide_interval(tmp_path: Path) -> None:
    model = stored(tmp_path)

    near, far = model.estimate([(PROFILES["w1"], PROFILES["w5"], SAME_LLC), (None, PROFILES["w5"], SAME_LLC)])

    assert abs(near.learned - 1) > 0.05
    assert (far.learned, far.slowdown) == pytest.approx((1.0, far.prior))
    assert far.upper >= 1.5 * far.slowdown - 1e-6


@pytest.mark.parametrize("leaf", [800.0, -800.0, math.inf, math.nan])
def test_what_is_no_slowdown_is_left_to_the_prior(tmp_path: Path, leaf: float) -> None:
    """A checked model may still run away on some row."""
    registry = ModelRegistry(tmp_path)
    loaded = registry.activate(registry.save(TRAINED))
    wild = replace(loaded, forest=replace(loaded.forest, leaf=np.full_like(loaded.forest.leaf, leaf)))

    (found,) = PairModel(wild, HOST).estimate([(PROFILES["w1"], PROFILES["w5"], SAME_LLC)])

    assert found.far_from_training
    assert (found.slowdown, found.learned) == pytest.approx((found.prior, 1.0))


def test_a_model_keeps_the_prior_that_it_was_fitted_beside(tmp_path: Path) -> None:
    """Calibrating anew changes the prior; what trees learned to be left over from the old one would be wrong on it."""
    registry = ModelRegistry(tmp_path)
    loaded = registry.activate(registry.save(TRAINED))
    pair = [(PROFILES["w1"], PROFILES["w5"], SMT_SIBLINGS)]

    (before,) = PairModel(loaded, HOST).estimate(pair)
    (after,) = PairModel(loaded, replace(HOST, smt_cost_sf=3.0)).estimate(pair)

    assert before == after
    assert PairModel(None, replace(HOST, smt_cost_sf=3.0)).estimate(pair)[0].prior > before.prior


def test_a_model_of_another_host_is_far_from_everything(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    loaded = registry.activate(registry.save(TRAINED))

    (estimate,) = PairModel(loaded, replace(HOST, fingerprint="other")).estimate([(PROFILES["w1"],) * 2 + (SAME_CPU,)])

    assert estimate.far_from_training


def test_few_held_out_observations_widen_the_interval_and_say_so() -> None:
    two = {name: PROFILES[name] for name in ("w0", "w5")}
    few = [one for one in OBSERVATIONS if {one.victim, *one.aggressors} <= set(two)]

    manifest = train(few, two, HOST).manifest

    assert "of only 8 held-out residuals (9 are needed)" in manifest.interval_rule
    assert manifest.half_width_log >= math.log(1.1)
    assert "conformal 90% on 72" in TRAINED.manifest.interval_rule


def test_when_nothing_can_be_held_out_there_is_no_score() -> None:
    one_pair = [one for one in OBSERVATIONS if (one.victim, *one.aggressors) in {("w0", "w5"), ("w5", "w0")}]

    manifest = train(one_pair, PROFILES, HOST).manifest

    assert manifest.scores.lowo is None
    assert "nothing could be held out" in manifest.interval_rule
    assert not verdict(manifest.scores, None).better


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ([], "0 usable observations of 0 workloads"),
        (OBSERVATIONS[:3], "3 usable observations"),
        (
            [one for one in OBSERVATIONS if one.victim == one.aggressors[0] == "w0"] * 3,
            "2 usable observations of 1 workloads",
        ),
        ([replace(one, host_fingerprint="other") for one in OBSERVATIONS], "Of 72 stored, 0 are pairs"),
        ([replace(one, victim="unknown") for one in OBSERVATIONS], "72 of those name a workload without profile"),
        ([replace(one, aggressors=("w0", "w1"), relations=(SAME_CPU,) * 2) for one in OBSERVATIONS], "0 are pairs"),
    ],
)
def test_too_little_data_is_counted(observations: list[Observation], message: str) -> None:
    with pytest.raises(TrainingImpossible, match=message):
        train(observations, PROFILES, HOST)


FEW = {name: PROFILES[name] for name in ("w0", "w2", "w5")}


def fill(state: Path, fingerprint: str, *, profiles: dict[str, WorkloadProfile] = PROFILES) -> None:
    store = ProfileStore(state / "profiles")
    for profile in profiles.values():
        store.save(profile)
    ObservationStore(state / "observations.jsonl").append(
        [replace(o, host_fingerprint=fingerprint) for o in OBSERVATIONS if {o.victim, *o.aggressors} <= set(profiles)]
    )


def test_training_a_state_folder_activates_the_first_model_and_only_better_ones_later(tmp_path: Path) -> None:
    fill(tmp_path, HOST.fingerprint)
    steps: list[float] = []

    first = train_state(tmp_path, HOST, only_if_better=True, progress=lambda share, _stage: steps.append(share))
    second = train_state(tmp_path, HOST, only_if_better=True)

    assert first["activated"]
    assert not second["activated"]
    assert first["notes"] == []
    assert "compared by their stored scores" in second["notes"][0]
    assert ModelRegistry(tmp_path / "models").active_id() == first["id"]
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


def put_in_use(state: Path, model: TrainedModel) -> str:
    registry = ModelRegistry(state / "models")
    model_id = registry.save(model)
    registry.activate(model_id)
    return model_id


def test_a_score_on_easier_data_does_not_defend_the_model_in_use(tmp_path: Path) -> None:
    fill(tmp_path, HOST.fingerprint)
    easy = train(made_up_observations(FEW, beyond_prior=1.0), FEW, HOST)  # there the prior is the truth
    old = put_in_use(tmp_path, easy)

    new = train_state(tmp_path, HOST, only_if_better=True)

    assert easy.manifest.scores.lowo is not None
    assert new["scores"]["lowo"]["mean"] > easy.manifest.scores.lowo.mean
    assert new["activated"]
    assert f"of model {old}, compared by" in new["notes"][0]
    assert "held-out observations of workloads that neither was trained on" in new["notes"][0]


def test_the_model_in_use_is_judged_beside_the_prior_it_was_trained_with(tmp_path: Path) -> None:
    """As it is used: calibrating anew does not change what it predicts, so it must not change how it is judged."""
    fill(tmp_path, HOST.fingerprint)
    siblings = [replace(one, relations=(SMT_SIBLINGS,)) for one in OBSERVATIONS if one.relations == (SAME_LLC,)]
    ObservationStore(tmp_path / "observations.jsonl").append(siblings)
    put_in_use(tmp_path, train(made_up_observations(FEW), FEW, HOST))

    judged = []
    for smt_cost_sf in (HOST.smt_cost_sf, 3.0):
        result = train_state(tmp_path, replace(HOST, smt_cost_sf=smt_cost_sf), only_if_better=True)
        judged += [
            note.partition("against ")[2].partition(" of model")[0] for note in result["notes"] if "against" in note
        ]
        put_in_use(tmp_path, train(made_up_observations(FEW), FEW, HOST))

    assert len(judged) == 2
    assert judged[0] == judged[1]


def test_a_workload_known_by_name_is_no_stranger_though_its_profile_was_taken_anew(tmp_path: Path) -> None:
    put_in_use(tmp_path, TRAINED)
    anew = {
        name: replace(profile, features=tuple(replace(one, value=one.value * 1.001) for one in profile.features))
        for name, profile in FEW.items()
    }
    fill(tmp_path, HOST.fingerprint, profiles=anew)

    again = train_state(tmp_path, HOST, only_if_better=True)

    assert "only 0 observations are of workloads that the model in use does not know" in again["notes"][-1]


def test_a_model_of_another_class_of_host_defends_nothing(tmp_path: Path) -> None:
    fill(tmp_path, HOST.fingerprint, profiles=FEW)
    perfect = Scores(lowo=Errors(median=0.0, mean=0.0), prior=Errors(median=1.0, mean=1.0))
    manifest = replace(TRAINED.manifest, host_fingerprint="elsewhere", scores=perfect)
    put_in_use(tmp_path, replace(TRAINED, manifest=manifest))

    trained = train_state(tmp_path, HOST, only_if_better=True)

    assert trained["activated"]
    assert "of another class of host" in trained["notes"][0]


def test_a_child_process_trains_and_prints_one_line_of_json(tmp_path: Path) -> None:
    fill(tmp_path, host_traits(read_topology()).fingerprint)
    command = [sys.executable, "-m", "profiler.training", "--state", str(tmp_path), "--dataset", ""]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    result = json.loads(done.stdout)
    assert ModelRegistry(tmp_path / "models").active().manifest.id == result["id"]
    assert result["scores"]["lowo"]["mean"] < result["scores"]["prior"]["mean"]


def test_a_child_process_that_cannot_train_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "profiler.training", "--state", str(tmp_path), "--dataset", ""]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert "0 usable observations" in done.stderr


def test_predicting_does_not_import_xgboost() -> None:
    code = (
        "import sys, profiler.prediction, profiler.registry, profiler.collector\n"
        "print({'xgboost', 'sklearn'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert done.stdout.strip() == "set()"


def test_every_feature_has_a_training_range() -> None:
    assert len(TRAINED.manifest.training_low) == len(TRAINED.manifest.training_high) == len(FEATURE_NAMES)
    assert TRAINED.manifest.training_low[FEATURE_NAMES.index("v_ipc")] is None
    assert TRAINED.manifest.training_high[FEATURE_NAMES.index("same_cpu")] == 1.0


def test_two_workloads_seen_with_other_partners_have_an_interval_of_their_own(tmp_path: Path) -> None:
    model, manifest = stored(tmp_path), TRAINED.manifest
    seen, stranger = PROFILES["w1"], replace(PROFILES["w1"], features=PROFILES["w1"].features[:-1])

    known, unknown = model.estimate([(seen, PROFILES["w2"], SAME_CPU), (stranger, PROFILES["w2"], SAME_CPU)])

    assert "held-out observations" in manifest.known_interval_rule
    assert manifest.scores.pairs is not None
    assert math.log(known.upper / known.slowdown) == pytest.approx(manifest.known_half_width_log)
    assert math.log(unknown.upper / unknown.slowdown) == pytest.approx(manifest.half_width_log)
