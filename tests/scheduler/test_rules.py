"""Every field of every request has a rule, and every rule refuses something."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from cotenant.v1 import host_pb2, model_pb2, placement_pb2, profile_pb2, workload_pb2
from profiler.records import PROFILE_SCHEMA_VERSION
from scheduler.errors import RequestInvalid
from scheduler.rules import RULES, check_request

SERVICES = [
    placement_pb2.DESCRIPTOR.services_by_name["PlacementService"],
    profile_pb2.DESCRIPTOR.services_by_name["ProfileService"],
    model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    host_pb2.DESCRIPTOR.services_by_name["HostService"],
]


def reachable() -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}

    def walk(descriptor: Descriptor) -> None:
        if descriptor.name in found:
            return
        found[descriptor.name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                walk(field.message_type)

    for service in SERVICES:
        for method in service.methods:
            walk(method.input_type)
    return found


#: One value each field must refuse; fields whose every value is legal stand in HARMLESS.
BAD: dict[str, object] = {
    "PlaceWorkloadRequest.request_id": "line\nbreak",
    "ListPlacementsRequest.page_size": 1001,
    "ListPlacementsRequest.page_token": "\x00",
    "GetPlacementRequest.name": "Upper",
    "ReleaseWorkloadRequest.request_id": "",
    "ReleaseWorkloadRequest.name": "../etc",
    "ReleaseWorkloadRequest.etag": "a b",
    "RebalanceRequest.request_id": "",
    "RebalanceRequest.max_moves": 4_000_000_000,
    "RebalanceRequest.min_gain": math.nan,
    "ReportObservationsRequest.request_id": "",
    "Observation.workload": "",
    "Observation.slowdown": -1.0,
    "Observation.window_s": math.inf,
    "ListEventsRequest.page_size": 1_000_000,
    "ListEventsRequest.after_sequence": 2**63,
    "Workload.name": "a" * 64,
    "Workload.cgroup_path": "/a/../b",
    "Workload.cpus": 9000,
    "Workload.memory_bytes": 2**60,
    "Workload.profile_name": "tab\t",
    "Workload.weight": -0.5,
    "PidTarget.pids": [0],
    "Slo.ttft_ms": math.nan,
    "Slo.tbt_ms": -1.0,
    "Slo.ttlt_ms": math.inf,
    "Slo.quantile": 1.0,
    "Slo.max_slowdown": 0.5,
    "Profile.name": "\u202e",
    "Profile.schema_version": PROFILE_SCHEMA_VERSION + 1,
    "Profile.cpus": 0,
    "Profile.host_fingerprint": " ",
    "Profile.created_unix_s": math.nan,
    "Profile.quality": "perfect",
    "Profile.note": "bell\x07",
    "SteadyWindow.start_s": -1.0,
    "SteadyWindow.length_s": math.nan,
    "SteadyWindow.decided_by": "line\nbreak",
    "Feature.name": "speed",
    "Feature.value": math.nan,
    "Feature.spread": -1.0,
    "Feature.source": "guess",
    "Feature.window_s": -1.0,
    "ProfileWorkloadRequest.request_id": "",
    "ProfileWorkloadRequest.name": "UPPER",
    "ProfileWorkloadRequest.pids": [-4],
    "ProfileWorkloadRequest.duration_s": math.nan,
    "GetOperationRequest.name": "",
    "GetProfileRequest.name": "a/b",
    "ListProfilesRequest.page_size": 1001,
    "ListProfilesRequest.page_token": "\n",
    "ImportProfileRequest.request_id": "",
    "DeleteProfileRequest.request_id": "",
    "DeleteProfileRequest.name": "",
    "TrainModelRequest.request_id": "",
    "PredictSlowdownRequest.victim_name": "\x7f",
    "PredictSlowdownRequest.aggressor_name": "-x",
    "Relation.same_cpu": 1.5,
    "Relation.same_core": math.nan,
    "Relation.same_l2": -0.1,
    "Relation.same_llc": math.inf,
    "Relation.same_node": 2.0,
    "Relation.same_package": -1.0,
    "ListModelsRequest.page_size": 1001,
    "ListModelsRequest.page_token": "a\rb",
    "ActivateModelRequest.request_id": "",
    "ActivateModelRequest.id": "",
    "Slo.slo_class": 77,
}
#: Nested messages checked through their own fields, truth values, and numbers of which every value is legal.
HARMLESS = {
    "PlaceWorkloadRequest.workload",
    "PlaceWorkloadRequest.allow_best_effort",
    "PlaceWorkloadRequest.validate_only",
    "PreviewPlacementRequest.workload",
    "PreviewPlacementRequest.allow_best_effort",
    "ListPlacementsRequest.show_released",
    "RebalanceRequest.validate_only",
    "ReportObservationsRequest.observations",
    "Workload.pids",
    "Workload.whole_cores",
    "Workload.inline_profile",
    "Workload.slo",
    "Profile.features",
    "Profile.window",
    "Feature.samples",
    "ImportProfileRequest.profile",
    "ImportProfileRequest.replace",
    "ImportProfileRequest.validate_only",
    "TrainModelRequest.only_if_better",
    "ProfileWorkloadRequest.replace",
    "PredictSlowdownRequest.victim_profile",
    "PredictSlowdownRequest.aggressor_profile",
    "PredictSlowdownRequest.relation",
}


def test_every_reachable_field_has_a_rule_and_every_rule_a_field() -> None:
    fields = {f"{name}.{field.name}" for name, descriptor in reachable().items() for field in descriptor.fields}

    assert fields == set(RULES)


def test_every_rule_is_tried_by_this_file() -> None:
    assert set(RULES) == set(BAD) | HARMLESS


def message_class(name: str) -> type[Message]:
    for module in (placement_pb2, profile_pb2, model_pb2, workload_pb2, host_pb2):
        if hasattr(module, name):
            return getattr(module, name)  # type: ignore[no-any-return]
    raise AssertionError(name)


@pytest.mark.parametrize("field", sorted(BAD))
def test_a_bad_value_is_refused_by_field_name(field: str) -> None:
    owner, name = field.split(".")
    value = BAD[field]
    message = message_class(owner)()
    if isinstance(value, list):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)

    with pytest.raises(RequestInvalid) as caught:
        check_request(message)

    named = [one for one in caught.value.violations if one.field.split("[")[0] == name]
    assert named, caught.value
    assert named[0].problem


def nested() -> Iterator[tuple[Message, str]]:
    place = placement_pb2.PlaceWorkloadRequest(request_id="r")
    place.workload.name = "ok"
    place.workload.cpus = 1
    place.workload.pids.pids.extend([5, 0])
    yield place, "workload.pids.pids[1]"
    place = placement_pb2.PlaceWorkloadRequest(request_id="r")
    place.workload.name, place.workload.cpus = "ok", 1
    place.workload.inline_profile.name = "ok"
    place.workload.inline_profile.schema_version = place.workload.inline_profile.cpus = 1
    place.workload.inline_profile.features.add(name="cpu_cores", source="procfs", value=math.nan)
    yield place, "workload.inline_profile.features[0].value"
    yield placement_pb2.PlaceWorkloadRequest(request_id="r"), "workload"
    many = placement_pb2.ReportObservationsRequest(request_id="r")
    yield many, "observations"
    pids = profile_pb2.ProfileWorkloadRequest(request_id="r", name="ok", pids=range(1, 5000))
    yield pids, "pids"


@pytest.mark.parametrize(
    ("message", "where"), list(nested()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_violations_carry_the_whole_path(message: Message, where: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        check_request(message)

    assert [where] == [one.field for one in caught.value.violations]


@pytest.mark.parametrize("bound", ["ttft_ms", "tbt_ms", "ttlt_ms"])
def test_a_bound_of_next_to_nothing_is_refused(bound: str) -> None:
    with pytest.raises(RequestInvalid, match=r"is outside 0\.001 to 3600000 ms"):
        check_request(workload_pb2.Slo(**{bound: 5e-324}))  # type: ignore[arg-type]


def test_a_least_gain_of_nothing_may_be_asked_for() -> None:
    check_request(placement_pb2.RebalanceRequest(request_id="r", min_gain=0.0))


def test_a_complete_request_passes() -> None:
    place = placement_pb2.PlaceWorkloadRequest(request_id="0b9c0b36-2f0e-4f0e-9a3e-3a6f5d1c2b1a")
    place.workload.name, place.workload.cpus = "web-1", 2
    place.workload.pids.pids.append(4711)
    place.workload.slo.slo_class = workload_pb2.SLO_CLASS_SERVICE
    place.workload.slo.max_slowdown = 1.5

    check_request(place)
