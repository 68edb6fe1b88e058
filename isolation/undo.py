"""What is to be confined, what was before, and what came of it. Values only; Undo is what the journal keeps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from isolation.cpuset import CpuSet
from isolation.process import ProcessIdentity

#: 1: mechanism, group, threads, files. 2: resctrl. 3: inodes. 4: unit.
_SCHEMA_VERSION = 4
_READABLE = frozenset({1, 2, 3, _SCHEMA_VERSION})


class Mechanism(StrEnum):
    """How CPUs are given: by the host's one cpuset hierarchy, or thread by thread."""

    CGROUP_V1 = "cgroup_v1"
    CGROUP_V2 = "cgroup_v2"
    AFFINITY = "affinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to confine: processes with all their descendants, or one existing cgroup as it stands.

    Descendants that somebody put into another cpuset cgroup than the named processes are left where they are.
    """

    processes: tuple[ProcessIdentity, ...] = ()
    cgroup_path: str | None = None  #: below the cpuset mount, as /proc/PID/cgroup prints it


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """One thread as it was before we touched it."""

    tid: int
    starttime_ticks: int
    pid: int
    cgroup: str | None  #: path below the cpuset mount; None where cgroups play no part
    cpus: CpuSet  #: Cpus_allowed_list


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadHome:
    """One thread, and the resctrl group it was in before we touched it."""

    tid: int
    starttime_ticks: int
    group: str  #: folder below the mount; "" = the default group


@dataclass(frozen=True, slots=True, kw_only=True)
class ResctrlUndo:
    """What resctrl held of the threads."""

    group: str  #: ours, folder below the mount; it need not exist, and others with the same wish may use it too
    threads: tuple[ThreadHome, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """What systemd allowed a unit before we asked for less; "" = no restriction of its own."""

    name: str
    cpus: str  #: AllowedCPUs as a list
    mems: str  #: AllowedMemoryNodes as a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """Everything needed to restore the exact earlier state; taken before the first write."""

    mechanism: Mechanism
    group: str | None  #: our own group, path below the cpuset mount; it need not exist yet
    threads: tuple[ThreadState, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  #: (path below the mount, earlier content) of a cgroup_path target
    resctrl: ResctrlUndo | None = None  #: None = there was no resctrl we could use
    inodes: tuple[tuple[str, int], ...] = ()  #: (group, its cgroup id) of those in `files`; empty in older records
    unit: UnitState | None = None  #: the systemd unit whose own group a cgroup_path target is; None = of no unit

    @property
    def existing(self) -> str | None:
        """The existing group whose files were recorded; on v1 the one that holds the others."""
        groups = (path.rpartition("/")[0] for path, _ in self.files)
        return min(groups, key=len, default=None)

    def is_of(self, group: str, inode: int | None) -> bool:
        """Tell whether a group with that cgroup id is the one that was recorded, and not a later one of its path."""
        return inode is not None and dict(self.inodes).get(group, inode) == inode

    def to_json(self) -> str:
        """Write as one line for the journal."""
        record = asdict(self) | {"schema_version": _SCHEMA_VERSION}
        record["threads"] = [asdict(state) | {"cpus": str(state.cpus)} for state in self.threads]
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Undo:
        """Read what to_json wrote; raises ValueError naming what is wrong."""
        try:
            record = json.loads(text)
            version = record["schema_version"]
            if version not in _READABLE:
                raise ValueError(f"schema_version {version!r} is none of {sorted(_READABLE)}")
            return cls(
                mechanism=Mechanism(record["mechanism"]),
                group=record["group"],
                threads=tuple(
                    ThreadState(**(state | {"cpus": CpuSet.parse(state["cpus"])})) for state in record["threads"]
                ),
                files=tuple((str(path), str(content)) for path, content in record["files"]),
                resctrl=_resctrl_from(record.get("resctrl")),
                inodes=tuple((str(group), int(inode)) for group, inode in record.get("inodes", ())),
                unit=UnitState(**unit) if (unit := record.get("unit")) else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as cause:
            raise ValueError(f"undo record {text[:80]!r} cannot be read: {cause}") from cause


def _resctrl_from(record: Any) -> ResctrlUndo | None:
    if record is None:
        return None
    return ResctrlUndo(group=record["group"], threads=tuple(ThreadHome(**one) for one in record["threads"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of apply, as read back from the kernel."""

    threads: int  #: living threads now confined
    narrowed: tuple[int, ...] = ()  #: tids that by their own mask use only a part of the CPUs
    missed: tuple[int, ...] = ()  #: tids found outside at the end: born faster than we could follow, or not permitted
    writes: int = 0  #: changes made to the kernel; 0 = it was so already
    mems_applied: bool = True  #: False = memory nodes were wished, which affinity alone cannot do
    mems_refused: str = ""  #: why it is not bound to the memory nodes that were wished, or not yet
    class_refused: str = ""  #: why there are no cache ways and bandwidth although they were wished
    overlapping: tuple[str, ...] = ()  #: resctrl groups of other tools that may use some of the same ways

    @property
    def complete(self) -> bool:
        """Tell whether every thread is confined."""
        return not self.missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One difference between wish and kernel, of a thread or of a file or group."""

    expected: str
    found: str
    tid: int | None = None
    path: str | None = None
    blameless: bool = False  #: nobody's doing: a thread that came later, or a cache that went with its CPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What came of release."""

    restored: int  #: threads (or files of a cgroup_path target) that are as before
    gone: int  #: threads of the record that have ended, or files whose group vanished
    left_over: tuple[str, ...] = ()  #: sentences about what could not be restored
