"""Which suites run on which booted machine, with resctrl mounted how. To add a suite, add a line to SUITES.

Those that are not `long` are what `make test-vm` runs: a few minutes. `ALL=1` runs every one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple


class Machine(Enum):
    """What boots; the value is its CPU model. Not Skylake-Server: the kernel turns CAT off on that one."""

    RDT = "Icelake-Server,level=0x1f,l3-cache=on"
    PLAIN = "Icelake-Server,level=0xd,l3-cache=on"  # our patch advertises RDT from level 0x10 on

    @property
    def title(self) -> str:
        """Name it for people and folders."""
        return self.name.lower()


class Resctrl(Enum):
    """How resctrl is mounted; the value is the option."""

    DEFAULT = ""
    CDP = "cdp"
    MBPS = "mba_MBps"
    ABSENT = "none"  # what a kernel has that finds no RDT


class Suite(NamedTuple):
    """Test files that run as one pytest."""

    what: str
    files: tuple[str, ...]
    only: str = ""  # as pytest -k; a daemon takes half a minute to start here, so not all of its tests
    resctrl: Resctrl = Resctrl.DEFAULT
    long: bool = False  #: left out unless asked for: minutes under emulation, or little beyond another suite

    @property
    def machine(self) -> Machine:
        """Return what has to be booted for it."""
        return Machine.PLAIN if self.resctrl is Resctrl.ABSENT else Machine.RDT


_DAEMON = ("tests/scheduler/test_daemon.py", "tests/scheduler/test_bad_input.py")
_RESCTRL = (
    "tests/isolation/test_resctrl_contract.py",
    "tests/isolation/test_monitoring_groups.py",
    "tests/profiler/test_sources.py",
    "tests/vm/test_check.py",
)

_ENDS = ("tests/vm/test_place.py", "tests/vm/test_full_placement.py")

_MINUTES = "thousand or 200_placements or just_dying or nearly_full"  #: together more than a minute under emulation

#: Two machines run beside each other, so what needs no resctrl runs on the one without: about half of the time each.
#: Neighbours with the same way to mount resctrl share a mount; to start a suite takes half a minute, so they are large.
#: Fakes are the same on every kernel: `make test` has seen them.
SUITES = (
    Suite(
        "resctrl rules, groups and faults; placements from end to end, 2 NUMA nodes, cache ways",
        (*_RESCTRL, "tests/vm/test_resctrl_faults.py", *_ENDS),
        "not fake",
    ),
    Suite(
        "the daemon as its users meet it",
        _DAEMON,
        "(every_thread or graceful_stop) and cgroup or preview or bad_pids or ends_its_placement or stale_etag"
        " or names_and_pids or same_request",
        long=True,
    ),
    Suite("cells of the experiment with cache ways", ("tests/vm/test_experiment.py",), long=True),
    Suite("cache ways of CPUs that go offline", ("tests/vm/test_hotplug.py",), "takes_its_ways", long=True),
    Suite("resctrl rules and groups with CDP", _RESCTRL, "real or check", Resctrl.CDP),
    Suite("a placement with CDP", ("tests/vm/test_full_placement.py",), "ways_mems", Resctrl.CDP, long=True),
    Suite("resctrl rules and groups with MBps", _RESCTRL, "real or check", Resctrl.MBPS, long=True),
    Suite(
        "cpuset rules, enforcer, host kernel, memory on 2 NUMA nodes, check and enabling cpuset, cgroup v2 without RDT",
        (
            "tests/vm/test_check.py",
            "tests/isolation/test_cpuset_contract.py",
            "tests/isolation/test_enforcer_real.py",
            "tests/isolation/test_group_faults.py",
            "tests/isolation/test_host_kernel.py",
            "tests/isolation/test_page_calls_contract.py",
            "tests/isolation/test_page_cache.py",
            "tests/vm/test_memory.py",
            "tests/vm/test_delegation.py",
        ),
        f"not fake and not estimate and not ({_MINUTES})",
        Resctrl.ABSENT,
    ),
    Suite(
        "a thousand threads, 200 placements, dying processes, a node that is nearly full, cgroup v2 without RDT",
        ("tests/isolation/test_enforcer_real.py", "tests/vm/test_memory.py"),
        _MINUTES,
        Resctrl.ABSENT,
        long=True,
    ),
    Suite("the daemon without RDT", _DAEMON, "every_thread and cgroup", Resctrl.ABSENT, long=True),
    Suite(
        "CPUs that go offline: cgroup v2, v1, affinity", ("tests/vm/test_hotplug.py",), "", Resctrl.ABSENT, long=True
    ),
    Suite(
        "units of a real systemd",
        ("tests/isolation/test_systemd_contract.py", "tests/vm/test_systemd.py"),
        "real or placed",
        Resctrl.ABSENT,
        long=True,
    ),
)


EVERY = "*"  #: instead of a text: the long ones, too


def chosen(only: str, machine: Machine | None = None) -> tuple[Suite, ...]:
    """Return the suites whose name or files contain the text, in any case of letters, of one machine or of all.

    An empty text = all that are not long.
    """
    wanted = only.casefold()
    return tuple(
        suite
        for suite in SUITES
        if machine in {None, suite.machine}
        and (only == EVERY or (wanted in " ".join((suite.what, *suite.files)).casefold() if wanted else not suite.long))
    )


def machines(suites: Iterable[Suite]) -> tuple[Machine, ...]:
    """Return what has to be booted for the suites, each once."""
    return tuple(dict.fromkeys(suite.machine for suite in suites))
