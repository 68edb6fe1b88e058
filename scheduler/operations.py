"""Work that outlives a call: training in a child process, profiling in a thread; one of each kind at a time."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from isolation.process import identify
from profiler.errors import TrainingImpossible
from profiler.observer import collect_running
from profiler.store import ProfileStore
from scheduler.errors import Busy, OperationMissing, ProfileExists

_log = logging.getLogger("cotenant.operations")
_KEPT = 100
_TRAINING_LIMIT_S = 1800.0


@dataclass(slots=True, kw_only=True)
class Operation:
    """One long piece of work; written by its thread only, read as copies."""

    name: str
    stage: str = "started"  #: what it does, or how it ended
    progress: float = 0.0  #: share done, 0 to 1
    done: bool = False
    error: Exception | None = None
    profile_name: str = ""
    model_id: str = ""


class Operations:
    """Starts long work and keeps the last hundred for polling."""

    def __init__(self, *, state: Path, store: ProfileStore, allowed_uids: frozenset[int] | None) -> None:
        self._state = state
        self._store = store
        self._allowed_uids = allowed_uids
        self._lock = threading.Lock()
        self._operations: OrderedDict[str, Operation] = OrderedDict()
        self._running: dict[str, threading.Thread] = {}
        self._children: set[subprocess.Popen[str]] = set()

    def get(self, name: str) -> Operation:
        """Give the state of one operation; raises OperationMissing."""
        with self._lock:
            if name not in self._operations:
                raise OperationMissing(f"operation {name!r} is not known; the daemon keeps the last {_KEPT}")
            return replace(self._operations[name])

    def train(self, *, only_if_better: bool) -> Operation:
        """Train in a child process: XGBoost never enters the daemon."""

        def work(operation: Operation) -> str:
            command = [sys.executable, "-P", "-m", "profiler.training", "--state", str(self._state)]
            if only_if_better:
                command.append("--only-if-better")
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self._children.add(child)
            try:
                out, err = child.communicate(timeout=_TRAINING_LIMIT_S)
            finally:
                child.kill()
                self._children.discard(child)
            if child.returncode != 0:
                last = err.strip().splitlines()[-1:] or ["no message"]
                raise TrainingImpossible(f"training ended with code {child.returncode}: {last[0]}")
            trained = json.loads(out.splitlines()[-1])
            operation.model_id = str(trained["id"])
            return "; ".join(["done" if trained["activated"] else "done, not in use", *trained["notes"]])

        return self._start("train", work)

    def profile(self, name: str, pids: tuple[int, ...], duration_s: float, *, replace_stored: bool) -> Operation:
        """Observe running processes; they are checked before the operation starts."""
        if not replace_stored and name in self._store.names():
            raise ProfileExists(f"profile {name!r} is stored already; set replace to overwrite it")
        for pid in pids:
            identify(pid, allowed_uids=self._allowed_uids)

        def work(operation: Operation) -> str:
            def told(share: float, stage: str) -> None:
                operation.progress, operation.stage = share, stage

            profile = collect_running(name, pids, duration_s=duration_s, on_progress=told)
            self._store.save(profile, replace=replace_stored)
            operation.profile_name = name
            return "done"

        return self._start("profile", work)

    def close(self) -> None:
        """End children and wait for threads."""
        for child in list(self._children):
            child.terminate()
        for thread in list(self._running.values()):
            thread.join(timeout=5)

    def _start(self, kind: str, work: Callable[[Operation], str]) -> Operation:
        operation = Operation(name=f"{kind}-{uuid.uuid4().hex[:12]}")

        def run() -> None:
            try:
                operation.stage = work(operation)
                operation.progress = 1.0
            except Exception as error:  # noqa: BLE001 - whatever ended it is the operation's result
                _log.exception("operation failed", extra={"operation": operation.name})
                operation.error = error
                operation.stage = "failed"
            finally:
                operation.done = True

        with self._lock:
            earlier = self._running.get(kind)
            if earlier is not None and earlier.is_alive():
                raise Busy(f"another {kind} operation is running; poll it, or retry when it is done")
            self._operations[operation.name] = operation
            while len(self._operations) > _KEPT:
                self._operations.popitem(last=False)
            thread = threading.Thread(target=run, name=operation.name, daemon=True)
            self._running[kind] = thread
            thread.start()
        return self.get(operation.name)
