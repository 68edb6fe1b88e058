"""Changes to the kernel that can be taken back in reverse order."""

from __future__ import annotations

import errno
from collections.abc import Callable

from isolation.errors import ApplyFailed, IsolationError

PASSES = 10  #: more than any program needed that was measured; whoever is outside then is missed
BUDGET_S = 5.0  #: for moving one placement's threads, by whatever means; whoever is outside then is missed

#: What the kernel means, measured on cgroup v1 and documented for v2.
_MEANING = {
    errno.EACCES: "outside what the parent group allows, or no permission",
    errno.EBUSY: "a child group or a running task still needs what was to be taken away",
    errno.EINVAL: "not present on this host, held exclusively by another group, or the task may not be moved",
    errno.ENODEV: "the group vanished",
    errno.ENOENT: "the group vanished",
    errno.ENOSPC: "a cpuset with tasks needs CPUs and memory nodes, or there is no room for one more group",
    errno.EOPNOTSUPP: "the group is of a type that cannot take it",
    errno.EPERM: "no permission",
    errno.EROFS: "cgroups are mounted read-only here",
    errno.ESRCH: "the task has ended",
}


def explain(cause: OSError) -> str:
    """Say in one phrase what an error number of the kernel means for cpusets and affinity."""
    name = errno.errorcode.get(cause.errno or 0, str(cause.errno))
    return f"{name}: {_MEANING.get(cause.errno or 0, cause.strerror or 'no reason given')}"


class Steps:
    """Does changes one by one and remembers how to take each back."""

    def __init__(self) -> None:
        self.writes = 0
        self._undos: list[tuple[str, Callable[[], None]]] = []

    def do(self, what: str, act: Callable[[], None], undo: Callable[[], None]) -> None:
        """Make one change; raises ApplyFailed saying which.

        ProcessLookupError goes through as it is: a task that ended needs no placing.
        """
        try:
            act()
        except ProcessLookupError:
            raise
        except OSError as cause:
            raise ApplyFailed(f"cannot {what}: {explain(cause)}") from cause
        self.writes += 1
        self._undos.append((what, undo))

    @property
    def mark(self) -> int:
        """Name this moment, for undo_to."""
        return len(self._undos)

    def undo_all(self) -> tuple[str, ...]:
        """Take back everything, last change first; return a sentence for each that could not be."""
        return self.undo_to(0)

    def undo_to(self, mark: int) -> tuple[str, ...]:
        """Take back what was done since the mark."""
        failures = []
        while len(self._undos) > mark:
            what, undo = self._undos.pop()
            try:
                undo()
            except ProcessLookupError:  # it ended, and its placement with it
                continue
            except OSError as cause:
                failures.append(f"cannot take back {what!r}: {explain(cause)}")
            except IsolationError as cause:
                failures.append(f"cannot take back {what!r}: {cause}")
        return tuple(failures)
