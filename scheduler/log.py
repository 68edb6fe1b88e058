"""The daemon's log: JSON lines on stderr, written by a thread of their own so that nobody waits for who reads them."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from typing import Any

_MOST_LINES = 1000  # that wait to be written
_LAST_LINES_S = 1.0  # to write what waits when the daemon ends
_EXTRAS = frozenset(
    {"method", "workload", "socket", "mechanism", "state", "metrics", "model", "fallback", "recovered", "operation"}
)


class JsonLines(logging.Formatter):
    """One JSON object a line; names and texts are escaped, so nobody can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render time, level, logger, message and what was given as extra."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in record.__dict__.items() if key in _EXTRAS})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class UnblockedHandler(logging.Handler):
    """Writes to a descriptor without ever making a caller wait.

    A pipe that nobody empties, or a full disk below it, would stop whoever logs, with the locks it holds. What does not
    fit among the waiting lines is lost and counted; the count is told once there is room. `kill -9` loses what waits.
    """

    def __init__(self, descriptor: int) -> None:
        """Take a descriptor that stays the caller's: it is not closed here."""
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_LINES)
        self._lost, self._counting = 0, threading.Lock()  # the handler's own lock is held while it is closed
        # of a kind that the interpreter does not wait for: it may be stuck in a write for ever
        self._writing = threading.Thread(target=self._write_forever, name="log", daemon=True)
        self._writing.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Render it now, since what it speaks of may change, and leave the rest to the thread."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._lost += 1
        except Exception:  # noqa: BLE001 - logging must not break who logs
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            pass
        else:
            self._writing.join(_LAST_LINES_S)
        super().close()

    def _write_forever(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._lost and self._lines.qsize() < _MOST_LINES // 2:
                self._tell_loss()

    def _tell_loss(self) -> None:
        with self._counting:
            lost, self._lost = self._lost, 0
        told = f"{lost} lines of this log were lost: nobody read it in time"
        self._write(self.format(logging.LogRecord("cotenant.log", logging.WARNING, "", 0, told, None, None)))

    def _write(self, line: str) -> None:
        rest = f"{line}\n".encode(errors="backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # closed, or the disk is full: there is nobody left to tell
            pass
