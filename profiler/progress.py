"""How a workload tells its progress: one JSON object per line, appended to the file $COTENANT_PROGRESS.

Lines, all with "t" = CLOCK_MONOTONIC in seconds when it happened:
    {"t": 1.25, "work": 310}                                   work done since the start, any unit
    {"t": 1.25, "event": "turn"}                               a request arrived (agents)
    {"t": 1.61, "event": "prefill", "tokens": 128, "seconds": 0.36}
    {"t": 1.62, "event": "token"}                              one token came out
    {"t": 2.62, "event": "tool", "seconds": 1.0}               a tool call ended
    {"t": 2.63, "event": "kv", "bytes": 1048576}               size of the KV cache now
    {"t": 2.64, "event": "usage", "tokens": 64}                tokens of the turn that ended, as the server counts them
A token line may say "tokens": 3 when that many came out at once. Several agents, or several requests at a time, in one
file: every event line says "stream": 0, 1, ... so that their tokens are not taken for one stream.
Writers need nothing of ours: appending such lines is enough. A file, not a pipe: nobody blocks when nobody reads.
"""

from __future__ import annotations

import json
import math
import os
import time
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "COTENANT_PROGRESS"
_LINE_LIMIT_BYTES = 4096
_STREAM_LIMIT = 1_000_000
MOST_TOKENS_AT_ONCE = 1024


class ProgressWriter:
    """Appends progress lines; without a path it swallows them, so workloads also run outside a measurement."""

    def __init__(self, path: str | None, *, interval_s: float = 0.02) -> None:
        """Open for appending; `interval_s` is the least time between two "work" lines."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if path else None
        self._interval_s = interval_s
        self._work = 0.0
        self._last_s = -math.inf

    @classmethod
    def from_environment(cls) -> ProgressWriter:
        """Write where $COTENANT_PROGRESS says, nowhere if it is unset."""
        return cls(os.environ.get(ENVIRONMENT))

    def add(self, work: float) -> None:
        """Count work done; written at most every interval."""
        self._work += work
        now_s = time.monotonic()
        if now_s - self._last_s >= self._interval_s:
            self._last_s = now_s
            self._write({"t": now_s, "work": self._work})

    def told(self, t_s: float, work: float) -> None:
        """Pass on work done until a moment, as somebody else told it."""
        self._write({"t": t_s, "work": work})

    def event(self, kind: str, **values: float) -> None:
        """Write one event now."""
        self._write({"t": time.monotonic(), "event": kind, **values})

    def _write(self, record: dict[str, float | str]) -> None:
        if self._fd is not None:
            os.write(self._fd, json.dumps(record, separators=(",", ":")).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One event line."""

    t_s: float
    kind: str
    tokens: float = math.nan
    seconds: float = math.nan
    bytes: float = math.nan
    stream: int = 0  #: which of several agents or requests


class WorkLog:
    """Work done and events by the moment they happened; whoever reads a source adds to it in `poll`."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._work: list[float] = []
        self._tokens = 0.0
        self.events: list[ProgressEvent] = []
        self.malformed_lines = 0

    def poll(self) -> None:
        """Take in what is new."""

    def work_at(self, t_s: float) -> float:
        """Give work done by a moment, interpolated between lines; NaN outside the recorded time."""
        if not self._times_s or not self._times_s[0] <= t_s <= self._times_s[-1]:
            return math.nan
        after = bisect_right(self._times_s, t_s)
        if after == len(self._times_s):
            return self._work[-1]
        t0, t1, w0, w1 = (*self._times_s[after - 1 : after + 1], *self._work[after - 1 : after + 1])
        return w0 + (w1 - w0) * (t_s - t0) / (t1 - t0) if t1 > t0 else w1

    def rate_per_s(self, start_s: float, end_s: float) -> float:
        """Give work per second between two moments; NaN when the log does not cover them."""
        return (self.work_at(end_s) - self.work_at(start_s)) / (end_s - start_s) if end_s > start_s else math.nan

    @property
    def covered_s(self) -> tuple[float, float] | None:
        """First and last moment with a known amount of work."""
        return (self._times_s[0], self._times_s[-1]) if self._times_s else None

    def add_total(self, t_s: float, work: float) -> bool:
        """Take work done so far; False if it, or time, went backwards."""
        if self._times_s and (t_s < self._times_s[-1] or work < self._work[-1]):
            return False
        self._times_s.append(t_s)
        self._work.append(work)
        return True

    def add_work(self, t_s: float, work: float) -> bool:
        """Take work done since the last call; the first one starts the record."""
        if not self._times_s:
            return work >= 0 and self.add_total(t_s, 0.0)
        return self.add_total(t_s, self._work[-1] + work)

    def add_rate(self, t_s: float, rate_per_s: float) -> bool:
        """Take the rate since the last call; the first one starts the record."""
        return self.add_work(t_s, rate_per_s * (t_s - self._times_s[-1] if self._times_s else 0.0))


class ProgressLog(WorkLog):
    """Reads a progress file as it grows; lines that are no progress are counted, not raised."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._offset = 0

    @property
    def is_expected(self) -> bool:
        """Whether somebody made the file: a line will come."""
        return self._path.exists()

    def poll(self) -> None:
        """Take in what was appended since the last call; an unfinished last line waits."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        complete = data.rfind(b"\n") + 1
        self._offset += complete
        for line in data[:complete].splitlines():
            if not self._take(line):
                self.malformed_lines += 1

    def _take(self, line: bytes) -> bool:
        try:
            record = json.loads(line) if len(line) <= _LINE_LIMIT_BYTES else None
        except ValueError:
            return False
        if not isinstance(record, dict):
            return False
        numbers = {k: float(v) for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        t_s = numbers.pop("t", math.nan)
        if not all(map(math.isfinite, (t_s, *numbers.values()))):
            return False
        kind = record.get("event")
        if kind is None:
            return "work" in numbers and self.add_total(t_s, numbers["work"])
        return isinstance(kind, str) and self._take_event(t_s, kind, numbers)

    def _take_event(self, t_s: float, kind: str, numbers: dict[str, float]) -> bool:
        known = {name: numbers[name] for name in ("tokens", "seconds", "bytes") if name in numbers}
        stream, tokens = numbers.get("stream", 0.0), known.get("tokens", 1.0)
        if not 0 <= stream < _STREAM_LIMIT or (kind == "token" and not 0 < tokens <= MOST_TOKENS_AT_ONCE):
            return False
        self.events.append(ProgressEvent(t_s, kind, stream=int(stream), **known))
        if kind == "token":  # tokens are the work of a workload that reports no other
            self._tokens += tokens
            self.add_total(t_s, self._tokens)
        return True
