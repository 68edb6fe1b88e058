"""What decisions are made from: one frozen picture of residents and model, rebuilt when something changed."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from isolation.resctrl_info import ResctrlInfo
from isolation.topology import Topology
from profiler.errors import ModelDamaged, ModelMissing, ProfileDamaged, ProfileMissing
from profiler.prediction import PairModel
from profiler.records import HostTraits, WorkloadProfile
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from scheduler.errors import ProfileUnknown
from scheduler.ledger import Ledger
from scheduler.placement import LIVE, Placement, Resident, WorkloadRequest
from scheduler.predictor import Predictor

KEPT_RELEASED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A consistent picture: who sits where, and what predicts."""

    placements: Mapping[str, Placement]
    ledger: Ledger
    predictor: Predictor
    profiles: Mapping[str, WorkloadProfile]
    damaged_profiles: Mapping[str, str]

    def profile_of(self, request: WorkloadRequest) -> WorkloadProfile | None:
        """Give the profile a request stands on; None = unknown. Raises ProfileUnknown for a name not stored."""
        if request.inline_profile is not None:
            return request.inline_profile
        if request.profile_name is None:
            return self.profiles.get(request.name)
        if found := self.profiles.get(request.profile_name):
            return found
        if reason := self.damaged_profiles.get(request.profile_name):
            raise ProfileDamaged(reason)
        known = ", ".join(sorted(self.profiles)) or "none yet"
        raise ProfileUnknown(
            f"profile {request.profile_name!r} is not stored (stored: {known}); make it with "
            f"`cotenant profile {request.profile_name} -- COMMAND`, or leave the profile out for a fallback placement"
        )


class Viewer:
    """Keeps the current View; reads are lock-free once nothing changed."""

    def __init__(self, *, topology: Topology, host: HostTraits, profiles: ProfileStore, models: ModelRegistry) -> None:
        self._host = host
        self._store = profiles
        self._registry = models
        self._lock = threading.Lock()
        self._placements: dict[str, Placement] = {}
        self._over: dict[str, None] = {}  # names of placements that are over, in the order they ended
        peak = host.memory_bytes_per_s
        self._ledger = Ledger(topology=topology, peak_bytes_per_s=peak if math.isfinite(peak) else None)
        self._revisions: tuple[object, object] = (self._store.revision(), self._registry.revision())
        self._profiles, self._damaged = self._read_profiles()
        self._predictor = self._read_model()
        self._view = self._build()

    def current(self) -> View:
        """Give the picture of now; notices profiles and models that other processes stored."""
        revisions = (self._store.revision(), self._registry.revision())
        if revisions != self._revisions:
            with self._lock:
                before, self._revisions = self._revisions, revisions
                if before[0] != revisions[0]:
                    self._profiles, self._damaged = self._read_profiles()
                    living = (one for one in self._placements.values() if one.state in LIVE)
                    # the relations on this host are as before: the new ledger keeps what was worked out of them
                    self._ledger = replace(self._ledger, residents=tuple(map(self._resident, living)))
                if before[1] != revisions[1]:
                    self._predictor = self._read_model()
                self._view = self._build()
        return self._view

    def put(self, placement: Placement) -> None:
        """Take in a placement that changed."""
        with self._lock:
            self._placements = {**self._placements, placement.name: placement}
            self._over.pop(placement.name, None)
            if placement.state in LIVE:
                resident = self._resident(placement)
                if self._ledger.resident(placement.name) != resident:
                    self._ledger = self._ledger.with_resident(resident)
            else:
                self._over[placement.name] = None
                self._leave(placement.name)
            self._view = self._build()

    def drop(self, *names: str) -> None:
        """Forget placements."""
        with self._lock:
            self._placements = {key: value for key, value in self._placements.items() if key not in names}
            for name in names:
                self._over.pop(name, None)
                self._leave(name)
            self._view = self._build()

    def offer(self, controls: ResctrlInfo | None) -> None:
        """Take in what resctrl offers now; None = nothing."""
        with self._lock:
            if controls != self._ledger.controls:
                self._ledger = replace(self._ledger, controls=controls)
                self._view = self._build()

    def renew(self, topology: Topology) -> None:
        """Take in a host whose CPUs or nodes came or went; who lost all CPUs shares those that are left."""
        with self._lock:
            self._ledger = replace(self._ledger, topology=topology, residents=(), _sharing=None)
            living = (one for one in self._placements.values() if one.state in LIVE)
            self._ledger = replace(self._ledger, residents=tuple(map(self._resident, living)))
            self._view = self._build()

    def surplus(self) -> tuple[str, ...]:
        """Name the placements that were over first, beyond the newest ones that are kept."""
        with self._lock:
            return tuple(self._over)[: max(len(self._over) - KEPT_RELEASED, 0)]

    def _leave(self, name: str) -> None:
        if self._ledger.resident(name) is not None:
            self._ledger = self._ledger.without(name)

    def _build(self) -> View:
        return View(
            placements=self._placements,
            ledger=self._ledger,
            predictor=self._predictor,
            profiles=self._profiles,
            damaged_profiles=self._damaged,
        )

    def _resident(self, placement: Placement) -> Resident:
        """Give a placement as the planner sees it; one whose profile was deleted since stays, as an unknown."""
        request = placement.request
        usable = self._ledger.topology.usable
        profile = request.inline_profile
        if profile is None:
            profile = self._profiles.get(request.name if request.profile_name is None else request.profile_name)
        return Resident(
            name=placement.name,
            cpus=placement.decision.cpus & usable or usable,  # as the hotplug rule says
            profile=profile,
            slo=request.slo,
            weight=request.weight,
        )

    def _read_profiles(self) -> tuple[dict[str, WorkloadProfile], dict[str, str]]:
        found: dict[str, WorkloadProfile] = {}
        damaged: dict[str, str] = {}
        for name in self._store.names():
            try:
                found[name] = self._store.load(name)
            except ProfileDamaged as error:
                damaged[name] = str(error)
            except ProfileMissing:  # deleted between listing and reading
                continue
        return found, damaged

    def _read_model(self) -> Predictor:
        try:
            loaded = self._registry.active()
        except ModelDamaged as error:
            return self._untrained(f"model damaged: {error}")
        except ModelMissing:
            return self._untrained("no model trained yet: the analytic prior answered")
        if loaded.manifest.host_fingerprint != self._host.fingerprint:
            return self._untrained(
                f"model {loaded.manifest.id} was trained on another class of host "
                f"({loaded.manifest.host_fingerprint}, this is {self._host.fingerprint})"
            )
        return Predictor(PairModel(loaded, self._host), loaded.manifest.id, "", self._host.fingerprint)

    def _untrained(self, fallback: str) -> Predictor:
        return Predictor(PairModel(None, self._host), "", fallback, self._host.fingerprint)
