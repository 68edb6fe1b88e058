"""What the daemon counts, in Prometheus' terms, on loopback."""

from __future__ import annotations

from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counters of one daemon; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "cotenant_rpc", "Calls answered, by method and status code", ("method", "code"), registry=self.registry
        )
        self.seconds = Histogram(
            "cotenant_rpc_seconds", "Time to answer a call", ("method",), buckets=_SECONDS, registry=self.registry
        )
        self.fallbacks = Counter(
            "cotenant_fallback_decisions", "Decisions made without the model", registry=self.registry
        )
        self.far = Counter(
            "cotenant_far_decisions",
            "Decisions with a prediction that the prior made, because the model was trained on nothing like it",
            registry=self.registry,
        )
        self._placements = Gauge(
            "cotenant_placements",
            "Placements, by state; RELEASED are those still remembered",
            ("state",),
            registry=self.registry,
        )

    def watch_placements(self, states: tuple[str, ...], count: Callable[[str], float]) -> None:
        """Ask for the number of placements per state whenever metrics are read."""
        for state in states:
            self._placements.labels(state).set_function(lambda state=state: count(state))  # type: ignore[misc]

    def serve(self, address: str) -> tuple[WSGIServer, int]:
        """Serve /metrics at HOST:PORT; gives the server and its real port. Raises OSError when taken."""
        host, _, port = address.rpartition(":")
        server, _thread = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        return server, int(server.server_port)
