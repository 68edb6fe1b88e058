"""One booted guest that runs its suites: start it, hear what it writes, end it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.errors import VmProblem
from tests.vm.suites import Machine
from tests.vm.toolchain import Toolchain, end_session, say

_LIMIT_S = 1500.0  # the short suites take about 300 s on two cores, all of them about 1,000 s
_SILENCE_LIMIT_S = 600.0
_POWER_OFF_LIMIT_S = 30.0
#: Two things that no suite needs took a quarter of the time under emulation: the modules that udev loads for devices,
#: and keeping the kernel's page tables apart.
_BOOT = "virtme_link_mods=/none mitigations=off"
_SHAPE = "8,sockets=2,cores=2,threads=2"
# The root that virtme-ng shares is not cached in the guest, which makes every import slow.
_HOST_FILES = (
    "-fsdev local,id=cotenant,path=/,security_model=none,readonly=on,multidevs=remap"
    " -device virtio-9p-pci,fsdev=cotenant,mount_tag=cotenant"
)
_TREE = Path(__file__).resolve().parents[2]


class Guest:
    """A virtual machine; it lives in a session of its own and is ended with all it started."""

    def __init__(self, machine: Machine, tools: Toolchain, share: Path, *, only: str) -> None:
        """Boot it; `share` is an empty folder for what it leaves."""
        self.machine = machine
        self._share = share
        (share / "results.txt").touch()
        self._text = (share / "results.txt").open(encoding="utf-8", errors="replace")
        self._unfinished = ""
        self._started_s = self._heard_s = time.monotonic()
        paths = (str(tools.vng.parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin")
        with (share / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                self._command(tools, only),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=_TREE,
                env={**os.environ, "PATH": ":".join(paths)},
                start_new_session=True,
            )

    def follow(self, prefix: str) -> int | None:
        """Repeat what it wrote since the last call; return its code once it is there; raises VmProblem."""
        code = self._share / "code"
        done, ended = code.exists(), self._process.poll() is not None
        if more := self._text.read():
            self._heard_s = time.monotonic()
            *lines, self._unfinished = (self._unfinished + more).split("\n")
            sys.stdout.writelines(f"{prefix}{line}\n" for line in lines)
            sys.stdout.flush()
        if done:
            return int(code.read_text(encoding="utf-8"))
        now_s = time.monotonic()
        silence_s = now_s - self._heard_s
        if ended:
            why = f"ended with code {self._process.returncode}"
        elif silence_s > _SILENCE_LIMIT_S:
            why = f"said nothing for {silence_s:.0f} s"
        elif now_s > self._started_s + _LIMIT_S:
            why = f"was not done after {_LIMIT_S:.0f} s"
        else:
            return None
        raise VmProblem(f"the guest {self.machine.title!r} {why}; the end of its console:\n{self._console_end()}")

    @property
    def summary(self) -> str:
        """Return what ran on what, as the guest tells it at its end."""
        return (self._share / "summary.txt").read_text(encoding="utf-8")

    def power_off(self) -> None:
        """Let it end by itself after its last suite."""
        try:
            self._process.wait(_POWER_OFF_LIMIT_S)
        except subprocess.TimeoutExpired:
            say(f"the guest {self.machine.title!r} did not power off by itself; it is ended")

    def end(self) -> None:
        """End it, whatever it does; safe to repeat."""
        self._text.close()
        end_session(self._process)

    def _command(self, tools: Toolchain, only: str) -> list[str]:
        return [
            *(str(tools.vng), "--disable-kvm", "--qemu", str(tools.qemu), "-r", str(tools.kernel), "-m", "4G"),
            *("--numa", "2G,cpus=0-3", "--numa", "2G,cpus=4-7", "--cpus", "8"),
            *("--force-initramfs", "--force-9p", f"--rwdir={self._share}", "--verbose"),
            *("--append", _BOOT),
            f"--qemu-opts=-cpu {self.machine.value} -smp {_SHAPE} {_HOST_FILES}",
            *("--exec", self._script(only)),
        ]

    def _script(self, only: str) -> str:
        """Return what the guest runs: the host's files once more, now cached by the guest, then the suites."""
        options = "trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro"
        inside = [sys.executable, "-m", "tests.vm.inside", str(self._share), self.machine.name, only]
        steps = [
            "mkdir /run/host",
            f"mount -t 9p -o {options} cotenant /run/host",
            "mount --bind /run/host/usr /usr",
            f"mount --bind {shlex.quote(f'/run/host{_TREE}')} {shlex.quote(str(_TREE))}",
            f"cd {shlex.quote(str(_TREE))}",
            f"exec {shlex.join(inside)}",
        ]
        return " && ".join(steps)

    def _console_end(self) -> str:
        console = self._share / "console.log"
        lines = console.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line[:200]}" for line in [one for one in lines if "TCG doesn't support" not in one][-20:])
