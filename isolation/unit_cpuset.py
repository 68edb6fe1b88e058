"""The cpuset of a systemd unit: asked for through its properties, read back from the files of its group."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from isolation.cgroup import CpusetGroups
from isolation.cpuset import IdSet
from isolation.errors import ApplyFailed, CgroupVanished, SystemdUnreachable
from isolation.steps import Steps
from isolation.systemd import KINDS, PROPERTIES, Kind
from isolation.undo import UnitState

_STALE_S = 0.2  # after which a file that still holds our set is one that systemd will not clear
_POLL_S = 0.005


class Units(Protocol):
    """The units of a systemd; every method raises SystemdUnreachable."""

    settle_s: float  #: within which systemd writes what it was asked for: it answers first

    def owner(self, group: str) -> str | None:
        """Return the unit whose own cgroup this is; None = systemd does not write this group."""
        ...

    def allowed(self, unit: str) -> dict[Kind, IdSet] | None:
        """Return what the properties of a unit allow, empty = no restriction; None = no such unit."""
        ...

    def allow(self, unit: str, wishes: Mapping[Kind, IdSet]) -> None:
        """Set properties of a unit; raises ApplyFailed when systemd refuses."""
        ...


class _Before(NamedTuple):
    allowed: IdSet  # the property
    text: str  # cpuset.cpus or cpuset.mems; "" also where the file was not there


class UnitCpuset:
    """Sets AllowedCPUs and AllowedMemoryNodes, so that systemd keeps them, and waits until the kernel shows them."""

    def __init__(self, groups: CpusetGroups, units: Units | None) -> None:
        self._groups = groups
        # systemd writes cpusets of cgroup v2 only.
        self._units = units if groups.hierarchy.version == 2 else None

    def state(self, group: str) -> UnitState | None:
        """Return the unit that owns a group, and what it is allowed; None = the group's files are ours to write."""
        if self._units is None:
            return None
        unit = self._units.owner(self._groups.hierarchy.root.rstrip("/") + group)
        if unit is None:
            return None
        allowed = self._allowed(unit)
        return UnitState(name=unit, cpus=str(allowed["cpus"]), mems=str(allowed["mems"]))

    def place(self, unit: str, group: str, wishes: Mapping[Kind, IdSet], steps: Steps) -> None:
        """Ask for the wish where property or file differ from it, and wait until it is granted or time is up."""
        allowed = self._allowed(unit)
        before = {kind: _Before(allowed[kind], self.text(group, kind)) for kind in wishes}
        wanted = {
            kind: IdSet(wish.mask)
            for kind, wish in wishes.items()
            if before[kind].allowed != IdSet(wish.mask) or before[kind].text != str(wish)
        }
        if not wanted:
            return
        earlier = {kind: before[kind] for kind in wanted}
        what = f"set {', '.join(f'{PROPERTIES[kind]}={ids}' for kind, ids in wanted.items())} of unit {unit!r}"
        take_back = partial(self._take_back, unit, group, earlier)
        try:
            steps.do(what, partial(self._known().allow, unit, wanted), take_back)
        except SystemdUnreachable:  # it may have heard us all the same: what is asked last holds
            steps.do(f"{what}, without an answer", lambda: None, take_back)
            raise
        self._wait(lambda: all(self._granted(group, kind) == str(ids) for kind, ids in wanted.items()))

    def release(self, state: UnitState, group: str, texts: Mapping[Kind, str]) -> tuple[str, ...] | None:
        """Give the unit its earlier properties; return a sentence for each file that is not as before.

        None = there is no such unit any more.
        """
        allowed = self._known().allowed(state.name)
        if allowed is None:
            return None
        earlier = {"cpus": IdSet.parse(state.cpus), "mems": IdSet.parse(state.mems)}
        changed = {
            kind: _Before(earlier[kind], texts[kind])
            for kind in KINDS
            if allowed[kind] != earlier[kind] or not self._as_before(group, kind, texts[kind])
        }
        return self._restore(state.name, group, changed) if changed else ()

    def text(self, group: str, kind: Kind) -> str:
        """Return a cpuset file; "" also where systemd has not turned the controller on, which means the same."""
        try:
            return self._groups.read(group, f"cpuset.{kind}")
        except FileNotFoundError:
            return ""

    def _known(self) -> Units:
        if self._units is None:
            raise SystemdUnreachable("this was placed through systemd, which does not run this host now")
        return self._units

    def _allowed(self, unit: str) -> dict[Kind, IdSet]:
        allowed = self._known().allowed(unit)
        if allowed is None:
            raise CgroupVanished(f"unit {unit!r} has ended; start it and place it anew")
        return allowed

    def _granted(self, group: str, kind: Kind) -> str:
        try:
            return self._groups.granted(group, kind)
        except FileNotFoundError:
            return ""

    def _take_back(self, unit: str, group: str, earlier: Mapping[Kind, _Before]) -> None:
        if failures := self._restore(unit, group, earlier):
            raise ApplyFailed("; ".join(failures))

    def _restore(self, unit: str, group: str, earlier: Mapping[Kind, _Before]) -> tuple[str, ...]:
        """Set properties back. What a property no longer names stays in the file of a group with tasks (systemd#43846).

        So such a file first gets what it held, or all there can be, through the property. With nothing left to name
        that, systemd turns the controller off, or leaves the file as it is then.
        """
        ask = self._known().allow
        ask(unit, {kind: before.allowed for kind, before in earlier.items()})
        if not self._groups.exists(group):  # the unit stopped; its next start sees the earlier property
            return ()

        def stale() -> dict[Kind, str]:
            return {kind: one.text for kind, one in earlier.items() if not self._as_before(group, kind, one.text)}

        if self._wait(lambda: not stale(), _STALE_S):
            return ()
        bridge = {kind: IdSet.parse(one.text) or self._groups.possible(kind) for kind, one in earlier.items()}
        ask(unit, bridge)
        self._wait(lambda: all(self.text(group, kind) == str(ids) for kind, ids in bridge.items()))
        ask(unit, {kind: earlier[kind].allowed for kind in bridge})
        self._wait(lambda: not stale())
        return tuple(
            f"cpuset.{kind} of {group!r} (unit {unit!r}) is {self.text(group, kind)!r}, was {text!r}"
            for kind, text in stale().items()
        )

    def _as_before(self, group: str, kind: Kind, earlier: str) -> bool:
        now = self.text(group, kind)
        # Empty and everything mean the same: what the group above has.
        return now == earlier or {now, earlier} <= {"", str(self._groups.possible(kind))}

    def _wait(self, true: Callable[[], bool], limit_s: float | None = None) -> bool:
        """Look until it is true or time is up; return which."""
        end_s = time.monotonic() + (self._known().settle_s if limit_s is None else limit_s)
        while not true():
            if time.monotonic() > end_s:
                return False
            time.sleep(_POLL_S)
        return True
