"""A service of the catalogue on its stage: a temporary folder, a free port, its data prepared, its load at hand."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.topology import Topology
from profiler.catalogue import Argv, Entry, fill
from profiler.command import PinnedCommand
from profiler.driver import Driver, await_ready, driver_cpus
from profiler.errors import RecordInvalid, WorkloadFailed

_PREPARE_LIMIT_S = 120.0
_CHECK_LIMIT_S = 5.0
_UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What to profile."""

    command: Argv
    driver: Driver | None


@contextmanager
def staged(entry: Entry, cpus: CpuSet, topology: Topology, *, load_apart: bool = True) -> Iterator[Staged]:
    """Prepare an entry to run on these CPUs; its folder goes when the context is left.

    load_apart: its load gets CPUs besides them, else it shares them. Raises RecordInvalid if a program or a CPU is
    missing, WorkloadFailed, with its last words, if preparing fails.
    """
    entry.require()
    load_cpus = driver_cpus(topology, cpus, entry.load.cpus) if entry.load and load_apart else cpus
    with tempfile.TemporaryDirectory(prefix="cotenant-", ignore_cleanup_errors=True) as temporary:
        user = _other_user(entry)
        folder = Path(temporary) / "data"
        folder.mkdir()
        values = {"folder": str(folder), "port": str(free_port()), "cpus": str(len(cpus))}
        for name, text in entry.files.items():
            (folder / name).write_text(fill(text, values))
        prefix = _as_user(user, folder)
        logs = Path(temporary) / "logs"
        logs.mkdir()

        def run(argv: Argv, before: Sequence[str] = ()) -> None:
            _finish((*before, *entry.filled(argv, values)), cpus, logs)

        for argv in entry.workload.prepare:
            run(argv, prefix)
        driver = None
        if entry.load is not None:
            load = entry.load

            def ready(server: PinnedCommand, limit_s: float) -> None:
                await_ready(server, lambda: _why_not_ready(entry, values), limit_s)
                for argv in load.prepare:
                    run(argv)

            driver = Driver(command=entry.filled(load.command, values), cpus=load_cpus, ready=ready)
        yield Staged(command=(*prefix, *entry.filled(entry.workload.command, values)), driver=driver)


def free_port() -> int:
    """Give a port of the loopback nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _other_user(entry: Entry) -> pwd.struct_passwd | None:
    """Give the user to become; None if it names none, or we are no root who could."""
    if not entry.workload.user or os.geteuid() != 0:
        return None
    for name in (entry.workload.user, _UNPRIVILEGED):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RecordInvalid(f"catalogue entry {entry.name!r} must not run as root, and there is no user {_UNPRIVILEGED!r}")


def _as_user(user: pwd.struct_passwd | None, folder: Path) -> Argv:
    """Give the folder to that user, and the words that make a command theirs."""
    if user is None:
        return ()
    folder.parent.chmod(0o711)  # to pass through, not to look
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RecordInvalid("setpriv is missing, to run a server as another user than root: apt-get install util-linux")
    return (setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--")


def _finish(argv: Argv, cpus: CpuSet, logs: Path) -> None:
    """Run one preparing command to its end."""
    with tempfile.TemporaryDirectory(dir=logs) as folder, PinnedCommand(argv, cpus, Path(folder)) as command:
        if not command.wait(_PREPARE_LIMIT_S):
            raise WorkloadFailed(f"preparing with {' '.join(argv)!r} took over {_PREPARE_LIMIT_S:g} s")
        if command.exit_code:
            raise WorkloadFailed(f"preparing with {' '.join(argv)!r}: {command.ended_why()}")


def _why_not_ready(entry: Entry, values: dict[str, str]) -> str:
    ready = entry.workload.ready
    if isinstance(ready, str):
        url = fill(ready, values)
        try:
            with urllib.request.urlopen(url, timeout=_CHECK_LIMIT_S):  # noqa: S310 - http://, checked when read
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            return f"{url!r} answered {error.code}"
        except OSError as error:
            return f"{url!r}: {getattr(error, 'reason', None) or error}"
    argv = entry.filled(ready, values)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_CHECK_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{' '.join(argv)!r} gave no answer in {_CHECK_LIMIT_S:g} s"
    return (
        "" if done.returncode == 0 else f"{' '.join(argv)!r} ended with {done.returncode}: {done.stderr.strip()[-200:]}"
    )
