"""A D-Bus daemon of our own, and on it a systemd that owns groups of a fake kernel (cgroup v2).

Its rules are those of systemd 252: tests/isolation/test_systemd_contract.py holds both to them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from jeepney import DBusErrorResponse, Message, MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, Proxy, prep_socket
from jeepney.low_level import HeaderFields

from isolation.cgroup import CpusetHierarchy
from isolation.cpuset import CpuSet, IdSet, NodeSet
from isolation.enforcer import Enforcer, Mechanism
from isolation.systemd import Systemd
from tests.fakes.groups import FakeGroup, parent_of
from tests.fakes.kernel import FakeKernel
from tests.fakes.machines import make_topology

_SYSTEMD = "org.freedesktop.systemd1"
_PREFIX = "/org/freedesktop/systemd1/unit/"
_OPEN = '<allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>'
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">{rules}</policy></busconfig>
"""


@contextmanager
def private_bus(*, rules: str = "") -> Iterator[str]:
    """Run a D-Bus daemon for this test alone and return the path of its socket; `rules` come after "allow all"."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs a D-Bus daemon of its own: apt-get install dbus-daemon")
    with tempfile.TemporaryDirectory(prefix="cotenant-bus-") as folder:
        path = f"{folder}/bus"  # short: a socket's path has 107 bytes at most
        config = Path(folder) / "bus.conf"
        config.write_text(_CONFIG.format(path=path, rules=_OPEN + rules), encoding="utf-8")
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout is not None
            try:
                assert daemon.stdout.readline().startswith(b"unix:path=")  # it listens
                yield path
            finally:
                daemon.terminate()
                daemon.wait(10)


@dataclass
class FakeUnit:
    group: str
    allowed: dict[str, IdSet] = field(default_factory=lambda: {"cpus": CpuSet(), "mems": NodeSet()})


class FakeSystemd:
    """Answers on a bus in a thread of its own, as long as it is entered."""

    def __init__(self, kernel: FakeKernel, bus: str) -> None:
        self.kernel = kernel
        self.units: dict[str, FakeUnit] = {}
        self.calls: list[str] = []  # methods that were called, in order
        self.deaf: set[str] = set()  # methods that are never answered
        self.read_only = False  # it refuses to set properties
        self.idle = False  # properties are taken, files never written
        self._bus = bus
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._connection = DBusConnection(prep_socket(self._bus))
        Proxy(message_bus, self._connection).RequestName(_SYSTEMD)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._connection.close()

    def start(self, name: str, group: str, *, allowed: str, mems: str) -> None:
        """Start a unit with one process in its group, and the slice it lies in."""
        for one in (parent_of(group), group):
            if one not in self.kernel.groups:
                self.kernel.groups[one] = FakeGroup()
        self.units.setdefault(parent_of(group).rpartition("/")[2], FakeUnit(parent_of(group)))
        self.kernel.spawn(threads=2, group=group)
        self.units[name] = FakeUnit(group, {"cpus": IdSet.parse(allowed), "mems": IdSet.parse(mems)})
        self._realize(self.units[name])

    def stop(self, name: str, *, forget: bool) -> None:
        """End a unit's processes and remove its group; forget = its unit file is gone, too."""
        group = self.units[name].group
        for process in list(self.kernel.processes.values()):
            if next(iter(process.threads.values())).group == group:
                self.kernel.end(process.pid)
        self.kernel.rmdir(self.kernel.mount + group)
        if forget:
            del self.units[name]

    def reload(self) -> None:
        """Write what the properties say once more, as after daemon-reload."""
        for unit in self.units.values():
            self._realize(unit)

    # --- the bus -------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                message = self._connection.receive(timeout=0.02)
            except TimeoutError:
                continue
            if message.header.message_type is MessageType.method_call:
                self._answer(message)

    def _answer(self, message: Message) -> None:
        method = str(message.header.fields[HeaderFields.member])
        self.calls.append(method)
        if method in self.deaf:
            return
        try:
            signature, body = getattr(self, f"_on_{method}")(message)
        except DBusErrorResponse as error:
            self._connection.send(new_error(message, error.name, "s", (error.data[0],)))
            return
        self._connection.send(new_method_return(message, signature, body))
        if method == "SetUnitProperties" and not self.idle:
            self._realize(self.units[message.body[0]])  # after the answer, as the real one

    def _on_GetUnitByControlGroup(self, message: Message) -> tuple[str, tuple[Any, ...]]:  # noqa: N802 - D-Bus names
        group = message.body[0]
        while group != "/":
            for name, unit in self.units.items():
                if unit.group == group:
                    return "o", (_path(name),)
            group = parent_of(group)
        raise _no_unit(f"Control group '{message.body[0]}' is not valid or not managed by this instance")

    def _on_LoadUnit(self, message: Message) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        return "o", (_path(message.body[0]),)

    def _on_Get(self, message: Message) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        interface, name = message.body
        path = str(message.header.fields[HeaderFields.path])
        found = {_path(one): (one, unit) for one, unit in self.units.items()}.get(path)
        if (interface, name) == (f"{_SYSTEMD}.Unit", "LoadState"):
            return "v", (("s", "loaded" if found else "not-found"),)
        assert found is not None
        unit_name, unit = found
        kind = "Unit" if name == "Id" else unit_name.rpartition(".")[2].capitalize()
        assert interface == f"{_SYSTEMD}.{kind}", f"{name} is no property of {interface}"
        known: dict[str, tuple[str, Any]] = {
            "Id": ("s", unit_name),
            "ControlGroup": ("s", unit.group if unit.group in self.kernel.groups else ""),
            "AllowedCPUs": ("ay", _mask(unit.allowed["cpus"])),
            "AllowedMemoryNodes": ("ay", _mask(unit.allowed["mems"])),
        }
        return "v", (known[name],)

    def _on_SetUnitProperties(self, message: Message) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        name, runtime, properties = message.body
        assert runtime is True
        if name not in self.units:
            raise _no_unit(f"Unit {name} not found.")
        if self.read_only:
            raise _error("org.freedesktop.DBus.Error.FileSystem", "Read-only file system")
        for key, (signature, value) in properties:
            assert signature == "ay"
            kind = {"AllowedCPUs": "cpus", "AllowedMemoryNodes": "mems"}[key]
            ids = (byte * 8 + bit for byte, bits in enumerate(value) for bit in range(8) if bits >> bit & 1)
            self.units[name].allowed[kind] = IdSet.of(ids)
        return "", ()

    # --- the groups ----------------------------------------------------------------------------

    def _realize(self, unit: FakeUnit) -> None:
        """Turn the controller on or off around a unit's group, and write its files, as far as the kernel lets us."""
        if unit.group not in self.kernel.groups:
            return
        above = [parent_of(unit.group)]
        while above[-1] != "/":
            above.append(parent_of(above[-1]))
        for group in reversed(above):
            if any(one.group.startswith(group.rstrip("/") + "/") and _wishes(one) for one in self.units.values()):
                self.kernel.write(f"{self.kernel.mount}{group.rstrip('/')}/cgroup.subtree_control", "+cpuset")
        for group in above:
            needed = any(one.group.startswith(group.rstrip("/") + "/") and _wishes(one) for one in self.units.values())
            if not needed and "cpuset" in self.kernel.groups[group].subtree:
                self.kernel.write(f"{self.kernel.mount}{group.rstrip('/')}/cgroup.subtree_control", "-cpuset")
        for kind, ids in unit.allowed.items():
            # An empty one with tasks inside is refused by the kernel, and no controller means no file.
            with contextlib.suppress(OSError):
                self.kernel.write(f"{self.kernel.mount}{unit.group}/cpuset.{kind}", str(ids) or "\n")


def enforcer_of(kernel: FakeKernel, units: Systemd) -> Enforcer:
    """Return an enforcer of a fake kernel that asks a systemd."""
    return Enforcer(
        make_topology(packages=2, cores_per_llc=2),
        files=kernel,
        affinity=kernel,
        handles=kernel,
        hierarchy=CpusetHierarchy(version=kernel.version, mount=kernel.mount),
        mechanism=Mechanism.CGROUP_V1 if kernel.version == 1 else Mechanism.CGROUP_V2,
        units=units,
    )


def _wishes(unit: FakeUnit) -> bool:
    return bool(unit.allowed["cpus"] or unit.allowed["mems"])


def _path(unit: str) -> str:
    """Return a unit's object path, its signs escaped as systemd does."""
    return _PREFIX + "".join(one if one.isalnum() else f"_{ord(one):02x}" for one in unit)


def _mask(ids: IdSet) -> bytes:
    """Return the mask in whole words of 8 bytes, as systemd tells it; nothing for the empty set."""
    words = (ids.mask.bit_length() + 63) // 64
    return bytes(sum(1 << bit for bit in range(8) if byte * 8 + bit in ids) for byte in range(8 * words))


def _no_unit(text: str) -> DBusErrorResponse:
    return _error(f"{_SYSTEMD}.NoSuchUnit", text)


def _error(name: str, text: str) -> DBusErrorResponse:
    error = DBusErrorResponse.__new__(DBusErrorResponse)
    error.name, error.data = name, (text,)
    return error
