"""Boot guests and let them run the suites: `python -m tests.vm.run --help`. Its exit code is theirs."""

from __future__ import annotations

import argparse
import compileall
import fcntl
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.vm.errors import VmProblem
from tests.vm.guest import Guest
from tests.vm.suites import EVERY, SUITES, chosen, machines
from tests.vm.toolchain import Toolchain, cache_folder, check_host, prepare, say

_WAIT_LIMIT_S = 3600.0
_TREE = Path(__file__).resolve().parents[2]


def main() -> int:
    """Prepare, boot, follow, report."""
    arguments = _arguments()
    started_s = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, ends the guests
    cache = cache_folder()
    try:
        suites = chosen(arguments.only)
        if not suites:
            names = "\n".join(f"  {suite.what}: {' '.join(suite.files)}" for suite in SUITES)
            raise VmProblem(f"no suite is called like {arguments.only!r}; there are:\n{names}")
        check_host()
        with _alone(cache, wait=arguments.wait):
            tools = prepare(cache)
            share = cache / "vm"
            shutil.rmtree(share, ignore_errors=True)
            compileall.compile_dir(_TREE, maxlevels=3, quiet=2, rx=re.compile(r"/\."))  # slow in the guest
            code = _run(tools, share, only=arguments.only)
            say(f"{share} holds results and consoles; {time.monotonic() - started_s:.0f} s in all")
            return code
    except VmProblem as problem:
        sys.stderr.write(f"test-vm: {problem}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("test-vm: interrupted; the guests were ended\n")
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.run", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", default="", metavar="TEXT", help="run suites with this in their name or files")
    which.add_argument("--all", dest="only", action="store_const", const=EVERY, help="run the long ones, too")
    waits = f"wait for another run to end, at most {_WAIT_LIMIT_S / 60:.0f} minutes, instead of failing"
    parser.add_argument("--wait", action="store_true", help=waits)
    return parser.parse_args()


@contextmanager
def _alone(cache: Path, *, wait: bool) -> Iterator[None]:
    """Keep other runs of this user away; raises VmProblem when there is one, or still one after waiting."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "vm.lock"
    with path.open("a+", encoding="ascii") as lock:
        end_s = time.monotonic() + (_WAIT_LIMIT_S if wait else 0.0)
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = path.read_text(encoding="ascii").strip() or "unknown"
                if time.monotonic() >= end_s:
                    why = f"still, after {_WAIT_LIMIT_S / 60:.0f} minutes" if wait else "try later, or give --wait"
                    raise VmProblem(f"another run (process {holder}) holds {str(path)!r}; {why}") from None
                if not told:
                    say(f"another run (process {holder}) holds {str(path)!r}; waiting for it to end ...")
                    told = True
                time.sleep(1.0)
            else:
                break
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _run(tools: Toolchain, share: Path, *, only: str) -> int:
    """Boot what the suites need, all at once; return 0 when all suites of all guests are good."""
    with ExitStack() as stack:
        guests = []
        for machine in machines(chosen(only)):
            folder = share / machine.title
            folder.mkdir(parents=True)
            say(f"booting machine {machine.title!r}; {folder}/console.log tells how it goes ...")
            guests.append(Guest(machine, tools, folder, only=only))
            stack.callback(guests[-1].end)
        codes: dict[Guest, int] = {}
        while len(codes) < len(guests):
            for guest in guests:
                code = guest.follow(f"{guest.machine.title}: ") if guest not in codes else None
                if code is not None:
                    codes[guest] = code
            time.sleep(0.2)
        for guest in guests:
            guest.power_off()
        for guest in guests:
            say(f"\n{guest.summary.rstrip()}")
        return max(codes.values())


if __name__ == "__main__":
    sys.exit(main())
