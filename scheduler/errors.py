"""Errors of the scheduler layer; status.py gives each one gRPC code.

SchedulerError
├── RequestInvalid         a field of the request; carries every violation
├── RequestIdReused        same request_id, other body
├── PlacementExists        a live placement of that name
├── PlacementMissing       none of that name
├── EtagStale              changed since the caller read it
├── ProfileUnknown         the request names a profile that is not stored
├── ProfileExists          import without replace over another one
├── NoFeasiblePlacement    every candidate breaks somebody's bound
├── NotEnoughCpus          more CPUs asked than this host has
├── NotEnoughMemory        more memory asked than this host has
├── ReadOnlySocket         a mutation over the read-only socket
├── OperationMissing       no operation of that name
├── Busy                   too many mutations queued
├── ShuttingDown           the daemon is stopping
├── JournalFailed          the journal could not be written
├── StateRefused           the state folder cannot be used
├── StateLost              the state folder went away under the running daemon
└── AlreadyRunning         another daemon holds the state folder
"""

from __future__ import annotations

from dataclasses import dataclass


class SchedulerError(Exception):
    """Base of this layer; `retryable` says whether the same call may succeed later without a change."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks its rule."""

    field: str
    problem: str


class RequestInvalid(SchedulerError, ValueError):
    """One or more fields break their rules."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        super().__init__("; ".join(f"{one.field}: {one.problem}" for one in violations))
        self.violations = violations


class RequestIdReused(SchedulerError):
    """The request_id was used before with another body."""


class PlacementExists(SchedulerError):
    """A live placement has that name."""


class PlacementMissing(SchedulerError):
    """No placement has that name."""


class EtagStale(SchedulerError):
    """The placement changed since the caller read it."""


class ProfileUnknown(SchedulerError):
    """The request names a profile that is not stored."""


class ProfileExists(SchedulerError):
    """Importing would replace another profile."""


class NoFeasiblePlacement(SchedulerError):
    """Every candidate breaks a bound; the message says whose and by how much."""


class NotEnoughCpus(SchedulerError):
    """More CPUs or cores were asked for than this host has."""


class NotEnoughMemory(SchedulerError):
    """More memory was asked for than all memory nodes of this host have."""


class ReadOnlySocket(SchedulerError):
    """A mutation came over the read-only socket."""


class OperationMissing(SchedulerError):
    """No operation has that name."""


class Busy(SchedulerError):
    """Too many mutations wait."""

    retryable = True


class ShuttingDown(SchedulerError):
    """The daemon is stopping."""

    retryable = True


class JournalFailed(SchedulerError):
    """The journal could not be written; nothing was changed."""

    retryable = True


class StateRefused(SchedulerError):
    """The state folder cannot be used."""


class StateLost(SchedulerError):
    """The state folder went away under the running daemon."""


class AlreadyRunning(SchedulerError):
    """Another daemon holds the state folder."""

    exit_code = 75  #: EX_TEMPFAIL of sysexits.h: a service manager may try again
