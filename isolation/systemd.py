"""Units of systemd over D-Bus: whose a cgroup is, and which CPUs and memory nodes a unit may use. Knows no files.

systemd is the one writer of its units' groups: what others write there is gone with the next daemon-reload. What is set
here it keeps until reboot, in a drop-in below /run/systemd/system.control; `systemctl revert UNIT` removes that.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from isolation.cpuset import IdSet
from isolation.errors import ApplyFailed, SystemdUnreachable

# jeepney is loaded when systemd is first asked: a daemon that never is saves its memory.

Kind = Literal["cpus", "mems"]
KINDS: tuple[Kind, ...] = ("cpus", "mems")
PROPERTIES: Mapping[Kind, str] = {"cpus": "AllowedCPUs", "mems": "AllowedMemoryNodes"}

_BOOTED = Path("/run/systemd/system")  # as sd_booted(3)
_BUS = "/run/dbus/system_bus_socket"
_LIMIT_S = 5.0  # a systemd that reloads thousands of units is silent for seconds
_SETTLE_S = 2.0  # from its answer to the files of the group; a few milliseconds where it is idle
_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = ("/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager")
_NO_UNIT = f"{_SYSTEMD}.NoSuchUnit"
_DENIED = frozenset(
    {
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    }
)


class Systemd:
    """The systemd behind one bus; every method is limited in time and raises SystemdUnreachable without an answer."""

    def __init__(self, *, bus: str = _BUS, limit_s: float = _LIMIT_S, settle_s: float = _SETTLE_S) -> None:
        self.settle_s = settle_s
        self._bus = bus
        self._limit_s = limit_s

    @classmethod
    def for_host(cls) -> Systemd | None:
        """Return the systemd that runs this host; None = another init does, so no group is systemd's."""
        return cls() if _BOOTED.is_dir() else None

    def owner(self, group: str) -> str | None:
        """Return the unit whose own cgroup this is.

        None = a group that systemd does not write: made by hand, delegated below a unit, or there is no bus to ask.
        """
        try:
            connection = _Connection(self._bus, self._limit_s)
        except FileNotFoundError:
            return None
        with connection as bus:
            try:
                (path,) = bus.call(*_MANAGER, "GetUnitByControlGroup", "s", (group,))
            except _Refused as refused:
                if refused.name == _NO_UNIT:
                    return None
                raise self._unreachable(f"whose group {group!r} is", refused) from refused
            try:  # the unit may be the one around it
                unit = str(_property(bus, path, "Unit", "Id"))
                return unit if _property(bus, path, _kind_of(unit), "ControlGroup") == group else None
            except _Refused as refused:
                raise self._unreachable(f"whose group {group!r} is", refused) from refused

    def allowed(self, unit: str) -> dict[Kind, IdSet] | None:
        """Return what the unit's properties allow, empty = no restriction of its own; None = no such unit."""
        with self._connected(f"what {unit!r} is allowed") as bus:
            try:
                (path,) = bus.call(*_MANAGER, "LoadUnit", "s", (unit,))
                if _property(bus, path, "Unit", "LoadState") == "not-found":
                    return None
                interface = _kind_of(unit)
                return {kind: _from_bytes(_property(bus, path, interface, PROPERTIES[kind])) for kind in KINDS}
            except _Refused as refused:
                raise self._unreachable(f"what {unit!r} is allowed", refused) from refused

    def allow(self, unit: str, wishes: Mapping[Kind, IdSet]) -> None:
        """Set properties of a unit until reboot; systemd writes the group's files soon after it answered.

        An empty set = no restriction. Raises ApplyFailed when systemd refuses.
        """
        told = ", ".join(f"{PROPERTIES[kind]}={ids}" for kind, ids in wishes.items())
        properties = [(PROPERTIES[kind], ("ay", _to_bytes(ids))) for kind, ids in wishes.items()]
        with self._connected(f"for {told} of {unit!r}") as bus:
            try:
                bus.call(*_MANAGER, "SetUnitProperties", "sba(sv)", (unit, True, properties))
            except _Refused as refused:
                what = f"systemd refuses {told} of unit {unit!r}: {refused.reason}"
                raise ApplyFailed(f"{what}; run the daemon as root" if refused.name in _DENIED else what) from refused

    def _connected(self, what: str) -> _Connection:
        try:
            return _Connection(self._bus, self._limit_s)
        except FileNotFoundError as cause:
            raise SystemdUnreachable(
                f"systemd cannot be asked {what}: its bus {self._bus!r} does not exist; start dbus.service"
            ) from cause

    def _unreachable(self, what: str, refused: _Refused) -> SystemdUnreachable:
        remedy = "run the daemon as root" if refused.name in _DENIED else "is systemd on that bus? Try again"
        return SystemdUnreachable(
            f"systemd does not tell {what}: bus {self._bus!r} answers {refused.name}: {refused.reason}; {remedy}"
        )


def _kind_of(unit: str) -> str:
    """Return the D-Bus interface of a unit's kind, without its prefix: web.service -> Service."""
    return unit.rpartition(".")[2].capitalize()


def _property(bus: _Connection, path: str, interface: str, name: str) -> Any:
    ((_, value),) = bus.call(path, "org.freedesktop.DBus.Properties", "Get", "ss", (f"{_SYSTEMD}.{interface}", name))
    return value


def _to_bytes(ids: IdSet) -> bytes:
    """Return the mask as systemd's cpu_set_from_dbus reads it: id i is bit i % 8 of byte i // 8."""
    return ids.mask.to_bytes((ids.mask.bit_length() + 7) // 8, "little")


def _from_bytes(mask: bytes) -> IdSet:
    return IdSet(int.from_bytes(mask, "little"))


class _Refused(Exception):
    """The bus, or systemd, answered with an error."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class _Connection:
    """One connection to a bus, for a few calls that together must end in time.

    Raises FileNotFoundError where there is no such socket, SystemdUnreachable for all else that is no answer.
    """

    def __init__(self, path: str, limit_s: float) -> None:
        self._path = path
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._serial = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._greet()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _greet(self) -> None:
        from jeepney.auth import BEGIN, Authenticator  # noqa: PLC0415 - see above
        from jeepney.low_level import Parser  # noqa: PLC0415

        try:
            self._limit()
            self._socket.connect(self._path)
            dialogue = Authenticator()
            for line in dialogue:
                self._send(line)
                dialogue.feed(self._receive())
            self._send(BEGIN)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as cause:
            raise self._silent(cause) from cause
        self._parser = Parser()
        bus = "org.freedesktop.DBus"
        try:
            self.call("/org/freedesktop/DBus", bus, "Hello", name=bus)
        except _Refused as refused:
            raise self._silent(refused) from refused

    def call(
        self,
        path: str,
        interface: str,
        method: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        name: str = _SYSTEMD,
    ) -> Any:
        """Call a method and return what came back, a tuple; raises _Refused for an error."""
        from jeepney.low_level import HeaderFields, MessageType  # noqa: PLC0415
        from jeepney.wrappers import DBusAddress, new_method_call  # noqa: PLC0415

        self._serial += 1
        message = new_method_call(DBusAddress(path, name, interface), method, signature or None, body)
        try:
            self._send(message.serialise(serial=self._serial))
            while True:
                answer = self._parser.get_next_message()
                if answer is None:
                    self._parser.add_data(self._receive())
                elif answer.header.fields.get(HeaderFields.reply_serial) == self._serial:
                    break
        except (OSError, ValueError, LookupError, struct.error) as cause:
            raise self._silent(cause) from cause
        if answer.header.message_type is MessageType.error:
            reason = str(answer.body[0]) if answer.body else "no reason given"
            raise _Refused(str(answer.header.fields.get(HeaderFields.error_name, "")), reason)
        return answer.body

    def _send(self, data: bytes) -> None:
        self._limit()
        self._socket.sendall(data)

    def _receive(self) -> bytes:
        self._limit()
        data = self._socket.recv(4096)
        if not data:
            raise ConnectionResetError("it closed the connection")
        return data

    def _limit(self) -> None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no answer within {self._limit_s:g} s")
        self._socket.settimeout(left_s)

    def _silent(self, cause: Exception) -> SystemdUnreachable:
        why = f"no answer within {self._limit_s:g} s" if isinstance(cause, TimeoutError) else f"{cause}"
        return SystemdUnreachable(
            f"systemd runs this host, but its bus {self._path!r} gives no answer: {why}; is dbus.service running?"
        )
