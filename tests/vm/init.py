"""A real systemd inside the guest, which runs another init: PID 1 of a pid namespace, owner of the guest's cgroups."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isolation.cgroup import find_hierarchy

_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = Path("/run/systemd/system")
_PROGRAM = "/usr/lib/systemd/systemd"
_LIMIT_S = 60.0
#: Without their default dependencies, which would set up a whole system first.
_UNIT_FILES = {
    "dbus.socket": "[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
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


def _await_bus() -> None:
    question = ["busctl", "--timeout=2", "status", "org.freedesktop.systemd1"]
    end_s = time.monotonic() + _LIMIT_S
    while subprocess.run(question, capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < end_s, f"systemd is not on its bus after {_LIMIT_S:.0f} s"
        time.sleep(0.2)


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
