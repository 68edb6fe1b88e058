"""Runs one command and owns what comes of it: orphans become its children, and all end when it is told or left alone.

    python -I -S supervisor.py CONTROL REPORT PROGRAM [ARGUMENT...]

CONTROL and REPORT are open file descriptors. Lines of JSON on REPORT:
    {"pid": 7, "t_s": 1.5}                          started; or {"errno": 2} when it could not be
    {"exit": 0, "t_s": 2.5}                         the command ended (its pid stays taken); below 0: by that signal
    {"usage": [...], "left": [9]}                   everybody else ended too; left = pids that may not be ended
When the other side closes CONTROL, or dies, all that is left is killed. A program of its own, on the standard library
alone: it must start quickly, and a process that adopts orphans (PR_SET_CHILD_SUBREAPER) must not adopt those of others.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
_KILL_LIMIT_S = 3.0


def main() -> None:
    """Start, watch, and end it."""
    control, report = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (control, report):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # a handler, which exec resets; ignoring would be inherited
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ignored_by_python = (signal.SIGPIPE, signal.SIGXFSZ)
    start_s = time.monotonic()
    try:
        command = os.posix_spawnp(sys.argv[3], sys.argv[3:], os.environ, setsid=True, setsigdef=ignored_by_python)
    except OSError as error:
        tell(report, {"errno": error.errno})
        return
    tell(report, {"pid": command, "t_s": start_s})
    running = True
    while not select.select([control, woken], [], [])[0] or not is_closed(control):
        if os.read(woken, 4096) and running and ended(command, os.WNOWAIT) is not None:
            running = False
            tell(report, exit_of(command))
        for pid in children():
            if pid != command:
                ended(pid)
    if running and ended(command, os.WNOWAIT) is not None:
        tell(report, exit_of(command))
    finish(command, report)


def is_closed(control: int) -> bool:
    """Tell whether the other side is gone; it never writes."""
    return bool(select.select([control], [], [], 0)[0])


def ended(pid: int, more: int = 0) -> os.waitid_result | None:
    """Reap a child if it has ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | more)
    except ChildProcessError:
        return None


def exit_of(command: int) -> dict[str, object]:
    """Describe how it ended; it stays a zombie, so that its pid is nobody else's."""
    how = ended(command, os.WNOWAIT)
    code = 0 if how is None else how.si_status
    by_exit = how is None or how.si_code == os.CLD_EXITED
    return {"exit": code if by_exit else -code, "t_s": time.monotonic()}


def children() -> list[int]:
    """List own children, adopted ones included."""
    own, found = os.getpid(), []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a start without pathlib is quicker
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat", errors="replace") as file:  # noqa: PTH123
                    text = file.read()
            except OSError:
                continue  # it ended while we looked
            if int(text[text.rindex(")") + 2 :].split()[1]) == own:
                found.append(int(entry))
    return found


def finish(command: int, report: int) -> None:
    """Kill and reap children until there are none: those of a killed child become ours, and have their turn."""
    deadline_s = time.monotonic() + _KILL_LIMIT_S
    usage: list[float] = []
    while (left := children()) and time.monotonic() < deadline_s:
        for pid in left:
            # ended meanwhile, or became another user: told as left
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            if pid != command:
                ended(pid)
            elif ended(pid, os.WNOWAIT) is not None:
                usage = list(os.wait4(pid, 0)[2])
        time.sleep(0.002)
    tell(report, {"usage": usage, "left": left})


def tell(report: int, line: dict[str, object]) -> None:
    """Write one line; nobody may be listening any more."""
    try:
        os.write(report, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
