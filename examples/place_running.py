"""Place a running process on one CPU, look where it went and why, and give it back.

python examples/place_running.py PID
"""

from __future__ import annotations

import sys

from cotenant import Client


def main() -> None:
    """Place the process named on the command line."""
    with Client() as client:
        placement = client.place("example", pids=[int(sys.argv[1])], cpus=1)
        print(f"CPUs {placement.cpus}, {placement.threads} threads: {placement.explanation.summary}")
        client.release("example")
        print("released")


if __name__ == "__main__":
    main()
