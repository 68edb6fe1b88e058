"""A daemon that ends itself with SIGKILL at a chosen step: python -m tests.scheduler.crashing_daemon STEP --state DIR.

STEP is the name of a checkpoint of the controller, or "write N" for the N-th call that changes the kernel.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import isolation.enforcer
from isolation.kernelfs import HOST_AFFINITY, HOST_FILES
from scheduler.config import Settings
from scheduler.daemon import serve

_CHANGES = {"write", "mkdir", "rmdir", "set"}


class EndsAt:
    """Passes every call on, and ends the process instead of making the N-th change."""

    left = 0

    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in _CHANGES:
            return found

        def change(*arguments: Any, **named: Any) -> Any:
            EndsAt.left -= 1
            if EndsAt.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return found(*arguments, **named)

        return change


def main() -> None:
    step, state, mechanism = sys.argv[1], Path(sys.argv[sys.argv.index("--state") + 1]), sys.argv[-1]
    if step.startswith("write "):
        EndsAt.left = int(step.removeprefix("write "))
        isolation.enforcer.HOST_FILES = EndsAt(HOST_FILES)  # type: ignore[assignment, attr-defined]
        isolation.enforcer.HOST_AFFINITY = EndsAt(HOST_AFFINITY)  # type: ignore[assignment, attr-defined]

    def checkpoint(label: str) -> None:
        if label == step:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings(state=state, metrics_address="", mechanism=mechanism)  # type: ignore[arg-type]
    serve(settings, checkpoint=checkpoint)


if __name__ == "__main__":
    main()
