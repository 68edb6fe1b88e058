"""Profiles and observations on disk, checked at this border.

STATE/profiles/NAME.json        one profile each, replaced atomically
STATE/observations.jsonl        one observation per line, append only; a last line cut off by a crash is ignored
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from profiler.errors import ObservationsDamaged, ProfileDamaged, ProfileMissing, RecordInvalid, StoreFailed
from profiler.files import is_name, make_folder, name_checked, read_limited, sync_folder, write_atomically
from profiler.records import (
    PROFILE_SCHEMA_VERSION,
    Feature,
    Observation,
    Quality,
    Relation,
    Source,
    SteadyWindow,
    WorkloadProfile,
)

OBSERVATION_SCHEMA_VERSION = 1  # 1: first version
_PROFILE_LIMIT_BYTES = 2**20
_OBSERVATIONS_LIMIT_BYTES = 2**30


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _StoredFeature(_Strict):
    name: str
    value: float
    spread: float | None
    source: Source
    window_s: float
    samples: int


class _StoredWindow(_Strict):
    start_s: float
    length_s: float
    decided_by: str


class _StoredProfile(_Strict):
    schema_version: int
    name: str
    cpus: int
    features: tuple[_StoredFeature, ...]
    host_fingerprint: str
    created_unix_s: float
    quality: Quality
    note: str
    window: _StoredWindow | None = None  # since version 2


class _StoredObservation(_Strict):
    schema_version: int
    victim: str
    aggressors: tuple[str, ...]
    relations: tuple[tuple[float, float, float, float, float, float], ...]
    slowdown: float
    spread: float | None
    repetitions: int
    window_s: float
    host_fingerprint: str
    created_unix_s: float
    isolation: str
    origin: str


class ProfileStore:
    """The profiles below one folder."""

    def __init__(self, path: Path) -> None:
        """Use STATE/profiles; the folder is made by the first save."""
        self._path = path
        self._changes = 0

    def save(self, profile: WorkloadProfile, *, replace: bool = False) -> None:
        """Store a profile durably; raises RecordInvalid if one of that name exists and may not be replaced."""
        file = self._file(profile.name)
        if file.exists() and not replace:
            raise RecordInvalid(f"profile {profile.name!r} exists already: choose another name or allow replacing it")
        make_folder(self._path)
        write_atomically(file, profile_to_json(profile))
        self._changes += 1

    def load(self, name: str) -> WorkloadProfile:
        """Read one profile; raises ProfileMissing, or ProfileDamaged naming the file."""
        file = self._file(name)
        if not file.exists():
            known = ", ".join(self.names()) or "none"
            raise ProfileMissing(
                f"no profile {name!r} in {self._path}, there are: {known}. Make one: `cotenant profile`"
            )
        data = read_limited(file, _PROFILE_LIMIT_BYTES, missing=ProfileMissing, damaged=ProfileDamaged)
        try:
            profile = profile_from_json(data)
        except RecordInvalid as error:
            raise ProfileDamaged(f"{file} cannot be read: {error}. Remove it and profile {name!r} again") from error
        if profile.name != name:
            raise ProfileDamaged(f"{file} holds the profile of {profile.name!r}: rename or remove the file")
        return profile

    def names(self) -> list[str]:
        """List the stored names, sorted."""
        if not self._path.is_dir():
            return []
        return sorted(file.stem for file in self._path.glob("*.json") if is_name(file.stem))

    def load_all(self, *, on_damaged: Callable[[ProfileDamaged], None] | None = None) -> dict[str, WorkloadProfile]:
        """Read all profiles by name; a damaged one is handed to on_damaged and left out, or raised without it."""
        profiles: dict[str, WorkloadProfile] = {}
        for name in self.names():
            try:
                profiles[name] = self.load(name)
            except ProfileDamaged as error:
                if on_damaged is None:
                    raise
                on_damaged(error)
            except ProfileMissing:
                continue  # deleted since it was listed
        return profiles

    def delete(self, name: str) -> None:
        """Remove a profile durably; raises ProfileMissing if there is none."""
        file = self._file(name)
        try:
            file.unlink()
            sync_folder(self._path)
        except FileNotFoundError as error:
            raise ProfileMissing(f"no profile {name!r} in {self._path}: nothing was deleted") from error
        except OSError as error:
            raise StoreFailed(f"cannot delete {file}: {error.strerror}") from error
        self._changes += 1

    def revision(self) -> tuple[int, int]:
        """Give a value that differs after every change made here, and (to the file clock's tick) elsewhere."""
        try:
            return self._changes, self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return self._changes, 0

    def _file(self, name: str) -> Path:
        return self._path / f"{name_checked(name)}.json"


class ObservationStore:
    """The observations in one file."""

    def __init__(self, path: Path) -> None:
        """Use STATE/observations.jsonl; the file is made by the first append."""
        self._path = path

    def append(self, observations: Iterable[Observation]) -> None:
        """Add observations durably, all or none; safe beside other processes that append."""
        data = b"".join(_observation_line(one) for one in observations)
        if not data:
            return
        make_folder(self._path.parent)
        is_new = not self._path.exists()
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                end = _end_of_complete_lines(descriptor)
                os.ftruncate(descriptor, end)  # what a crash left half written was never acknowledged
                try:
                    _write_all(descriptor, data, end)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise StoreFailed(
                f"cannot append observations to {self._path}: {error.strerror}; none was added"
            ) from error

    def load(self) -> list[Observation]:
        """Read all observations in the order they came; raises ObservationsDamaged naming the line."""
        if not self._path.exists():
            return []
        data = read_limited(
            self._path, _OBSERVATIONS_LIMIT_BYTES, missing=ObservationsDamaged, damaged=ObservationsDamaged
        )
        observations = []
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                observations.append(_observation_from_line(line))
            except (ValidationError, RecordInvalid) as error:
                reason = _reason(error)
                raise ObservationsDamaged(f"{self._path}, line {number}: {reason}. Remove that line") from error
        return observations


def profile_to_json(profile: WorkloadProfile) -> bytes:
    """Write a profile in the stored format."""
    fields: dict[str, Any] = {name: getattr(profile, name) for name in _StoredProfile.model_fields}
    fields["features"] = [
        {name: getattr(feature, name) for name in _StoredFeature.model_fields} for feature in profile.features
    ]
    fields["window"] = None if profile.window is None else asdict(profile.window)
    return _StoredProfile.model_validate(fields).model_dump_json(indent=1).encode() + b"\n"


def profile_from_json(data: bytes) -> WorkloadProfile:
    """Read a profile in the stored format; raises RecordInvalid naming the field."""
    try:
        stored = _StoredProfile.model_validate_json(data)
    except ValidationError as error:
        raise RecordInvalid(_reason(error)) from error
    if not 1 <= stored.schema_version <= PROFILE_SCHEMA_VERSION:
        raise RecordInvalid(
            f"schema_version is {stored.schema_version}, this version reads 1 to {PROFILE_SCHEMA_VERSION}"
        )
    fields: dict[str, Any] = {name: getattr(stored, name) for name in _StoredProfile.model_fields}
    fields["features"] = tuple(Feature(**feature.model_dump()) for feature in stored.features)
    fields["window"] = None if stored.window is None else SteadyWindow(**stored.window.model_dump())
    fields["schema_version"] = PROFILE_SCHEMA_VERSION  # an older one lacks only what may be unknown
    name_checked(stored.name)
    return WorkloadProfile(**fields)


def _observation_line(observation: Observation) -> bytes:
    fields: dict[str, Any] = {
        name: getattr(observation, name) for name in _StoredObservation.model_fields if name != "schema_version"
    }
    fields["relations"] = [
        (one.same_cpu, one.same_core, one.same_l2, one.same_llc, one.same_node, one.same_package)
        for one in observation.relations
    ]
    stored = _StoredObservation(schema_version=OBSERVATION_SCHEMA_VERSION, **fields)
    return json.dumps(stored.model_dump(), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _observation_from_line(line: bytes) -> Observation:
    stored = _StoredObservation.model_validate_json(line)
    if stored.schema_version != OBSERVATION_SCHEMA_VERSION:
        raise RecordInvalid(
            f"schema_version is {stored.schema_version}, this version reads {OBSERVATION_SCHEMA_VERSION}"
        )
    fields: dict[str, Any] = stored.model_dump(exclude={"schema_version"})
    fields["relations"] = tuple(Relation(*shares) for shares in stored.relations)
    return Observation(**fields)


def _reason(error: ValidationError | RecordInvalid) -> str:
    if isinstance(error, RecordInvalid):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _end_of_complete_lines(descriptor: int) -> int:
    """Give the offset just after the last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 4096)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
