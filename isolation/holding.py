"""Hold on to processes while they are worked on, so that no pid can come to mean another one unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from isolation.errors import ProcessGone, ProcessRefused, ProcessReused, SpecInvalid
from isolation.kernelfs import KernelFiles, ProcessHandles
from isolation.process import ProcessIdentity, read_stat, still
from isolation.undo import Target


class Held(NamedTuple):
    """Processes that lived when they were taken hold of, each with its handle (pidfd)."""

    processes: tuple[ProcessIdentity, ...]
    handles: tuple[int, ...]


class ProcessHolder:
    """Opens handles, checks identities against them, and tells afterwards whether they held."""

    def __init__(self, *, files: KernelFiles, handles: ProcessHandles, proc_root: str) -> None:
        self._files = files
        self._handles = handles
        self._proc = proc_root

    @contextmanager
    def hold(self, target: Target, *, every: bool) -> Iterator[Held]:
        """Hold handles on the processes while we work, and yield those that live.

        every = raise if any is gone, else only if all are.
        """
        if bool(target.processes) == (target.cgroup_path is not None):
            raise SpecInvalid("a target is either processes or a cgroup_path: name exactly one of them")
        held: dict[ProcessIdentity, int] = {}
        lost: list[ProcessRefused] = []
        try:
            for process in target.processes:
                try:
                    handle = self._handles.open(process.pid)
                except ProcessLookupError:
                    lost.append(self._why_lost(process))
                    continue
                held[process] = handle
                if not self.still(process):
                    self._handles.close(held.pop(process))
                    lost.append(self._why_lost(process))
            if lost and (every or not held):
                raise lost[0]
            yield Held(tuple(held), tuple(held.values()))
        finally:
            for handle in held.values():
                self._handles.close(handle)

    def lost(self, held: Held) -> ProcessRefused | None:
        """Return an error if what we wrote about a pid may have hit another process, or if nobody is left.

        A pid whose handle lives from before the identity check until after the last write cannot have been given to
        another process in between.
        """
        ended = [
            process
            for process, handle in zip(held.processes, held.handles, strict=True)
            if not self._handles.alive(handle)
        ]
        lost = [self._why_lost(process) for process in ended]
        reused = [one for one in lost if isinstance(one, ProcessReused)]
        return next(iter(reused or lost)) if reused or (lost and len(lost) == len(held.processes)) else None

    def _why_lost(self, process: ProcessIdentity) -> ProcessRefused:
        who = f"process {process.pid} ({process.comm!r})"
        now = read_stat(process.pid, files=self._files, proc_root=self._proc)
        if now is not None:
            return ProcessReused(
                f"{who} has ended and its pid belongs to {now.comm!r} now; ask for the new process by its own name",
                pid=process.pid,
            )
        return ProcessGone(f"{who} has ended", pid=process.pid)

    def still(self, process: ProcessIdentity) -> bool:
        """Tell whether the pid is still that very process, and alive."""
        return still(process, files=self._files, proc_root=self._proc)
