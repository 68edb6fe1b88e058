"""Workloads for the collector's tests: `python workload.py KIND`."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time

from profiler.progress import ProgressWriter


def main(kind: str) -> None:  # noqa: C901, PLR0912 - one branch for each kind
    """Run until killed, or as the kind says."""
    writer = ProgressWriter.from_environment()
    if kind == "steady":
        while True:
            time.sleep(0.01)
            writer.add(1)
    if kind == "agent":
        while True:
            writer.event("turn")
            writer.event("prefill", tokens=10, seconds=0.01)
            for _ in range(10):
                time.sleep(0.01)
                writer.event("token")
            time.sleep(0.1)
            writer.event("tool", seconds=0.1)
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "1000"], process_group=0)  # a child that leaves the process group
        while True:
            time.sleep(0.01)
            writer.add(1)
    if kind == "daemon":  # forks away as daemons do: twice, a session of its own, an environment of its own
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve("/bin/sleep", ["sleep", "987"], {})
            os._exit(0)
        os.wait()
        time.sleep(0.2)
    if kind == "hangs":
        for _ in range(40):
            time.sleep(0.01)
            writer.add(1)
            sys.stdout.write("5 req/s\n")
            sys.stdout.flush()
        time.sleep(1000)
    if kind == "loads":  # computes steadily before there is anything to measure
        until_s = time.monotonic() + 2.5
        while time.monotonic() < until_s:
            pass
        while True:
            time.sleep(0.01)
            writer.add(1)
    if kind == "prints":
        for number in itertools.count():
            time.sleep(0.05)
            ending = "\r" if number % 2 else "\n"
            sys.stdout.write(f"done {2 * number} in all, 40.0 req/s{ending}")
            sys.stdout.flush()
    if kind == "nonsense":
        while True:
            time.sleep(0.01)
            writer.event("\x1b]0;x", t=float("nan"))


if __name__ == "__main__":
    main(sys.argv[1])
