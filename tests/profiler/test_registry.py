"""Models on disk: anything that is not exactly what was stored is refused, and the previous choice stays."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profiler.errors import ModelDamaged, ModelMissing, RecordInvalid, StoreFailed
from profiler.features import FEATURE_NAMES
from profiler.registry import ModelRegistry
from profiler.training import train
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST

PROFILES = made_up_profiles(3)
TRAINED = train(made_up_observations(PROFILES), PROFILES, HOST, created_unix_s=1e9)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models")


def test_a_saved_model_is_the_same_when_loaded(registry: ModelRegistry) -> None:
    model_id = registry.save(TRAINED)

    loaded = registry.load(model_id)

    assert model_id.startswith("20010909-014640-")
    assert replace(loaded.manifest, id="", sha256="", size_bytes=0) == TRAINED.manifest
    assert np.isfinite(
        loaded.forest.predict(np.zeros((1, len(FEATURE_NAMES)), np.float32), np.zeros(1, np.float32))
    ).all()


def test_a_folder_that_can_be_no_model_hides_none(registry: ModelRegistry, tmp_path: Path) -> None:
    model_id = registry.save(TRAINED)
    shutil.copytree(tmp_path / "models" / model_id, tmp_path / "models" / "Kept By Hand")

    assert [one.id for one in registry.list()] == [model_id]


def test_without_models_nothing_is_active(registry: ModelRegistry) -> None:
    assert registry.active_id() is None
    assert registry.list() == []
    with pytest.raises(ModelMissing, match="cotenant train"):
        registry.active()
    with pytest.raises(ModelMissing, match="no model 'm1'"):
        registry.activate("m1")


def test_a_model_is_in_use_only_after_activation_and_going_back_works(registry: ModelRegistry) -> None:
    old = registry.save(TRAINED)
    new = registry.save(replace(TRAINED, manifest=replace(TRAINED.manifest, created_unix_s=2e9)))
    assert registry.active_id() is None
    before = registry.revision()

    registry.activate(new)
    between = registry.revision()
    registry.activate(old)

    assert registry.active().manifest.id == old
    assert [one.id for one in registry.list()] == [new, old]
    assert len({before, between, registry.revision()}) == 3


def swapped_digit(data: bytes) -> bytes:
    place = next(m.start() for m in re.finditer(rb"\d\.\d{5}", data) if m.start() > len(data) // 2)
    return data[:place] + (b"9" if data[place : place + 1] != b"9" else b"8") + data[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "bytes long, its manifest says"),
        (lambda data: b"", "is 0 bytes long"),
        (lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], "has sha256"),
        (swapped_digit, "has sha256"),
        (lambda data: data + b" ", "bytes long, its manifest says"),
        (lambda data: b" " * (64 * 2**20 + 1), "larger than the 67108864 bytes"),
    ],
)
def test_a_damaged_model_file_is_refused_and_the_previous_model_stays(
    tmp_path: Path, registry: ModelRegistry, damage: object, message: str
) -> None:
    good = registry.save(TRAINED)
    registry.activate(good)
    bad = registry.save(replace(TRAINED, manifest=replace(TRAINED.manifest, created_unix_s=2e9)))
    file = tmp_path / "models" / bad / "model.json"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]

    with pytest.raises(ModelDamaged, match=message):
        registry.activate(bad)

    assert registry.active().manifest.id == good


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_hash": "0" * 16}, "was fitted on features"),
        ({"feature_names": ["a"]}, "was fitted on features"),
        ({"id": "other"}, "belongs to model 'other'"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"size_bytes": "many"}, "size_bytes: Input should be a valid integer"),
        ({"schema_version": 9}, "has schema version 9"),
        ({"half_width_log": -1.0}, "half_width_log"),
        ({"training_high": []}, "training_high"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, registry: ModelRegistry, changes: dict[str, object], message: str
) -> None:
    model_id = registry.save(TRAINED)
    file = tmp_path / "models" / model_id / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    with pytest.raises(ModelDamaged, match=message):
        registry.load(model_id)


@pytest.mark.parametrize("content", ["", "{}", "null", "\x00" * 40])
def test_a_manifest_that_is_none_is_refused_but_others_are_still_listed(
    tmp_path: Path, registry: ModelRegistry, content: str
) -> None:
    good = registry.save(TRAINED)
    bad = registry.save(replace(TRAINED, manifest=replace(TRAINED.manifest, created_unix_s=2e9)))
    (tmp_path / "models" / bad / "manifest.json").write_text(content)
    damaged: list[ModelDamaged] = []

    with pytest.raises(ModelDamaged, match=r"manifest\.json cannot be read"):
        registry.load(bad)
    assert [one.id for one in registry.list(on_damaged=damaged.append)] == [good]
    assert len(damaged) == 1


@pytest.mark.parametrize("file", ["manifest.json", "model.json"])
def test_a_model_with_a_missing_file_is_refused(tmp_path: Path, registry: ModelRegistry, file: str) -> None:
    model_id = registry.save(TRAINED)
    (tmp_path / "models" / model_id / file).unlink()

    with pytest.raises(ModelDamaged, match=f"{file} does not exist"):
        registry.load(model_id)


@pytest.mark.parametrize("text", ["../..\n", "", "x" * 100, "a\x1bb", "y" * 300])
def test_a_damaged_choice_is_refused(tmp_path: Path, registry: ModelRegistry, text: str) -> None:
    registry.save(TRAINED)
    (tmp_path / "models" / "active").write_text(text)

    with pytest.raises(ModelDamaged):
        registry.active()


def test_a_sound_file_with_insane_predictions_is_refused(registry: ModelRegistry) -> None:
    raw = json.loads(TRAINED.model_json)
    for tree in raw["learner"]["gradient_booster"]["model"]["trees"]:
        is_leaf = [child == -1 for child in tree["left_children"]]
        tree["split_conditions"] = [
            9.0 if leaf else c for c, leaf in zip(tree["split_conditions"], is_leaf, strict=True)
        ]
    model_id = registry.save(replace(TRAINED, model_json=json.dumps(raw).encode()))

    with pytest.raises(ModelDamaged, match="predicts slowdowns"):
        registry.load(model_id)


def test_an_id_that_is_no_name_is_refused(registry: ModelRegistry) -> None:
    with pytest.raises(RecordInvalid, match="must be 1 to 63 of"):
        registry.load("../secrets")


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreFailed, match="--state DIR"):
        ModelRegistry(tmp_path / "file" / "models").save(TRAINED)


def test_a_model_in_use_whose_folder_is_gone_is_damage_and_not_none_at_all(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    model_id = registry.save(TRAINED)
    registry.activate(model_id)
    shutil.rmtree(tmp_path / "models" / model_id)

    with pytest.raises(ModelDamaged, match=f"names model '{model_id}', which is gone"):
        registry.active()
