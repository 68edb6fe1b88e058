"""Servicers of what predictions stand on: profiles and models."""

from __future__ import annotations

import logging

import grpc

from cotenant.v1 import model_pb2, model_pb2_grpc, profile_pb2, profile_pb2_grpc
from profiler.errors import ModelDamaged, ProfileMissing
from profiler.records import WorkloadProfile
from profiler.registry import Manifest, ModelRegistry
from profiler.scores import Errors
from profiler.store import ProfileStore
from scheduler import wire
from scheduler.border import digest_of, page_of
from scheduler.controller import Controller
from scheduler.errors import ProfileExists, RequestInvalid, Violation
from scheduler.operations import Operations

Ctx = grpc.ServicerContext
_log = logging.getLogger("cotenant.learning")


class ProfileServicer(profile_pb2_grpc.ProfileServiceServicer):
    """Profiles."""

    def __init__(self, controller: Controller, store: ProfileStore, operations: Operations) -> None:
        self._controller = controller
        self._store = store
        self._operations = operations

    def ProfileWorkload(
        self, request: profile_pb2.ProfileWorkloadRequest, context: Ctx
    ) -> profile_pb2.ProfileWorkloadResponse:
        """Observe running processes in the background."""

        def work() -> bytes:
            operation = self._operations.profile(
                request.name, tuple(request.pids), request.duration_s or 30.0, replace_stored=request.replace
            )
            return profile_pb2.ProfileWorkloadResponse(operation=wire.operation_to(operation)).SerializeToString()

        answer = self._controller.once(request.request_id, digest_of(request), work)
        return profile_pb2.ProfileWorkloadResponse.FromString(answer)

    def GetOperation(self, request: profile_pb2.GetOperationRequest, context: Ctx) -> profile_pb2.GetOperationResponse:
        """State of one operation."""
        return profile_pb2.GetOperationResponse(operation=wire.operation_to(self._operations.get(request.name)))

    def GetProfile(self, request: profile_pb2.GetProfileRequest, context: Ctx) -> profile_pb2.GetProfileResponse:
        """One by name."""
        return profile_pb2.GetProfileResponse(profile=wire.profile_to(self._store.load(request.name)))

    def ListProfiles(self, request: profile_pb2.ListProfilesRequest, context: Ctx) -> profile_pb2.ListProfilesResponse:
        """All that can be read, by name."""
        found = sorted(self._controller.view().profiles.values(), key=lambda one: one.name)
        page, token = page_of(found, lambda one: one.name, request.page_size, request.page_token)
        return profile_pb2.ListProfilesResponse(profiles=map(wire.profile_to, page), next_page_token=token)

    def ImportProfile(
        self, request: profile_pb2.ImportProfileRequest, context: Ctx
    ) -> profile_pb2.ImportProfileResponse:
        """Store a profile made elsewhere."""
        profile = wire.profile_from(request.profile, "profile")

        def work() -> bytes:
            if not request.replace and profile.name in self._store.names():
                raise ProfileExists(f"profile {profile.name!r} is stored already; set replace to overwrite it")
            if not request.validate_only:
                self._store.save(profile, replace=True)
            return profile_pb2.ImportProfileResponse(profile=wire.profile_to(profile)).SerializeToString()

        if request.validate_only:
            return profile_pb2.ImportProfileResponse.FromString(work())
        answer = self._controller.once(request.request_id, digest_of(request), work)
        return profile_pb2.ImportProfileResponse.FromString(answer)

    def DeleteProfile(
        self, request: profile_pb2.DeleteProfileRequest, context: Ctx
    ) -> profile_pb2.DeleteProfileResponse:
        """Forget a profile; placements made with it stay."""

        def work() -> bytes:
            self._store.delete(request.name)
            return profile_pb2.DeleteProfileResponse().SerializeToString()

        self._controller.once(request.request_id, digest_of(request), work)
        return profile_pb2.DeleteProfileResponse()


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Models."""

    def __init__(self, controller: Controller, registry: ModelRegistry, operations: Operations) -> None:
        self._controller = controller
        self._registry = registry
        self._operations = operations

    def TrainModel(self, request: model_pb2.TrainModelRequest, context: Ctx) -> model_pb2.TrainModelResponse:
        """Fit in a child process."""

        def work() -> bytes:
            operation = self._operations.train(only_if_better=request.only_if_better)
            return model_pb2.TrainModelResponse(operation=wire.operation_to(operation)).SerializeToString()

        answer = self._controller.once(request.request_id, digest_of(request), work)
        return model_pb2.TrainModelResponse.FromString(answer)

    def PredictSlowdown(
        self, request: model_pb2.PredictSlowdownRequest, context: Ctx
    ) -> model_pb2.PredictSlowdownResponse:
        """Predict one direction of one pair."""
        victim = self._profile(request.WhichOneof("victim"), request.victim_name, request.victim_profile, "victim")
        aggressor = self._profile(
            request.WhichOneof("aggressor"), request.aggressor_name, request.aggressor_profile, "aggressor"
        )
        predictor = self._controller.view().predictor
        (estimate,) = predictor.estimate_many([(victim, aggressor, wire.relation_from(request.relation))])
        return model_pb2.PredictSlowdownResponse(
            prediction=wire.estimate_to(victim.name, estimate),
            contributions=wire.contributions_to(aggressor.name, estimate),
            model_id=predictor.model_id,
            fallback=predictor.fallback_for(victim, aggressor),
        )

    def ListModels(self, request: model_pb2.ListModelsRequest, context: Ctx) -> model_pb2.ListModelsResponse:
        """All stored models that can be read, oldest first."""
        try:
            active = self._registry.active_id()
        except ModelDamaged as error:
            active = None
            _not_listed(error)
        found = sorted(self._registry.list(on_damaged=_not_listed), key=lambda one: one.id)
        page, token = page_of(found, lambda one: one.id, request.page_size, request.page_token)
        return model_pb2.ListModelsResponse(models=[_model_to(one, active) for one in page], next_page_token=token)

    def ActivateModel(self, request: model_pb2.ActivateModelRequest, context: Ctx) -> model_pb2.ActivateModelResponse:
        """Check a stored model and make it the one in use."""

        def work() -> bytes:
            self._registry.activate(request.id)
            manifest = self._registry.load(request.id).manifest
            return model_pb2.ActivateModelResponse(model=_model_to(manifest, manifest.id)).SerializeToString()

        answer = self._controller.once(request.request_id, digest_of(request), work)
        return model_pb2.ActivateModelResponse.FromString(answer)

    def _profile(self, given: str | None, name: str, inline: profile_pb2.Profile, side: str) -> WorkloadProfile:
        if given is None:
            raise RequestInvalid((Violation(f"{side}_name", f"is missing: give {side}_name or {side}_profile"),))
        if given == f"{side}_profile":
            return wire.profile_from(inline, f"{side}_profile")
        profiles = self._controller.view().profiles
        if name not in profiles:
            known = ", ".join(sorted(profiles)) or "none yet"
            raise ProfileMissing(f"profile {name!r} is not stored (stored: {known})")
        return profiles[name]


def _not_listed(error: ModelDamaged) -> None:
    _log.warning("damaged model not listed", extra={"problem": str(error)})


def _both(found: Errors | None) -> tuple[float | None, float | None]:
    return (None, None) if found is None else (found.median, found.mean)


def _model_to(manifest: Manifest, active: str | None) -> model_pb2.Model:
    scores = manifest.scores
    lowo, prior, pairs = (_both(one) for one in (scores.lowo, scores.prior, scores.pairs))
    return model_pb2.Model(
        id=manifest.id,
        active=manifest.id == active,
        created_unix_s=manifest.created_unix_s,
        observations=manifest.observations,
        workloads=manifest.workloads,
        host_fingerprint=manifest.host_fingerprint,
        mape_lowo=lowo[0],
        mape_pairs=pairs[0],
        mape_prior=prior[0],
        mean_error_lowo=lowo[1],
        mean_error_pairs=pairs[1],
        mean_error_prior=prior[1],
        noise_floor=wire.finite_or_none(scores.noise_floor),
        sha256=manifest.sha256,
    )
