"""What was measured of this host itself, and how it is stored. Reading it loads nothing heavy: the daemon does so.

One JSON file in the state folder, replaced as a whole. None = not measured, with a note that says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from profiler.errors import CalibrationDamaged, CalibrationMissing
from profiler.files import read_limited, write_atomically

CALIBRATION_SCHEMA_VERSION = 2  # 1: first version; 2: the wait is that of forced writes, no longer that of timers
FILE_NAME = "calibration.json"
FOREIGN_LIMIT_RATIO = 0.15  #: a host whose CPUs others used more than that was not measured, but they were
_FILE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and what lies between the lower and the upper end of what was seen of it."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError(f"{self}: an unknown estimate is left out")
        if not 0 <= self.low <= self.value <= self.high:
            raise ValueError(f"{self}: the value must lie between its ends, and none below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What one thread got from a working set of this size."""

    size_bytes: int
    read_bytes_per_s: Estimate  #: streaming reads
    line_s: Estimate  #: one random line, while many are asked for at once
    load_s: Estimate | None  #: one random line, each asked for when the last one came


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Memory bandwidth of all cores of some CPUs together."""

    of: str  #: "llc N" or "node N"
    cpus: str  #: list format
    bytes_per_s: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All that calibration says of one host."""

    host_fingerprint: str
    created_unix_s: float
    duration_s: float
    curve: tuple[CurvePoint, ...] = ()
    peaks: tuple[Peak, ...] = ()
    effective_llc_bytes: Estimate | None = None  #: what one thread gets to keep of the last-level cache
    time_share_cost_sf: Estimate | None = None  #: CPU time for the same work beside another one on that CPU / alone
    smt_cost_sf: Estimate | None = None  #: time beside a busy sibling / alone; None where cores have one thread
    disk_wake_wait_s: Estimate | None = None  #: mean wait, a wake-up, for a busy CPU of who forces writes to disk
    noise_ratio: Estimate | None = None  #: relative difference of the same run one after the other: no less can be told
    foreign_ratio: float | None = None  #: share of the CPUs that others used meanwhile
    notes: tuple[str, ...] = ()
    schema_version: int = CALIBRATION_SCHEMA_VERSION

    @property
    def quiet(self) -> bool:
        """Tell whether the host was quiet enough to stand on what was measured."""
        return self.foreign_ratio is not None and self.foreign_ratio <= FOREIGN_LIMIT_RATIO

    @property
    def memory_bytes_per_s(self) -> float:
        """Peak of the slowest last-level cache domain; NaN when none was measured."""
        return min((one.bytes_per_s.value for one in self.peaks if one.of.startswith("llc")), default=math.nan)

    def completed_by(self, earlier: Calibration) -> Calibration:
        """Take what was not reached this time from an earlier calibration of the same host."""
        if earlier.host_fingerprint != self.host_fingerprint:
            return self
        kept = {
            field.name: getattr(earlier, field.name)
            for field in fields(self)
            if getattr(self, field.name) in (None, ()) and getattr(earlier, field.name) not in (None, ())
        }
        kept.pop("notes", None)
        if not kept:
            return self
        note = f"from the calibration before: {', '.join(sorted(kept))}"
        return replace(self, **kept, notes=(*self.notes, note))


def save_calibration(state: Path, calibration: Calibration) -> None:
    """Replace the calibration in a state folder; raises StoreFailed and leaves the old one."""
    write_atomically(state / FILE_NAME, json.dumps(asdict(calibration), indent=1, allow_nan=False).encode() + b"\n")


def load_calibration(state: Path) -> Calibration:
    """Read what is stored; raises CalibrationMissing, or CalibrationDamaged naming the file and the fault."""
    path = state / FILE_NAME
    data = read_limited(path, _FILE_LIMIT_BYTES, missing=CalibrationMissing, damaged=CalibrationDamaged)
    try:
        record = json.loads(data)
        if record["schema_version"] not in range(1, CALIBRATION_SCHEMA_VERSION + 1):
            raise ValueError(
                f"schema version {record['schema_version']!r}, this reads 1 to {CALIBRATION_SCHEMA_VERSION}"
            )
        return _calibration(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationDamaged(
            f"calibration {str(path)!r} cannot be used: {error}. Run `cotenant calibrate` again, or remove the file"
        ) from error


def find_calibration(state: Path) -> Calibration | None:
    """Read what is stored, None where nothing is; raises CalibrationDamaged."""
    try:
        return load_calibration(state)
    except CalibrationMissing:
        return None


def _calibration(record: Mapping[str, Any]) -> Calibration:
    return Calibration(
        host_fingerprint=str(record["host_fingerprint"]),
        created_unix_s=float(record["created_unix_s"]),
        duration_s=float(record["duration_s"]),
        curve=tuple(
            CurvePoint(
                size_bytes=int(one["size_bytes"]),
                read_bytes_per_s=_known(one["read_bytes_per_s"]),
                line_s=_known(one["line_s"]),
                load_s=_estimate(one["load_s"]),
            )
            for one in record["curve"]
        ),
        peaks=tuple(
            Peak(of=str(one["of"]), cpus=str(one["cpus"]), bytes_per_s=_known(one["bytes_per_s"]))
            for one in record["peaks"]
        ),
        foreign_ratio=None if record["foreign_ratio"] is None else float(record["foreign_ratio"]),
        notes=tuple(map(str, record["notes"])),
        effective_llc_bytes=_estimate(record["effective_llc_bytes"]),
        time_share_cost_sf=_estimate(record["time_share_cost_sf"]),
        smt_cost_sf=_estimate(record["smt_cost_sf"]),
        disk_wake_wait_s=None if record["schema_version"] == 1 else _estimate(record["disk_wake_wait_s"]),
        noise_ratio=_estimate(record["noise_ratio"]),
    )


def _known(record: Mapping[str, Any]) -> Estimate:
    return Estimate(float(record["value"]), float(record["low"]), float(record["high"]))


def _estimate(record: Mapping[str, Any] | None) -> Estimate | None:
    return None if record is None else _known(record)
