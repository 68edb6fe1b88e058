"""Errors to gRPC status: one table from class to code, google.rpc details, nothing internal leaks out."""

from __future__ import annotations

import sqlite3

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from isolation import errors as isolation
from profiler import errors as profiler
from scheduler import errors as scheduler

DOMAIN = "cotenant.v1"

_Code = grpc.StatusCode

#: Most special class first is not needed: the table is looked up along the class's own ancestry.
CODES: dict[type[Exception], grpc.StatusCode] = {
    isolation.IsolationError: _Code.INTERNAL,
    isolation.CpuSetInvalid: _Code.INVALID_ARGUMENT,
    isolation.SpecInvalid: _Code.INVALID_ARGUMENT,
    isolation.ProcessRefused: _Code.PERMISSION_DENIED,
    isolation.ProcessGone: _Code.NOT_FOUND,
    isolation.KernelThread: _Code.PERMISSION_DENIED,
    isolation.ReservedProcess: _Code.PERMISSION_DENIED,
    isolation.ForeignProcess: _Code.PERMISSION_DENIED,
    isolation.ProcessReused: _Code.ABORTED,
    isolation.MechanismMissing: _Code.FAILED_PRECONDITION,
    isolation.SystemdUnreachable: _Code.UNAVAILABLE,
    isolation.CgroupVanished: _Code.NOT_FOUND,
    isolation.CgroupRefused: _Code.INVALID_ARGUMENT,
    isolation.ApplyFailed: _Code.FAILED_PRECONDITION,
    isolation.UndoFailed: _Code.INTERNAL,
    isolation.TopologyUnreadable: _Code.FAILED_PRECONDITION,
    isolation.ResctrlInvalid: _Code.INVALID_ARGUMENT,
    isolation.ResctrlUnreadable: _Code.FAILED_PRECONDITION,
    isolation.ResctrlVanished: _Code.FAILED_PRECONDITION,
    isolation.ResctrlRefused: _Code.FAILED_PRECONDITION,
    isolation.ResctrlBusy: _Code.UNAVAILABLE,
    isolation.OutOfRmids: _Code.UNAVAILABLE,
    isolation.MemoryShort: _Code.RESOURCE_EXHAUSTED,
    isolation.PageCacheUnreadable: _Code.FAILED_PRECONDITION,
    isolation.OutOfClosids: _Code.RESOURCE_EXHAUSTED,
    isolation.SchemataRejected: _Code.FAILED_PRECONDITION,
    profiler.ProfilerError: _Code.INTERNAL,
    profiler.RecordInvalid: _Code.INVALID_ARGUMENT,
    profiler.ProfileMissing: _Code.NOT_FOUND,
    profiler.ProfileDamaged: _Code.DATA_LOSS,
    profiler.ObservationsDamaged: _Code.DATA_LOSS,
    profiler.CalibrationMissing: _Code.NOT_FOUND,
    profiler.CalibrationDamaged: _Code.DATA_LOSS,
    profiler.StoreFailed: _Code.UNAVAILABLE,
    profiler.WorkloadFailed: _Code.FAILED_PRECONDITION,
    profiler.HostBusy: _Code.UNAVAILABLE,
    profiler.CountersUnavailable: _Code.FAILED_PRECONDITION,
    profiler.TrainingImpossible: _Code.FAILED_PRECONDITION,
    profiler.ModelMissing: _Code.NOT_FOUND,
    profiler.ModelDamaged: _Code.DATA_LOSS,
    scheduler.SchedulerError: _Code.INTERNAL,
    scheduler.RequestInvalid: _Code.INVALID_ARGUMENT,
    scheduler.RequestIdReused: _Code.ALREADY_EXISTS,
    scheduler.PlacementExists: _Code.ALREADY_EXISTS,
    scheduler.PlacementMissing: _Code.NOT_FOUND,
    scheduler.EtagStale: _Code.ABORTED,
    scheduler.ProfileUnknown: _Code.NOT_FOUND,
    scheduler.ProfileExists: _Code.ALREADY_EXISTS,
    scheduler.NoFeasiblePlacement: _Code.FAILED_PRECONDITION,
    scheduler.NotEnoughCpus: _Code.INVALID_ARGUMENT,
    scheduler.NotEnoughMemory: _Code.INVALID_ARGUMENT,
    scheduler.ReadOnlySocket: _Code.PERMISSION_DENIED,
    scheduler.OperationMissing: _Code.NOT_FOUND,
    scheduler.Busy: _Code.RESOURCE_EXHAUSTED,
    scheduler.ShuttingDown: _Code.UNAVAILABLE,
    scheduler.JournalFailed: _Code.UNAVAILABLE,
    scheduler.StateRefused: _Code.FAILED_PRECONDITION,
    scheduler.StateLost: _Code.FAILED_PRECONDITION,
    scheduler.AlreadyRunning: _Code.FAILED_PRECONDITION,
    sqlite3.Error: _Code.UNAVAILABLE,
}

#: Which request field an error speaks of, for errors raised below the border.
_FIELDS: dict[type[Exception], str] = {
    isolation.ProcessRefused: "workload.pids.pids",
    isolation.CgroupRefused: "workload.cgroup_path",
    isolation.CgroupVanished: "workload.cgroup_path",
    scheduler.NotEnoughCpus: "workload.cpus",
    scheduler.NotEnoughMemory: "workload.memory_bytes",
    scheduler.ProfileUnknown: "workload.profile_name",
    scheduler.PlacementExists: "workload.name",
    scheduler.RequestIdReused: "request_id",
    scheduler.EtagStale: "etag",
}


def _along(table: dict[type[Exception], object], error: Exception) -> object | None:
    return next((table[one] for one in type(error).__mro__ if one in table), None)


def code_of(error: Exception) -> grpc.StatusCode | None:
    """Give the code of an error, or None for one that is a defect of ours."""
    code = _along(CODES, error)  # type: ignore[arg-type]
    return code if isinstance(code, grpc.StatusCode) else None


def status_of(error: Exception) -> status_pb2.Status:
    """Make the google.rpc.Status of an error: ErrorInfo always, and what else helps the caller.

    An error that is not in the table is a defect: INTERNAL with the class name only, never its text, which may
    hold anything.
    """
    code = code_of(error)
    details: list[Message] = []
    if code is None:
        code, text = _Code.INTERNAL, f"internal error ({type(error).__name__}); the daemon's log has the details"
    else:
        text = str(error)
    retryable = bool(getattr(error, "retryable", False))
    details.append(
        error_details_pb2.ErrorInfo(
            reason=_reason(error), domain=DOMAIN, metadata={"retryable": "true" if retryable else "false"}
        )
    )
    if violations := _violations(error):
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if retryable:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1)))
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=code.value[0], message=text[:4000], details=packed)


def _reason(error: Exception) -> str:
    """Give the class name as UPPER_SNAKE_CASE, as google.rpc.ErrorInfo wants it."""
    name = type(error).__name__
    return "".join(f"_{char}" if char.isupper() and i else char for i, char in enumerate(name)).upper()


def _violations(error: Exception) -> list[error_details_pb2.BadRequest.FieldViolation]:
    if isinstance(error, scheduler.RequestInvalid):
        return [
            error_details_pb2.BadRequest.FieldViolation(field=one.field, description=one.problem)
            for one in error.violations
        ]
    field = _along(_FIELDS, error)  # type: ignore[arg-type]
    if isinstance(field, str):
        return [error_details_pb2.BadRequest.FieldViolation(field=field, description=str(error))]
    return []
