"""The state folder: ours alone, locked by one daemon, tied to one machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import stat
from pathlib import Path

from scheduler.errors import AlreadyRunning, StateLost, StateRefused


def open_state(path: Path) -> Path:
    """Create or check the folder; raises StateRefused for one that others could tamper with.

    Gives the absolute path. Nothing in the folder is touched.
    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise StateRefused(
            f"state folder {str(path)!r} cannot be made: {error.strerror}; choose another with --state"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise StateRefused(f"state folder {str(path)!r} is a link or a file; a real folder is needed")
    if found.st_uid != os.geteuid():
        raise StateRefused(
            f"state folder {str(path)!r} belongs to uid {found.st_uid}, this process is uid {os.geteuid()}; "
            "choose another with --state"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateRefused(
            f"state folder {str(path)!r} has mode {stat.S_IMODE(found.st_mode):o}: others can write it; "
            f"run chmod 700 {path}"
        )
    try:
        probe = path / f".write-test-{os.getpid()}"
        probe.touch(mode=0o600, exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise StateRefused(
            f"state folder {str(path)!r} cannot be written: {error.strerror}; choose another with --state"
        ) from error
    return path


def lock_state(path: Path) -> int:
    """Take the lock of the folder for the life of this process; raises AlreadyRunning naming the holder's pid.

    The kernel drops a flock with its holder, so a crash leaves nothing stale behind.
    """
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyRunning(
            f"another daemon (pid {holder}) uses state folder {str(path)!r}; stop it, or choose another with --state"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class StateFiles:
    """The files without which a later daemon knows of nothing: lock and journal, held open, known by inode."""

    def __init__(self, *paths: Path) -> None:
        self._known = {path: path.lstat() for path in paths}

    def loss(self) -> StateLost | None:
        """Say which of them was deleted, moved away or replaced; None = none, or it cannot be told now."""
        for path, known in self._known.items():
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return _lost(path)
            except OSError:  # an ill disk: the journal tells at its next save
                continue
            if not os.path.samestat(known, found):
                return _lost(path)
        return None


def _lost(path: Path) -> StateLost:
    return StateLost(
        f"state folder {str(path.parent)!r} is gone: {path.name!r} in it was deleted, moved away or replaced while the "
        "daemon ran. What is placed stays so, and can be read and released over connections that are open; other "
        "changes are refused, as no later daemon would know of them. Put the folder back, or stop the daemon, which "
        "then releases all it placed, and start it again"
    )


def check_socket(path: Path) -> None:
    """Refuse a socket path that somebody answers on, or that is no socket: gRPC would take it away without a word."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateRefused(
            f"socket {str(path)!r} cannot be used: {error.strerror}; choose another with --socket"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise StateRefused(f"socket {str(path)!r} is another kind of file; choose another with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(2.0)
        try:
            caller.connect(str(path))
        except OSError:  # left by a daemon that was killed
            return
    raise StateRefused(
        f"somebody answers on socket {str(path)!r} already; stop that daemon, or choose another --socket"
    )


def group_prefix(path: Path) -> str:
    """Name the cgroups of the daemon on this folder, so that two daemons never meet in one group."""
    return f"cotenant-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def machine_id() -> str:
    """Tell machines apart, so that a state folder restored elsewhere is noticed."""
    for candidate in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        try:
            if text := candidate.read_text(encoding="ascii").strip():
                return text
        except OSError:
            continue
    return os.uname().nodename
