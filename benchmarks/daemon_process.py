"""A daemon of one's own, as a child process: for the demonstration, the latency benchmark and the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.errors import DaemonSilent
from cotenant.client import CHANNEL_OPTIONS

_START_LIMIT_S = 120.0  # under emulation (tests/vm) it takes half a minute
_STOP_LIMIT_S = 20.0
_SETTINGS = "COTENANT_"  # what the environment tells a daemon begins so, in either case
# how often, and what to learn from: not where or for whom
_KEPT_SETTINGS = frozenset({"COTENANT_RECONCILE_S", "COTENANT_MONITOR_S", "COTENANT_DATASET"})


class DaemonProcess:
    """Starts `cotenant serve` on a state folder and waits until it serves; leaving stops it gracefully.

    It listens in its state folder, whatever the user exported for a daemon of theirs.
    """

    def __init__(
        self, state: Path, *options: str, program: tuple[str, ...] = ("-P", "-m", "cotenant.main", "serve")
    ) -> None:
        """`options` are those of `cotenant serve` without --socket; metrics are off unless asked for."""
        self.state = state
        self.socket = state / "cotenant.sock"
        self.log = state.with_name(f"{state.name}.log")
        metrics = () if "--metrics" in options else ("--metrics", "")
        where = ("--state", str(state), "--socket", str(self.socket))
        self._command = [sys.executable, *program, *where, *metrics, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running daemon."""
        if self._process is None:
            raise DaemonSilent("the daemon is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until health says SERVING; raises DaemonSilent with the log's last lines.

        Whatever ends the waiting, Ctrl-C too, ends the daemon: nobody else knows of it yet.
        """
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=_without_settings(os.environ),
                start_new_session=True,
            )
        try:
            self._wait_until_it_serves(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int | None:
        """Ask it to end, wait, and give its exit code; harmless when it is not running."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            self._process.wait(timeout=_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self._process.returncode

    def kill(self) -> None:
        """End it the hard way, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self, timeout_s: float) -> int:
        """Wait for it to end by itself; gives its exit code."""
        if self._process is None:
            raise DaemonSilent("the daemon is not running")
        return self._process.wait(timeout=timeout_s)

    def peak_memory_bytes(self) -> int:
        """Largest resident size so far (VmHWM of /proc/PID/status)."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise DaemonSilent(f"/proc/{self.pid}/status has no VmHWM line")

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> None:
        limit_s = time.monotonic() + _START_LIMIT_S
        while not self._serving():
            if process.poll() is not None:
                raise DaemonSilent(f"the daemon ended with code {process.returncode}: {self._last_words()}")
            if time.monotonic() > limit_s:
                raise DaemonSilent(f"the daemon did not serve within {_START_LIMIT_S:g} s: {self._last_words()}")
            time.sleep(0.05)

    def _serving(self) -> bool:
        if not self.socket.exists():
            return False
        with grpc.insecure_channel(f"unix:{self.socket}", options=CHANNEL_OPTIONS) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "it said nothing"


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would redirect a daemon or widen whom it may place."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT_SETTINGS or not name.upper().startswith(_SETTINGS)
    }
