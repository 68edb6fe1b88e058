"""systemd that refuses, is silent, lies or is not there: a clear error, and nothing written."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from isolation.cpuset import CpuSet, IdSet
from isolation.enforcer import Mechanism, Target
from isolation.errors import ApplyFailed, CgroupVanished, SystemdUnreachable, UndoFailed
from isolation.spec import IsolationSpec
from isolation.systemd import Systemd, _from_bytes, _to_bytes
from isolation.undo import Undo, UnitState
from tests.fakes.groups import FakeGroup
from tests.fakes.kernel import FakeKernel
from tests.fakes.machines import make_topology
from tests.fakes.systemd import FakeSystemd, enforcer_of, private_bus

_MANAGER = 'send_destination="org.freedesktop.systemd1" send_interface="org.freedesktop.systemd1.Manager"'
ON_01 = IsolationSpec(cpus=CpuSet.parse("0-1"))
GROUP = "/system.slice/web.service"
TARGET = Target(cgroup_path=GROUP)


class Bench:
    """A kernel with one unit, its systemd and an enforcer that asks it."""

    def __init__(self, bus: str, systemd: FakeSystemd, *, limit_s: float) -> None:
        self.bus = bus
        self.systemd = systemd
        self.kernel = systemd.kernel
        self.units = Systemd(bus=bus, limit_s=limit_s, settle_s=0.3)
        self.enforcer = enforcer_of(self.kernel, self.units)
        self.systemd.start("web.service", GROUP, allowed="0-2", mems="")

    def state(self) -> tuple[dict[str, object], dict[str, IdSet]]:
        return self.kernel.picture(), dict(self.systemd.units["web.service"].allowed)


@contextmanager
def bench_with(*, rules: str = "", limit_s: float = 5.0) -> Iterator[Bench]:
    with private_bus(rules=rules) as bus, FakeSystemd(FakeKernel(version=2), bus) as systemd:
        yield Bench(bus, systemd, limit_s=limit_s)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with bench_with() as one:
        yield one


def test_a_bus_that_denies_questions_is_told_and_nothing_is_written() -> None:
    with bench_with(rules=f'<deny {_MANAGER} send_member="GetUnitByControlGroup"/>') as bench:
        before = bench.state()
        with pytest.raises(SystemdUnreachable, match=r"whose group '/system.slice/web.service' is.*AccessDenied.*root"):
            bench.enforcer.snapshot("web", TARGET)

        assert bench.state() == before


def test_a_bus_that_denies_changes_is_told_and_nothing_is_written() -> None:
    with bench_with(rules=f'<deny {_MANAGER} send_member="SetUnitProperties"/>') as bench:
        before = bench.state()
        undo = bench.enforcer.snapshot("web", TARGET)
        with pytest.raises(
            ApplyFailed, match=r"refuses AllowedCPUs=0-1 of unit 'web.service'.*; run the daemon as root"
        ):
            bench.enforcer.apply("web", TARGET, ON_01, undo)

        assert bench.state() == before


def test_a_bus_without_systemd_is_told() -> None:
    with private_bus() as bus, pytest.raises(SystemdUnreachable, match=r"ServiceUnknown.*is systemd on that bus"):
        Systemd(bus=bus).owner("/system.slice/web.service")


@pytest.mark.parametrize("method", ["GetUnitByControlGroup", "Get", "LoadUnit"])
def test_a_silent_systemd_is_not_waited_for_forever(method: str) -> None:
    with bench_with(limit_s=0.2) as bench:
        before = bench.state()
        bench.systemd.deaf.add(method)
        with pytest.raises(SystemdUnreachable, match=r"no answer within 0\.2 s; is dbus\.service running"):
            bench.enforcer.snapshot("web", TARGET)

        assert bench.state() == before


def test_a_change_without_an_answer_is_asked_back() -> None:
    with bench_with(limit_s=0.2) as bench:
        undo = bench.enforcer.snapshot("web", TARGET)
        bench.systemd.deaf.add("SetUnitProperties")
        with pytest.raises(UndoFailed, match=r"placing 'web' failed: .*no answer.*undoing failed too"):
            bench.enforcer.apply("web", TARGET, ON_01, undo)

        assert bench.systemd.calls.count("SetUnitProperties") == 2


def test_without_a_bus_groups_are_written_directly() -> None:
    assert Systemd(bus="/nonexistent/bus").owner(GROUP) is None


def test_a_unit_placed_before_is_not_written_directly_when_the_bus_is_gone(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", TARGET)
    bench.enforcer.apply("web", TARGET, ON_01, undo)
    before = bench.state()
    later = enforcer_of(bench.kernel, Systemd(bus="/nonexistent/bus"))

    with pytest.raises(SystemdUnreachable, match=r"does not exist; start dbus\.service"):
        later.apply("web", TARGET, IsolationSpec(cpus=CpuSet.parse("2")), undo)
    with pytest.raises(SystemdUnreachable, match=r"does not exist; start dbus\.service"):
        later.release(undo)
    assert bench.state() == before


def test_a_unit_placed_before_is_not_written_directly_under_another_init(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", TARGET)
    bench.enforcer.apply("web", TARGET, ON_01, undo)

    with pytest.raises(SystemdUnreachable, match="which does not run this host now"):
        bench.kernel.enforcer(make_topology(packages=2, cores_per_llc=2)).release(undo)


@pytest.mark.parametrize(
    "answer",
    [b"", b"REJECTED KERBEROS_V4\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"OK 1\r\nmore", b"\0" * 9000],
    ids=["closes", "rejects", "http", "talks on", "nonsense"],
)
def test_something_else_behind_the_socket_is_told(answer: bytes) -> None:
    with _listener(answer) as path, pytest.raises(SystemdUnreachable, match="gives no answer"):
        Systemd(bus=path, limit_s=1.0).owner(GROUP)


@pytest.mark.parametrize("rest", [b"\xff" * 64, b"l\x02\x00\x01" + b"\x00" * 12, b""], ids=["bytes", "empty", "close"])
def test_a_broken_message_is_told(rest: bytes) -> None:
    with (
        _listener(b"OK 0123456789abcdef\r\n", rest) as path,
        pytest.raises(SystemdUnreachable, match="gives no answer"),
    ):
        Systemd(bus=path, limit_s=0.5).owner(GROUP)


@contextmanager
def _listener(*answers: bytes) -> Iterator[str]:
    """Listen on a socket; answer each thing that is heard with the next text, then hang up."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            for answer in answers:
                connection.recv(4096)
                connection.sendall(answer)

    path = f"\0cotenant-test-{id(answers)}"  # no file: it goes with the socket
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        thread.join(10)


def test_a_property_that_changes_no_file_is_a_failure_and_is_taken_back(bench: Bench) -> None:
    before = bench.state()
    undo = bench.enforcer.snapshot("web", TARGET)
    bench.systemd.idle = True
    with pytest.raises(ApplyFailed, match=r"did not grant what it accepted: .*wished 0-1, is 0-2"):
        bench.enforcer.apply("web", TARGET, ON_01, undo)

    assert bench.state() == before


def test_what_cannot_be_restored_is_told(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", TARGET)
    bench.enforcer.apply("web", TARGET, ON_01, undo)
    bench.systemd.idle = True
    released = bench.enforcer.release(undo)

    assert released.left_over == (
        "cpuset.cpus of '/system.slice/web.service' (unit 'web.service') is '0-1', was '0-2'",
    )
    assert released.restored == 1


def test_a_release_that_systemd_refuses_is_told(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", TARGET)
    bench.enforcer.apply("web", TARGET, ON_01, undo)
    bench.systemd.read_only = True
    released = bench.enforcer.release(undo)

    assert released.left_over == ("systemd refuses AllowedCPUs=0-2 of unit 'web.service': Read-only file system",)


def test_a_unit_that_vanished_is_told(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", TARGET)
    group = bench.systemd.units.pop("web.service").group

    with pytest.raises(CgroupVanished, match=r"unit 'web\.service' has ended"):
        bench.enforcer.apply("web", TARGET, ON_01, undo)
    assert bench.kernel.groups[group].cpus == IdSet.parse("0-2")


def test_a_stopped_unit_gets_its_properties_back_for_its_next_start(bench: Bench) -> None:
    undo = bench.enforcer.snapshot("web", TARGET)
    bench.enforcer.apply("web", TARGET, ON_01, undo)
    bench.systemd.stop("web.service", forget=False)
    released = bench.enforcer.release(undo)

    assert bench.systemd.units["web.service"].allowed["cpus"] == IdSet.parse("0-2")
    assert (released.restored, released.gone, released.left_over) == (0, 2, ())


def test_cpuset_v1_is_not_systemds() -> None:
    kernel = FakeKernel(version=1)
    kernel.groups["/a"] = FakeGroup(CpuSet.parse("0-3"), IdSet.parse("0-1"))
    enforcer = enforcer_of(kernel, Systemd(bus="/dev/null"))  # no socket: asking it would raise

    assert enforcer.snapshot("a", Target(cgroup_path="/a")).unit is None


@pytest.mark.parametrize("text", ["", "0", "7", "8", "1,3,9-17", "0-63", "64,255", "8191"])
def test_masks_are_the_same_there_and_back(text: str) -> None:
    ids = IdSet.parse(text)

    assert _from_bytes(_to_bytes(ids)) == ids
    assert _from_bytes(_to_bytes(ids) + bytes(8)) == ids  # systemd fills up


def test_the_mask_is_little_endian() -> None:
    assert _to_bytes(IdSet.parse("0-1,10")) == bytes([0b11, 0b100])


def test_records_without_a_unit_can_be_read_and_a_damaged_one_is_told() -> None:
    undo = Undo(
        mechanism=Mechanism.CGROUP_V2,
        group=None,
        files=(("/a/cpuset.cpus", "0-1"), ("/a/cpuset.mems", "")),
        unit=UnitState(name="a.service", cpus="0-1", mems=""),
    )
    text = undo.to_json()
    unit = '"unit": {"cpus": "0-1", "mems": "", "name": "a.service"}'

    assert Undo.from_json(text) == undo
    assert unit in text
    assert Undo.from_json(text.replace(unit, '"unit": null')).unit is None
    older = text.replace(f", {unit}", "").replace('"schema_version": 4', '"schema_version": 3')
    assert "unit" not in older
    assert Undo.from_json(older).unit is None
    with pytest.raises(ValueError, match="cannot be read"):
        Undo.from_json(text.replace('"name"', '"nome"'))
