"""Profiling as a user who is not root: real commands, in a state folder of that user."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from profiler.catalogue import SHIPPED, read_catalogue
from profiler.store import ProfileStore

_TREE = Path(__file__).parents[2]
_NEEDED = "import numpy, cotenant.main, profiler.cli, scheduler.cli"
_QUICK = ("--window", "0.5", "--warmup", "0", "--no-probes", "--json")


@dataclass(frozen=True, slots=True)
class Ordinary:
    """User nobody, with a folder of its own and a Python it may run."""

    user: pwd.struct_passwd
    folder: Path
    python: str

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python as that user, with nothing of our environment."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "COTENANT_STATE": str(self.state),
            "PYTHONPATH": os.pathsep.join([str(_TREE), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [self.python, *arguments],
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            extra_groups=[],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,  # under emulation everything takes many times as long
        )

    def profile(self, name: str, *arguments: str) -> dict[str, Any]:
        """Profile, and give what is printed."""
        done = self.run("-m", "cotenant.main", "profile", name, *_QUICK, *arguments)
        assert 0 == done.returncode, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def left_running(self) -> list[int]:
        """List the processes that were told of its state folder."""
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208
            try:
                if str(self.state).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(int(pid))
            except OSError:  # it ended
                continue
        return found


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Ordinary]:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user; run by an ordinary user, all tests here are of one")
    user = pwd.getpwnam("nobody")
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"  # compiled modules are of one version
    folder = Path(tempfile.mkdtemp(prefix="cotenant-nobody-", dir="/tmp"))  # that of pytest is root's alone
    os.chown(folder, user.pw_uid, user.pw_gid)
    refusals = []
    try:
        for python in dict.fromkeys([sys.executable, shutil.which(ours, path=os.defpath) or sys.executable]):
            one = Ordinary(user, folder, python)
            try:
                done = one.run("-c", _NEEDED)
            except PermissionError as error:
                refusals.append(f"{python}: {error.strerror}")
                continue
            if done.returncode == 0:
                yield one
                return
            refusals.append(f"{python}: {done.stderr.strip().splitlines()[-1]}")
        pytest.skip(f"user nobody can run no {ours} with this tree: {'; '.join(refusals)}")
    finally:
        shutil.rmtree(folder)


def sources(profile: dict[str, Any]) -> set[str]:
    return {one["source"] for one in profile["features"]}


@pytest.mark.parametrize(
    ("metric", "command"),
    [
        ("exit-time", ("sleep", "0.1")),
        (r"regex:(?P<total>[0-9]+)", ("sh", "-c", "i=0; while sleep 0.02; do i=$((i+1)); echo $i; done")),
    ],
)
def test_any_command_is_profiled_by_an_ordinary_user(ordinary: Ordinary, metric: str, command: tuple[str, ...]) -> None:
    told = ordinary.profile("own", "--metric", metric, "--", *command)

    stored = ProfileStore(ordinary.state / "profiles").load("own")
    assert {"procfs", "progress"} <= sources(told)
    assert [one["value"] for one in told["features"] if one["name"] == "rate_per_s"] == [stored.value("rate_per_s")]
    assert 0 < (stored.value("rate_per_s") or 0) < 60
    assert {ordinary.user.pw_uid} == {path.stat().st_uid for path in ordinary.folder.rglob("*")}
    assert [] == ordinary.left_running()


@pytest.mark.parametrize("name", ["sqlite", "zstd"])
def test_services_of_the_catalogue_are_profiled_by_an_ordinary_user(ordinary: Ordinary, name: str) -> None:
    entry = read_catalogue(SHIPPED)[name]
    if missing := entry.missing():
        pytest.skip(f"{', '.join(missing)} missing: apt-get install {' '.join(entry.packages)}")

    told = ordinary.profile(name)

    stored = ProfileStore(ordinary.state / "profiles").load(name)
    assert {"procfs", "progress"} <= sources(told)
    assert (stored.value("rate_per_s") or 0) > 0
    assert "perf_event" in sources(told) or "no hardware counters" in told["note"]
    assert ["state"] == [path.name for path in ordinary.folder.iterdir()]  # its data and its socket are gone
    assert [] == ordinary.left_running()
