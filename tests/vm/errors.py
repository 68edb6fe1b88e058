"""What can go wrong before the suites of the guest have spoken."""

from __future__ import annotations


class VmProblem(Exception):
    """The guest could not be prepared, booted or heard; the text says what to do."""
