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
├── SystemdUnreachable     systemd runs this host, but cannot be asked
├── CgroupVanished         the group went away under us
├── CgroupRefused          a cgroup path outside our reach, or not allowed
├── ResctrlVanished        resctrl was unmounted, or our group in it removed
├── ResctrlRefused         a resctrl group or thread that is not ours to change
├── ResctrlBusy            its lock is held too long
│   └── OutOfRmids         its monitoring ids are not free yet
├── MemoryShort            the wished memory nodes have no room for what is to move there
├── PageCacheUnreadable    where a file's cached pages live cannot be told
├── OutOfClosids           no class of service is left for one more group
└── ApplyFailed            the kernel refused or did not do what it was told; everything was undone
    ├── SchemataRejected   the kernel refused ways or bandwidth that fit by all it had told
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


class SystemdUnreachable(IsolationError):
    """systemd runs this host but does not answer, so whose a group is stays unknown and nothing is written."""

    retryable = True


class CgroupVanished(IsolationError):
    """The cgroup went away while we worked on it."""


class CgroupRefused(IsolationError, ValueError):
    """A cgroup path that is malformed, outside the cpuset mount, or not ours to change."""


class ResctrlVanished(IsolationError):
    """Somebody unmounted resctrl, which ends all its groups, or removed our group."""


class ResctrlRefused(IsolationError):
    """A resctrl group of somebody else, or a thread that already is in one of ours."""


class ResctrlBusy(IsolationError):
    """Another program holds the lock of resctrl, or freed monitoring ids still wait for their cache lines to go."""

    retryable = True


class OutOfRmids(ResctrlBusy):
    """All free monitoring ids still wait for their cache lines to go."""


class MemoryShort(IsolationError):
    """Memory nodes lack the room for the pages that would move there; binding anyway could end in an OOM kill."""

    retryable = True


class PageCacheUnreadable(IsolationError):
    """A file cannot be opened, or the kernel does not tell this user which of its pages are cached."""


class OutOfClosids(IsolationError):
    """As many groups exist as the hardware can tell apart: share one with an equal wish, or go without."""


class ApplyFailed(IsolationError):
    """The kernel refused a step, or reads back otherwise; everything done before was undone."""

    retryable = True


class SchemataRejected(ApplyFailed):
    """The kernel refused ways or bandwidth that were checked before: what it offers has changed since."""


class UndoFailed(ApplyFailed):
    """A step failed and undoing the earlier ones failed too; the message names what is left."""

    retryable = False
