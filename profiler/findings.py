"""What comes together while one workload is measured, until it is a profile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from isolation.topology import Topology
from profiler.records import Feature, Quality, Source, SteadyWindow, WorkloadProfile, measured


@dataclass(slots=True)
class Findings:
    """Features, doubts and notes of one measurement."""

    features: list[Feature] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quality: Quality = Quality.STABLE
    window: SteadyWindow | None = None
    used_s: float = 0.0  #: CPU time of commands that ended by themselves

    def take(self, other: Findings) -> None:
        """Add what another measurement of the same workload found."""
        self.features.extend(other.features)
        self.notes.extend(other.notes)
        self.window = other.window or self.window
        if self.quality is Quality.STABLE:
            self.quality = other.quality

    def doubt(self, quality: Quality, reason: str) -> None:
        """Note a reason not to trust the profile; the first one names its quality."""
        self.notes.append(reason)
        if self.quality is Quality.STABLE:
            self.quality = quality

    def add(self, name: str, value: float, source: Source, window_s: float, samples: Sequence[float] = ()) -> None:
        """Add a feature unless its value is unknown or outside its definition."""
        self.features.extend(measured(name, value, source, window_s, samples))

    def profile(self, name: str, cpus: int, topology: Topology) -> WorkloadProfile:
        """Close the measurement."""
        return WorkloadProfile(
            name=name,
            cpus=cpus,
            features=tuple(self.features),
            host_fingerprint=topology.fingerprint,
            created_unix_s=time.time(),
            quality=self.quality,
            note="; ".join(self.notes),
            window=self.window,
        )
