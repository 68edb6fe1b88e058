"""The 1-to-5 scale of sensitivity: by median slowdown, and by nothing else. Pure."""

from __future__ import annotations

import bisect
import math

#: Median SF at which a workload leaves grade 1, 2, 3, 4: unnoticed, small, clear, severe (SF > 1.5), at least halved.
GRADE_ENDS_SF = (1.05, 1.2, 1.5, 2.0)


def grade(median_slowdown: float) -> int | None:
    """Give 1 (insensitive) to 5 for a median slowdown factor; None if it is unknown.

    Each grade holds its lower end: 1.05 is grade 2. Speed-ups are grade 1.
    """
    if math.isnan(median_slowdown):
        return None
    return 1 + bisect.bisect_right(GRADE_ENDS_SF, median_slowdown)
