"""Start a command held back at its very first instruction, so that it is placed before it runs.

The child is this file run as a script: it waits for one byte on a pipe and then becomes the command, so every
thread and child of the command is born on the right CPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def start_held(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start; gives the child and the descriptor to release it with (write a byte, or close to call it off)."""
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(reading), *command], pass_fds=(reading,), close_fds=True
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return child, writing


def let_go(writing: int) -> None:
    """Let the command run."""
    try:
        os.write(writing, b"g")
    finally:
        os.close(writing)


def call_off(child: subprocess.Popen[bytes], writing: int) -> None:
    """End a child that was never let go."""
    os.close(writing)
    child.wait()


def _become(descriptor: int, command: list[str]) -> None:
    go = os.read(descriptor, 1)
    os.close(descriptor)
    if not go:
        sys.exit(125)  # called off
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cotenant: {command[0]!r} cannot be started: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
