"""Which process is meant, and whether we may touch it. Reads /proc; changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from isolation.cpuset import CpuSet
from isolation.errors import ForeignProcess, KernelThread, ProcessGone, ProcessRefused, ReservedProcess
from isolation.kernelfs import HOST_FILES, KernelFiles

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h
_EXITING = 0x00000004  # PF_EXITING: already out of its cgroup, not yet a zombie
_LARGEST_PID = 4 * 1024 * 1024  # PID_MAX_LIMIT of 64-bit kernels
_DEAD = frozenset("ZXx")
#: Service managers and container runtimes by comm, which the kernel cuts to 15 characters.
_PARENTS_OF_OTHERS = frozenset(
    {"systemd", "kubelet", "dockerd", "containerd", "containerd-shim", "crio", "conmon", "lxc-start", "runsv"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process for ever: a pid alone may be given to another process within minutes."""

    pid: int
    starttime_ticks: int  #: since boot, in clock ticks (field 22 of /proc/PID/stat)
    uid: int  #: real user id when it was identified
    comm: str
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadId:
    """One thread for ever, within this boot."""

    tid: int
    starttime_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The fields of /proc/PID/stat that are needed here."""

    pid: int
    comm: str
    state: str
    ppid: int
    flags: int
    starttime_ticks: int

    @classmethod
    def parse(cls, text: str) -> Stat:
        """Read one line; comm may itself hold spaces and parentheses, so the last one ends it."""
        opening, closing = text.index("("), text.rindex(")")
        fields = _after_comm(text)
        return cls(
            pid=int(text[:opening]),
            comm=text[opening + 1 : closing],
            state=fields[0],
            ppid=int(fields[1]),
            flags=int(fields[6]),
            starttime_ticks=int(fields[19]),
        )

    @property
    def dead(self) -> bool:
        """Tell whether it ends or only a zombie is left: the kernel accepts writes about it that do nothing."""
        return _is_dead(self.state, self.flags)


def _after_comm(text: str) -> list[str]:
    """Return the fields of a stat file from state to starttime; comm may hold spaces and parentheses."""
    return text[text.rindex(")") + 2 :].split(maxsplit=20)


def _is_dead(state: str, flags: int) -> bool:
    return state in _DEAD or bool(flags & _EXITING)


def boot_id(*, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> str:
    """Return the id the kernel drew at this boot."""
    if files is HOST_FILES and proc_root == "/proc":
        return _this_boot()
    return files.read(f"{proc_root}/sys/kernel/random/boot_id").strip()


@cache  # no process outlives its boot
def _this_boot() -> str:
    return HOST_FILES.read("/proc/sys/kernel/random/boot_id").strip()


def read_stat(pid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> Stat | None:
    """Return the process' (or thread's) stat; None when it is gone or only its zombie is left."""
    try:
        stat = Stat.parse(files.read(f"{proc_root}/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat.dead else stat


def start_of(tid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> int | None:
    """Return when a thread was started, in clock ticks since boot; None when it is gone or only its zombie is left."""
    try:
        fields = _after_comm(files.read(f"{proc_root}/{tid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if _is_dead(fields[0], int(fields[6])) else int(fields[19])


def read_status(path: str, *, files: KernelFiles = HOST_FILES) -> dict[str, str]:
    """Return the fields of a status file by name."""
    lines = (line.partition(":") for line in files.read(path).splitlines())
    return {name: value.strip() for name, _, value in lines}


def process_of(tid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> int | None:
    """Return the pid of the process that the thread is of; None when it is gone."""
    try:
        return int(read_status(f"{proc_root}/{tid}/status", files=files)["Tgid"])
    except (FileNotFoundError, ProcessLookupError):
        return None


def allowed_cpus(pid: int, tid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> CpuSet | None:
    """Return where a thread may run by its own status; None when it is gone, or dead."""
    path = f"{proc_root}/{pid}/task/{tid}/status"
    try:
        text = files.read(path)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:  # not read_status: this is done for every thread of every placement
        state = text[text.index("\nState:\t") + 8]
        start = text.index("\nCpus_allowed_list:\t") + 20
        listed = text[start : text.index("\n", start)]
    except ValueError as cause:
        raise ValueError(f"{path!r} has no State or no Cpus_allowed_list: {text[:200]!r}") from cause
    return None if state in _DEAD else CpuSet.parse(listed)


def identify(
    pid: int,
    *,
    allowed_uids: frozenset[int] | None,
    files: KernelFiles = HOST_FILES,
    proc_root: str = "/proc",
    own_pid: int | None = None,
    named: bool = True,
) -> ProcessIdentity:
    """Return who the pid is, or raise one of the ProcessRefused family saying why we keep away from it.

    allowed_uids None = any user. named = by a user; False = it was found in a cgroup, so that its
    number is ours and it is no parent of more than the group.
    """
    own = os.getpid() if own_pid is None else own_pid
    largest = _pid_max(files, proc_root)
    if not 1 <= pid <= largest:  # the kernel takes 0 as the writer itself
        raise ProcessRefused(f"pid {pid} is no process id: it must be from 1 to {largest}", pid=pid)
    gone = ProcessGone(f"process {pid} does not exist, or has ended; list what runs with `ps -e`", pid=pid)
    stat = read_stat(pid, files=files, proc_root=proc_root)
    if stat is None:
        raise gone
    who = f"process {pid} ({stat.comm!r})"
    if stat.flags & _KERNEL_THREAD:  # the kernel would let root move it
        raise KernelThread(f"{who} is a kernel thread; place only processes of user space", pid=pid)
    if pid == 1 or pid in _lineage(own, files, proc_root):
        raise ReservedProcess(f"{who} is init, this daemon or one of its ancestors; place another process", pid=pid)
    try:
        status = read_status(f"{proc_root}/{pid}/status", files=files)
    except (FileNotFoundError, ProcessLookupError) as cause:
        raise gone from cause
    except PermissionError as cause:
        raise ForeignProcess(f"{who} may not be read by this user; run the daemon as root", pid=pid) from cause
    if int(status["Tgid"]) != pid:
        raise ProcessRefused(f"{who} is a thread of process {status['Tgid']}; name that process", pid=pid)
    _refuse_foreign(pid, who, status, allowed_uids)
    if named:
        _refuse_by_number(stat, who, status)
    again = read_stat(pid, files=files, proc_root=proc_root)
    if again is None or again.starttime_ticks != stat.starttime_ticks:
        raise gone
    return ProcessIdentity(
        pid=pid,
        starttime_ticks=stat.starttime_ticks,
        uid=int(status["Uid"].split()[0]),
        comm=stat.comm,
        boot_id=boot_id(files=files, proc_root=proc_root),
    )


def still(identity: ProcessIdentity, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> bool:
    """Tell whether the pid is still that very process, and alive."""
    return (
        start_of(identity.pid, files=files, proc_root=proc_root) == identity.starttime_ticks
        and boot_id(files=files, proc_root=proc_root) == identity.boot_id
    )


def thread_ids(pid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> tuple[int, ...]:
    """Return the tids of a process, zombies included; empty when it is gone."""
    try:
        return tuple(sorted(int(name) for name in files.folders(f"{proc_root}/{pid}/task")))
    except (FileNotFoundError, ProcessLookupError):
        return ()


def threads(pid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> tuple[ThreadId, ...]:
    """Return the living threads of a process, lowest tid first; empty when it is gone."""
    found = []
    for tid in thread_ids(pid, files=files, proc_root=proc_root):
        ticks = start_of(tid, files=files, proc_root=f"{proc_root}/{pid}/task")
        if ticks is not None:
            found.append(ThreadId(tid=tid, starttime_ticks=ticks))
    return tuple(found)


def family(pid: int, *, files: KernelFiles = HOST_FILES, proc_root: str = "/proc") -> dict[int, tuple[int, ...]]:
    """Return the tids of the process and of all its living descendants by pid, itself first; empty when it is gone."""
    found: dict[int, tuple[int, ...]] = {}
    waiting = [pid]
    parents: dict[int, int] | None = None
    while waiting:
        one = waiting.pop(0)
        tids = () if one in found else thread_ids(one, files=files, proc_root=proc_root)
        if not tids:
            continue
        found[one] = tids
        try:
            waiting.extend(_children(one, tids, files, proc_root))
        except NotImplementedError:
            parents = _parents(files, proc_root) if parents is None else parents
            waiting.extend(child for child, parent in parents.items() if parent == one)
    return found


def _children(pid: int, tids: tuple[int, ...], files: KernelFiles, proc_root: str) -> list[int]:
    """Return the children; raises NotImplementedError on kernels without CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    for tid in tids:
        try:
            text = files.read(f"{proc_root}/{pid}/task/{tid}/children")
        except (FileNotFoundError, ProcessLookupError) as cause:
            if start_of(tid, files=files, proc_root=f"{proc_root}/{pid}/task") is not None:
                raise NotImplementedError from cause
            continue  # the thread ended
        found.extend(int(child) for child in text.split())
    return found


def _parents(files: KernelFiles, proc_root: str) -> dict[int, int]:
    stats = (
        read_stat(int(name), files=files, proc_root=proc_root) for name in files.folders(proc_root) if name.isdecimal()
    )
    return {stat.pid: stat.ppid for stat in stats if stat is not None}


def _refuse_by_number(stat: Stat, who: str, status: dict[str, str]) -> None:
    if stat.comm in _PARENTS_OF_OTHERS:
        raise ReservedProcess(
            f"{who} starts and keeps the processes of others; place one that it has started, or its cgroup",
            pid=stat.pid,
        )
    if len(status.get("NSpid", "").split()) > 1:
        raise ForeignProcess(
            f"{who} lives in another pid namespace (a container); place its cgroup_path instead", pid=stat.pid
        )


def _refuse_foreign(pid: int, who: str, status: dict[str, str], allowed_uids: frozenset[int] | None) -> None:
    uids = tuple(int(uid) for uid in status["Uid"].split()[:2])  # real, effective
    if allowed_uids is not None and not allowed_uids.issuperset(uids):
        stranger = next(uid for uid in uids if uid not in allowed_uids)
        listed = ", ".join(map(str, sorted(allowed_uids))) or "none"
        raise ForeignProcess(
            f"{who} belongs to user {stranger}, allowed are {listed}; start the daemon with --allow-uid {stranger}",
            pid=pid,
        )


def _pid_max(files: KernelFiles, proc_root: str) -> int:
    try:
        return int(files.read(f"{proc_root}/sys/kernel/pid_max"))
    except FileNotFoundError:  # a partial /proc, as in some containers
        return _LARGEST_PID


def _lineage(pid: int, files: KernelFiles, proc_root: str) -> frozenset[int]:
    """Return the process and its ancestors."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = read_stat(pid, files=files, proc_root=proc_root)
        pid = 0 if stat is None else stat.ppid
    return frozenset(found)
