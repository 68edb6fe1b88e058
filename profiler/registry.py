"""The models of this host on disk: STATE/models/ID/{model.json, held_out.json, manifest.json} and STATE/models/active.

A model is read only after its size and sha256 agree with the manifest, because no parser notices a changed digit; then
it must predict something sane before anybody sees it. held_out.json is for reports; loading a model does not read it.
Nothing of this imports xgboost.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from profiler.errors import ModelDamaged, ModelMissing, RecordInvalid
from profiler.features import FEATURE_NAMES, SCHEMA_HASH
from profiler.files import is_name, make_folder, name_checked, read_limited, write_atomically
from profiler.forest import Forest
from profiler.held_out_predictions import HeldOutPrediction, predictions_from_json, predictions_to_json
from profiler.records import HostTraits
from profiler.scores import Errors, Scores

MANIFEST_SCHEMA_VERSION = 2  # 1: first version; 2: medians and means of errors
_MODEL_LIMIT_BYTES = 64 * 2**20
_MANIFEST_LIMIT_BYTES = 2**20
_HELD_OUT_LIMIT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is known of a stored model without reading it."""

    id: str
    sha256: str
    size_bytes: int
    feature_names: tuple[str, ...]
    schema_hash: str
    xgboost_version: str
    data_hash: str
    host_fingerprint: str
    created_unix_s: float
    observations: int
    workloads: int
    scores: Scores
    half_width_log: float  #: half width of the interval of log SF, for workloads training has not seen
    known_half_width_log: float  #: the same for two workloads that training has seen, with other partners
    known_profiles: tuple[str, ...]  #: profile_digest of each workload training has seen
    interval_coverage: float  #: share of held-out truths the interval is meant to hold
    interval_rule: str  #: where half_width_log comes from
    known_interval_rule: str  #: where known_half_width_log comes from
    training_low: tuple[float | None, ...]  #: per feature; None = never known in training
    training_high: tuple[float | None, ...]
    known_workloads: tuple[str, ...]  #: names of those workloads
    host: HostTraits  #: whose prior it was fitted on
    schema_version: int = MANIFEST_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A fitted model before it is stored; the manifest's id, sha256 and size are filled in by save."""

    manifest: Manifest
    model_json: bytes
    held_out: tuple[HeldOutPrediction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A checked model, ready to predict."""

    manifest: Manifest
    forest: Forest


class ModelRegistry:
    """Models below one folder."""

    def __init__(self, path: Path) -> None:
        """Use STATE/models; the folder is made by the first save."""
        self._path = path

    def save(self, model: TrainedModel) -> str:
        """Store a model under a new id that sorts by time; does not activate it."""
        digest = hashlib.sha256(model.model_json).hexdigest()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(model.manifest.created_unix_s))
        model_id = f"{stamp}-{digest[:8]}"
        manifest = replace(model.manifest, id=model_id, sha256=digest, size_bytes=len(model.model_json))
        folder = self._path / model_id
        make_folder(folder)
        write_atomically(folder / "model.json", model.model_json)
        write_atomically(folder / "held_out.json", predictions_to_json(model.held_out, model_id))
        # the manifest comes last: a folder without one is an interrupted save and is not listed
        write_atomically(
            folder / "manifest.json", _Stored.model_validate(_plain(manifest)).model_dump_json(indent=1).encode()
        )
        return model_id

    def copy(self, model_id: str, other: ModelRegistry) -> None:
        """Take a model over from another registry, under its id, and make it the one in use; raises ModelMissing."""
        other.load(model_id)
        folder = self._path / model_id
        make_folder(folder)
        for name in ("model.json", "held_out.json", "manifest.json"):
            theirs = other._path / model_id / name
            if theirs.exists():
                write_atomically(folder / name, theirs.read_bytes())
        self.activate(model_id)

    def list(self, *, on_damaged: Callable[[ModelDamaged], None] | None = None) -> list[Manifest]:
        """Give all manifests, newest first; a damaged one is handed to on_damaged, or raised without it."""
        if not self._path.is_dir():
            return []
        named = (entry for entry in self._path.iterdir() if is_name(entry.name))  # others are nobody's models
        folders = sorted((entry for entry in named if (entry / "manifest.json").exists()), reverse=True)
        manifests = []
        for folder in folders:
            try:
                manifests.append(self._manifest(folder.name))
            except ModelDamaged as error:
                if on_damaged is None:
                    raise
                on_damaged(error)
        return manifests

    def load(self, model_id: str) -> LoadedModel:
        """Check and read one model; raises ModelMissing, or ModelDamaged naming the file and what differs."""
        manifest = self._manifest(model_id)
        file = self._path / model_id / "model.json"
        data = read_limited(file, _MODEL_LIMIT_BYTES, missing=ModelDamaged, damaged=ModelDamaged)
        if len(data) != manifest.size_bytes:
            raise ModelDamaged(_advice(file, f"is {len(data)} bytes long, its manifest says {manifest.size_bytes}"))
        if (digest := hashlib.sha256(data).hexdigest()) != manifest.sha256:
            raise ModelDamaged(
                _advice(file, f"has sha256 {digest[:12]}..., its manifest says {manifest.sha256[:12]}...")
            )
        if manifest.schema_hash != SCHEMA_HASH or manifest.feature_names != FEATURE_NAMES:
            raise ModelDamaged(
                _advice(file, f"was fitted on features {manifest.schema_hash}, now they are {SCHEMA_HASH}")
            )
        try:
            forest = Forest.from_json(data, feature_names=FEATURE_NAMES)
        except ModelDamaged as error:
            raise ModelDamaged(_advice(file, str(error))) from error
        _smoke_test(file, forest)
        return LoadedModel(manifest=manifest, forest=forest)

    def held_out(self, model_id: str) -> tuple[HeldOutPrediction, ...]:
        """Read what a model said of held-out observations; empty for models stored before that was kept.

        Raises ModelMissing, ModelDamaged.
        """
        self._manifest(model_id)
        file = self._path / model_id / "held_out.json"
        if not file.exists():
            return ()
        data = read_limited(file, _HELD_OUT_LIMIT_BYTES, missing=ModelDamaged, damaged=ModelDamaged)
        try:
            return predictions_from_json(data, model_id)
        except RecordInvalid as error:
            raise ModelDamaged(_advice(file, f"cannot be read: {error}")) from error

    def active_id(self) -> str | None:
        """Name the model in use; None when there is none."""
        file = self._path / "active"
        if not file.exists():
            return None
        text = read_limited(file, 256, missing=ModelMissing, damaged=ModelDamaged).decode("ascii", "replace").strip()
        try:
            return name_checked(text)
        except RecordInvalid as error:
            raise ModelDamaged(_advice(file, f"holds {text!r}, which is no model id")) from error

    def active(self) -> LoadedModel:
        """Check and read the model in use; raises ModelMissing or ModelDamaged."""
        model_id = self.active_id()
        if model_id is None:
            raise ModelMissing(f"no model is in use in {self._path}: make one with `cotenant train`")
        try:
            return self.load(model_id)
        except ModelDamaged:
            raise
        except ModelMissing as error:  # its folder was removed: that is not the same as no model at all
            raise ModelDamaged(_advice(self._path / "active", f"names model {model_id!r}, which is gone")) from error

    def revision(self) -> tuple[int, int]:
        """Give a value that differs after every activation, whoever made it."""
        try:
            status = (self._path / "active").stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def activate(self, model_id: str) -> LoadedModel:
        """Make a model the one in use, after checking it; a damaged one leaves the choice as it was."""
        loaded = self.load(model_id)
        write_atomically(self._path / "active", f"{model_id}\n".encode())
        return loaded

    def _manifest(self, model_id: str) -> Manifest:
        folder = self._path / name_checked(model_id)
        if not folder.is_dir():
            raise ModelMissing(f"no model {model_id!r} in {self._path}: `cotenant models` lists those there are")
        file = folder / "manifest.json"
        data = read_limited(file, _MANIFEST_LIMIT_BYTES, missing=ModelDamaged, damaged=ModelDamaged)
        try:
            if (version := _Versioned.model_validate_json(data).schema_version) != MANIFEST_SCHEMA_VERSION:
                raise ModelDamaged(
                    _advice(file, f"has schema version {version}, this program reads {MANIFEST_SCHEMA_VERSION}")
                )
            manifest = _from_stored(_Stored.model_validate_json(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ModelDamaged(_advice(file, f"cannot be read: {where}: {first['msg']}")) from error
        if problem := _problem(manifest):
            raise ModelDamaged(_advice(file, problem))
        if manifest.id != model_id:
            raise ModelDamaged(_advice(file, f"belongs to model {manifest.id!r}"))
        return manifest


class _Versioned(BaseModel):
    """What a manifest of any version holds."""

    schema_version: int


class _StoredErrors(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    median: float
    mean: float


class _StoredScores(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    lowo: _StoredErrors | None
    families: _StoredErrors | None
    families_prior: _StoredErrors | None
    pairs: _StoredErrors | None
    prior: _StoredErrors | None
    constant: _StoredErrors | None
    nearest: _StoredErrors | None
    ridge: _StoredErrors | None = None  # models stored before these were scored have none
    random_forest: _StoredErrors | None = None
    noise_floor: float | None


class _StoredHost(BaseModel):
    """HostTraits; null = unknown."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    fingerprint: str
    llc_bytes: float | None
    memory_bytes_per_s: float | None
    smt_cost_sf: float | None
    disk_wake_wait_s: float | None
    effective_llc_bytes: float | None


class _Stored(BaseModel):
    """The manifest as it lies on disk."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    schema_version: int
    id: str
    sha256: str
    size_bytes: int
    feature_names: tuple[str, ...]
    schema_hash: str
    xgboost_version: str
    data_hash: str
    host_fingerprint: str
    created_unix_s: float
    observations: int
    workloads: int
    scores: _StoredScores
    half_width_log: float
    known_half_width_log: float
    known_profiles: tuple[str, ...]
    interval_coverage: float
    interval_rule: str
    known_interval_rule: str
    training_low: tuple[float | None, ...]
    training_high: tuple[float | None, ...]
    known_workloads: tuple[str, ...]
    host: _StoredHost


def _plain(manifest: Manifest) -> dict[str, Any]:
    fields = {name: getattr(manifest, name) for name in _Stored.model_fields}
    fields["scores"] = asdict(manifest.scores)
    known = asdict(manifest.host)
    fields["host"] = {name: None if value != value else value for name, value in known.items()}  # noqa: PLR0124 - NaN
    return fields


def _from_stored(stored: _Stored) -> Manifest:
    fields: dict[str, Any] = {name: getattr(stored, name) for name in _Stored.model_fields}
    scores = stored.scores.model_dump()
    noise_floor = scores.pop("noise_floor")
    parts = {name: None if value is None else Errors(**value) for name, value in scores.items()}
    fields["scores"] = Scores(**parts, noise_floor=noise_floor)
    told = stored.host.model_dump().items()
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in told}
    fields["host"] = HostTraits(**known)
    return Manifest(**fields)


def _problem(manifest: Manifest) -> str:
    """Say what is wrong with the manifest's numbers; empty when nothing is."""
    for name in ("half_width_log", "known_half_width_log"):
        if not 0 <= getattr(manifest, name) <= 10:
            return f"{name} is {getattr(manifest, name)}, must be 0 to 10"
    for field in ("training_low", "training_high"):
        if manifest.feature_names == FEATURE_NAMES and len(getattr(manifest, field)) != len(FEATURE_NAMES):
            return f"{field} has {len(getattr(manifest, field))} values for {len(FEATURE_NAMES)} features"
    return ""


def _smoke_test(file: Path, forest: Forest) -> None:
    """Refuse a model whose slowdown for something or nothing known lies outside 0.1 to 1000 on a prior of 1."""
    rows = np.stack([np.full(len(FEATURE_NAMES), fill, np.float32) for fill in (math.nan, 0.0, 1.0, 20.0)])
    with np.errstate(over="ignore"):
        slowdowns = np.exp(forest.predict(rows, np.zeros(len(rows), np.float32)))
    if not (np.isfinite(slowdowns).all() and slowdowns.min() >= 0.1 and slowdowns.max() <= 1000):
        raise ModelDamaged(_advice(file, f"predicts slowdowns {slowdowns.tolist()}, sane are 0.1 to 1000"))


def _advice(file: Path, what: str) -> str:
    return f"{file} {what}. Train again (`cotenant train`) or go back to an older one (`cotenant models --activate ID`)"
