"""An in-memory resctrl on top of the fake kernel: groups, schemata, tasks and info/last_cmd_status.

Its rules and error numbers are those of the real kernel: tests/isolation/test_resctrl_contract.py holds both to them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from isolation.errors import ResctrlVanished
from isolation.resctrl import ResctrlGroups
from isolation.resctrl_info import BandwidthControl, BandwidthUnit, CacheControl, ResctrlInfo
from isolation.resctrl_mask import WayMask
from isolation.service_class import ServiceClasses
from tests.fakes.kernel import FakeKernel

RESCTRL = "/sys/fs/resctrl"
_PAGE_BYTES = 4096
_ALL_PERCENT = 100
_ALL_MIB_PER_S = 2**32 - 1  # mount option mba_MBps


@dataclass(slots=True)
class FakeClass:
    """One control group: amounts by resource and domain, and the names of its monitoring groups."""

    amounts: dict[str, dict[int, int]]
    monitors: set[str] = field(default_factory=set)


class FakeResctrl(FakeKernel):
    """A machine with resctrl mounted; it is the folder lock, too."""

    def __init__(
        self,
        *,
        ways: int = 11,
        min_ways: int = 1,
        closids: int = 8,
        rmids: int = 32,
        domains: tuple[int, ...] = (0, 1),
        gran: int = 10,
        sparse: bool = False,
        cdp: bool = False,
        l2: bool = False,
        unit: BandwidthUnit = BandwidthUnit.PERCENT,
        cpus: str = "0-3",
        mems: str = "0-1",
        version: int = 1,
    ) -> None:
        super().__init__(cpus=cpus, mems=mems, version=version)
        self.full = (1 << ways) - 1
        self.min_ways = min_ways
        self.closids = closids
        self.rmids = rmids
        self.domains = domains
        self.gran = gran
        self.sparse = sparse
        self.caches = (*(("L3CODE", "L3DATA") if cdp else ("L3",)), *(("L2",) if l2 else ()))
        self.percent = unit is BandwidthUnit.PERCENT
        self.no_limit = _ALL_PERCENT if self.percent else _ALL_MIB_PER_S
        self.mounted = True
        self.limbo = False  # all freed RMIDs still wait
        self.locked_by_other = False
        self.wrote_zero = False
        self.last_status = "ok"
        self.where: dict[int, str] = {}  # thread -> group; who is not here is in the default one
        self.classes: dict[str, FakeClass] = {"": FakeClass(self._initial())}

    # --- for tests -----------------------------------------------------------------------------

    @property
    def info(self) -> ResctrlInfo:
        """Return what read_resctrl would tell of this machine."""
        caches = (
            CacheControl(
                resource=name,
                closids=self.closids,
                cbm_mask=WayMask(self.full),
                min_cbm_bits=self.min_ways,
                shareable_bits=WayMask(),
                sparse_masks=self.sparse,
                domains=self.domains,
                bit_usage={},
            )
            for name in self.caches
        )
        bandwidth = BandwidthControl(
            resource="MB",
            closids=self.closids,
            unit=BandwidthUnit.PERCENT if self.percent else BandwidthUnit.MIB_PER_S,
            min_bandwidth=self.gran,
            bandwidth_gran=self.gran,
            thread_throttle_mode=None,
            domains=self.domains,
            unlimited=dict.fromkeys(self.domains, self.no_limit),
        )
        return ResctrlInfo(caches=tuple(caches), bandwidths=(bandwidth,), monitoring=())

    def read_info(self) -> ResctrlInfo:
        """Return what can be controlled; raises ResctrlVanished while nothing is mounted."""
        if not self.mounted:
            raise ResctrlVanished(f"no resctrl is mounted at {RESCTRL!r}")
        return self.info

    def classes_of(self, prefix: str) -> ServiceClasses:
        """Return what the enforcer needs for cache ways."""
        groups = ResctrlGroups(RESCTRL, self.read_info, files=self, locks=self, prefix=prefix)
        return ServiceClasses(groups, self.read_info)

    def set_domains(self, *domains: int) -> None:
        """Do what the kernel does when caches lose their last CPU or get one back: who is back holds no limits."""
        self.domains = domains
        initial = self._initial()
        for one in self.classes.values():
            for name, amounts in one.amounts.items():
                one.amounts[name] = {domain: amounts.get(domain, initial[name][domain]) for domain in domains}

    def unmount(self) -> None:
        """Do what umount does: every thread to the default group, every group gone."""
        self.mounted = False
        self.where.clear()
        self.classes = {"": FakeClass(self._initial())}

    def picture(self) -> dict[str, object]:
        """Return everything a placement could have changed, to compare before and after."""
        alive = self._all_tids()
        return super().picture() | {
            "classes": {name: self._schemata(name) for name in self.classes},
            "where": {tid: group for tid, group in self.where.items() if tid in alive},
        }

    def clone(self, tid: int) -> int:
        """Let a thread make another one; it inherits the group."""
        return self._inherit(tid, super().clone(tid))

    def fork(self, tid: int, comm: str = "child") -> int:
        """Let a thread make a child process; it inherits the group."""
        return self._inherit(tid, super().fork(tid, comm))

    def _inherit(self, tid: int, born: int) -> int:
        if group := self.where.get(tid):
            self.where[born] = group
        return born

    # --- FolderLocks ---------------------------------------------------------------------------

    @contextmanager
    def held(self, path: str, limit_s: float) -> Iterator[None]:
        """Hold the lock, unless another program does."""
        assert path == RESCTRL
        if self.locked_by_other:
            raise TimeoutError(f"{path!r} is still locked after {limit_s} s")
        yield

    # --- KernelFiles ---------------------------------------------------------------------------

    def read(self, path: str) -> str:
        """Return the content of a file."""
        if not path.startswith(RESCTRL):
            return super().read(path)
        group, name = self._place(path)
        if path == f"{RESCTRL}/info/last_cmd_status" and self.mounted:
            return f"{self.last_status}\n"
        if not self._known(group) or name not in {"schemata", "tasks"} or (name == "schemata" and "mon_" in group):
            raise self._error(errno.ENOENT, path)
        if name == "schemata":
            return self._schemata(group)
        return "".join(f"{tid}\n" for tid in self._tasks(group))

    def write(self, path: str, text: str) -> None:
        """Obey one command, or refuse it as the kernel does."""
        if not path.startswith(RESCTRL):
            super().write(path, text)
            return
        group, name = self._place(path)
        if not self._known(group):
            raise self._error(errno.ENOENT, path)
        if len(text) > _PAGE_BYTES:
            raise self._error(errno.E2BIG, path)
        if self._pretended(path):
            return
        if not self._known(group):  # it went meanwhile
            raise self._error(errno.ENOENT, path)
        match name:
            case "tasks":
                self._attach(path, group, text, whole=False)
            case "schemata" if "mon_" not in group:
                self._write_schemata(path, group, text)
            case _:
                raise self._error(errno.ENOENT, path)

    def mkdir(self, path: str) -> None:
        """Make a control group, or a monitoring group in mon_groups."""
        if not path.startswith(RESCTRL):
            super().mkdir(path)
            return
        group = path.removeprefix(RESCTRL).strip("/")
        parent, _, name = group.rpartition("/")
        self._check_new(path, group)
        if self._pretended(path):
            return
        self._check_new(path, group)  # the world may have moved meanwhile
        if not parent and len(self.classes) >= self.closids:
            raise self._refusal(errno.ENOSPC, path, "Out of CLOSIDs")
        if self.limbo or len(self.classes) + sum(len(one.monitors) for one in self.classes.values()) >= self.rmids:
            raise self._refusal(errno.EBUSY if self.limbo else errno.ENOSPC, path, "Out of RMIDs")
        self.last_status = "ok"
        if parent:
            self.classes[_control(parent)].monitors.add(name)
        else:
            self.classes[name] = FakeClass(self._initial())

    def rmdir(self, path: str) -> None:
        """Remove a group; it never refuses one with tasks: they fall to the default group, or to the one above."""
        if not path.startswith(RESCTRL):
            super().rmdir(path)
            return
        group = path.removeprefix(RESCTRL).strip("/")
        if not group or not self._known(group):
            raise self._error(errno.ENOENT if group else errno.EBUSY, path)
        if self._pretended(path):
            return
        control = _control(group)
        above = "" if control == group else control
        for tid in self._tasks(group):
            self.where.pop(tid)
            if above:
                self.where[tid] = above
        if control == group:
            del self.classes[group]
        else:
            self.classes[control].monitors.discard(group.rpartition("/")[2])

    def folders(self, path: str) -> tuple[str, ...]:
        """Return the folders below one."""
        if not path.startswith(RESCTRL):
            return super().folders(path)
        group = path.removeprefix(RESCTRL).strip("/")
        control = _control(group)
        if not self._known(control):
            raise self._error(errno.ENOENT, path)
        if group == "mon_groups" or group.endswith("/mon_groups"):
            return tuple(sorted(self.classes[control].monitors))
        return tuple(sorted([*(name for name in self.classes if name and not group), "info", "mon_data", "mon_groups"]))

    # --- the rules -----------------------------------------------------------------------------

    def _attach(self, path: str, group: str, text: str, *, whole: bool) -> None:
        if not path.startswith(RESCTRL):
            super()._attach(path, group, text, whole=whole)
            return
        self.last_status = "ok"
        try:
            tid = int(text.strip(), 0 if not text.strip().startswith("0") or "x" in text else 8)
        except ValueError as cause:
            raise self._error(errno.EINVAL, path) from cause
        if tid < 0:
            raise self._error(errno.EINVAL, path)
        if tid == 0:
            self.wrote_zero = True  # the writer itself
            return
        if tid not in self._all_tids():
            raise self._refusal(errno.ESRCH, path, f"No task {tid}")
        control = _control(group)
        if control != group and _control(self.where.get(tid, "")) != control:
            raise self._refusal(errno.EINVAL, path, "Can't move task to different control group")
        self.where.pop(tid, None)
        if group:
            self.where[tid] = group

    def _check_new(self, path: str, group: str) -> None:
        parent, _, name = group.rpartition("/")
        if not self.mounted:
            raise self._error(errno.EPERM, path)
        if self._known(group):
            raise self._error(errno.EEXIST, path)
        if parent and not (parent.endswith("mon_groups") and self._known(_control(parent))):
            raise self._error(errno.EPERM if self._known(parent) else errno.ENOENT, path)
        if "\n" in name:
            raise self._error(errno.EINVAL, path)

    def _write_schemata(self, path: str, group: str, text: str) -> None:
        if not text.endswith("\n"):
            raise self._error(errno.EINVAL, path)  # last_cmd_status stays as it was
        self.last_status = "ok"
        staged: list[tuple[str, int, int]] = []
        for line in text.splitlines():
            name, colon, rest = line.strip().partition(":")
            if not colon or name not in {*self.caches, "MB"}:
                raise self._refusal(errno.EINVAL, path, f"Unknown or unsupported resource name '{name}'")
            staged.extend((name, *self._staged(path, name, part)) for part in rest.split(";"))
        for name, domain, amount in staged:
            self.classes[group].amounts[name][domain] = amount

    def _staged(self, path: str, name: str, part: str) -> tuple[int, int]:
        number, sign, value = part.partition("=")
        if not sign or not number.strip().isdecimal():
            raise self._refusal(errno.EINVAL, path, "Missing '=' or non-numeric domain")
        if int(number) not in self.domains:
            raise self._error(errno.EINVAL, path)  # without a word
        try:
            amount = int(value, 10 if name == "MB" else 16)
        except ValueError as cause:
            raise self._refusal(errno.EINVAL, path, f"Non-numeric value {value}") from cause
        if name == "MB" and not self.percent:
            return int(number), amount  # what the kernel steers itself, it takes as it is
        if name == "MB":
            if not self.gran <= amount <= _ALL_PERCENT:
                raise self._refusal(errno.EINVAL, path, f"MB value {amount} out of range [{self.gran},100]")
            return int(number), -(-amount // self.gran) * self.gran
        mask = WayMask(amount)
        if not amount or amount > self.full:
            raise self._refusal(errno.EINVAL, path, "Mask out of range")
        if not mask.contiguous and not self.sparse:
            raise self._refusal(errno.EINVAL, path, f"The mask {mask} has non-consecutive 1-bits")
        if len(mask) < self.min_ways:
            raise self._refusal(errno.EINVAL, path, f"Need at least {self.min_ways} bits in the mask")
        return int(number), amount

    def _schemata(self, group: str) -> str:
        amounts = self.classes[group].amounts
        lines = [
            f"{name:>10}:{';'.join(f'{domain}={value:x}' for domain, value in amounts[name].items())}\n"
            for name in self.caches
        ]
        limits = ";".join(f"{domain}={value:4}" for domain, value in amounts["MB"].items())
        return "".join([*lines, f"        MB:{limits}\n"])

    def _initial(self) -> dict[str, dict[int, int]]:
        caches = {name: dict.fromkeys(self.domains, self.full) for name in self.caches}
        return caches | {"MB": dict.fromkeys(self.domains, self.no_limit)}

    def _tasks(self, group: str) -> list[int]:
        below = f"{group}/mon_groups/".lstrip("/")
        found = ((tid, self.where.get(tid, "")) for tid in sorted(self._all_tids()))
        return [tid for tid, where in found if where == group or where.startswith(below)]

    def _known(self, group: str) -> bool:
        control = _control(group)
        if not self.mounted or control not in self.classes:
            return False
        inner = group.removeprefix(control).strip("/").removeprefix("mon_groups").strip("/")
        return not inner or inner in self.classes[control].monitors

    def _refusal(self, code: int, path: str, told: str) -> OSError:
        self.last_status = told
        return self._error(code, path)

    @staticmethod
    def _place(path: str) -> tuple[str, str]:
        group, _, name = path.removeprefix(RESCTRL).strip("/").rpartition("/")
        return group, name


def _control(group: str) -> str:
    """Return the control group that a group is, or lies in."""
    control, mark, _ = f"{group}/".partition("mon_groups/")
    return control.strip("/") if mark else group
