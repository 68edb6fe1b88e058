"""Runs a program that the kernel kills when whoever started it dies, however that happens.

    python -I -S tether.py PARENT PROGRAM [ARGUMENT...]

A program of its own on the standard library alone, because it must start quickly and then becomes the other one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie and become it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # kept by exec
    if os.getppid() != int(sys.argv[1]):  # it died before we were tied
        sys.exit(1)
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]!r} cannot be started: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
