"""Servicers of placements and of the host: call the controller, translate the answer."""

from __future__ import annotations

import time

import grpc

from cotenant.v1 import host_pb2, host_pb2_grpc, placement_pb2, placement_pb2_grpc
from isolation.caches import CacheDomain
from isolation.capabilities import Capability
from isolation.resctrl_info import ResctrlInfo
from isolation.topology import Topology
from profiler.records import Observation
from profiler.store import ObservationStore
from scheduler import wire
from scheduler.border import DEFAULT_PAGE, digest_of, page_of
from scheduler.controller import Controller
from scheduler.errors import PlacementMissing
from scheduler.metrics import Metrics
from scheduler.placement import LIVE, Placement, PlacementState
from scheduler.view import View

Ctx = grpc.ServicerContext


class PlacementServicer(placement_pb2_grpc.PlacementServiceServicer):
    """Placements."""

    def __init__(self, controller: Controller, observations: ObservationStore, topology: Topology, m: Metrics) -> None:
        self._controller = controller
        self._observations = observations
        self._topology = topology
        self._metrics = m

    def PlaceWorkload(
        self, request: placement_pb2.PlaceWorkloadRequest, context: Ctx
    ) -> placement_pb2.PlaceWorkloadResponse:
        """Plan, apply, read back."""
        workload = wire.workload_from(request.workload, needs_target=not request.validate_only)
        if request.validate_only:
            placement = self._controller.preview(workload, allow_best_effort=request.allow_best_effort)
        else:
            placement = self._controller.place(
                request.request_id, digest_of(request), workload, allow_best_effort=request.allow_best_effort
            )
        return placement_pb2.PlaceWorkloadResponse(placement=self._answer(placement))

    def PreviewPlacement(
        self, request: placement_pb2.PreviewPlacementRequest, context: Ctx
    ) -> placement_pb2.PreviewPlacementResponse:
        """Plan only."""
        workload = wire.workload_from(request.workload, needs_target=False)
        placement = self._controller.preview(workload, allow_best_effort=request.allow_best_effort)
        return placement_pb2.PreviewPlacementResponse(placement=self._answer(placement))

    def GetPlacement(
        self, request: placement_pb2.GetPlacementRequest, context: Ctx
    ) -> placement_pb2.GetPlacementResponse:
        """One by name."""
        return placement_pb2.GetPlacementResponse(placement=wire.placement_to(self._controller.get(request.name)))

    def ListPlacements(
        self, request: placement_pb2.ListPlacementsRequest, context: Ctx
    ) -> placement_pb2.ListPlacementsResponse:
        """All live ones, and released ones on request, by name."""
        every = sorted(self._controller.view().placements.values(), key=lambda one: one.name)
        wanted = [one for one in every if request.show_released or one.state in LIVE]
        page, token = page_of(wanted, lambda one: one.name, request.page_size, request.page_token)
        return placement_pb2.ListPlacementsResponse(placements=map(wire.placement_to, page), next_page_token=token)

    def ReleaseWorkload(
        self, request: placement_pb2.ReleaseWorkloadRequest, context: Ctx
    ) -> placement_pb2.ReleaseWorkloadResponse:
        """Restore the exact earlier state."""
        done = self._controller.release(request.request_id, digest_of(request), request.name, request.etag)
        return placement_pb2.ReleaseWorkloadResponse(placement=wire.placement_to(done))

    def Rebalance(self, request: placement_pb2.RebalanceRequest, context: Ctx) -> placement_pb2.RebalanceResponse:
        """Re-plan each placement and move those that gain enough."""

        def work(*, validate_only: bool) -> placement_pb2.RebalanceResponse:
            moved, before, after = self._controller.rebalance(
                max_moves=request.max_moves or 4,
                min_gain=request.min_gain if request.HasField("min_gain") else 0.05,
                validate_only=validate_only,
            )
            return placement_pb2.RebalanceResponse(
                moved=map(wire.placement_to, moved), cost_before=before, cost_after=after
            )

        if request.validate_only:
            return work(validate_only=True)
        answer = self._controller.once(
            request.request_id, digest_of(request), lambda: work(validate_only=False).SerializeToString()
        )
        return placement_pb2.RebalanceResponse.FromString(answer)

    def ReportObservations(
        self, request: placement_pb2.ReportObservationsRequest, context: Ctx
    ) -> placement_pb2.ReportObservationsResponse:
        """Keep measured slowdowns of placed workloads for retraining."""

        def work() -> bytes:
            kept = [self._observation(one) for one in request.observations]
            self._observations.append([one for one in kept if one is not None])
            stored = sum(one is not None for one in kept)
            return placement_pb2.ReportObservationsResponse(stored=stored).SerializeToString()

        answer = self._controller.once(request.request_id, digest_of(request), work)
        return placement_pb2.ReportObservationsResponse.FromString(answer)

    def ListEvents(self, request: placement_pb2.ListEventsRequest, context: Ctx) -> placement_pb2.ListEventsResponse:
        """Tell what happened, oldest first."""
        found = self._controller.events(request.after_sequence, request.page_size or DEFAULT_PAGE)
        return placement_pb2.ListEventsResponse(
            events=[
                placement_pb2.Event(
                    sequence=one.sequence,
                    time_unix_s=one.time_unix_s,
                    kind=one.kind,
                    workload=one.workload,
                    detail=one.detail,
                )
                for one in found
            ]
        )

    def _answer(self, placement: Placement) -> placement_pb2.Placement:
        if placement.decision.fallback:
            self._metrics.fallbacks.inc()
        elif any(one.far_from_training for one in placement.decision.predictions):
            self._metrics.far.inc()
        return wire.placement_to(placement)

    def _observation(self, reported: placement_pb2.Observation) -> Observation | None:
        """Say who slowed the workload down; None when that is nobody, or not known for sure. Raises PlacementMissing.

        A neighbour left out would put its harm on those that are known, and a profile sent along is not the stored one
        of its name. Who is not ACTIVE may sit elsewhere than we think. What happened within the window makes it the
        work of several neighbourhoods.
        """
        view = self._controller.view()
        placement = self._controller.get(reported.workload)
        if placement.state not in LIVE:
            raise PlacementMissing(
                f"{reported.workload!r} is not placed now ({placement.state}), so nobody can say who slowed it down; "
                "report while it is placed"
            )
        neighbours = []
        for resident in view.ledger.residents:
            relation = view.ledger.relation(placement.decision.cpus, resident.cpus)
            if resident.name != placement.name and relation.same_package > 0:
                neighbours.append((view.placements[resident.name], relation))
        victim = _sure_profile(view, placement)
        profiles = (_sure_profile(view, neighbour) for neighbour, _ in neighbours)
        aggressors = tuple(profile for profile in profiles if profile is not None)
        if victim is None or not neighbours or len(aggressors) < len(neighbours):
            return None
        if self._controller.happened_since(time.time() - reported.window_s):
            return None
        return Observation(
            victim=victim,
            aggressors=aggressors,
            relations=tuple(relation for _, relation in neighbours),
            slowdown=reported.slowdown,
            spread=None,
            repetitions=1,
            window_s=reported.window_s,
            host_fingerprint=self._topology.fingerprint,
            created_unix_s=time.time(),
            isolation=_isolation(placement, *(neighbour for neighbour, _ in neighbours)),
            origin="reported",
        )


def _isolation(*placements: Placement) -> str:
    """Name what kept them apart, in the words of the experiment: with cache ways or caps slowdowns are others."""
    shared = any(one.decision.cache_ways or one.decision.memory_bandwidth for one in placements)
    return "combined" if shared else "pinning"


def _sure_profile(view: View, placement: Placement) -> str | None:
    """Name the stored profile of a workload that certainly sits where it was placed; None when there is none."""
    request = placement.request
    name = request.profile_name or request.name
    known = request.inline_profile is None and name in view.profiles
    return name if known and placement.state is PlacementState.ACTIVE else None


class HostServicer(host_pb2_grpc.HostServiceServicer):
    """The host."""

    def __init__(
        self,
        controller: Controller,
        capabilities: tuple[Capability, ...],
        *,
        mechanism: str,
        daemon_version: str,
    ) -> None:
        self._controller = controller
        self._capabilities = capabilities
        self._mechanism = mechanism
        self._version = daemon_version

    def GetHost(self, request: host_pb2.GetHostRequest, context: Ctx) -> host_pb2.GetHostResponse:
        """Shape, capabilities, and who sits where."""
        view = self._controller.view()
        occupants: dict[int, list[str]] = {}
        for resident in view.ledger.residents:
            for cpu in resident.cpus:
                occupants.setdefault(cpu, []).append(resident.name)
        host = host_to(
            view.ledger.topology,
            self._capabilities,
            occupants,
            mechanism=self._mechanism,
            version=self._version,
            model_id=view.predictor.model_id,
            controls=view.ledger.controls,
        )
        return host_pb2.GetHostResponse(host=host)


def host_to(
    topology: Topology,
    capabilities: tuple[Capability, ...],
    occupants: dict[int, list[str]],
    *,
    mechanism: str,
    version: str,
    model_id: str,
    controls: ResctrlInfo | None,
) -> host_pb2.Host:
    """Translate what is known of the host; `occupants` maps CPU to workload names."""
    host = host_pb2.Host(
        fingerprint=topology.fingerprint,
        cpu_model=topology.cpu_model,
        kernel=topology.kernel,
        cpus=[
            host_pb2.Cpu(
                id=cpu.id,
                online=True,
                core=cpu.core,
                package=cpu.package,
                l2=cpu.l2,
                llc=cpu.llc,
                node=cpu.node,
                workloads=occupants.get(cpu.id, []),
                die=cpu.die,
                cluster=cpu.cluster,
            )
            for cpu in topology.cpus
        ],
        llc_domains=map(_cache_to, topology.llc_domains),
        l2_domains=map(_cache_to, topology.l2_domains),
        core_kinds=[
            host_pb2.CoreKind(name=one.name, capacity=one.capacity, cpus=str(one.cpus)) for one in topology.core_kinds
        ],
        online=str(topology.online),
        offline=str(topology.offline),
        isolated=str(topology.isolated),
        usable=str(topology.usable),
        usable_mems="" if topology.usable_mems is None else str(topology.usable_mems),
        nodes=[
            host_pb2.NumaNode(
                id=one.id,
                memory_bytes=one.memory_bytes or 0,
                cpus=str(one.cpus),
                distances=one.distances,
                device_memory=one.device_memory,
            )
            for one in topology.nodes
        ],
        capabilities=[
            host_pb2.Capability(
                name=one.name, available=bool(one.available), detail=one.detail, loss=one.loss, remedy=one.remedy
            )
            for one in capabilities
        ],
        mechanism=mechanism,
        daemon_version=version,
        model_id=model_id,
    )
    if controls is not None:
        host.resctrl.CopyFrom(resctrl_to(controls))
    return host


def _cache_to(domain: CacheDomain) -> host_pb2.CacheDomain:
    known = domain.kernel_id is not None and domain.kernel_id >= 0
    return host_pb2.CacheDomain(
        id=domain.id,
        level=domain.level,
        size_bytes=domain.size_bytes or 0,
        ways=domain.ways or 0,
        cpus=str(domain.cpus),
        kernel_id=domain.kernel_id if known else None,
    )


def resctrl_to(controls: ResctrlInfo) -> host_pb2.Resctrl:
    """Translate what resctrl offers."""
    return host_pb2.Resctrl(
        closids=controls.closids,
        caches=[
            host_pb2.CacheControl(
                resource=one.resource,
                closids=one.closids,
                cbm_mask=str(one.cbm_mask),
                min_cbm_bits=one.min_cbm_bits,
                shareable_bits=str(one.shareable_bits),
                sparse_masks=one.sparse_masks,
                domains=one.domains,
                available={domain: str(one.available(domain)) for domain in one.domains},
            )
            for one in controls.caches
        ],
        bandwidths=[
            host_pb2.BandwidthControl(
                resource=one.resource,
                closids=one.closids,
                unit=host_pb2.BandwidthUnit.Value(f"BANDWIDTH_UNIT_{one.unit.name}"),
                min_bandwidth=one.min_bandwidth,
                bandwidth_gran=one.bandwidth_gran,
                domains=one.domains,
            )
            for one in controls.bandwidths
        ],
        monitoring=[
            host_pb2.Monitoring(resource=one.resource, rmids=one.rmids, features=one.features)
            for one in controls.monitoring
        ],
    )
