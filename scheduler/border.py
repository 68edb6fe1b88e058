"""What every call passes first: its rules checked, errors turned into status, calls counted and timed."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from scheduler.errors import ReadOnlySocket
from scheduler.metrics import Metrics
from scheduler.rules import check_request
from scheduler.state import StateFiles
from scheduler.status import status_of

_log = logging.getLogger("cotenant.border")
DEFAULT_PAGE = 100
T = TypeVar("T")

#: Methods that change something: refused on the read-only socket.
MUTATIONS = frozenset(
    {
        "PlaceWorkload",
        "ReleaseWorkload",
        "Rebalance",
        "ReportObservations",
        "ProfileWorkload",
        "ImportProfile",
        "DeleteProfile",
        "TrainModel",
        "ActivateModel",
    }
)

_LEAVING = "ReleaseWorkload"  # possible without a state folder: what is as before needs no record


class Border(grpc.ServerInterceptor):
    """Outermost: checks every request of ours against its rules, turns errors into status, counts and times calls."""

    def __init__(self, metrics: Metrics, files: StateFiles, *, streams: int, read_only: bool) -> None:
        """At most so many `streams` (reflection) are answered at once: an idle one holds a thread all the while."""
        self._metrics = metrics
        self._files = files
        self._read_only = read_only
        self._most_streams = streams
        self._streams = threading.BoundedSemaphore(streams)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap unary handlers of our package, and bound streams; the rest of health and reflection passes untouched."""
        handler = continuation(handler_call_details)
        name = str(handler_call_details.method)
        if handler is not None and handler.stream_stream is not None:
            return self._bounded(handler, handler.stream_stream)
        if handler is None or not name.startswith("/cotenant.v1.") or handler.unary_unary is None:
            return handler
        inner, method = handler.unary_unary, name.rpartition("/")[2]

        def answer(request: Message, context: grpc.ServicerContext) -> Any:
            started_s = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                if self._read_only and method in MUTATIONS:
                    raise ReadOnlySocket(f"{method} changes something; call it over the other socket")
                if method in MUTATIONS and method != _LEAVING and (lost := self._files.loss()):
                    raise lost
                check_request(request)
                return inner(request, context)
            except Exception as error:  # noqa: BLE001 - the border: whatever happened becomes a status
                status = rpc_status.to_status(status_of(error))
                code = status.code
                if code is grpc.StatusCode.INTERNAL:
                    _log.exception("call failed", extra={"method": method})
                context.abort_with_status(status)
            finally:
                self._metrics.calls.labels(method, code.name).inc()
                self._metrics.seconds.labels(method).observe(time.perf_counter() - started_s)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _bounded(
        self,
        handler: grpc.RpcMethodHandler[Any, Any],
        inner: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            if not self._streams.acquire(blocking=False):
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._most_streams} streams are open, as many as are answered at once: close one first",
                )
            try:
                yield from inner(requests, context)
            finally:
                self._streams.release()

        return grpc.stream_stream_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def digest_of(request: Message) -> bytes:
    """Tell two requests apart: type and content, deterministic within one version of the schema."""
    hashed = hashlib.sha256(request.DESCRIPTOR.full_name.encode())
    hashed.update(request.SerializeToString(deterministic=True))
    return hashed.digest()


def page_of(items: Sequence[T], key: Callable[[T], str], size: int, token: str) -> tuple[list[T], str]:
    """Cut one page out of items sorted by key; the token is the last key of the page before."""
    rest = [item for item in items if key(item) > token]
    page = rest[: size or DEFAULT_PAGE]
    return page, key(page[-1]) if len(rest) > len(page) else ""
