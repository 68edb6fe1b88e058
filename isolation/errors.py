"""Errors of the isolation layer.

IsolationError
├── CpuSetInvalid          text or numbers that are no CPU list
├── TopologyUnreadable     no CPU can be found below the given root
├── ResctrlInvalid         text or numbers that are no way mask or schemata
├── ResctrlUnreadable      no resctrl at a path, or files that say what the kernel never documents
├── SpecInvalid            a wish this host cannot hold (CPU offline, node absent)
├── ProcessRefused         we must not touch it
│   ├── ProcessGone        no such process, or a zombie
│   ├── KernelThread       a kernel thread
│   ├── ReservedProcess    pid 1, ourselves, our ancestors
│   ├── ForeignProcess     another user or pid namespace
│   └── ProcessReused      the pid now belongs to another process
├── MechanismMissing       neither cpuset cgroups nor affinity can be used
├── CgroupVanished         the group went away under us
├── CgroupRefused          a cgroup path outside our reach, or not allowed
└── ApplyFailed            the kernel refused or did not do what it was told; everything was undone
    └── UndoFailed         ... and undoing failed too
"""

from __future__ import annotations


class IsolationError(Exception):
    """Base of this layer; `retryable` says whether the same call may succeed later without a change."""

    retryable = False


class CpuSetInvalid(IsolationError, ValueError):
    """Text or numbers that are no list of CPUs or nodes."""


class TopologyUnreadable(IsolationError):
    """No CPU can be found below the given root."""


class ResctrlInvalid(IsolationError, ValueError):
    """Text or numbers that are no way mask or schemata."""


class ResctrlUnreadable(IsolationError):
    """No resctrl is mounted at a path, or its files are not understood."""


class SpecInvalid(IsolationError, ValueError):
    """A wish that this host cannot hold."""


class ProcessRefused(IsolationError):
    """A process we must not or cannot touch; carries the pid."""

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class ProcessGone(ProcessRefused):
    """No such process, or only its zombie is left."""


class KernelThread(ProcessRefused):
    """A kernel thread; the kernel would let us move it, so we refuse."""


class ReservedProcess(ProcessRefused):
    """pid 1, this daemon or one of its ancestors."""


class ForeignProcess(ProcessRefused):
    """A process of another user or pid namespace that policy does not allow."""


class ProcessReused(ProcessRefused):
    """The pid was given to another process since it was identified."""


class MechanismMissing(IsolationError):
    """Neither cpuset cgroups nor affinity can be used."""


class CgroupVanished(IsolationError):
    """The cgroup went away while we worked on it."""


class CgroupRefused(IsolationError, ValueError):
    """A cgroup path that is malformed, outside the cpuset mount, or not ours to change."""


class ApplyFailed(IsolationError):
    """The kernel refused a step, or reads back otherwise; everything done before was undone."""

    retryable = True


class UndoFailed(ApplyFailed):
    """A step failed and undoing the earlier ones failed too; the message names what is left."""

    retryable = False
