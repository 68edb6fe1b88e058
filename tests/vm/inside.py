"""Run the suites, as root inside the guest: `python -m tests.vm.inside FOLDER`; results.txt and code are left there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple, TextIO
from xml.etree import ElementTree as ET

_CGROUPS = Path("/sys/fs/cgroup")
_RESCTRL = Path("/sys/fs/resctrl")
_NODES = Path("/sys/devices/system/node")
_SUITE_LIMIT_S = 900


class Suite(NamedTuple):
    what: str
    files: tuple[str, ...]
    only: str = ""  # as pytest -k; a daemon takes half a minute to start here, so not all of its tests


SUITES = (
    Suite(
        "cpuset rules, enforcer and host kernel on cgroup v2",
        (
            "tests/isolation/test_cpuset_contract.py",
            "tests/isolation/test_enforcer_real.py",
            "tests/isolation/test_host_kernel.py",
        ),
    ),
    Suite("resctrl rules and groups", ("tests/isolation/test_resctrl_contract.py",)),
    Suite("a placement from end to end, 2 NUMA nodes", ("tests/vm/test_place.py",)),
    Suite(
        "the daemon as its users meet it",
        ("tests/scheduler/test_daemon.py", "tests/scheduler/test_bad_input.py"),
        "(every_thread or graceful_stop) and cgroup or preview or bad_pids or ends_its_placement or stale_etag"
        " or names_and_pids or same_request",
    ),
)


def main(folder: Path) -> int:
    """Mount, tell what this is, run all suites."""
    with (folder / "results.txt").open("a", encoding="utf-8", buffering=1) as results:
        try:
            _mount()
            _tell_facts(results)
            lines = [_run(suite, folder, results) for suite in SUITES]
        except Exception:  # noqa: BLE001 - whatever it is, the host must hear of it
            results.write(traceback.format_exc())
            lines = [(False, "the guest failed before its suites were done")]
        results.write(f"\non {_kernel()}:\n")
        results.writelines(f"  {'ok    ' if good else 'FAILED'}  {line}\n" for good, line in lines)
    code = int(not all(good for good, _ in lines))
    part = folder / "code.part"
    part.write_text(f"{code}\n", encoding="utf-8")
    part.rename(folder / "code")
    return code


def _mount() -> None:
    controllers = (_CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split()
    for one in controllers:
        (_CGROUPS / "cgroup.subtree_control").write_text(f"+{one}", encoding="ascii")
    subprocess.run(["/bin/mount", "-t", "resctrl", "resctrl", str(_RESCTRL)], check=True, timeout=60)


def _tell_facts(results: TextIO) -> None:
    results.write(f"{_kernel()}\n")
    controllers = (_CGROUPS / "cgroup.subtree_control").read_text(encoding="ascii").strip()
    results.write(f"cgroup v2 with {controllers}\n")
    results.writelines(
        f"NUMA {node.name}: CPUs {(node / 'cpulist').read_text(encoding='ascii').strip()}\n"
        for node in sorted(_NODES.glob("node[0-9]*"))
    )
    for resource in sorted(path for path in (_RESCTRL / "info").iterdir() if path.is_dir()):
        files = sorted(path for path in resource.iterdir() if path.is_file())
        told = ", ".join(f"{one.name} {' '.join(one.read_text(encoding='ascii').split())}" for one in files)
        results.write(f"resctrl {resource.name}: {told}\n")
    schemata = (_RESCTRL / "schemata").read_text(encoding="ascii").splitlines()
    results.writelines(f"resctrl schemata {line.strip()}\n" for line in schemata)


def _kernel() -> str:
    return f"{platform.system()} {platform.release()} {platform.version()}"


def _run(suite: Suite, folder: Path, results: TextIO) -> tuple[bool, str]:
    """Run one suite; return whether it is good, and a line about it. Nothing passed is not good."""
    results.write(f"\n--- {suite.what}: {' '.join(suite.files)}\n")
    report = Path("/run") / f"{suite.files[0].replace('/', '-')}.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rsfE", "--timeout=300"),
        *(f"--junitxml={report}", "--basetemp=/run/pytest", *suite.files, "-k", suite.only),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/run/hypothesis",
        "TMPDIR": "/run",
    }
    started_s = time.monotonic()
    try:
        code: int | str = subprocess.run(
            command, env=environment, stdout=results, stderr=results, check=False, timeout=_SUITE_LIMIT_S
        ).returncode
    except subprocess.TimeoutExpired:
        code = f"none within {_SUITE_LIMIT_S} s"
    took_s = time.monotonic() - started_s
    if not report.exists():
        return False, f"{suite.what}: exit code {code}, no report"
    counts = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - we made it just now
    assert counts is not None
    total, skipped = int(counts.get("tests", 0)), int(counts.get("skipped", 0))
    bad = int(counts.get("failures", 0)) + int(counts.get("errors", 0))
    passed = total - skipped - bad
    line = f"{suite.what}: {passed} passed, {bad} failed, {skipped} skipped, exit code {code}, {took_s:.0f} s"
    return code == 0 and passed > 0, line


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
