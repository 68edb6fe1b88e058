"""Ask whether a latency-bound newcomer would fit beside those already placed; nothing is touched.

python examples/ask_first.py NAME-OF-A-STORED-PROFILE
"""

from __future__ import annotations

import sys

from cotenant import Client, CotenantError


def main() -> None:
    """Preview a placement with a bound, and say who would suffer how much."""
    with Client() as client:
        try:
            planned = client.preview(
                "newcomer", cpus=1, profile=sys.argv[1], slo={"class": "service", "max_slowdown": 1.5}
            )
        except CotenantError as error:
            print(f"does not fit ({error.reason}): {error}")
            return
        print(f"fits on CPUs {planned.cpus}")
        for one in planned.predictions:
            print(f"  {one.workload}: {one.slowdown:.2f} times as long ({one.lower:.2f} to {one.upper:.2f})")


if __name__ == "__main__":
    main()
