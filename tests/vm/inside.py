"""Run suites, as root inside the guest: `python -m tests.vm.inside FOLDER MACHINE ONLY`.

What it leaves in the folder: results.txt, summary.txt and, last of all, code.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree as ET

from tests.vm.suites import Machine, Resctrl, Suite, chosen

_CGROUPS = Path("/sys/fs/cgroup")
_RESCTRL = Path("/sys/fs/resctrl")
_NODES = Path("/sys/devices/system/node")
_SUITE_LIMIT_S = 900
_TOLD_FILES = ("num_closids", "cbm_mask", "min_cbm_bits", "min_bandwidth", "bandwidth_gran", "num_rmids")


def main(folder: Path, machine: Machine, only: str) -> int:
    """Mount, tell what this is, run the suites."""
    summary, good = [f"on {_kernel()}", f"  machine '{machine.title}' (CPU {machine.value})"], True
    with (folder / "results.txt").open("a", encoding="utf-8", buffering=1) as results:
        try:
            _enable_controllers()
            summary += _facts()
            results.writelines(f"{line.strip()}\n" for line in summary)
            mounted: Resctrl | None = None
            for suite in chosen(only, machine):
                if suite.resctrl is not mounted:
                    facts = _mount(suite.resctrl, mounted)
                    mounted = suite.resctrl
                    summary += [f"  {line}" for line in facts]
                    results.writelines(f"{line}\n" for line in facts)
                _enable_controllers()  # whatever the suite before did
                before = _picture()
                passed, line = _run(suite, results)
                left = "".join(f"; left behind: {one}" for one in sorted(_picture() ^ before))
                summary.append(f"    {'ok    ' if passed else 'FAILED'}  {line}{left}")
                good = good and passed
        except Exception:  # noqa: BLE001 - whatever it is, the host must hear of it
            results.write(traceback.format_exc())
            summary.append("    FAILED  the guest failed before its suites were done")
            good = False
    (folder / "summary.txt").write_text("".join(f"{line}\n" for line in summary), encoding="utf-8")
    part = folder / "code.part"
    part.write_text(f"{int(not good)}\n", encoding="utf-8")
    part.rename(folder / "code")
    return int(not good)


def _enable_controllers() -> None:
    for one in (_CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split():
        (_CGROUPS / "cgroup.subtree_control").write_text(f"+{one}", encoding="ascii")


def _picture() -> set[str]:
    """Return what suites have to leave as it was, as sentences."""
    controllers = (_CGROUPS / "cgroup.subtree_control").read_text(encoding="ascii").strip()
    groups = {folder for top in (_CGROUPS, _RESCTRL) for folder, _, _ in os.walk(top)}
    online = Path("/sys/devices/system/cpu/online").read_text(encoding="ascii").strip()
    return {f"controllers {controllers}", f"CPUs {online} online", *groups}


def _facts() -> Iterator[str]:
    controllers = (_CGROUPS / "cgroup.subtree_control").read_text(encoding="ascii").strip()
    yield f"  cgroup v2 with {controllers}"
    nodes = [
        f"{node.name} with CPUs {(node / 'cpulist').read_text(encoding='ascii').strip()}"
        for node in sorted(_NODES.glob("node[0-9]*"))
    ]
    yield f"  NUMA {', '.join(nodes)}"


def _mount(wanted: Resctrl, now: Resctrl | None) -> list[str]:
    """Mount resctrl as wished, or make sure that there is none; return what the kernel tells of it."""
    if wanted is Resctrl.ABSENT:
        if "resctrl" in Path("/proc/filesystems").read_text(encoding="ascii").split():
            raise RuntimeError("this kernel offers resctrl, though its CPU should have no RDT")
        return ["no resctrl: the kernel found no RDT"]
    if now is not None:
        subprocess.run(["/bin/umount", str(_RESCTRL)], check=True, timeout=60)
    options = ["-o", wanted.value] if wanted.value else []
    command = ["/bin/mount", "-t", "resctrl", *options, "resctrl", str(_RESCTRL)]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)!r} failed with code {done.returncode}: {done.stderr.strip()}")
    line = next(one for one in Path("/proc/mounts").read_text(encoding="utf-8").splitlines() if " resctrl " in one)
    facts = [f"resctrl mounted with options {line.split()[3]}"]
    for resource in sorted(path for path in (_RESCTRL / "info").iterdir() if path.is_dir()):
        told = [f"{one} {(resource / one).read_text().strip()}" for one in _TOLD_FILES if (resource / one).exists()]
        facts.append(f"  {resource.name}: {', '.join(told)}")
    schemata = (_RESCTRL / "schemata").read_text(encoding="ascii").splitlines()
    return [*facts, f"  schemata {' '.join(one.replace(' ', '') for one in schemata)}"]


def _kernel() -> str:
    return f"{platform.system()} {platform.release()} {platform.version()}"


def _run(suite: Suite, results: TextIO) -> tuple[bool, str]:
    """Run one suite; return whether it is good, and a line about it. Nothing passed is not good."""
    results.write(f"\n--- {suite.what}: {' '.join(suite.files)}\n")
    report = Path("/run/suite.xml")
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rsfE", "--timeout=300"),
        *(f"--junitxml={report}", "--basetemp=/run/pytest", *suite.files, "-k", suite.only),
    ]
    environment = {
        **os.environ,
        "COTENANT_VM_RESCTRL": suite.resctrl.name,
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
    sys.exit(main(Path(sys.argv[1]), Machine[sys.argv[2]], sys.argv[3]))
