"""Every error class has a code; details help the caller; nothing internal leaks."""

from __future__ import annotations

import inspect
from types import ModuleType

import grpc
import pytest
from google.rpc import error_details_pb2

from isolation import errors as isolation_errors
from profiler import errors as profiler_errors
from scheduler import errors as scheduler_errors
from scheduler.status import CODES, code_of, status_of


def classes(module: ModuleType) -> list[type[Exception]]:
    return [one for _, one in inspect.getmembers(module, inspect.isclass) if issubclass(one, Exception)]


@pytest.mark.parametrize(
    "error", [one for module in (isolation_errors, profiler_errors, scheduler_errors) for one in classes(module)]
)
def test_every_error_class_has_a_code_of_its_own(error: type[Exception]) -> None:
    assert error in CODES


def test_an_unknown_error_tells_its_class_and_never_its_text() -> None:
    status = status_of(RuntimeError("secret path /home/x"))

    assert grpc.StatusCode.INTERNAL.value[0] == status.code
    assert "secret" not in str(status)
    assert "RuntimeError" in status.message
    assert code_of(RuntimeError()) is None


def test_a_refused_process_names_the_field_and_a_reason() -> None:
    status = status_of(isolation_errors.ProcessGone("pid 99 is gone", pid=99))

    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("PROCESS_GONE", "cotenant.v1")
    assert [one.field for one in bad.field_violations] == ["workload.pids.pids"]


def test_a_retryable_error_says_when() -> None:
    status = status_of(scheduler_errors.Busy("64 wait"))

    retry = error_details_pb2.RetryInfo()
    assert status.details[-1].Unpack(retry)
    assert retry.retry_delay.seconds > 0
