"""Units of systemd: the rules that a fake systemd on a real D-Bus daemon and systemd 252 both keep, and we rely on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest

from isolation.cgroup import CpusetHierarchy
from isolation.cpuset import CpuSet, IdSet, NodeSet
from isolation.enforcer import Enforcer, Target
from isolation.errors import ApplyFailed
from isolation.kernelfs import HOST_AFFINITY, HOST_FILES, HOST_HANDLES, GroupFiles
from isolation.spec import IsolationSpec
from isolation.systemd import Systemd
from isolation.topology import Topology, read_topology
from isolation.undo import Mechanism, Undo
from tests.fakes.kernel import FakeKernel
from tests.fakes.processes import wait_until
from tests.fakes.systemd import FakeSystemd, enforcer_of, private_bus
from tests.vm.init import ask_manager, real_systemd, start_unit, stop_unit

ON_01 = IsolationSpec(cpus=CpuSet.parse("0-1"))
ON_01_NODE_0 = IsolationSpec(cpus=CpuSet.parse("0-1"), mems=NodeSet.parse("0"))


class World(Protocol):
    units: Systemd
    files: GroupFiles
    mount: str

    def start(self, name: str, *, allowed: str = "", mems: str = "", delegate: bool = False) -> str:
        """Start a unit and return its group."""
        ...

    def stop(self, name: str) -> None:
        """Stop a unit that nobody knows after that."""
        ...

    def reload(self) -> None: ...

    def enforcer(self) -> Enforcer: ...


class FakeWorld:
    mount = "/sys/fs/cgroup"

    def __init__(self, stack: ExitStack) -> None:
        bus = stack.enter_context(private_bus())
        self.kernel = FakeKernel(version=2)
        self.systemd = stack.enter_context(FakeSystemd(self.kernel, bus))
        self.units = Systemd(bus=bus)
        self.files: GroupFiles = self.kernel

    def start(self, name: str, *, allowed: str = "", mems: str = "", delegate: bool = False) -> str:
        group = f"/system.slice/{name}"
        self.systemd.start(name, group, allowed=allowed, mems=mems)
        return group

    def stop(self, name: str) -> None:
        self.systemd.stop(name, forget=True)

    def reload(self) -> None:
        self.systemd.reload()

    def enforcer(self) -> Enforcer:
        return enforcer_of(self.kernel, self.units)


class RealWorld:
    mount = "/sys/fs/cgroup"

    def __init__(self, stack: ExitStack) -> None:
        stack.enter_context(real_systemd())
        self.units = Systemd()
        self.files: GroupFiles = HOST_FILES
        self._topology: Topology = read_topology()

    def start(self, name: str, *, allowed: str = "", mems: str = "", delegate: bool = False) -> str:
        return start_unit(name, allowed=allowed, mems=mems, delegate=delegate)

    def stop(self, name: str) -> None:
        stop_unit(name)

    def reload(self) -> None:
        ask_manager("Reload")

    def enforcer(self) -> Enforcer:
        return Enforcer(
            self._topology,
            files=HOST_FILES,
            affinity=HOST_AFFINITY,
            handles=HOST_HANDLES,
            hierarchy=CpusetHierarchy(version=2, mount=self.mount),
            mechanism=Mechanism.CGROUP_V2,
            units=self.units,
        )


@pytest.fixture(scope="module", params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield FakeWorld(stack) if request.param == "fake" else RealWorld(stack)


@pytest.fixture
def unit(world: World, request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[str, str]]]:
    """Start units of this test, which end with it."""
    started: list[str] = []

    def start(*, allowed: str = "", mems: str = "", delegate: bool = False) -> tuple[str, str]:
        number = abs(hash(request.node.name)) % 10**8
        name = f"test{number}n{len(started)}.service"
        group = world.start(name, allowed=allowed, mems=mems, delegate=delegate)
        started.append(name)
        return name, group

    yield start
    for name in started:
        if world.units.allowed(name) is not None:
            world.stop(name)


Start = Callable[..., tuple[str, str]]


def text(world: World, group: str, name: str) -> str:
    """Return a file of a group; none = there is no such file."""
    try:
        return world.files.read(f"{world.mount}{group}/{name}").strip()
    except FileNotFoundError:
        return "none"


def properties(world: World, name: str) -> tuple[str, str]:
    allowed = world.units.allowed(name)
    assert allowed is not None
    return str(allowed["cpus"]), str(allowed["mems"])


def test_a_unit_owns_its_group_and_no_other(world: World, unit: Start) -> None:
    name, group = unit(delegate=True)
    below = f"{group}/by-hand"
    world.files.mkdir(world.mount + below)
    beside = "/test-by-hand"
    world.files.mkdir(world.mount + beside)
    owners = [world.units.owner(one) for one in (group, below, beside, "/", "/no/such/group")]
    world.files.rmdir(world.mount + below)
    world.files.rmdir(world.mount + beside)

    assert owners == [name, None, None, None, None]


def test_the_mask_has_the_lowest_cpu_first(world: World, unit: Start) -> None:
    name, group = unit(allowed="1,3", mems="1")

    assert properties(world, name) == ("1,3", "1")
    assert (text(world, group, "cpuset.cpus"), text(world, group, "cpuset.mems")) == ("1,3", "1")


def test_properties_are_set_and_cleared_until_reboot(world: World, unit: Start) -> None:
    name, group = unit()
    world.units.allow(name, {"cpus": IdSet.parse("2-3")})
    wait_until(lambda: text(world, group, "cpuset.cpus.effective") == "2-3")
    there = properties(world, name)
    world.units.allow(name, {"cpus": IdSet()})

    assert there == ("2-3", "")
    assert properties(world, name) == ("", "")


def test_a_unit_that_does_not_exist_is_allowed_nothing(world: World) -> None:
    assert world.units.allowed("no-such-thing.service") is None
    with pytest.raises(ApplyFailed, match=r"refuses AllowedCPUs=1 of unit 'no-such-thing.service': .*not found"):
        world.units.allow("no-such-thing.service", {"cpus": IdSet.parse("1")})


def test_what_is_written_behind_systemds_back_is_not_in_the_property(world: World, unit: Start) -> None:
    name, group = unit(allowed="0-2")
    world.files.write(f"{world.mount}{group}/cpuset.cpus", "1")
    found = properties(world, name), text(world, group, "cpuset.cpus")
    world.units.allow(name, {"cpus": IdSet.parse("0-2")})  # the same again

    wait_until(lambda: text(world, group, "cpuset.cpus") == "0-2")
    assert found == (("0-2", ""), "1")


def test_a_cleared_property_leaves_the_file_while_a_neighbour_has_one(world: World, unit: Start) -> None:
    """systemd#43846."""
    name, group = unit(allowed="2-3")
    unit(allowed="1")
    world.units.allow(name, {"cpus": IdSet()})
    world.reload()

    assert properties(world, name) == ("", "")
    assert text(world, group, "cpuset.cpus") == "2-3"


# --- what the enforcer makes of it ---------------------------------------------------------------


def test_a_unit_is_confined_through_its_properties_and_gets_back_what_it_had(world: World, unit: Start) -> None:
    name, group = unit()
    before = properties(world, name)
    enforcer, target = world.enforcer(), Target(cgroup_path=group)
    undo = enforcer.snapshot("web", target)
    first = enforcer.apply("web", target, ON_01_NODE_0, undo)
    during = properties(world, name), text(world, group, "cpuset.cpus.effective"), text(world, group, "cpuset.mems")
    again = enforcer.apply("web", target, ON_01_NODE_0, undo)
    drifts = enforcer.verify(target, ON_01_NODE_0, undo)
    released = enforcer.release(Undo.from_json(undo.to_json()))

    assert undo.unit is not None
    assert (undo.unit.name, before) == (name, ("", ""))
    assert during == (("0-1", "0"), "0-1", "0")
    assert (first.writes, again.writes, drifts) == (1, 0, ())
    assert first.threads >= 1
    assert (released.gone, released.left_over) == (0, ())
    assert properties(world, name) == before
    assert text(world, group, "cpuset.cpus") in {"none", ""}


def test_a_restricted_unit_is_as_restricted_again(world: World, unit: Start) -> None:
    name, group = unit(allowed="0-2", mems="0-1")
    enforcer, target = world.enforcer(), Target(cgroup_path=group)
    undo = enforcer.snapshot("web", target)
    enforcer.apply("web", target, ON_01_NODE_0, undo)
    released = enforcer.release(undo)
    repeated = enforcer.release(undo)

    assert (released.left_over, repeated.left_over) == ((), ())
    assert properties(world, name) == ("0-2", "0-1")
    assert (text(world, group, "cpuset.cpus"), text(world, group, "cpuset.mems")) == ("0-2", "0-1")


def test_a_neighbours_cpuset_does_not_keep_ours_alive(world: World, unit: Start) -> None:
    name, group = unit()
    _, other = unit(allowed="1")
    everything = text(world, group, "cpuset.cpus.effective")
    enforcer, target = world.enforcer(), Target(cgroup_path=group)
    undo = enforcer.snapshot("web", target)
    enforcer.apply("web", target, ON_01, undo)
    released = enforcer.release(undo)
    world.reload()

    assert released.left_over == ()
    assert properties(world, name) == ("", "")
    assert text(world, group, "cpuset.cpus.effective") == everything != "0-1"
    assert text(world, other, "cpuset.cpus") == "1"


def test_fault_42_daemon_reload_keeps_what_is_set_and_a_foreign_write_is_repaired(world: World, unit: Start) -> None:
    name, group = unit()
    enforcer, target = world.enforcer(), Target(cgroup_path=group)
    undo = enforcer.snapshot("web", target)
    enforcer.apply("web", target, ON_01, undo)
    world.reload()
    kept = enforcer.verify(target, ON_01, undo)
    world.files.write(f"{world.mount}{group}/cpuset.cpus", "2")
    drifts = enforcer.verify(target, ON_01, undo)
    repaired = enforcer.apply("web", target, ON_01, undo)
    world.units.allow(name, {"cpus": IdSet()})
    wait_until(lambda: bool(enforcer.verify(target, ON_01, undo)))
    enforcer.apply("web", target, ON_01, undo)
    clean = enforcer.verify(target, ON_01, undo)
    enforcer.release(undo)

    assert kept == ()
    assert (drifts[0].expected, drifts[0].found) == ("0-1", "2")
    assert (repaired.writes, clean) == (1, ())
    assert properties(world, name) == ("", "")


def test_a_delegated_group_below_a_unit_is_written_directly(world: World, unit: Start) -> None:
    name, group = unit(allowed="0-2", delegate=True)
    below = f"{group}/pod"
    world.files.mkdir(world.mount + below)
    inside = world.files.read(f"{world.mount}{group}/cgroup.procs").split()
    for pid in inside:
        world.files.write(f"{world.mount}{below}/cgroup.procs", pid)
    world.files.write(f"{world.mount}{group}/cgroup.subtree_control", "+cpuset")
    enforcer, target = world.enforcer(), Target(cgroup_path=below)
    undo = enforcer.snapshot("pod", target)
    enforcer.apply("pod", target, ON_01, undo)
    during = text(world, below, "cpuset.cpus"), properties(world, name)
    released = enforcer.release(undo)
    world.files.write(f"{world.mount}{group}/cgroup.subtree_control", "-cpuset")
    for pid in inside:
        world.files.write(f"{world.mount}{group}/cgroup.procs", pid)
    world.files.rmdir(world.mount + below)

    assert undo.unit is None
    assert during == ("0-1", ("0-2", ""))
    assert released.left_over == ()


def test_a_wish_that_the_kernel_does_not_grant_leaves_the_unit_as_it_was(world: World, unit: Start) -> None:
    name, group = unit(allowed="2-3")
    everything = IdSet.parse(text(world, "", "cpuset.cpus.effective"))
    world.units.allow("system.slice", {"cpus": IdSet.parse("2-3")})
    wait_until(lambda: text(world, "/system.slice", "cpuset.cpus.effective") == "2-3")
    enforcer, target = world.enforcer(), Target(cgroup_path=group)
    undo = enforcer.snapshot("web", target)
    try:
        with pytest.raises(ApplyFailed, match=r"wished 0-1, is 2-3"):
            enforcer.apply("web", target, ON_01, undo)
        left = properties(world, name), text(world, group, "cpuset.cpus")
    finally:
        world.units.allow("system.slice", {"cpus": everything})
        wait_until(lambda: text(world, "/system.slice", "cpuset.cpus.effective") == str(everything))
        world.units.allow("system.slice", {"cpus": IdSet()})

    assert left == (("2-3", ""), "2-3")


def test_a_unit_that_ended_needs_no_undo(world: World, unit: Start) -> None:
    name, group = unit()
    enforcer, target = world.enforcer(), Target(cgroup_path=group)
    undo = enforcer.snapshot("web", target)
    enforcer.apply("web", target, ON_01, undo)
    world.stop(name)
    released = enforcer.release(undo)

    assert (released.restored, released.gone, released.left_over) == (0, 2, ())
