"""Progress from what a command prints, by a regular expression; see profiler/metric.py for what its groups mean.

A pipe with a reader: the output is never stored, and each line is stamped when it arrives. Lines end with a newline or
a carriage return, as progress bars have it.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import deque

from profiler.metric import Metric, MetricKind
from profiler.progress import WorkLog

_LINE_LIMIT_CHARACTERS = 4096
_KEPT_LINES = 5
_CHUNK_BYTES = 1 << 16
_LINE_ENDS = re.compile(rb"[\r\n]+")


class OutputLog(WorkLog):
    """Reads a command's stdout and stderr; give `writing` to it as both."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self._metric = metric
        self._pattern = re.compile(metric.pattern)
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._found: deque[tuple[float, str]] = deque()
        self._rest = b""
        self.lines = 0
        self.matches = 0
        self.no_number = ""  #: what a group held last that is no number
        self._reading, self.writing = os.pipe()
        self._reader = threading.Thread(target=self._read, name="read-output", daemon=True)

    def started(self) -> None:
        """Begin to read: the command holds its own copy of `writing`."""
        os.close(self.writing)
        self._reader.start()

    def close(self) -> None:
        """Take in the rest, once nobody can write any more."""
        self._reader.join(1.0)  # whoever may not be ended may also hold the pipe

    def poll(self) -> None:
        """Take in the matches since the last call."""
        while self._found:
            t_s, text = self._found.popleft()
            self._take(t_s, text)

    def last_lines(self) -> list[str]:
        """Give the end of what was printed."""
        return list(self._last)

    def _read(self) -> None:
        try:
            while data := os.read(self._reading, _CHUNK_BYTES):
                now_s = time.monotonic()
                *lines, self._rest = _LINE_ENDS.split(self._rest + data)
                if len(self._rest) > _LINE_LIMIT_CHARACTERS:
                    lines, self._rest = [*lines, self._rest], b""
                for line in lines:
                    self._see(now_s, line)
            self._see(time.monotonic(), self._rest)
        finally:
            os.close(self._reading)

    def _see(self, t_s: float, line: bytes) -> None:
        text = line[:_LINE_LIMIT_CHARACTERS].decode(errors="replace").strip()
        if not text:
            return
        self.lines += 1
        self._last.append(text)
        for match in self._pattern.finditer(text):
            self._found.append((t_s, "" if self._metric.kind is MetricKind.COUNT else match[self._metric.group] or ""))

    def _take(self, t_s: float, text: str) -> None:
        self.matches += 1
        if self._metric.kind is MetricKind.COUNT:
            self.add_work(t_s, 1.0)
            return
        try:
            value = float(text.replace(",", ""))
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            self.no_number = text or "nothing"
            return
        add = {"rate": self.add_rate, "total": self.add_total, "work": self.add_work}[self._metric.meaning]
        if not add(t_s, value):
            self.malformed_lines += 1
