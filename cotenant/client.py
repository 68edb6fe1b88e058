"""The Python client: one method per call, typed answers, errors that name the field.

    from cotenant import Client

    with Client() as client:
        placement = client.place("db", pids=[4711], cpus=2, slo={"class": "service", "max_slowdown": 1.3})
        print(placement.cpus, [(one.workload, one.slowdown) for one in placement.predictions])
        client.release("db")

Answers are the messages of cotenant.v1 (they carry types). Needs nothing of ours but the stubs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cotenant.paths import default_socket
from cotenant.v1 import (
    host_pb2,
    host_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    operation_pb2,
    placement_pb2,
    placement_pb2_grpc,
    profile_pb2,
    profile_pb2_grpc,
    workload_pb2,
)

_PAGE = 1000
#: A restarted daemon is found again within a second; by default gRPC's channels to one address share waits of minutes.
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_SLO_BOUNDS = tuple(field.name for field in workload_pb2.Slo.DESCRIPTOR.fields if field.name != "slo_class")
_SLO_CLASSES = {
    name.removeprefix("SLO_CLASS_").lower(): number
    for name, number in workload_pb2.SloClass.items()
    if number != workload_pb2.SLO_CLASS_UNSPECIFIED
}
Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field the daemon refused."""

    field: str
    problem: str


class CotenantError(Exception):
    """A call that failed: `code` (grpc.StatusCode), `reason` (for instance PROCESS_GONE), and refused fields."""

    retryable = False

    def __init__(
        self, message: str, *, code: grpc.StatusCode, reason: str, fields: tuple[FieldProblem, ...], retryable: bool
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.fields = fields
        self.retryable = retryable


class DaemonUnreachable(CotenantError):
    """Nobody answers on the socket."""


class Client:
    """A connection to one daemon over its Unix socket; safe to share between threads.

    `timeout_s` bounds each call. A change that timed out may still have happened: repeat it with the same
    `request_id` to get its answer.
    """

    def __init__(self, socket: str | Path | None = None, *, timeout_s: float = 30.0) -> None:
        """Connect lazily; default socket: $COTENANT_SOCKET, else that of the default state folder."""
        self._socket = Path(socket) if socket is not None else default_socket()
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(f"unix:{self._socket.absolute()}", options=CHANNEL_OPTIONS)
        self._placements = placement_pb2_grpc.PlacementServiceStub(self._channel)
        self._profiles = profile_pb2_grpc.ProfileServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._hosts = host_pb2_grpc.HostServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    # --- placements --------------------------------------------------------------------------

    def place(
        self,
        name: str,
        *,
        pids: Iterable[int] = (),
        cgroup_path: str | None = None,
        cpus: int,
        profile: str | profile_pb2.Profile | None = None,
        slo: Mapping[str, Any] | None = None,
        whole_cores: bool = False,
        memory_bytes: int = 0,
        weight: float = 0.0,
        allow_best_effort: bool = False,
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> placement_pb2.Placement:
        """Place running processes (or a cgroup) and read back that every thread is there.

        `slo`: {"class": "latency" | "throughput" | "collective" | "service", and a bound: "tbt_ms", "ttft_ms",
        "ttlt_ms" or "max_slowdown"; "quantile" optional}. Give pids or cgroup_path, not both. Raises ValueError for
        what cannot be sent, CotenantError for what the daemon refused; nothing was changed then.
        """
        request = placement_pb2.PlaceWorkloadRequest(
            request_id=_id(request_id),
            workload=_workload(
                name,
                pids=pids,
                cgroup_path=cgroup_path,
                cpus=cpus,
                profile=profile,
                slo=slo,
                whole_cores=whole_cores,
                memory_bytes=memory_bytes,
                weight=weight,
            ),
            allow_best_effort=allow_best_effort,
            validate_only=validate_only,
        )
        return self._call(self._placements.PlaceWorkload, request).placement

    def preview(
        self,
        name: str,
        *,
        pids: Iterable[int] = (),
        cgroup_path: str | None = None,
        cpus: int,
        profile: str | profile_pb2.Profile | None = None,
        slo: Mapping[str, Any] | None = None,
        whole_cores: bool = False,
        memory_bytes: int = 0,
        weight: float = 0.0,
        allow_best_effort: bool = False,
    ) -> placement_pb2.Placement:
        """Ask where a workload would go; nothing is touched. `slo` as in place."""
        workload = _workload(
            name,
            pids=pids,
            cgroup_path=cgroup_path,
            cpus=cpus,
            profile=profile,
            slo=slo,
            whole_cores=whole_cores,
            memory_bytes=memory_bytes,
            weight=weight,
        )
        request = placement_pb2.PreviewPlacementRequest(workload=workload, allow_best_effort=allow_best_effort)
        return self._call(self._placements.PreviewPlacement, request).placement

    def release(self, name: str, *, etag: str = "", request_id: str | None = None) -> placement_pb2.Placement:
        """Give every thread its exact earlier state back."""
        request = placement_pb2.ReleaseWorkloadRequest(request_id=_id(request_id), name=name, etag=etag)
        return self._call(self._placements.ReleaseWorkload, request).placement

    def get(self, name: str) -> placement_pb2.Placement:
        """Give one placement."""
        return self._call(self._placements.GetPlacement, placement_pb2.GetPlacementRequest(name=name)).placement

    def placements(self, *, released: bool = False) -> Iterator[placement_pb2.Placement]:
        """Give every live placement, and released ones on request; pages are fetched as needed."""
        token = ""
        while True:
            answer = self._call(
                self._placements.ListPlacements,
                placement_pb2.ListPlacementsRequest(page_size=_PAGE, page_token=token, show_released=released),
            )
            yield from answer.placements
            if not (token := answer.next_page_token):
                return

    def rebalance(
        self,
        *,
        max_moves: int = 0,
        min_gain: float | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> placement_pb2.RebalanceResponse:
        """Move up to `max_moves` placements (0 = 4), each for a fall of the total cost by `min_gain` (None = 0.05)."""
        request = placement_pb2.RebalanceRequest(
            request_id=_id(request_id), max_moves=max_moves, min_gain=min_gain, validate_only=validate_only
        )
        return self._call(self._placements.Rebalance, request)

    def report(self, observations: Iterable[tuple[str, float, float]], *, request_id: str | None = None) -> int:
        """Report measured slowdowns (workload, slowdown factor, window in seconds); gives how many were kept.

        Kept are those of a placed workload with neighbours, all of them ACTIVE and with stored profiles, when nobody
        was placed, moved or released within the window.
        """
        request = placement_pb2.ReportObservationsRequest(
            request_id=_id(request_id),
            observations=[
                placement_pb2.Observation(workload=name, slowdown=slowdown, window_s=window_s)
                for name, slowdown, window_s in observations
            ],
        )
        return self._call(self._placements.ReportObservations, request).stored

    def events(self, *, after_sequence: int = 0, limit: int = 100) -> list[placement_pb2.Event]:
        """Give events after a sequence number, oldest first."""
        request = placement_pb2.ListEventsRequest(after_sequence=after_sequence, page_size=limit)
        return list(self._call(self._placements.ListEvents, request).events)

    # --- profiles and models -----------------------------------------------------------------

    def profiles(self) -> Iterator[profile_pb2.Profile]:
        """Give every stored profile."""
        token = ""
        while True:
            request = profile_pb2.ListProfilesRequest(page_size=_PAGE, page_token=token)
            answer = self._call(self._profiles.ListProfiles, request)
            yield from answer.profiles
            if not (token := answer.next_page_token):
                return

    def profile(self, name: str) -> profile_pb2.Profile:
        """Give one stored profile."""
        return self._call(self._profiles.GetProfile, profile_pb2.GetProfileRequest(name=name)).profile

    def import_profile(
        self, profile: profile_pb2.Profile, *, replace: bool = False, request_id: str | None = None
    ) -> profile_pb2.Profile:
        """Store a profile made elsewhere."""
        request = profile_pb2.ImportProfileRequest(request_id=_id(request_id), profile=profile, replace=replace)
        return self._call(self._profiles.ImportProfile, request).profile

    def delete_profile(self, name: str, *, request_id: str | None = None) -> None:
        """Forget a profile; placements made with it stay."""
        request = profile_pb2.DeleteProfileRequest(request_id=_id(request_id), name=name)
        self._call(self._profiles.DeleteProfile, request)

    def profile_running(
        self,
        name: str,
        pids: Iterable[int],
        *,
        duration_s: float = 0.0,
        replace: bool = False,
        request_id: str | None = None,
    ) -> operation_pb2.Operation:
        """Start observing running processes; poll with operation(). They are not alone: better profile a command."""
        request = profile_pb2.ProfileWorkloadRequest(
            request_id=_id(request_id), name=name, pids=list(pids), duration_s=duration_s, replace=replace
        )
        return self._call(self._profiles.ProfileWorkload, request).operation

    def operation(self, name: str) -> operation_pb2.Operation:
        """Give the state of a long piece of work."""
        return self._call(self._profiles.GetOperation, profile_pb2.GetOperationRequest(name=name)).operation

    def train(self, *, only_if_better: bool = False, request_id: str | None = None) -> operation_pb2.Operation:
        """Start training; poll with operation()."""
        request = model_pb2.TrainModelRequest(request_id=_id(request_id), only_if_better=only_if_better)
        return self._call(self._models.TrainModel, request).operation

    def models(self) -> Iterator[model_pb2.Model]:
        """Give every stored model, oldest first."""
        token = ""
        while True:
            request = model_pb2.ListModelsRequest(page_size=_PAGE, page_token=token)
            answer = self._call(self._models.ListModels, request)
            yield from answer.models
            if not (token := answer.next_page_token):
                return

    def activate_model(self, model_id: str, *, request_id: str | None = None) -> model_pb2.Model:
        """Make a stored model the one in use."""
        request = model_pb2.ActivateModelRequest(request_id=_id(request_id), id=model_id)
        return self._call(self._models.ActivateModel, request).model

    def predict(self, victim: str, aggressor: str, relation: model_pb2.Relation) -> model_pb2.PredictSlowdownResponse:
        """Predict how much one stored profile slows another down."""
        request = model_pb2.PredictSlowdownRequest(victim_name=victim, aggressor_name=aggressor, relation=relation)
        return self._call(self._models.PredictSlowdown, request)

    def host(self) -> host_pb2.Host:
        """Give the daemon's picture of its host."""
        return self._call(self._hosts.GetHost, host_pb2.GetHostRequest()).host

    # -----------------------------------------------------------------------------------------

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: Any) -> CotenantError:
        code: grpc.StatusCode = error.code()
        reason, retryable, fields = code.name, False, []
        try:
            status = rpc_status.from_call(error)
        except ValueError:  # details of somebody else's making
            status = None
        for detail in status.details if status is not None else ():
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                reason, retryable = info.reason, info.metadata.get("retryable") == "true"
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                fields += [FieldProblem(one.field, one.description) for one in bad.field_violations]
        if code is grpc.StatusCode.UNAVAILABLE and status is None:
            return DaemonUnreachable(
                f"no daemon answers on {str(self._socket)!r} ({error.details()}); start one with `cotenant serve`, "
                "or point COTENANT_SOCKET at its socket",
                code=code,
                reason="DAEMON_UNREACHABLE",
                fields=(),
                retryable=True,
            )
        return CotenantError(
            error.details() or code.name, code=code, reason=reason, fields=tuple(fields), retryable=retryable
        )


def _id(chosen: str | None) -> str:
    return str(uuid.uuid4()) if chosen is None else chosen


def _workload(
    name: str,
    *,
    pids: Iterable[int],
    cgroup_path: str | None,
    cpus: int,
    profile: str | profile_pb2.Profile | None,
    slo: Mapping[str, Any] | None,
    whole_cores: bool,
    memory_bytes: int,
    weight: float,
) -> workload_pb2.Workload:
    workload = workload_pb2.Workload(
        name=name, cpus=cpus, whole_cores=whole_cores, memory_bytes=memory_bytes, weight=weight
    )
    pids = list(pids)
    if pids and cgroup_path is not None:
        raise ValueError(f"workload {name!r}: pids {pids} and cgroup_path {cgroup_path!r} are both given; give one")
    if pids:
        workload.pids.pids.extend(pids)
    elif cgroup_path is not None:
        workload.cgroup_path = cgroup_path
    if isinstance(profile, str):
        workload.profile_name = profile
    elif profile is not None:
        workload.inline_profile.CopyFrom(profile)
    if slo is not None:
        workload.slo.CopyFrom(_slo(slo))
    return workload


def _slo(given: Mapping[str, Any]) -> workload_pb2.Slo:
    bounds = dict(given)
    kind = bounds.pop("class", None)
    if unknown := sorted(set(map(str, bounds)) - set(_SLO_BOUNDS)):
        raise ValueError(f"slo holds {unknown}; allowed are 'class' and {', '.join(map(repr, _SLO_BOUNDS))}")
    number = (
        workload_pb2.SLO_CLASS_UNSPECIFIED if kind is None else _SLO_CLASSES.get(str(kind).lower().replace("-", "_"))
    )
    if number is None:
        raise ValueError(f"slo class {kind!r} does not exist; allowed are {', '.join(map(repr, _SLO_CLASSES))}")
    return workload_pb2.Slo(slo_class=number, **bounds)
