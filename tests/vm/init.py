"""A real systemd inside the guest, which runs another init: PID 1 of a pid namespace, owner of the guest's cgroups."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isolation.cgroup import find_hierarchy
from isolation.cpuset import IdSet
from isolation.systemd import Systemd, _Connection, _to_bytes

_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = Path("/run/systemd/system")
_PROGRAM = "/usr/lib/systemd/systemd"
_LIMIT_S = 60.0
_BUS = "/run/dbus/system_bus_socket"
#: Without their default dependencies, which would set up a whole system first.
_UNIT_FILES = {
    "dbus.socket": f"[Socket]\nListenStream={_BUS}\n",
    "dbus.service": (
        "[Service]\nExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile"
        " --systemd-activation\n"
    ),
    "cotenant-test.target": "",
}


@contextmanager
def real_systemd() -> Iterator[None]:
    """Boot systemd with a D-Bus system bus; both end with the context, and the groups systemd made go."""
    hierarchy = find_hierarchy()
    if not Path("/proc/1/comm").read_text(encoding="utf-8").startswith("virtme") or hierarchy is None:
        pytest.skip("systemd would take over this machine's cgroups: make test-vm boots one where it may")
    if hierarchy.version != 2:
        pytest.skip("systemd sets cpusets on cgroup v2 only")
    for program in (_PROGRAM, "/usr/bin/dbus-daemon"):
        if not Path(program).exists():
            pytest.skip(f"{program} is missing: apt-get install systemd dbus, on the host")
    controllers = (_CGROUPS / "cgroup.subtree_control").read_text(encoding="ascii").split()
    groups = set(_groups())
    _UNITS.mkdir(parents=True)
    for name, text in _UNIT_FILES.items():
        needs = "Requires=dbus.socket dbus.service\n" if name.endswith(".target") else ""
        (_UNITS / name).write_text(f"[Unit]\nDefaultDependencies=no\n{needs}{text}", encoding="utf-8")
    command = [
        *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
        *("env", "-i", "container=cotenant", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
        *(_PROGRAM, "--system", "--unit=cotenant-test.target", "--log-target=null", "--show-status=no"),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as systemd:
        try:
            _await_bus()
            yield
        finally:
            os.killpg(systemd.pid, signal.SIGKILL)
            systemd.wait(_LIMIT_S)
            _clear(groups)
            for folder in (_UNITS, Path("/run/systemd/system.control"), Path("/run/dbus")):
                shutil.rmtree(folder, ignore_errors=True)
            for one in controllers:
                (_CGROUPS / "cgroup.subtree_control").write_text(f"+{one}", encoding="ascii")


def start_unit(name: str, *, allowed: str = "", mems: str = "", delegate: bool = False) -> str:
    """Start a sleeping service and return its group."""
    properties: list[tuple[str, tuple[str, object]]] = [
        ("DefaultDependencies", ("b", False)),
        ("ExecStart", ("a(sasb)", [("/bin/sleep", ["sleep", "600"], False)])),
        ("Delegate", ("b", delegate)),
        ("AllowedCPUs", ("ay", _to_bytes(IdSet.parse(allowed)))),
        ("AllowedMemoryNodes", ("ay", _to_bytes(IdSet.parse(mems)))),
    ]
    ask_manager("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", properties, [])
    procs = _CGROUPS / "system.slice" / name / "cgroup.procs"
    _until(lambda: procs.exists() and procs.read_text(encoding="ascii") != "", f"{name} has no process")
    return f"/system.slice/{name}"


def start_slice(name: str) -> str:
    """Start a slice directly below the top and return its group, which is empty."""
    ask_manager("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", [("DefaultDependencies", ("b", False))], [])
    _until((_CGROUPS / name / "cgroup.procs").exists, f"{name} has no group")
    return f"/{name}"


def stop_unit(name: str) -> None:
    """Stop it; a transient unit is unknown after that."""
    ask_manager("StopUnit", "ss", name, "replace")
    _until(lambda: Systemd().allowed(name) is None, f"{name} is still known")


def ask_manager(method: str, signature: str = "", *body: object) -> None:
    """Call a method of systemd's manager."""
    with _Connection(_BUS, _LIMIT_S) as bus:
        bus.call("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", method, signature, body)


def _until(true: Callable[[], bool], complaint: str) -> None:
    end_s = time.monotonic() + _LIMIT_S
    while not true():
        assert time.monotonic() < end_s, complaint
        time.sleep(0.02)


def _await_bus() -> None:
    question = ["busctl", "--timeout=2", "status", "org.freedesktop.systemd1"]
    _until(lambda: subprocess.run(question, capture_output=True, check=False).returncode == 0, "systemd is on no bus")


def _groups() -> list[Path]:
    """Return all groups, inner ones first."""
    return sorted((one for one in _CGROUPS.rglob("*") if one.is_dir()), reverse=True)


def _clear(kept: set[Path]) -> None:
    """Remove the groups that were made since; their processes are ended already, but may still leave."""
    end_s = time.monotonic() + _LIMIT_S
    while made := [one for one in _groups() if one not in kept]:
        assert time.monotonic() < end_s, f"{made[0]} stays"
        for one in made:
            with contextlib.suppress(OSError):
                one.rmdir()
