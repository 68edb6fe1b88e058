"""When a workload process ends: at SIGTERM, at Ctrl-C, or after its time. Nothing is interrupted half way.

One that replays stops itself at SIGTSTP when its step is over, and begins its work anew when continued (SIGCONT): each
window that it is measured in then sees the same work.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from types import FrameType

_SLICE_S = 0.05  # the longest a pause outlasts a signal


class Stop:
    """Asked in every loop of a workload; handlers are installed only by `install`."""

    def __init__(self, seconds: float = math.inf) -> None:
        self._seconds = seconds
        self._signalled = False
        self._parking = False
        self.begin()

    def begin(self) -> None:
        """Count the time from now: set-up must not eat into it."""
        self._end_s = time.monotonic() + self._seconds

    def install(self) -> None:
        """Take SIGTERM and SIGINT as a wish to end; call in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def install_parking(self) -> None:
        """Take SIGTSTP as a wish to stand still; call in the main thread."""
        signal.signal(signal.SIGTSTP, self._on_stand_still)

    def reached(self) -> bool:
        """Tell whether it is time to end, or to stand still."""
        return self._signalled or self._parking or time.monotonic() >= self._end_s

    def park(self) -> bool:
        """Stand still if that was wished, until continued; tells whether to begin anew."""
        if not self._parking:
            return False
        self._parking = False
        if self.reached():
            return False
        os.kill(os.getpid(), signal.SIGSTOP)
        return not self.reached()

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the end."""
        until_s = min(self._end_s, time.monotonic() + seconds)
        while not (self._signalled or self._parking) and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _SLICE_S))

    def _on_stand_still(self, _number: int, _frame: FrameType | None) -> None:
        self._parking = True

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True


def positive_seconds(text: str) -> float:
    """Read a duration for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
