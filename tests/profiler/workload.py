"""Workloads for the collector's tests: `python workload.py KIND`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from profiler.progress import ProgressWriter


def main(kind: str) -> None:
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
    if kind == "nonsense":
        while True:
            time.sleep(0.01)
            writer.event("\x1b]0;x", t=float("nan"))


if __name__ == "__main__":
    main(sys.argv[1])
