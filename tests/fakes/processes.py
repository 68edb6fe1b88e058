"""Runs a workload of the catalogue as a process and reads its progress."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from profiler.progress import ENVIRONMENT, ProgressLog

START_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A process that reports; `log` is polled by `wait_for_work` and `terminate`."""

    process: subprocess.Popen[str]
    log: ProgressLog

    def wait_for_work(self, seconds: float) -> None:
        """Wait until the log covers so many seconds."""
        limit_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit_s and self.process.poll() is None:
            self.log.poll()
            covered = self.log.covered_s
            if covered is not None and covered[1] - covered[0] >= seconds:
                return
            time.sleep(0.02)
        raise AssertionError(f"no {seconds} s of progress: {self.process.poll()}")

    def terminate(self) -> tuple[int, float, str]:
        """Send SIGTERM; give exit code, seconds until the end and stderr."""
        start_s = time.monotonic()
        self.process.terminate()
        _, errors = self.process.communicate(timeout=10)
        self.log.poll()
        return self.process.returncode, time.monotonic() - start_s, errors


@contextmanager
def running(module: str, arguments: Sequence[str], folder: Path, **environment: str) -> Iterator[Running]:
    """Start `python -m module`; it is dead afterwards whatever happens."""
    path = folder / "progress"
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment, ENVIRONMENT: str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process=process, log=ProgressLog(path))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finished(module: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition outside, asking often."""
    limit_s = time.monotonic() + START_LIMIT_S
    while not condition():
        assert time.monotonic() < limit_s, "the condition never came true"
        time.sleep(0.005)
