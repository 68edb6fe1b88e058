"""The seam to this host's shape while it runs: CPUs and memory nodes come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from isolation.sysfs import read_text
from isolation.topology import Topology, read_topology


class Machine(Protocol):
    """A host whose CPUs and nodes may go offline and come back."""

    def revision(self) -> tuple[str | None, ...]:
        """Return what differs once a CPU or node came or went, by two short reads."""
        ...

    def topology(self) -> Topology:
        """Read the whole shape of now."""
        ...


class HostMachine:
    """This host, or one whose /sys and /proc lie below another root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def revision(self) -> tuple[str | None, ...]:
        """Return the lists of CPUs and nodes that are online."""
        system = self._root / "sys/devices/system"
        return read_text(system / "cpu/online"), read_text(system / "node/online")

    def topology(self) -> Topology:
        """Read the whole shape of now."""
        return read_topology(self._root)


HOST_MACHINE = HostMachine()  #: without state, so one is enough
