"""One rule for every field of every request: what is allowed, and what to say when it is not.

A table, so that a test can walk the descriptors and find a field without a rule. Rules that need the host
(is there such a CPU?) or two fields at once live in wire.py and the planner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from profiler.files import is_name
from profiler.records import PROFILE_FEATURES, PROFILE_SCHEMA_VERSION
from scheduler.errors import RequestInvalid, Violation

_TOKEN_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_LARGEST_COUNT = 1000

#: Gives the problem with a value, or None.
Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a field may hold; `check` sees one value, for repeated fields each item."""

    check: Check
    required: bool = False
    most: int = 1  #: items of a repeated field
    least: int = 0


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _exact(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def text(fits: Callable[[str], object], allowed: str) -> Check:
    """Accept text that fits."""
    return lambda value: None if fits(value) else f"{_shown(value)} is not allowed; allowed: {allowed}"


def prose(longest: int) -> Check:
    """Accept printable text of at most so many characters."""

    def check(value: str) -> str | None:
        if len(value) > longest:
            return f"{len(value)} characters are too many; at most {longest}"
        if not value.isprintable():
            return f"{_shown(value)} holds control characters"
        return None

    return check


def number(low: float, high: float, unit: str = "") -> Check:
    """Accept a finite number in a closed range; NaN and infinity are refused by name."""
    span = f"{_exact(low)} to {_exact(high)}" + (f" {unit}" if unit else "")

    def check(value: float) -> str | None:
        if not math.isfinite(value):
            return f"{value} is not a number that can be used; allowed: {span}"
        return None if low <= value <= high else f"{_exact(value)} is outside {span}"

    return check


def anything(_value: object) -> str | None:
    """Accept whatever the type itself allows (truth values, nested messages with rules of their own)."""
    return None


def _cgroup_path(value: str) -> str | None:
    if not value.startswith("/") or len(value) > 4000:
        return f"{_shown(value)} must begin with '/' and have at most 4000 characters"
    if not value.isprintable() or any(part in {"", ".", ".."} for part in value[1:].split("/")):
        return f"{_shown(value)} must be a plain path: no '.', '..', empty part or control character"
    return None


def _feature_name(value: str) -> str | None:
    if value in PROFILE_FEATURES:
        return None
    return f"{_shown(value)} is no feature; allowed: {', '.join(PROFILE_FEATURES)}"


def _one_of(*allowed: str) -> Check:
    return lambda value: None if value in allowed else f"{_shown(value)} is not one of {', '.join(allowed)}"


_name = text(is_name, "1 to 63 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit")
_token = text(_TOKEN_PATTERN.fullmatch, "1 to 128 of letters, digits, '.', '_', ':', '-'")
_pid = number(1, 2**22, "(0 would mean the daemon itself)")
_share = number(0, 1)
_milliseconds = number(0.001, 3_600_000, "ms")  # a bound of next to nothing would overflow what is made of it
_request_id = Rule(check=_token, required=True)
_page_size = Rule(check=number(0, _LARGEST_COUNT))
_page_token = Rule(check=_token)
_flag = Rule(check=anything)
_message = Rule(check=anything)
_required_message = Rule(check=anything, required=True)
_required_name = Rule(check=_name, required=True)

RULES: dict[str, Rule] = {
    "PlaceWorkloadRequest.request_id": _request_id,
    "PlaceWorkloadRequest.workload": _required_message,
    "PlaceWorkloadRequest.allow_best_effort": _flag,
    "PlaceWorkloadRequest.validate_only": _flag,
    "PreviewPlacementRequest.workload": _required_message,
    "PreviewPlacementRequest.allow_best_effort": _flag,
    "GetPlacementRequest.name": _required_name,
    "ListPlacementsRequest.page_size": _page_size,
    "ListPlacementsRequest.page_token": _page_token,
    "ListPlacementsRequest.show_released": _flag,
    "ReleaseWorkloadRequest.request_id": _request_id,
    "ReleaseWorkloadRequest.name": _required_name,
    "ReleaseWorkloadRequest.etag": Rule(check=_token),
    "RebalanceRequest.request_id": _request_id,
    "RebalanceRequest.validate_only": _flag,
    "RebalanceRequest.max_moves": Rule(check=number(0, _LARGEST_COUNT)),
    "RebalanceRequest.min_gain": Rule(check=_share),
    "ReportObservationsRequest.request_id": _request_id,
    "ReportObservationsRequest.observations": Rule(check=anything, least=1, most=_LARGEST_COUNT),
    "Observation.workload": _required_name,
    "Observation.slowdown": Rule(check=number(0.01, 10_000), required=True),
    "Observation.window_s": Rule(check=number(0.001, 86_400, "s"), required=True),
    "ListEventsRequest.after_sequence": Rule(check=number(0, 2**63 - 1)),
    "ListEventsRequest.page_size": _page_size,
    "Workload.name": _required_name,
    "Workload.pids": _message,
    "Workload.cgroup_path": Rule(check=_cgroup_path),
    "Workload.cpus": Rule(check=number(1, 8192), required=True),
    "Workload.memory_bytes": Rule(check=number(0, 2**50, "bytes")),
    "Workload.whole_cores": _flag,
    "Workload.profile_name": Rule(check=_name),
    "Workload.inline_profile": _message,
    "Workload.slo": _message,
    "Workload.weight": Rule(check=number(1e-6, _LARGEST_COUNT)),
    "PidTarget.pids": Rule(check=_pid, least=1, most=4096),
    "Slo.slo_class": _flag,
    "Slo.ttft_ms": Rule(check=_milliseconds),
    "Slo.tbt_ms": Rule(check=_milliseconds),
    "Slo.ttlt_ms": Rule(check=_milliseconds),
    "Slo.quantile": Rule(check=number(0.01, 0.9999)),
    "Slo.max_slowdown": Rule(check=number(1, 1000)),
    "Profile.name": _required_name,
    "Profile.schema_version": Rule(check=number(1, PROFILE_SCHEMA_VERSION), required=True),
    "Profile.cpus": Rule(check=number(1, 8192), required=True),
    "Profile.features": Rule(check=anything, most=len(PROFILE_FEATURES)),
    "Profile.host_fingerprint": Rule(check=_token),
    "Profile.created_unix_s": Rule(check=number(0, 1e11, "s")),
    "Profile.quality": Rule(check=_one_of("stable", "unstable", "noisy")),
    "Profile.note": Rule(check=prose(4000)),
    "Profile.window": _message,
    "SteadyWindow.start_s": Rule(check=number(0, 1e7, "s")),
    "SteadyWindow.length_s": Rule(check=number(0, 1e7, "s")),
    "SteadyWindow.decided_by": Rule(check=prose(1000)),
    "Feature.name": Rule(check=_feature_name, required=True),
    "Feature.value": Rule(check=number(-1e18, 1e18)),
    "Feature.spread": Rule(check=number(0, 1e18)),
    "Feature.source": Rule(
        check=_one_of("perf_event", "resctrl", "procfs", "probe", "tokens", "progress"), required=True
    ),
    "Feature.window_s": Rule(check=number(0, 1e7, "s")),
    "Feature.samples": Rule(check=anything),
    "ProfileWorkloadRequest.request_id": _request_id,
    "ProfileWorkloadRequest.name": _required_name,
    "ProfileWorkloadRequest.pids": Rule(check=_pid, least=1, most=4096),
    "ProfileWorkloadRequest.duration_s": Rule(check=number(1, 600, "s")),
    "ProfileWorkloadRequest.replace": _flag,
    "GetOperationRequest.name": Rule(check=_token, required=True),
    "GetProfileRequest.name": _required_name,
    "ListProfilesRequest.page_size": _page_size,
    "ListProfilesRequest.page_token": _page_token,
    "ImportProfileRequest.request_id": _request_id,
    "ImportProfileRequest.profile": _required_message,
    "ImportProfileRequest.replace": _flag,
    "ImportProfileRequest.validate_only": _flag,
    "DeleteProfileRequest.request_id": _request_id,
    "DeleteProfileRequest.name": _required_name,
    "TrainModelRequest.request_id": _request_id,
    "TrainModelRequest.only_if_better": _flag,
    "PredictSlowdownRequest.victim_name": Rule(check=_name),
    "PredictSlowdownRequest.victim_profile": _message,
    "PredictSlowdownRequest.aggressor_name": Rule(check=_name),
    "PredictSlowdownRequest.aggressor_profile": _message,
    "PredictSlowdownRequest.relation": _required_message,
    "Relation.same_cpu": Rule(check=_share),
    "Relation.same_core": Rule(check=_share),
    "Relation.same_l2": Rule(check=_share),
    "Relation.same_llc": Rule(check=_share),
    "Relation.same_node": Rule(check=_share),
    "Relation.same_package": Rule(check=_share),
    "ListModelsRequest.page_size": _page_size,
    "ListModelsRequest.page_token": _page_token,
    "ActivateModelRequest.request_id": _request_id,
    "ActivateModelRequest.id": Rule(check=_token, required=True),
}


def check_request(message: Message) -> None:
    """Raise RequestInvalid with every field of the message that breaks its rule."""
    violations = tuple(_violations(message, ""))
    if violations:
        raise RequestInvalid(violations)


def _violations(message: Message, path: str) -> Iterable[Violation]:
    descriptor = message.DESCRIPTOR
    for field in descriptor.fields:  # typed as one of two classes, by protobuf's backend
        rule = RULES[f"{descriptor.name}.{field.name}"]
        where = f"{path}{field.name}"
        value = getattr(message, field.name)
        if field.is_repeated:
            yield from _repeated(field, rule, where, list(value))
        elif field.message_type is not None:
            if message.HasField(field.name):
                yield from _violations(value, f"{where}.")
            elif rule.required:
                yield Violation(where, "is missing")
        else:
            yield from _single(message, field, rule, where, value)


def _repeated(field: Any, rule: Rule, where: str, items: list[Any]) -> Iterable[Violation]:
    if not rule.least <= len(items) <= rule.most:
        yield Violation(where, f"has {len(items)} items; allowed: {rule.least} to {rule.most}")
        return  # naming each of a million items would be an answer larger than the request
    for position, item in enumerate(items):
        if field.message_type is not None:
            yield from _violations(item, f"{where}[{position}].")
        elif problem := rule.check(item):
            yield Violation(f"{where}[{position}]", problem)


def _single(message: Message, field: Any, rule: Rule, where: str, value: Any) -> Iterable[Violation]:
    if field.enum_type is not None and value not in field.enum_type.values_by_number:
        known = ", ".join(one.name for one in field.enum_type.values)
        yield Violation(where, f"{value} is not one of {known}")
        return
    # proto3: a scalar at its default was not sent, unless the field tracks presence (optional, oneof)
    unset = not message.HasField(field.name) if field.has_presence else value == field.default_value
    if unset:
        if rule.required:
            yield Violation(where, f"is missing; {rule.check(value) or 'a value is needed'}")
    elif problem := rule.check(value):
        yield Violation(where, problem)
