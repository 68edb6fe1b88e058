"""The fake resctrl and the real one obey the same rules, and our groups work on both alike."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from isolation.errors import OutOfClosids, ResctrlBusy
from isolation.kernelfs import HOST_FILES, KernelFiles
from isolation.process import ThreadId, threads
from isolation.resctrl import ResctrlGroups
from isolation.resctrl_files import ResctrlFiles
from isolation.resctrl_info import BandwidthControl, BandwidthUnit, ResctrlInfo, find_resctrl, read_resctrl
from isolation.resctrl_lock import HOST_LOCKS, FolderLocks
from isolation.resctrl_mask import WayMask
from isolation.resctrl_schemata import Schemata
from isolation.steps import Steps
from tests.fakes.children import real_process
from tests.fakes.resctrl import RESCTRL, FakeResctrl

PREFIX = f"cotenant-rt{os.getpid()}"


class World:
    """One resctrl; every group with our prefix in its name goes at the end."""

    def __init__(self, stack: ExitStack, *, fake: FakeResctrl | None) -> None:
        self._stack = stack
        self._fake = fake
        self.mount = RESCTRL
        self.files: KernelFiles = fake or HOST_FILES
        self.locks: FolderLocks = fake or HOST_LOCKS
        self.info = fake.info if fake else _real_info()
        self.groups = ResctrlGroups(self.mount, lambda: self.info, files=self.files, locks=self.locks, prefix=PREFIX)
        self.verbs = ResctrlFiles(self.mount, files=self.files, locks=self.locks)
        stack.callback(self._clean)

    def spawn(self, count: int) -> int:
        if self._fake:
            return self._fake.spawn(threads=count)
        return self._stack.enter_context(real_process(threads=count))

    def path(self, name: str, file: str = "") -> str:
        return "/".join(filter(None, (self.mount, f"{PREFIX}:{name}", file)))

    def read(self, name: str, file: str) -> str:
        return self.files.read(self.path(name, file))

    def tids(self, pid: int) -> set[int]:
        return {one.tid for one in threads(pid, files=self.files)}

    def living(self, *pids: int) -> Callable[[], tuple[ThreadId, ...]]:
        return lambda: tuple(one for pid in pids for one in threads(pid, files=self.files))

    @property
    def domain(self) -> int:
        return self.info.caches[0].domains[-1]

    @property
    def caches(self) -> tuple[str, ...]:
        return tuple(one.resource for one in self.info.caches)

    @property
    def bandwidth(self) -> BandwidthControl:
        found = self.info.bandwidth()
        assert found is not None
        return found

    def ways(self, count: int) -> Schemata:
        """Return a wish for the last domain; with CDP data gets other ways than code."""
        return Schemata.of({name: {self.domain: WayMask.run(shift, count)} for shift, name in enumerate(self.caches)})

    def text(self, text: str) -> str:
        return text.replace("L3:", f"{self.caches[0]}:").replace("DOMAIN", str(self.domain))

    def _clean(self) -> None:
        for name in self.files.folders(self.mount):
            if PREFIX in name:
                self.files.rmdir(f"{self.mount}/{name}")


def _real_info() -> ResctrlInfo:
    mount = find_resctrl()
    if mount is None or not os.access(mount.path, os.W_OK) or str(mount.path) != RESCTRL:
        pytest.skip(f"needs root and a writable resctrl at {RESCTRL}")
    found = read_resctrl(mount.path, mount.options)
    if not any(one.resource.startswith("L3") for one in found.caches) or found.bandwidth() is None:
        pytest.skip("needs control of L3 and MB")
    return found


_FAKES: dict[str, Callable[[], FakeResctrl]] = {
    "fake": FakeResctrl,
    "fake with CDP": partial(FakeResctrl, cdp=True, closids=4),
    "fake with MBps": partial(FakeResctrl, unit=BandwidthUnit.MIB_PER_S),
}


@pytest.fixture(params=[*_FAKES, pytest.param("real", marks=pytest.mark.root)])  # real: however it is mounted
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, fake=None if request.param == "real" else _FAKES[request.param]())


def code_of(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as cause:
        return errno.errorcode[cause.errno or 0]
    return "no error"


# --- the kernel's rules ----------------------------------------------------------------------------


def test_a_new_group_has_its_files_and_may_use_something_of_each(world: World) -> None:
    world.files.mkdir(world.path("new"))
    schemata = Schemata.parse(world.read("new", "schemata"))

    assert world.read("new", "tasks") == ""
    assert world.info.misfits(schemata) == ()
    assert set(schemata.resources) == {*world.caches, "MB"}
    assert all(set(schemata.domains(one.resource)) == set(one.domains) for one in world.info.caches)
    assert schemata.domains("MB") == world.bandwidth.unlimited
    assert code_of(lambda: world.files.mkdir(world.path("new"))) == "EEXIST"
    assert code_of(lambda: world.files.mkdir(world.path("new", "deeper"))) == "EPERM"
    assert code_of(lambda: world.files.rmdir(world.path("absent"))) == "ENOENT"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("L3:DOMAIN=3\n", "no error"),
        ("L3:DOMAIN=3", "EINVAL"),  # not ended
        ("L3:DOMAIN=5\n", "EINVAL"),  # a gap
        ("L3:DOMAIN=0\n", "EINVAL"),
        ("L3:DOMAIN=fffffff\n", "EINVAL"),
        ("L3:999=3\n", "EINVAL"),
        ("L3:DOMAIN\n", "EINVAL"),
        ("L3:DOMAIN=x\n", "EINVAL"),
        ("L9:DOMAIN=3\n", "EINVAL"),
        ("MB:DOMAIN=50\n", "no error"),
        ("L3:DOMAIN=3\nMB:DOMAIN=x\n", "EINVAL"),
    ],
)
def test_a_wrong_text_is_refused_and_changes_nothing(world: World, text: str, code: str) -> None:
    world.files.mkdir(world.path("one"))
    before = world.read("one", "schemata")

    assert code_of(lambda: world.files.write(world.path("one", "schemata"), world.text(text))) == code
    assert (world.read("one", "schemata") == before) is (code != "no error")


@pytest.mark.parametrize("text", ["MB:DOMAIN=101\n", "MB:DOMAIN=1\n", "L3:DOMAIN=3\nMB:DOMAIN=500\n"])
def test_percent_beyond_its_range_is_refused_while_mebibytes_have_none(world: World, text: str) -> None:
    world.files.mkdir(world.path("one"))
    before = world.read("one", "schemata")
    code = code_of(lambda: world.files.write(world.path("one", "schemata"), world.text(text)))

    assert code == ("EINVAL" if world.bandwidth.unit is BandwidthUnit.PERCENT else "no error")
    assert (world.read("one", "schemata") == before) is (code != "no error")


def test_percent_is_rounded_up_and_what_is_not_named_stays(world: World) -> None:
    world.files.mkdir(world.path("one"))
    world.files.write(world.path("one", "schemata"), world.text("L3:DOMAIN=3\n"))
    world.files.write(world.path("one", "schemata"), world.text("MB:DOMAIN=41\n"))
    found = Schemata.parse(world.read("one", "schemata"))
    kept = found.domains("MB")[world.domain]

    assert kept == world.bandwidth.rounded(41)
    assert (kept == 41) is (world.bandwidth.unit is BandwidthUnit.MIB_PER_S)
    assert found.domains(world.caches[0])[world.domain] == WayMask(3)
    first = world.info.caches[0].domains[0]
    assert found.domains("MB")[first] == world.bandwidth.unlimited[first]


def test_code_and_data_are_apart_with_cdp_and_unknown_without(world: World) -> None:
    world.files.mkdir(world.path("one"))
    path = world.path("one", "schemata")
    with_cdp = len(world.caches) > 1

    assert world.caches == (("L3CODE", "L3DATA") if with_cdp else ("L3",))
    assert code_of(lambda: world.files.write(path, f"L3:{world.domain}=3\n")) == ("EINVAL" if with_cdp else "no error")
    for name, mask in (("L3CODE", "3"), ("L3DATA", "c")):
        write = partial(world.files.write, path, f"{name}:{world.domain}={mask}\n")
        assert code_of(write) == ("no error" if with_cdp else "EINVAL")
    found = [masks[world.domain] for masks in map(Schemata.parse(world.read("one", "schemata")).domains, world.caches)]
    assert found == ([WayMask(0x3), WayMask(0xC)] if with_cdp else [WayMask(0x3)])


def test_an_unknown_domain_is_refused_without_a_word(world: World) -> None:
    world.files.mkdir(world.path("one"))
    world.files.write(world.path("one", "schemata"), world.text("L3:DOMAIN=3\n"))

    assert code_of(lambda: world.files.write(world.path("one", "schemata"), world.text("L3:999=3\n"))) == "EINVAL"
    assert world.files.read(f"{world.mount}/info/last_cmd_status").strip() == "ok"


def test_a_text_without_its_end_leaves_the_words_about_an_earlier_command(world: World) -> None:
    world.files.mkdir(world.path("one"))
    path, status = world.path("one", "schemata"), f"{world.mount}/info/last_cmd_status"
    assert code_of(lambda: world.files.write(path, "L9:0=3\n")) == "EINVAL"
    told = world.files.read(status)

    assert code_of(lambda: world.files.write(path, world.text("L3:DOMAIN=3"))) == "EINVAL"
    assert world.files.read(status) == told != "ok\n"


def test_a_task_is_a_thread_in_any_base_and_the_dead_are_no_task(world: World) -> None:
    pid = world.spawn(3)
    world.files.mkdir(world.path("one"))
    tasks = world.path("one", "tasks")
    world.files.write(tasks, f" {hex(pid)} ")

    assert world.read("one", "tasks").split() == [str(pid)]
    assert code_of(lambda: world.files.write(tasks, "4000000")) == "ESRCH"
    assert code_of(lambda: world.files.write(tasks, "-5")) == "EINVAL"
    assert code_of(lambda: world.files.write(tasks, "nobody")) == "EINVAL"
    assert code_of(lambda: world.files.write(tasks, "0" * 4096 + "1")) == "E2BIG"


def test_removing_a_group_with_tasks_is_not_refused(world: World) -> None:
    pid = world.spawn(1)
    world.files.mkdir(world.path("one"))
    world.files.write(world.path("one", "tasks"), str(pid))
    world.files.rmdir(world.path("one"))

    assert str(pid) in world.files.read(f"{world.mount}/tasks").split()


def test_a_monitoring_group_takes_tasks_of_its_own_control_group_only(world: World) -> None:
    pid, stranger = world.spawn(1), world.spawn(1)
    world.files.mkdir(world.path("one"))
    world.files.mkdir(world.path("one", "mon_groups/inner"))
    world.files.write(world.path("one", "tasks"), str(pid))
    inner = world.path("one", "mon_groups/inner/tasks")
    world.files.write(inner, str(pid))

    assert code_of(lambda: world.files.write(inner, str(stranger))) == "EINVAL"
    assert world.read("one", "tasks").split() == [str(pid)]
    assert world.verbs.whereabouts()[pid] == f"{PREFIX}:one/mon_groups/inner"


# --- our groups ------------------------------------------------------------------------------------


def test_a_placement_holds_every_thread_and_release_leaves_nothing(world: World) -> None:
    pid = world.spawn(6)
    schemata = world.files.read(f"{world.mount}/schemata")
    wish = world.ways(3).updated(Schemata.of({"MB": {world.domain: 41}}))
    undo = world.groups.snapshot("web", world.living(pid))
    applied = world.groups.place(world.living(pid), wish, undo, Steps())

    assert applied.complete
    assert applied.threads == 6
    assert set(world.groups.members("web")) == world.tids(pid)
    assert world.groups.verify(world.living(pid), wish, undo) == ()
    assert world.groups.place(world.living(pid), wish, undo, Steps()).writes == 0
    for _ in range(2):
        released = world.groups.release(undo, world.living(pid))
        assert (released.restored, released.left_over) == (6, ())
    assert world.groups.names() == ()
    assert world.tids(pid) <= set(map(int, world.files.read(f"{world.mount}/tasks").split()))
    assert world.files.read(f"{world.mount}/schemata") == schemata


def test_threads_go_back_to_the_foreign_and_monitoring_groups_they_came_from(world: World) -> None:
    pid = world.spawn(2)
    leader, other = sorted(world.tids(pid))
    foreign = f"foreign-{PREFIX}"
    world.files.mkdir(f"{world.mount}/{foreign}")
    world.verbs.attach(foreign, leader)
    world.files.mkdir(f"{world.mount}/{foreign}/mon_groups/inner")
    world.verbs.attach(f"{foreign}/mon_groups/inner", other)
    before = world.verbs.whereabouts()
    undo = world.groups.snapshot("web", world.living(pid))
    world.groups.place(world.living(pid), world.ways(2), undo, Steps())
    world.groups.release(undo, world.living(pid))

    assert world.verbs.whereabouts() == before == {leader: foreign, other: f"{foreign}/mon_groups/inner"}


def test_fault_46_as_many_groups_as_there_are_classes_then_out_of_closids(world: World) -> None:
    pid = world.spawn(1)
    left = world.info.closids - 1 - len(world.verbs.groups())
    for number in range(left):
        world.files.mkdir(world.path(f"filler{number}"))
    undo = world.groups.snapshot("web", world.living(pid))
    with pytest.raises(OutOfClosids, match="share one, or go without"):
        world.groups.place(world.living(pid), world.ways(2), undo, Steps())

    assert len(world.verbs.groups()) == world.info.closids - 1
    assert len(world.groups.names()) == left > 1


def test_equal_wishes_share_a_group_until_the_last_leaves(world: World) -> None:
    first, second, third = world.spawn(2), world.spawn(2), world.spawn(1)
    undos = {pid: world.groups.snapshot(f"web{pid}", world.living(pid)) for pid in (first, second, third)}
    for pid in (first, second):
        assert world.groups.place(world.living(pid), world.ways(2), undos[pid], Steps()).threads == 2
    both = set(world.groups.members(f"web{first}"))
    assert world.groups.names() == (f"web{first}",)
    assert world.groups.verify(world.living(second), world.ways(2), undos[second]) == ()
    for number in range(world.info.closids - 1 - len(world.verbs.groups())):
        world.files.mkdir(world.path(f"filler{number}"))
    for pid in (second, third):  # nobody has that, and the shared one must not be changed
        with pytest.raises(OutOfClosids):
            world.groups.place(world.living(pid), world.ways(3), undos[pid], Steps())
    assert world.groups.release(undos[first], world.living(first), shared=True).left_over == ()
    alone = set(world.groups.members(f"web{first}"))
    assert world.groups.place(world.living(second), world.ways(3), undos[second], Steps()).writes == 1
    world.groups.release(undos[second], world.living(second))

    assert both == world.tids(first) | world.tids(second)
    assert alone == world.tids(second)
    assert f"web{first}" not in world.groups.names()


def test_who_joins_an_equal_wish_leaves_no_empty_group_behind(world: World) -> None:
    first, second = world.spawn(1), world.spawn(2)
    undos = [world.groups.snapshot(name, world.living(pid)) for name, pid in (("a", first), ("b", second))]
    world.groups.place(world.living(first), world.ways(2), undos[0], Steps())
    world.groups.place(world.living(second), world.ways(3), undos[1], Steps())
    before = world.verbs.whereabouts(), world.read("b", "schemata")
    steps = Steps()
    world.groups.place(world.living(second), world.ways(2), undos[1], steps)

    assert world.groups.names() == ("a",)
    assert set(world.groups.members("a")) == world.tids(first) | world.tids(second)
    assert steps.undo_all() == ()
    assert (world.verbs.whereabouts(), world.read("b", "schemata")) == before


def test_a_placement_is_changed_in_its_group_and_empty_groups_go(world: World) -> None:
    pid = world.spawn(3)
    undo = world.groups.snapshot("a", world.living(pid))
    world.groups.place(world.living(pid), world.ways(3), undo, Steps())
    world.files.mkdir(world.path("crashed"))

    assert world.groups.place(world.living(pid), world.ways(5), undo, Steps()).writes == 1
    assert world.groups.verify(world.living(pid), world.ways(5), undo) == ()
    assert world.groups.names() == ("a", "crashed")
    assert world.groups.remove_empty() == ()
    assert world.groups.names() == ("a",)


def test_fault_51_a_foreign_edit_and_a_moved_thread_are_seen_and_repaired(world: World) -> None:
    pid = world.spawn(3)
    undo = world.groups.snapshot("web", world.living(pid))
    world.groups.place(world.living(pid), world.ways(3), undo, Steps())
    world.files.write(world.path("web", "schemata"), world.text("L3:DOMAIN=6\n"))
    world.files.write(f"{world.mount}/tasks", str(pid))
    drifts = world.groups.verify(world.living(pid), world.ways(3), undo)

    assert [drift.tid for drift in drifts] == [None, pid]
    assert world.groups.place(world.living(pid), world.ways(3), undo, Steps()).writes == 2
    assert world.groups.verify(world.living(pid), world.ways(3), undo) == ()


def test_fault_55_our_group_removed_is_seen_and_made_again(world: World) -> None:
    pid = world.spawn(3)
    undo = world.groups.snapshot("web", world.living(pid))
    world.groups.place(world.living(pid), world.ways(3), undo, Steps())
    world.files.rmdir(world.path("web"))

    assert "removed the group" in world.groups.verify(world.living(pid), world.ways(3), undo)[0].found
    assert world.groups.place(world.living(pid), world.ways(3), undo, Steps()).threads == 3
    world.files.rmdir(world.path("web"))
    assert world.groups.release(undo, world.living(pid)).left_over == ()


def test_a_placement_taken_back_leaves_every_thread_where_it_was(world: World) -> None:
    pid = world.spawn(3)
    before = world.verbs.whereabouts(), world.verbs.groups()
    steps = Steps()
    undo = world.groups.snapshot("web", world.living(pid))
    world.groups.place(world.living(pid), world.ways(3), undo, steps)

    assert steps.undo_all() == ()
    assert (world.verbs.whereabouts(), world.verbs.groups()) == before


def test_fault_56_a_lock_held_by_another_is_waited_for_two_seconds(tmp_path: Path) -> None:
    verbs = ResctrlFiles(str(tmp_path), files=HOST_FILES, locks=HOST_LOCKS)
    (tmp_path / "schemata").write_text("", encoding="utf-8")
    with (
        HOST_LOCKS.held(str(tmp_path), 0.0),
        pytest.raises(ResctrlBusy, match="lsof"),
        verbs.locked(),
    ):
        pytest.fail("the lock was given twice")
    with verbs.locked():
        assert verbs.exists("")
