"""A command of ours: started on given CPUs, paused, resumed, and ended with everything that came of it.

It runs below a supervisor (profiler/supervisor.py), so whoever leaves its session, group or parent is still found.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from resource import struct_rusage
from types import TracebackType
from typing import Any, Self

from isolation.cpuset import CpuSet
from profiler.errors import WorkloadFailed
from profiler.output import OutputLog
from profiler.procfs import GroupSample, members, sample
from profiler.progress import ENVIRONMENT, ProgressLog, WorkLog

_STDERR_LINES = 5
_LAST_WORDS_BYTES = 16384
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class PinnedCommand:
    """One running command; leaving the context ends every process that came of it, wherever it went."""

    def __init__(
        self,
        command: Sequence[str],
        cpus: CpuSet,
        folder: Path,
        *,
        grace_s: float = 3.0,
        output: OutputLog | None = None,
    ) -> None:
        """Start it; raises WorkloadFailed saying why it cannot. The folder takes its stderr and progress lines.

        output: reads what it prints, and is then its progress; without one, stdout is thrown away.
        """
        if not command or not command[0]:
            raise WorkloadFailed("no command given: write it after --, for instance `-- sleep 10`")
        self.cpus = cpus
        self.folder = folder
        self._command = tuple(command)
        self._grace_s = grace_s  # between SIGTERM and SIGKILL
        self._stderr = folder / "stderr"
        self._output = output
        self._driver: PinnedCommand | None = None
        self.progress: WorkLog = output or ProgressLog(folder / "progress")
        self.usage: struct_rusage | None = None  #: of the whole life, with children it waited for; None until closed
        self.exit_code: int | None = None
        self._lines = b""
        self._open = True
        environment = {**os.environ, ENVIRONMENT: str(folder / "progress")}
        self._supervisor, self._control, self._report, started = self._start(cpus, environment)
        self.pid = int(started["pid"])
        self.started_s = float(started["t_s"])
        self.ended_s = self.started_s

    def _start(
        self, cpus: CpuSet, environment: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], int, int, dict[str, Any]]:
        """Start from a thread that is on those CPUs already: a child inherits them, with no code before exec."""
        supervisor: list[subprocess.Popen[bytes]] = []
        told: list[dict[str, Any]] = []
        failure: list[BaseException] = []
        over = threading.Event()  # an interrupted Thread.join takes the thread for ended (CPython 3.11)
        (listened, control), (report, written) = os.pipe(), os.pipe()

        def start() -> None:
            try:
                os.sched_setaffinity(0, set(cpus))  # of this thread alone
                try:
                    supervisor.append(self._supervised(listened, written, environment))
                finally:
                    os.close(listened)
                    os.close(written)
                told.append(_first_line(report))
            except (OSError, ValueError, WorkloadFailed) as error:
                failure.append(error)
            finally:
                over.set()

        threading.Thread(target=start, name="start-pinned").start()
        interrupted: BaseException | None = None
        try:
            over.wait()
        except BaseException as error:  # noqa: BLE001 - Ctrl-C: nobody else will ever know of what is being started
            interrupted = error
            over.wait()
        if self._output is not None:
            self._output.started()
        if interrupted is None and not failure:
            return supervisor[0], control, report, told[0]
        os.close(control)  # the supervisor ends all there is
        for one in supervisor:
            one.wait()
        os.close(report)
        if self._output is not None:
            self._output.close()
        if interrupted is not None:
            raise interrupted
        raise WorkloadFailed(self._why(failure[0], cpus)) from failure[0]

    def _supervised(self, listened: int, written: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._stderr.open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _SUPERVISOR, str(listened), str(written), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self._output is None else self._output.writing,
                stderr=stderr if self._output is None else self._output.writing,
                env=environment,
                pass_fds=(listened, written),
                start_new_session=True,
            )

    def _why(self, error: BaseException, cpus: CpuSet) -> str:
        name = self._command[0]
        reason = f"cannot start {name!r}: {error}"
        if isinstance(error, FileNotFoundError):
            reason = f"cannot start {name!r}: not found. Give the full path, or a command on $PATH"
        elif isinstance(error, PermissionError):
            reason = f"cannot start {name!r}: not executable by this user. Check it with `ls -l`"
        elif isinstance(error, OSError) and error.errno == errno.ENOEXEC:
            reason = f"cannot start {name!r}: not a program (no interpreter line?)"
        elif isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None:
            reason = f"cannot start {name!r} on CPUs {cpus}: this process may not use them"
        return reason

    def poll(self) -> bool:
        """Tell whether it still runs; reads new progress. Not reaped, so its pid stays ours until close.

        Raises WorkloadFailed if whoever drives it has ended.
        """
        self.progress.poll()
        if self.exit_code is None and self._open:
            self._listen(0)
        if self._driver is not None and self.exit_code is None and not self._driver.poll():
            raise WorkloadFailed(f"the load generator must not end while we measure: {self._driver.ended_why()}")
        return self.exit_code is None

    def wait(self, limit_s: float) -> bool:
        """Sleep so long, or until it ends by itself, noticed at once; tell whether it ended."""
        if self.poll():
            self._listen(limit_s)
        return not self.poll()

    def driven_by(self, driver: PinnedCommand) -> None:
        """Take the progress that its load generator reports for its own."""
        self.progress = driver.progress
        self._driver = driver

    def sample(self) -> GroupSample:
        """Read the totals of all that came of it, now."""
        return sample({self._supervisor.pid}, without={self._supervisor.pid})

    def driver_sample(self) -> GroupSample | None:
        """Read the totals of its load generator, if it has one."""
        return self._driver.sample() if self._driver is not None else None

    def family(self) -> frozenset[int]:
        """List the living processes that came of it."""
        return members({self._supervisor.pid}) - {self._supervisor.pid} if self._open else frozenset()

    def ended_why(self) -> str:
        """Say with which code or signal it ended, and its last words."""
        code = self.exit_code or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = self.last_words()
        return f"{self._command[0]!r} ended with {how} after {self.ended_s - self.started_s:.2f} s{words}"

    def last_words(self) -> str:
        """Quote the end of what it wrote; empty if that is nothing."""
        if self._output is not None:
            lines = self._output.last_lines()
        else:
            with self._stderr.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_WORDS_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        printable = [
            "".join(one if one.isprintable() else "?" for one in line)[:200] for line in lines[-_STDERR_LINES:]
        ]
        if not printable:
            return ""
        hint = ""
        if any(word in " ".join(printable).lower() for word in ("tty", "terminal", "ioctl")):
            hint = "; it gets no terminal here: give it one with `-- script -qec 'COMMAND' /dev/null`"
        return f"; it wrote: {' | '.join(printable)}{hint}"

    def pause(self) -> None:
        """Stop all that came of it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End all that came of it: SIGTERM, and what is left after the grace SIGKILL. Reaps it.

        Raises WorkloadFailed naming those that cannot be ended, such as a command that became another user.
        """
        if not self._open:
            return
        self._driver = None
        self._signal(signal.SIGTERM)
        self.resume()
        deadline_s = time.monotonic() + self._grace_s
        while self.family() and time.monotonic() < deadline_s:
            time.sleep(0.005)
        self.poll()
        os.close(self._control)
        while self._listen(None):
            pass
        self._open = False
        self._supervisor.wait()
        os.close(self._report)
        if self._output is not None:
            self._output.close()
        last = json.loads(self._lines or b"{}")
        if last.get("usage"):
            self.usage = struct_rusage(last["usage"])
        if left := last.get("left"):
            raise WorkloadFailed(f"cannot end pids {left} of {self._command[0]!r}: end them yourself")

    def _listen(self, limit_s: float | None) -> bool:
        """Wait for news of the supervisor and take them in; False = it is gone."""
        if not select.select([self._report], [], [], limit_s)[0]:
            return True
        data = os.read(self._report, 65536)
        *lines, self._lines = (self._lines + data).split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "exit" in news:
                self.exit_code, self.ended_s = int(news["exit"]), float(news["t_s"])
            else:
                self._lines = line  # the last one
        if not data and self.exit_code is None:
            self.exit_code, self.ended_s = -signal.SIGKILL, time.monotonic()
        return bool(data)

    def _signal(self, number: signal.Signals) -> None:
        if not self._open:
            return  # reaped: its number may belong to somebody else by now
        # nobody left in the group, or nobody we may signal: close says so
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)  # at once, for almost all there are
        for pid in self.family():
            try:
                if os.getpgid(pid) != self.pid:
                    os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _first_line(report: int) -> dict[str, Any]:
    """Read the supervisor's first line; raises OSError with the reason the kernel gave for not starting the command."""
    data = b""
    while not data.endswith(b"\n") and (more := os.read(report, 1)):
        data += more
    if not data:
        raise WorkloadFailed("the supervisor ended before it started anything")
    line: dict[str, Any] = json.loads(data)
    if "errno" in line:
        raise OSError(line["errno"], os.strerror(line["errno"]))
    return line
