"""Ends a command the same way whether Ctrl-C, `kill` or a closed terminal ends it: through every clean-up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first signal; enter in the main thread.

    Later ones are ignored: a closed terminal sends two, and a second Ctrl-C would break the clean-up off half way. What
    is ignored already stays so, as nohup wants it.
    """
    before = {number: signal.getsignal(number) for number in _ENDING}
    ours = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
