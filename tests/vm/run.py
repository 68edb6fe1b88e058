"""Boot the guest and let it run the suites: `python -m tests.vm.run`. Its exit code is theirs."""

from __future__ import annotations

import compileall
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.errors import VmProblem
from tests.vm.toolchain import Toolchain, cache_folder, end_session, prepare, say

_LIMIT_S = 1500.0  # all suites took about 150 s on two cores
_SILENCE_LIMIT_S = 600.0
_POWER_OFF_LIMIT_S = 30.0
_CPU = "Icelake-Server,level=0x1f,l3-cache=on"  # not Skylake-Server: the kernel turns CAT off on that model
_SHAPE = "8,sockets=2,cores=2,threads=2"
# The root that virtme-ng shares is not cached in the guest, which makes every import slow.
_HOST_FILES = (
    "-fsdev local,id=cotenant,path=/,security_model=none,readonly=on,multidevs=remap"
    " -device virtio-9p-pci,fsdev=cotenant,mount_tag=cotenant"
)
_TREE = Path(__file__).resolve().parents[2]


def main() -> int:
    """Prepare, boot, follow, report."""
    started_s = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, ends the guest
    cache = cache_folder()
    try:
        with _alone(cache):
            tools = prepare(cache)
            share = cache / "vm"
            shutil.rmtree(share, ignore_errors=True)
            share.mkdir()
            compileall.compile_dir(_TREE, maxlevels=3, quiet=2, rx=re.compile(r"/\."))  # slow in the guest
            say(f"booting 2 sockets x 2 cores x 2 threads, 2 NUMA nodes; {share}/console.log tells how it goes ...")
            _boot(tools, share)
            code = int((share / "code").read_text(encoding="utf-8"))
            say(f"{share}/results.txt holds the above; {time.monotonic() - started_s:.0f} s in all")
            return code
    except VmProblem as problem:
        sys.stderr.write(f"test-vm: {problem}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("test-vm: interrupted; the guest was ended\n")
        return 130


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "vm.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VmProblem(f"another run holds {str(cache / 'vm.lock')!r}; wait until it has ended") from None
        yield


def _boot(tools: Toolchain, share: Path) -> None:
    command = [
        *(str(tools.vng), "--disable-kvm", "--qemu", str(tools.qemu), "-r", str(tools.kernel), "-m", "4G"),
        *("--numa", "2G,cpus=0-3", "--numa", "2G,cpus=4-7", "--cpus", "8"),
        *("--force-initramfs", "--force-9p", f"--rwdir={share}", "--verbose"),
        f"--qemu-opts=-cpu {_CPU} -smp {_SHAPE} {_HOST_FILES}",
        *("--exec", _script(share)),
    ]
    paths = (str(tools.vng.parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin")
    with (share / "console.log").open("wb") as console:
        guest = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            cwd=_TREE,
            env={**os.environ, "PATH": ":".join(paths)},
            start_new_session=True,
        )
        try:
            _follow(guest, share)
        finally:
            end_session(guest)


def _script(share: Path) -> str:
    """Return what the guest runs: the host's files once more, now cached by the guest, then the suites."""
    options = "trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro"
    steps = [
        "mkdir /run/host",
        f"mount -t 9p -o {options} cotenant /run/host",
        "mount --bind /run/host/usr /usr",
        f"mount --bind {shlex.quote(f'/run/host{_TREE}')} {shlex.quote(str(_TREE))}",
        f"cd {shlex.quote(str(_TREE))}",
        f"exec {shlex.quote(sys.executable)} -m tests.vm.inside {shlex.quote(str(share))}",
    ]
    return " && ".join(steps)


def _follow(guest: subprocess.Popen[bytes], share: Path) -> None:
    """Repeat what the guest writes until it gives its code; raises VmProblem when it does not."""
    results, code = share / "results.txt", share / "code"
    results.touch()
    end_s = time.monotonic() + _LIMIT_S
    heard_s = time.monotonic()
    with results.open(encoding="utf-8", errors="replace") as text:
        while True:
            done, ended = code.exists(), guest.poll() is not None
            if more := text.read():
                heard_s = time.monotonic()
                sys.stdout.write(more)
                sys.stdout.flush()
            if done:
                break
            now_s = time.monotonic()
            if ended or now_s > end_s or now_s > heard_s + _SILENCE_LIMIT_S:
                why = f"ended with code {guest.returncode}" if ended else f"said nothing for {now_s - heard_s:.0f} s"
                why = why if ended or now_s <= end_s else f"was not done after {_LIMIT_S:.0f} s"
                raise VmProblem(f"the guest {why}; the end of its console:\n{_tail(share / 'console.log')}")
            time.sleep(0.2)
    try:
        guest.wait(_POWER_OFF_LIMIT_S)
    except subprocess.TimeoutExpired:
        say("the guest did not power off by itself; it is ended")


def _tail(console: Path) -> str:
    lines = console.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line[:200]}" for line in [one for one in lines if "TCG doesn't support" not in one][-20:])


if __name__ == "__main__":
    sys.exit(main())
