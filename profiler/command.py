"""A child process of ours: started on given CPUs in its own session, paused, resumed, ended with all its family."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from resource import struct_rusage
from types import TracebackType
from typing import Self

from isolation.cpuset import CpuSet
from profiler.errors import WorkloadFailed
from profiler.procfs import members
from profiler.progress import ENVIRONMENT, ProgressLog

_STDERR_LINES = 5


class PinnedCommand:
    """One running command; leaving the context ends every process of its session."""

    def __init__(self, command: Sequence[str], cpus: CpuSet, folder: Path, *, grace_s: float = 3.0) -> None:
        """Start it; raises WorkloadFailed saying why it cannot. The folder takes its stderr and progress lines."""
        if not command or not command[0]:
            raise WorkloadFailed("no command given: write it after --, for instance `-- sleep 10`")
        self.cpus = cpus
        self.folder = folder
        self._command = tuple(command)
        self._grace_s = grace_s  # between SIGTERM and SIGKILL
        self._stderr = folder / "stderr"
        self.progress = ProgressLog(folder / "progress")
        self.usage: struct_rusage | None = None  #: of the whole life, with children it waited for; None until closed
        self.exit_code: int | None = None
        environment = {**os.environ, ENVIRONMENT: str(folder / "progress")}
        self.started_s = time.monotonic()
        self.ended_s = self.started_s
        self._child = self._start(cpus, environment)
        self.pid = self._child.pid
        self._handle = os.pidfd_open(self.pid)

    def _start(self, cpus: CpuSet, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start from a thread that is on those CPUs already: a child inherits them, with no code before exec."""
        result: list[subprocess.Popen[bytes]] = []
        failure: list[BaseException] = []
        over = threading.Event()  # an interrupted Thread.join takes the thread for ended (CPython 3.11)

        def start() -> None:
            try:
                os.sched_setaffinity(0, set(cpus))  # of this thread alone
                with self._stderr.open("wb") as stderr:
                    result.append(
                        subprocess.Popen(
                            self._command,
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                            stderr=stderr,
                            env=environment,
                            start_new_session=True,
                        )
                    )
            except (OSError, ValueError) as error:
                failure.append(error)
            finally:
                over.set()

        starter = threading.Thread(target=start, name="start-pinned")
        starter.start()
        try:
            over.wait()
        except BaseException:  # Ctrl-C: nobody else will ever know of what is being started
            over.wait()
            for child in result:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            raise
        if failure:
            raise WorkloadFailed(self._why(failure[0], cpus)) from failure[0]
        return result[0]

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
        """Tell whether it still runs; reads new progress lines. Not reaped, so its pid stays ours until close."""
        self.progress.poll()
        if self.exit_code is None:
            ended = os.waitid(os.P_PIDFD, self._handle, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                self.ended_s = time.monotonic()
                self.exit_code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self.exit_code is None

    def wait(self, limit_s: float) -> bool:
        """Sleep so long, or until it ends by itself, noticed at once; tell whether it ended."""
        if self.poll():
            select.select([self._handle], [], [], limit_s)
        return not self.poll()

    def ended_why(self) -> str:
        """Say with which code or signal it ended, and its last words."""
        code = self.exit_code or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = self._stderr.read_text(errors="replace").strip().splitlines()[-_STDERR_LINES:]
        printable = [("".join(one if one.isprintable() else "?" for one in line))[:200] for line in lines]
        words = f"; it wrote: {' | '.join(printable)}" if printable else ""
        return f"{self._command[0]!r} ended with {how} after {self.ended_s - self.started_s:.2f} s{words}"

    def pause(self) -> None:
        """Stop its process group; processes that left the group run on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its process group go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and all of its session: SIGTERM, and what is left after the grace SIGKILL. Reaps it.

        Raises WorkloadFailed naming those that cannot be ended, such as a command that became another user.
        """
        if self._handle < 0:
            return
        self._signal(signal.SIGTERM)
        self.resume()
        self.wait(self._grace_s)
        deadline_s = time.monotonic() + self._grace_s
        while left := members({self.pid}):  # again and again: one may fork while we kill
            for pid in left:
                _kill(pid)
            if time.monotonic() > deadline_s:
                raise WorkloadFailed(f"cannot end pids {sorted(left)} of {self._command[0]!r}: end them yourself")
            time.sleep(0.002)
        self.poll()
        _, status, self.usage = os.wait4(self.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(
            status
        )  # Popen would otherwise wait for a pid no longer ours
        os.close(self._handle)
        self._handle = -1

    def _signal(self, number: signal.Signals) -> None:
        if self._handle < 0:
            return  # reaped: its number may belong to somebody else by now
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody left in the group, or nobody we may signal: close says so

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # gone, or not ours to end: close finds it still there and says so
