"""CPUs of a real kernel that go offline under placements and come back (faults 57 to 59). Only in the guest."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from isolation.cgroup import find_hierarchy
from isolation.cpuset import CpuSet
from isolation.enforcer import Enforcer, Mechanism
from isolation.machine import HOST_MACHINE
from isolation.process import family
from isolation.resctrl_info import find_resctrl
from isolation.topology import read_topology
from profiler.records import HostTraits, WorkloadProfile
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from scheduler.controller import Controller
from scheduler.held import Held
from scheduler.journal import Journal
from scheduler.placement import Placement, WorkloadRequest
from scheduler.reconciler import Reconciler
from scheduler.view import Viewer
from scheduler.writer import Writer
from tests.fakes.children import real_process
from tests.fakes.predictions import hog
from tests.fakes.processes import wait_until
from tests.scheduler.test_cache_ways import hungry, streaming

pytestmark = pytest.mark.root
_CPUS = Path("/sys/devices/system/cpu")
_TOP = Path("/sys/fs/cgroup")


@pytest.fixture(autouse=True)
def guest() -> Iterator[None]:
    """Let nothing here run anywhere but in the guest, and leave all CPUs online."""
    if not Path("/proc/1/comm").read_text().startswith("virtme"):
        pytest.skip("takes CPUs offline: only in the virtual machine that make test-vm boots")
    if len(read_topology().usable) < 8:
        pytest.skip("needs the eight CPUs of that machine")
    yield
    for file in sorted(_CPUS.glob("cpu[1-9]*/online")):
        if file.read_text().strip() == "0":
            file.write_text("1")


def switch(cpus: CpuSet, *, online: bool) -> None:
    for cpu in cpus:
        (_CPUS / f"cpu{cpu}/online").write_text(str(int(online)))


class Host:
    """The daemon's writer on this kernel, without its sockets and clock."""

    def __init__(self, folder: Path, mechanism: Mechanism) -> None:
        topology = read_topology()
        self.enforcer = Enforcer.for_host(topology, mechanism=mechanism, prefix=f"cotenant-hotplug-{os.getpid()}")
        self.journal = Journal(folder / "journal.db")
        self.viewer = Viewer(
            topology=topology,
            host=HostTraits(fingerprint="guest", llc_bytes=16e6, memory_bytes_per_s=10e9),
            profiles=ProfileStore(folder / "profiles"),
            models=ModelRegistry(folder / "models"),
        )
        held: dict[str, Held] = {}
        writer = Writer()
        self.controller = Controller(
            enforcer=self.enforcer,
            journal=self.journal,
            viewer=self.viewer,
            writer=writer,
            held=held,
            allowed_uids=None,
        )
        self.reconciler = Reconciler(
            controller=self.controller,
            enforcer=self.enforcer,
            journal=self.journal,
            viewer=self.viewer,
            writer=writer,
            held=held,
            machine=HOST_MACHINE,
        )
        self.reconciler.recover()
        self.turn()

    def place(self, *pids: int, cpus: int, name: str = "web", profile: WorkloadProfile | None = None) -> Placement:
        request = WorkloadRequest(name=name, cpus=cpus, pids=pids, inline_profile=profile or hog(name))
        return self.controller.place(f"place-{name}", b"place", request, allow_best_effort=True)

    def turn(self) -> None:
        self.reconciler.reconcile()

    def turn_until(self, condition: Callable[[], bool]) -> None:
        """Reconcile until it is so: the kernel tells groups and threads of a change a little later."""

        def turned() -> bool:
            self.turn()
            return condition()

        wait_until(turned)

    def placement(self) -> Placement:
        return self.viewer.current().placements["web"]

    def shortage(self) -> str:
        """Return the note about CPUs that are offline."""
        return next((one for one in self.placement().notes if "offline" in one), "")

    def kinds(self) -> list[str]:
        return [one.kind for one in self.journal.events(0, 100) if one.workload == "web"]


def enabled(control: Path) -> bool:
    try:
        control.write_text("+cpuset")
    except FileNotFoundError:
        return False
    return True


@pytest.fixture
def version_1(tmp_path: Path) -> Iterator[None]:
    """Take the cpuset controller away from cgroup v2 for a while, and mount it as v1."""
    control = _TOP / "cgroup.subtree_control"
    mount = tmp_path / "v1"
    mount.mkdir()
    control.write_text("-cpuset")
    with ExitStack() as stack:
        stack.callback(wait_until, lambda: enabled(control))  # v2 gets it back some time after it is unmounted

        def mounted() -> bool:
            command = ["/bin/mount", "-t", "cgroup", "-o", "cpuset", "cpuset", str(mount)]
            return subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == 0

        wait_until(mounted)  # EBUSY while groups that were removed linger
        stack.callback(subprocess.run, ["/bin/umount", str(mount)], check=True, timeout=60)
        found = find_hierarchy()
        assert (found and found.version, found and found.mount) == (1, str(mount))
        yield


@pytest.fixture(params=[Mechanism.CGROUP_V2, Mechanism.CGROUP_V1, Mechanism.AFFINITY])
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    if request.param is Mechanism.CGROUP_V1:
        request.getfixturevalue("version_1")
    return Mechanism(request.param)


@pytest.fixture
def host(mechanism: Mechanism, tmp_path: Path) -> Iterator[Host]:
    one = Host(tmp_path, mechanism)
    yield one
    assert one.enforcer.groups() == ()
    one.journal.close()


def allowed(pid: int) -> set[str]:
    """Return where the threads may run, without CPUs that are offline, which their masks may still name."""
    online = read_topology().online
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found.add(next(line.partition(":")[2] for line in lines if line.startswith("Cpus_allowed_list")))
    return {str(CpuSet.parse(one) & online) for one in found}


def cgroups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_fault_57_a_workload_that_lost_a_cpu_is_moved_to_as_many_as_it_asked_for(host: Host) -> None:
    with real_process(threads=4) as pid:
        before = host.place(pid, cpus=2)
        gone = CpuSet.of([max(before.decision.cpus)])
        switch(gone, online=False)
        host.turn_until(lambda: host.placement().decision.cpus != before.decision.cpus)
        now = host.placement()
        placed = allowed(pid)
        switch(gone, online=True)
        host.turn_until(lambda: host.enforcer.topology.usable == read_topology().usable)
        host.controller.release("request-2", b"release", "web", "")
        after = allowed(pid)

    assert len(now.decision.cpus) == 2
    assert not now.decision.cpus & gone
    assert placed == {str(now.decision.cpus)}
    assert {"drift", "contested"}.isdisjoint(host.kinds())
    assert after == {"0-7"}


def test_fault_58_where_too_few_are_left_it_makes_do_and_is_as_wished_again_later(host: Host) -> None:
    gone = CpuSet.parse("5,7")
    with real_process(threads=4) as pid:
        host.place(pid, cpus=8)
        switch(gone, online=False)
        host.turn_until(lambda: bool(host.shortage()))
        meanwhile, told, state = allowed(pid), host.shortage(), str(host.placement().state)
        host.turn()
        switch(gone, online=True)
        host.turn_until(lambda: allowed(pid) == {"0-7"})
        host.turn()
        again = str(host.placement().state), host.shortage()
        host.controller.release("request-2", b"release", "web", "")

    assert (meanwhile, state) == ({"0-4,6"}, "ACTIVE")
    assert told == "CPUs 5,7 are offline: it runs on 0-4,6 until they are back"
    assert again == ("ACTIVE", "")
    assert {"drift", "contested"}.isdisjoint(host.kinds())


def test_fault_59_a_workload_without_any_cpu_left_shares_those_that_are(mechanism: Mechanism, tmp_path: Path) -> None:
    with real_process(threads=4) as pid:
        all_cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {2, 3, 7})  # so that few are usable, and CPU 0, which stays, is none of them
        try:
            host = Host(tmp_path, mechanism)
            placed = host.place(pid, cpus=2).decision.cpus
            left = str(CpuSet.parse("2-3,7") - placed)
            switch(placed, online=False)
            host.turn_until(lambda: bool(host.shortage()))
            shared, told = allowed(pid), host.shortage()
            host.turn()
            switch(placed, online=True)
            host.turn_until(lambda: allowed(pid) == {str(placed)})
            again = str(host.placement().state), host.shortage()
            host.controller.release("request-2", b"release", "web", "")
        finally:
            os.sched_setaffinity(0, all_cpus)

    assert shared == {left}
    assert told == f"all its CPUs ({placed}) are offline: it shares CPUs {left} with everybody until they are back"
    assert again == ("ACTIVE", "")
    assert {"drift", "contested"}.isdisjoint(host.kinds())


def test_fault_59_children_born_since_are_gathered_again_and_go_home_at_release(
    mechanism: Mechanism, tmp_path: Path
) -> None:
    with real_process(threads=2) as pid:
        all_cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {2, 3, 6, 7})  # CPU 0 stays online
        try:
            host = Host(tmp_path, mechanism)
            placed = host.place(pid, cpus=2).decision.cpus
            home = cgroups(pid)
            os.kill(pid, signal.SIGUSR1)
            wait_until(lambda: len(family(pid)) == 2)
            born = max(family(pid))
            switch(placed, online=False)
            if mechanism is Mechanism.CGROUP_V1:
                wait_until(lambda: cgroups(born) != home)  # the kernel moves everybody up
            host.turn_until(lambda: host.placement().decision.cpus != placed)
            now = host.placement().decision.cpus
            host.turn_until(lambda: allowed(born) == {str(now)})
            inside = cgroups(born) == home
            switch(placed, online=True)
            host.turn_until(lambda: host.enforcer.topology.usable == read_topology().usable)
            host.controller.release("request-2", b"release", "web", "")
        finally:
            os.sched_setaffinity(0, all_cpus)
        after = cgroups(born), host.enforcer.groups()

    assert inside
    assert after == (cgroups(os.getpid()), ())
    assert {"drift", "contested"}.isdisjoint(host.kinds())


def test_fault_61_smt_switched_off_and_on_is_followed(host: Host) -> None:
    control = _CPUS / "smt/control"
    if not control.exists() or control.read_text().strip() != "on":
        pytest.skip("this kernel cannot switch SMT off here")
    with real_process(threads=4) as pid:
        host.place(pid, cpus=8)
        control.write_text("off")
        try:
            host.turn_until(lambda: bool(host.shortage()))
            cores = {cpu.core for cpu in host.enforcer.topology.cpus}
            meanwhile = allowed(pid)
        finally:
            control.write_text("on")
        host.turn_until(lambda: allowed(pid) == {"0-7"})
        host.controller.release("request-2", b"release", "web", "")

    assert len(cores) == 4
    assert meanwhile == {str(CpuSet.of(cores))}


def ways_of(resctrl: Path, pid: int) -> str:
    """Return the L3 line of the resctrl group that a process is in."""
    folders = [path for path in resctrl.iterdir() if (path / "tasks").is_file() and path.name != "mon_groups"]
    inside = [path for path in folders if str(pid) in (path / "tasks").read_text().split()]
    lines = ((inside or [resctrl])[0] / "schemata").read_text().split("\n")
    return next(line.strip() for line in lines if line.strip().startswith("L3:"))


def test_fault_57_a_cache_without_cpus_takes_its_ways_along_and_has_them_again_later(tmp_path: Path) -> None:
    found = find_resctrl()
    if found is None or not (found.path / "info/L3").is_dir():
        pytest.skip("needs a mounted resctrl with L3 and without CDP; make test-vm boots such a kernel")
    all_cpus = os.sched_getaffinity(0)
    with real_process(threads=3) as db, real_process() as scan:
        os.sched_setaffinity(0, {1, 3, 5, 7})  # one CPU a core; CPU 0 stays online
        try:
            host = Host(tmp_path, Mechanism.CGROUP_V2)
            host.place(db, cpus=3, name="db", profile=hungry("db"))
            host.place(scan, cpus=3, name="scan", profile=streaming("scan"))
            before = ways_of(found.path, db), ways_of(found.path, scan)
            switch(CpuSet.parse("4-7"), online=False)
            host.turn_until(lambda: {*allowed(db), *allowed(scan)} == {"1,3"})
            host.turn()
            meanwhile = ways_of(found.path, db), ways_of(found.path, scan)
            states = {str(one.state) for one in host.viewer.current().placements.values()}
            switch(CpuSet.parse("4-7"), online=True)
            host.turn_until(lambda: host.enforcer.topology.usable == read_topology().usable)
            host.turn()
            after = ways_of(found.path, db), ways_of(found.path, scan)
            for name in ("db", "scan"):
                host.controller.release(f"release-{name}", b"release", name, "")
            events = host.journal.events(0, 100)
        finally:
            os.sched_setaffinity(0, all_cpus)

    assert before[0] != before[1]
    assert [line.partition(":")[2].count("=") for line in before + meanwhile] == [2, 2, 1, 1]
    assert meanwhile[0] == meanwhile[1]  # nobody to part from in the cache that is left
    assert states == {"ACTIVE"}
    assert after == before
    assert {"drift", "contested", "partial"}.isdisjoint(one.kind for one in events)
