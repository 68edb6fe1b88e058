"""Measured datasets that come with the program: observations and the profiles they speak of, one folder a host class.

They lie beside the experiment that measured them (benchmarks/data). Training takes them besides what was measured here;
of another class of host they say nothing, so observations are matched by fingerprint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from profiler.errors import ProfileDamaged, ProfileMissing, ProfilerError, RecordInvalid
from profiler.exchange import LIMIT_BYTES, profiles_from_json
from profiler.files import read_limited
from profiler.records import Observation, WorkloadProfile
from profiler.store import ObservationStore

_SHIPPED = Path(__file__).parents[1] / "benchmarks" / "data"  # data, no code: no layer is crossed
OBSERVATIONS, PROFILES, FAMILIES = "observations.jsonl", "profiles.json", "families.json"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What there is of one class of host."""

    observations: tuple[Observation, ...] = ()
    profiles: tuple[WorkloadProfile, ...] = ()
    families: Mapping[str, str] = field(default_factory=dict)  #: workload -> the program it is a variant of


def default_dataset() -> str:
    """Give $COTENANT_DATASET, else the folder that comes with the program; empty = none."""
    return os.environ.get("COTENANT_DATASET", str(_SHIPPED))


def load_dataset(root: Path, fingerprint: str, on_damaged: Callable[[ProfilerError], None]) -> Dataset:
    """Read a folder and those in it, what is of this class of host; a damaged one is handed over and left out."""
    found = Dataset()
    for path in sorted([*root.glob(OBSERVATIONS), *root.glob(f"*/{OBSERVATIONS}")]):
        try:
            told = tuple(one for one in ObservationStore(path).load() if one.host_fingerprint == fingerprint)
            if told:
                profiles = load_profiles(path.with_name(PROFILES))
                families = _families(path.with_name(FAMILIES))
                found = Dataset(found.observations + told, found.profiles + profiles, {**found.families, **families})
        except ProfilerError as error:
            on_damaged(error)
    return found


def load_profiles(path: Path) -> tuple[WorkloadProfile, ...]:
    """Read the profiles of a dataset; raises ProfileMissing, ProfileDamaged."""
    data = read_limited(path, LIMIT_BYTES, missing=ProfileMissing, damaged=ProfileDamaged)
    try:
        return tuple(profiles_from_json(data))
    except RecordInvalid as error:
        raise ProfileDamaged(f"{str(path)!r}: {error}") from error


def _families(path: Path) -> dict[str, str]:
    """Read which workloads are variants of one program; a dataset need not tell."""
    if not path.exists():
        return {}
    data = read_limited(path, LIMIT_BYTES, missing=ProfileMissing, damaged=ProfileDamaged)
    try:
        return _FAMILIES.validate_json(data)
    except ValidationError as error:
        raise ProfileDamaged(f"{str(path)!r} does not name a program for each workload: {error}") from error


_FAMILIES = TypeAdapter(dict[str, str])
