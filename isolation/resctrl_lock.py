"""The lock that the kernel's documentation asks every tool to take on resctrl: flock on the mounted folder. A seam."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

_PAUSE_S = 0.01


class FolderLocks(Protocol):
    """Exclusive locks on folders, among programs that ask for them."""

    def held(self, path: str, limit_s: float) -> AbstractContextManager[None]:
        """Hold the lock; raises TimeoutError when others keep it for longer, OSError when there is no such folder."""
        ...


class HostLocks:
    """flock(2) of this host; a program that ends loses its locks."""

    @contextmanager
    def held(self, path: str, limit_s: float) -> Iterator[None]:
        """Hold the lock of the folder."""
        deadline_s = time.monotonic() + limit_s
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while not _taken(descriptor):
                if time.monotonic() >= deadline_s:
                    raise TimeoutError(f"{path!r} is still locked after {limit_s} s")
                time.sleep(_PAUSE_S)
            yield
        finally:
            os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


HOST_LOCKS = HostLocks()  #: without state, so one is enough
