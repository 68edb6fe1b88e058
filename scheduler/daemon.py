"""The composition root of `cotenant serve`: builds every part once, serves, and stops gracefully."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cotenant.v1 import (
    host_pb2,
    host_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
    profile_pb2,
    profile_pb2_grpc,
)
from isolation.capabilities import read_capabilities
from isolation.enforcer import Enforcer, Mechanism
from isolation.topology import read_topology
from profiler.calibration import Calibration, find_calibration
from profiler.errors import CalibrationDamaged
from profiler.host import host_traits
from profiler.registry import ModelRegistry
from profiler.store import ObservationStore, ProfileStore
from scheduler.border import Border
from scheduler.config import Settings
from scheduler.controller import Controller
from scheduler.errors import StateRefused
from scheduler.held import Held
from scheduler.journal import Journal
from scheduler.learning import ModelServicer, ProfileServicer
from scheduler.log import JsonLines, UnblockedHandler
from scheduler.metrics import Metrics
from scheduler.monitor import WorkloadMonitor
from scheduler.operations import Operations
from scheduler.placement import PlacementState
from scheduler.reconciler import Reconciler
from scheduler.service import HostServicer, PlacementServicer
from scheduler.state import StateFiles, check_socket, group_prefix, lock_state, machine_id, open_state
from scheduler.view import Viewer
from scheduler.writer import Writer

_log = logging.getLogger("cotenant")
_MESSAGE_LIMIT_BYTES = 256 * 1024
_CONCURRENT_CALLS = 64
_GRACE_S = 10.0
_IDLE_MS = 300_000  # who asks nothing for so long gives its descriptor back; a client connects anew by itself
_SERVICES = (
    placement_pb2.DESCRIPTOR.services_by_name["PlacementService"].full_name,
    profile_pb2.DESCRIPTOR.services_by_name["ProfileService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    host_pb2.DESCRIPTOR.services_by_name["HostService"].full_name,
)


class Daemon:
    """Everything that lives while serving; `start`, then `stop`."""

    def __init__(self, settings: Settings, *, checkpoint: Callable[[str], None] = lambda _label: None) -> None:
        """Take the lock first: nothing is opened, bound or changed before it is ours."""
        self._settings = settings
        self.state = open_state(settings.state)
        self._lock = lock_state(self.state)
        self.topology = read_topology()
        wanted = None if settings.mechanism == "auto" else Mechanism(settings.mechanism)
        self.enforcer = Enforcer.for_host(
            self.topology,
            mechanism=wanted,
            prefix=group_prefix(self.state),
            migration_bytes_per_s=settings.migrate_mib_per_s << 20,
        )
        self._journal = Journal(self.state / "journal.db")
        self._files = StateFiles(self.state / "lock", self.state / "journal.db")
        self._told_of_loss = False
        known = self._journal.bind("machine_id", machine_id())
        if known != machine_id():
            raise StateRefused(
                f"state folder {str(self.state)!r} was written on another machine ({known}); "
                "start with a fresh --state: placements of that machine mean nothing here"
            )
        profiles = ProfileStore(self.state / "profiles")
        observations = ObservationStore(self.state / "observations.jsonl")
        models = ModelRegistry(self.state / "models")
        host = host_traits(self.topology, self._calibration())
        self._viewer = Viewer(topology=self.topology, host=host, profiles=profiles, models=models)
        self._writer = Writer(waiting_limit=max(1, settings.workers // 2))  # reads always find a free thread
        held: dict[str, Held] = {}
        uids = None if settings.allow_any_uid else frozenset({os.geteuid(), *settings.allow_uids})
        self._controller = Controller(
            enforcer=self.enforcer,
            journal=self._journal,
            viewer=self._viewer,
            writer=self._writer,
            held=held,
            allowed_uids=uids,
            checkpoint=checkpoint,
        )
        self._reconciler = Reconciler(
            controller=self._controller,
            enforcer=self.enforcer,
            journal=self._journal,
            viewer=self._viewer,
            writer=self._writer,
            held=held,
        )
        self.metrics = Metrics()
        self.metrics.watch_placements(tuple(PlacementState), self._count)
        self._monitor = WorkloadMonitor(held, self._viewer)
        self.metrics.registry.register(self._monitor)
        self._operations = Operations(state=self.state, store=profiles, allowed_uids=uids)
        self._health = health.HealthServicer()
        self._stopping = threading.Event()
        self._placements = PlacementServicer(self._controller, observations, self.topology, self.metrics)
        self._profiles = ProfileServicer(self._controller, profiles, self._operations)
        self._models = ModelServicer(self._controller, models, self._operations)
        self._host = HostServicer(
            self._controller,
            read_capabilities(),
            mechanism=str(self.enforcer.mechanism),
            daemon_version=version("cotenant"),
        )
        self._servers: list[grpc.Server] = []
        self._reconciling: threading.Thread | None = None
        self._monitoring: threading.Thread | None = None
        self._metrics_server: Any = None
        self.metrics_port: int | None = None

    def start(self) -> None:
        """Recover, then serve."""
        for name in ("", *_SERVICES):
            self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._reconciler.recover()
        if self._settings.metrics_address:
            try:
                self._metrics_server, self.metrics_port = self.metrics.serve(self._settings.metrics_address)
            except OSError as error:
                raise StateRefused(
                    f"metrics address {self._settings.metrics_address!r} cannot be used: {error.strerror}; "
                    "choose another with --metrics, for instance 127.0.0.1:0, or '' for none"
                ) from error
        self._servers = [
            self._serve(self._settings.socket_path, read_only=False),
            self._serve(self._settings.read_socket_path, read_only=True),
        ]
        for name in ("", *_SERVICES):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._reconciling = threading.Thread(target=self._reconcile_forever, name="reconciler", daemon=True)
        self._reconciling.start()
        if self._settings.metrics_address and self._settings.monitor_s:  # nobody else asks for it
            self._monitoring = threading.Thread(target=self._monitor_forever, name="monitor", daemon=True)
            self._monitoring.start()
        view = self._viewer.current()
        _log.info(
            "serving",
            extra={
                "socket": str(self._settings.socket_path),
                "state": str(self.state),
                "mechanism": str(self.enforcer.mechanism),
                "metrics": self.metrics_port,
                "model": view.predictor.model_id,
                "fallback": view.predictor.fallback,
                "recovered": len(view.ledger.residents),
            },
        )

    def stop(self) -> None:
        """Refuse new work, finish what runs, close. Placements stay: leaving must not remove isolation.

        Unless the state folder is gone: nobody else could ever release them.
        """
        self._health.enter_graceful_shutdown()
        self._stopping.set()
        for done in [server.stop(_GRACE_S) for server in self._servers]:
            done.wait()
        if self._reconciling is not None:
            self._reconciling.join()
        if self._monitoring is not None:
            self._monitoring.join()
        self._monitor.close()
        self._operations.close()
        if self._files.loss() is not None:
            self._give_back()
        self._writer.close()
        self._journal.close()
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()
        os.close(self._lock)
        _log.info("stopped", extra={"state": str(self.state)})

    def _serve(self, path: Path, *, read_only: bool) -> grpc.Server:
        check_socket(path)
        server = grpc.server(
            ThreadPoolExecutor(max_workers=self._settings.workers, thread_name_prefix="rpc"),
            interceptors=[Border(self.metrics, self._files, streams=self._settings.workers // 2, read_only=read_only)],
            maximum_concurrent_rpcs=_CONCURRENT_CALLS,
            options=(
                ("grpc.max_receive_message_length", _MESSAGE_LIMIT_BYTES),
                ("grpc.max_concurrent_streams", _CONCURRENT_CALLS),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
            ),
        )
        placement_pb2_grpc.add_PlacementServiceServicer_to_server(self._placements, server)
        profile_pb2_grpc.add_ProfileServiceServicer_to_server(self._profiles, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self._models, server)
        host_pb2_grpc.add_HostServiceServicer_to_server(self._host, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        earlier = os.umask(0o077)  # the socket's mode is its access control
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise StateRefused(
                f"socket {str(path)!r} cannot be bound: {error}; choose another with --socket"
            ) from error
        finally:
            os.umask(earlier)
        server.start()
        return server

    def _calibration(self) -> Calibration | None:
        """Read what `cotenant calibrate` stored; what cannot be used is told, and costs stay assumed."""
        try:
            found = find_calibration(self.state)
        except CalibrationDamaged as error:
            _log.warning("%s", error)
            return None
        if found is None:
            return None
        if found.host_fingerprint != self.topology.fingerprint:
            _log.warning("the calibration in %r is of another host: run `cotenant calibrate`", str(self.state))
        elif not found.quiet:
            _log.warning("the calibration in %r was taken on a busy host: not used", str(self.state))
        return found

    def _reconcile_forever(self) -> None:
        while not self._stopping.wait(self._settings.reconcile_s):
            try:
                self._look_for_state()
                self._reconciler.reconcile()
            except Exception:  # noqa: BLE001 - the thread must outlive whatever one turn meets
                _log.exception("reconciling failed; trying again")

    def _look_for_state(self) -> None:
        """Tell once that the state folder went away, or came back; two calls of stat."""
        lost = self._files.loss()
        if lost is not None and not self._told_of_loss:
            _log.error("%s", lost, extra={"state": str(self.state)})
        elif lost is None and self._told_of_loss:
            _log.warning("the state folder is back: changes are taken again", extra={"state": str(self.state)})
        self._told_of_loss = lost is not None

    def _give_back(self) -> None:
        if left := self._reconciler.give_back():
            _log.error("the state folder is gone, and these stay placed, to be released by hand: %s", ", ".join(left))
        else:
            _log.warning("the state folder is gone: all that was placed was released", extra={"state": str(self.state)})

    def _monitor_forever(self) -> None:
        wait_s = self._settings.monitor_s
        while not self._stopping.wait(wait_s):
            try:
                wait_s = max(self._settings.monitor_s, self._monitor.turn())
            except Exception:  # noqa: BLE001 - the thread must outlive whatever one turn meets
                _log.exception("watching workloads failed; trying again")

    def _count(self, state: str) -> float:
        return sum(one.state == state for one in self._viewer.current().placements.values())


def serve(settings: Settings, *, checkpoint: Callable[[str], None] = lambda _label: None) -> None:
    """Run until SIGTERM or SIGINT."""
    # who starts it with stderr closed wants no log; that number belongs to another file by now
    handler = UnblockedHandler(os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno())
    text = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonLines() if settings.log_format == "json" else logging.Formatter(text))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # a traceback for each message that cannot be parsed would let any client fill the log
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a pidfd for each process of a large workload
    asked = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, ask)
    daemon = Daemon(settings, checkpoint=checkpoint)
    daemon.start()
    asked.wait()
    daemon.stop()
