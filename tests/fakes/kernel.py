"""An in-memory kernel: cpuset groups of cgroup v1 or v2, affinity, pidfds and the parts of /proc that we read.

Its rules and error numbers are those of the real kernel: tests/isolation/test_cpuset_contract.py holds both to them.
"""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable

from isolation.cgroup import CpusetHierarchy
from isolation.cpuset import CpuSet, IdSet
from isolation.enforcer import Enforcer, Mechanism
from isolation.errors import CpuSetInvalid
from isolation.memory_nodes import MemoryNodes
from isolation.service_class import ServiceClasses
from isolation.topology import Topology
from tests.fakes.groups import FakeGroup, all_above, parent_of
from tests.fakes.tasks import FakeProcess, FakeTasks, FakeThread, proc_text

__all__ = ["FakeGroup", "FakeKernel"]

_MOUNTS = {1: "/sys/fs/cgroup/cpuset", 2: "/sys/fs/cgroup"}
_PAGE_BYTES = 4096
_LONGEST_LIST = 100 + 6 * 8192  # of a kernel for 8192 CPUs, such as Debian's


class FakeKernel(FakeTasks):
    """One machine. It is the files, the affinity calls and the process handles at once."""

    def __init__(self, *, cpus: str = "0-3", mems: str = "0-1", version: int = 1, remembers_masks: bool = True) -> None:
        self.version = version
        self.remembers_masks = remembers_masks  # before Linux 6.2, any change of its cpuset wiped a thread's own mask
        self.mount = _MOUNTS[version]
        self.cpus = CpuSet.parse(cpus)
        self.mems = IdSet.parse(mems)
        self.groups: dict[str, FakeGroup] = {"/": FakeGroup(self.cpus, self.mems)}
        super().__init__()
        self.boot_id = "5ad6ec3e-0000-4000-8000-000000000001"
        self.steps = 0
        self.at_step: dict[int, Callable[[], None]] = {}  # called before the change of that number
        self.fail_at: dict[int, int] = {}  # error number instead of the change of that number
        self.pretend_at: builtins.set[int] = builtins.set()  # success without effect
        self.spawn(pid=1, ppid=0, comm="init")

    # --- for tests -----------------------------------------------------------------------------

    def enforcer(self, topology: Topology, *, mechanism: Mechanism | None = None, prefix: str = "cotenant") -> Enforcer:
        """Return an enforcer of this kernel; by default with cgroups."""
        cgroups = Mechanism.CGROUP_V1 if self.version == 1 else Mechanism.CGROUP_V2
        return Enforcer(
            topology,
            files=self,
            affinity=self,
            handles=self,
            hierarchy=CpusetHierarchy(version=self.version, mount=self.mount),
            mechanism=mechanism or cgroups,
            classes=self.classes_of(prefix),
            memory=self.memory_nodes(),
            prefix=prefix,
        )

    def classes_of(self, prefix: str) -> ServiceClasses | None:
        """Return None: this machine has no resctrl."""
        return None

    def memory_nodes(self) -> MemoryNodes | None:
        """Return None: nobody asks where pages are."""
        return None

    def allowed(self, tid: int) -> CpuSet:
        """Return where a thread may run: its own mask within its group's CPUs, or those if nothing is common."""
        _, thread = self._find(tid)
        granted = self._granted(thread.group, "cpus")
        return CpuSet(((thread.mask or granted) & granted or granted).mask)

    def picture(self) -> dict[str, object]:
        """Return everything a placement could have changed, to compare before and after."""
        threads = {
            thread.tid: (thread.group, str(self.allowed(thread.tid)))
            for process in self.processes.values()
            for thread in process.threads.values()
        }
        return {
            "threads": threads,
            "groups": {path: (str(group.cpus), str(group.mems)) for path, group in self.groups.items()},
        }

    # --- KernelFiles ---------------------------------------------------------------------------

    def read(self, path: str) -> str:
        """Return the content of a file of cgroupfs or /proc."""
        if path.startswith("/proc/"):
            return self._read_proc(path, path.split("/")[2:])
        if path in {"/sys/devices/system/cpu/possible", "/sys/devices/system/node/possible"}:
            return f"{self.cpus if 'cpu' in path else self.mems}\n"
        group, name = self._split(path)
        found = self.groups.get(group)
        if found is None or (name.startswith("cpuset.") and not self._has_cpuset(group)):
            raise self._error(errno.ENOENT, path)
        text = self._content(group, name, found)
        if text is None:
            raise self._error(errno.ENOENT, path)
        return f"{text}\n"

    def write(self, path: str, text: str) -> None:
        """Obey one command, or refuse it as the kernel does."""
        before = self._cpusets()
        self._obey(path, text)
        if not self.remembers_masks:
            for tid, cpuset in self._cpusets().items():
                if cpuset != before.get(tid):
                    self._find(tid)[1].mask = None

    def _cpusets(self) -> dict[int, tuple[str, IdSet, bool]]:
        found = ((tid, self._find(tid)[1].group) for tid in self._all_tids())
        return {tid: (group, self._granted(group, "cpus"), self._has_cpuset(group)) for tid, group in found}

    def _obey(self, path: str, text: str) -> None:
        group, name = self._split(path)
        if group not in self.groups or (name.startswith("cpuset.") and not self._has_cpuset(group)):
            raise self._error(errno.ENOENT, path)
        if len(text) > (_LONGEST_LIST if name in {"cpuset.cpus", "cpuset.mems"} else _PAGE_BYTES):
            raise self._error(errno.E2BIG, path)
        if self._pretended(path) or not text:
            return
        match name:
            case "cpuset.cpus" | "cpuset.mems":
                self._write_set(path, group, name.removeprefix("cpuset."), text)
            case "cgroup.procs":
                self._attach(path, group, text, whole=True)
            case "tasks" if self.version == 1:
                self._attach(path, group, text, whole=False)
            case "cgroup.threads" if self.version == 2:
                self._attach(path, group, text, whole=False)
            case "cgroup.subtree_control" if self.version == 2:
                self._control(path, group, text.strip())
            case _:
                raise self._error(errno.ENOENT, path)

    def mkdir(self, path: str) -> None:
        """Make a group."""
        group, _ = self._split(f"{path}/")
        if group in self.groups:
            raise self._error(errno.EEXIST, path)
        if parent_of(group) not in self.groups:
            raise self._error(errno.ENOENT, path)
        if not self._pretended(path):
            self.groups[group] = FakeGroup()

    def rmdir(self, path: str) -> None:
        """Remove a group without tasks and children."""
        group, _ = self._split(f"{path}/")
        if group not in self.groups:
            raise self._error(errno.ENOENT, path)
        if self._tids(group, living=True) or self._children(group):
            raise self._error(errno.EBUSY, path)
        if not self._pretended(path):
            for tid in self._tids(group):  # zombies
                self._find(tid)[1].group = "/"
            del self.groups[group]

    def folders(self, path: str) -> tuple[str, ...]:
        """Return groups below a group, processes of /proc, or threads of a process."""
        parts = path.strip("/").split("/")
        if parts == ["proc"]:
            return tuple(sorted(str(pid) for pid in self.processes))
        if parts[0] == "proc" and len(parts) == 3 and parts[2] == "task":
            if int(parts[1]) not in self.processes:
                raise self._error(errno.ENOENT, path)
            return tuple(sorted(str(tid) for tid in self.processes[int(parts[1])].threads))
        group, _ = self._split(f"{path}/")
        if group not in self.groups:
            raise self._error(errno.ENOENT, path)
        return tuple(sorted(child.rpartition("/")[2] for child in self._children(group)))

    def inode(self, path: str) -> int:
        """Return the id of a group."""
        group, _ = self._split(f"{path}/")
        if group not in self.groups:
            raise self._error(errno.ENOENT, path)
        return self.groups[group].inode

    # --- AffinityCalls ---------------------------------------------------------------------------

    def get(self, tid: int) -> CpuSet:
        """Return where a thread may run."""
        if tid not in self._all_tids():
            raise self._error(errno.ESRCH, str(tid))
        return self.allowed(tid)

    def set(self, tid: int, cpus: CpuSet) -> None:
        """Set a thread's own mask, cut to its cpuset."""
        if tid not in self._all_tids():
            raise self._error(errno.ESRCH, str(tid))
        _, thread = self._find(tid)
        if not cpus & CpuSet(self._granted(thread.group, "cpus").mask):
            raise self._error(errno.EINVAL, str(tid))
        if not self._pretended(str(tid)):
            thread.mask = cpus

    def _content(self, group: str, name: str, found: FakeGroup) -> str | None:
        kind = "mems" if "mems" in name else "cpus"
        threads = "\n".join(map(str, self._tids(group, living=True)))
        leaders = "\n".join(str(pid) for pid, one in self.processes.items() if one.threads[pid].group == group)
        common = {"cpuset.cpus": str(found.cpus), "cpuset.mems": str(found.mems), "cgroup.procs": leaders}
        if self.version == 1:
            return (common | {"tasks": threads}).get(name)
        more = {
            f"cpuset.{kind}.effective": str(self._granted(group, kind)),
            "cgroup.threads": threads,
            **found.settings(),
            "cgroup.controllers": "cpuset" if self._has_cpuset(group) else "",
        }
        return (common | more).get(name)

    # --- the rules -------------------------------------------------------------------------------

    def _write_set(self, path: str, group: str, kind: str, text: str) -> None:
        try:
            wanted = IdSet.parse(text)
        except CpuSetInvalid as cause:
            digits = text.strip().replace("-", "").replace(",", "").isdecimal()
            raise self._error(errno.ERANGE if digits else errno.EINVAL, path) from cause
        if not wanted <= getattr(self, kind):
            raise self._error(errno.ERANGE if kind == "cpus" else errno.EINVAL, path)
        if self.version == 1 and not wanted <= getattr(self.groups["/"], kind):  # offline
            raise self._error(errno.EINVAL, path)
        if group == "/":
            raise self._error(errno.EACCES, path)
        if not wanted and getattr(self.groups[group], kind) and self._populated(group):
            raise self._error(errno.ENOSPC, path)
        if self.version == 1:
            if any(not getattr(self.groups[child], kind) <= wanted for child in self._children(group)):
                raise self._error(errno.EBUSY, path)
            if not wanted <= getattr(self.groups[parent_of(group)], kind):
                raise self._error(errno.EACCES, path)
        setattr(self.groups[group], kind, wanted)

    def _attach(self, path: str, group: str, text: str, *, whole: bool) -> None:
        try:
            tid = int(text.strip(), 0)
        except ValueError as cause:
            raise self._error(errno.EINVAL, path) from cause
        if tid < 0 or tid == 2:
            raise self._error(errno.EINVAL, path)
        if tid not in self._all_tids():
            raise self._error(errno.ESRCH, path)
        if self.version == 1 and not (self.groups[group].cpus and self.groups[group].mems):
            raise self._error(errno.ENOSPC, path)
        if self.version == 2 and group != "/" and self.groups[group].subtree and self._populated_below(group):
            raise self._error(errno.EBUSY, path)
        if self.version == 2 and any(self.groups[one].subtree and self._tids(one) for one in all_above(group)):
            raise self._error(errno.EOPNOTSUPP, path)  # tasks above make this a part of a threaded group
        process, thread = self._find(tid)
        if self.version == 2 and not whole and thread.group != group:
            raise self._error(errno.EOPNOTSUPP, path)  # all groups here are plain domains
        for one in process.threads.values() if whole else (thread,):
            if one.state != "Z" and not one.exiting:
                one.group = group

    def _control(self, path: str, group: str, command: str) -> None:
        if command not in {"+cpuset", "-cpuset"}:
            raise self._error(errno.EINVAL, path)
        if command == "-cpuset":
            if any(self.groups[child].subtree for child in self._children(group)):
                raise self._error(errno.EBUSY, path)
            self.groups[group].subtree.discard("cpuset")
            for child in self._children(group):
                self.groups[child] = FakeGroup(inode=self.groups[child].inode)
            return
        if not self._has_cpuset(group):
            raise self._error(errno.ENOENT, path)
        if group != "/" and self._tids(group) and self._populated_below(group):
            raise self._error(errno.EBUSY, path)
        self.groups[group].subtree.add("cpuset")

    def _granted(self, group: str, kind: str) -> IdSet:
        own = IdSet(getattr(self.groups[group], kind).mask)
        if self.version == 1 or group == "/":
            return own
        above = self._granted(parent_of(group), kind)
        return own & above or above

    def _has_cpuset(self, group: str) -> bool:
        return self.version == 1 or group == "/" or "cpuset" in self.groups[parent_of(group)].subtree

    def _read_proc(self, path: str, parts: list[str]) -> str:
        match parts:
            case ["self", "mountinfo"]:
                kind = "cgroup cgroup rw,cpuset" if self.version == 1 else "cgroup2 cgroup2 rw"
                return f"30 20 0:27 / {self.mount} rw,relatime - {kind}\n"
            case ["sys", "kernel", "pid_max"]:
                return "32768\n"
            case ["sys", "kernel", "random", "boot_id"]:
                return f"{self.boot_id}\n"
            case [number, name] if number.isdecimal() and int(number) in self._all_tids():
                return self._tell(path, *self._find(int(number)), name)
            case [number, "task", tid, name] if number.isdecimal() and tid.isdecimal():
                process = self.processes.get(int(number))
                if process is not None and int(tid) in process.threads:
                    return self._tell(path, process, process.threads[int(tid)], name)
        raise self._error(errno.ENOENT, path)

    def _tell(self, path: str, process: FakeProcess, thread: FakeThread, name: str) -> str:
        mems = self._granted(thread.group, "mems")
        text = proc_text(process, thread, name, version=self.version, allowed=self.allowed(thread.tid), mems=mems)
        if text is None:
            raise self._error(errno.ENOENT, path)
        return text

    def _pretended(self, path: str) -> bool:
        """Count one change; fail or pretend if a test asked for it."""
        self.steps += 1
        if self.steps in self.at_step:
            self.at_step[self.steps]()
        if self.steps in self.fail_at:
            raise self._error(self.fail_at[self.steps], path)
        return self.steps in self.pretend_at

    def _tids(self, group: str, *, living: bool = False) -> list[int]:
        return [
            thread.tid
            for process in self.processes.values()
            for thread in process.threads.values()
            if thread.group == group and not (living and thread.state == "Z")
        ]

    def _populated(self, group: str) -> bool:
        return bool(self._tids(group, living=True)) or self._populated_below(group)

    def _populated_below(self, group: str) -> bool:
        return any(self._populated(child) for child in self._children(group))

    def _children(self, group: str) -> list[str]:
        return [one for one in self.groups if one != "/" and parent_of(one) == group]

    def _split(self, path: str) -> tuple[str, str]:
        if not path.startswith(self.mount):
            raise self._error(errno.ENOENT, path)
        group, _, name = path.removeprefix(self.mount).rpartition("/")
        return group or "/", name

    @staticmethod
    def _error(code: int, path: str) -> OSError:
        return OSError(code, os.strerror(code), path)
