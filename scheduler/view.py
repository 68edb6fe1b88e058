"""What decisions are made from: one frozen picture of residents and model, rebuilt when something changed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

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
        self._topology = topology
        self._host = host
        self._store = profiles
        self._registry = models
        self._lock = threading.Lock()
        self._placements: dict[str, Placement] = {}
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
                if before[1] != revisions[1]:
                    self._predictor = self._read_model()
                self._view = self._build()
        return self._view

    def put(self, placement: Placement) -> None:
        """Take in a placement that changed."""
        with self._lock:
            self._placements = {**self._placements, placement.name: placement}
            self._view = self._build()

    def drop(self, name: str) -> None:
        """Forget a placement."""
        with self._lock:
            self._placements = {key: value for key, value in self._placements.items() if key != name}
            self._view = self._build()

    def _build(self) -> View:
        view = View(
            placements=self._placements,
            ledger=Ledger(topology=self._topology, residents=()),
            predictor=self._predictor,
            profiles=self._profiles,
            damaged_profiles=self._damaged,
        )
        residents = tuple(
            Resident(
                name=one.name,
                cpus=one.decision.cpus,
                profile=self._resident_profile(view, one.request),
                slo=one.request.slo,
                weight=one.request.weight,
            )
            for one in self._placements.values()
            if one.state in LIVE
        )
        return View(
            placements=self._placements,
            ledger=Ledger(topology=self._topology, residents=residents),
            predictor=self._predictor,
            profiles=self._profiles,
            damaged_profiles=self._damaged,
        )

    @staticmethod
    def _resident_profile(view: View, request: WorkloadRequest) -> WorkloadProfile | None:
        try:
            return view.profile_of(request)
        except (ProfileUnknown, ProfileDamaged):  # deleted since it was placed: it stays, as an unknown
            return None

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
            return Predictor(PairModel(None, self._host), model_id="", fallback=f"model damaged: {error}")
        except ModelMissing:
            return Predictor(
                PairModel(None, self._host), model_id="", fallback="no model trained yet: the analytic prior answered"
            )
        if loaded.manifest.host_fingerprint != self._host.fingerprint:
            return Predictor(
                PairModel(None, self._host),
                model_id="",
                fallback=f"model {loaded.manifest.id} was trained on another class of host "
                f"({loaded.manifest.host_fingerprint}, this is {self._host.fingerprint})",
            )
        return Predictor(PairModel(loaded, self._host), model_id=loaded.manifest.id, fallback="")
