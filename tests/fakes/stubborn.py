"""A kernel with resctrl that refuses what a test wants refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from isolation.topology import Topology
from tests.fakes.desk import TOPOLOGY, SickKernel
from tests.fakes.resctrl import RESCTRL


class StubbornKernel(SickKernel):
    """Refuses the writes that `refuses` names with an error number; `vanishing` goes when its parent is listed."""

    def __init__(self, *, topology: Topology = TOPOLOGY, version: int = 1, closids: int = 8) -> None:
        self.refuses: Callable[[str, str], int] = lambda _path, _text: 0
        self.refused = 0
        self.tried: list[str] = []  # groups of resctrl that somebody wanted to make
        self.waits = 0  # for the lock, in vain
        self.vanishing = ""
        self.odd: dict[str, str] = {}  # by path: what no kernel would say
        self.out_of_handles = False
        super().__init__(cpus=str(topology.online), mems="0", version=version, closids=closids)

    def read(self, path: str) -> str:
        return self.odd[path] if path in self.odd else super().read(path)

    def write(self, path: str, text: str) -> None:
        if code := self.refuses(path, text):
            self.refused += 1
            raise OSError(code, os.strerror(code), path)
        super().write(path, text)

    def mkdir(self, path: str) -> None:
        if path.startswith(RESCTRL):
            self.tried.append(path)
        super().mkdir(path)

    def folders(self, path: str) -> tuple[str, ...]:
        found = super().folders(path)
        if self.vanishing and path == f"{self.mount}{self.vanishing.rpartition('/')[0]}":
            del self.groups[self.vanishing]
            self.vanishing = ""
        return found

    def open(self, pid: int) -> int:
        if self.out_of_handles:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().open(pid)

    @contextmanager
    def held(self, path: str, limit_s: float) -> Iterator[None]:
        self.waits += self.locked_by_other
        with super().held(path, limit_s):
            yield
