"""What goes wrong beside the daemon on a host with resctrl: one failure harms nobody else, and is tried again later."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation.errors import ApplyFailed, ResctrlBusy
from scheduler import wire
from scheduler.errors import JournalFailed, ProfileUnknown
from scheduler.placement import Placement, WorkloadRequest
from tests.fakes.desk import Desk
from tests.fakes.machines import make_topology
from tests.fakes.resctrl import RESCTRL
from tests.fakes.stubborn import StubbornKernel
from tests.scheduler.test_cache_ways import agreed, held, hungry, streaming, ways

FOUR = make_topology(cores_per_llc=4)  # CPUs 0-3, one cache


@pytest.fixture
def kernel() -> StubbornKernel:
    return StubbornKernel()


@pytest.fixture
def desk(tmp_path: Path, kernel: StubbornKernel) -> Desk:
    return Desk(tmp_path, kernel=kernel)


# --- groups that are somebody else's ------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a stream"])
def test_a_placed_group_stays_placed_on_a_host_with_resctrl(tmp_path: Path, version: int, *, beside: bool) -> None:
    desk = Desk(tmp_path, version=version, closids=8)
    desk.group("/pod")
    pid = desk.kernel.spawn(group="/pod")
    desk.place("pod", cgroup_path="/pod", profile=hungry("pod"))
    if beside:
        desk.place("scan", desk.kernel.spawn(), profile=streaming("scan"))
    wished = ways(desk, "pod")
    before, told = desk.kernel.steps, desk.events("pod")
    desk.turns(3)
    desk.restart()
    desk.turns(2)

    assert desk.state("pod") == "ACTIVE"
    assert (ways(desk, "pod"), held(desk, pid)) == (wished, wished or 0x7FF)
    assert bool(wished) == beside
    assert desk.kernel.steps == before
    assert desk.events("pod") == told


def test_a_group_within_the_placed_one_may_vanish_while_it_is_looked_at(tmp_path: Path) -> None:
    kernel = StubbornKernel(version=2, closids=0)
    desk = Desk(tmp_path, version=2, kernel=kernel)
    desk.group("/pod")
    pid = kernel.spawn(group="/pod")

    def vanish() -> None:
        desk.group("/pod/inner")
        kernel.vanishing = "/pod/inner"

    vanish()
    assert desk.enforcer.processes_in("/pod") == (pid,)
    desk.at["place: apply"] = vanish
    seat = str(desk.place("pod", cgroup_path="/pod").decision.cpus)
    vanish()
    desk.reconciler.reconcile()

    assert kernel.vanishing == ""
    assert desk.state("pod") == "ACTIVE"
    assert desk.cpus(pid) == {seat}
    assert [kind for kind, _ in desk.events("pod")] == ["placed"]


# --- a request that is answered with an error leaves nothing to do ---------------------------------


def test_a_placing_without_a_handle_is_forgotten(desk: Desk, kernel: StubbornKernel) -> None:
    pid = kernel.spawn()
    before = kernel.picture()
    desk.at["place: apply"] = lambda: setattr(kernel, "out_of_handles", True)
    with pytest.raises(ApplyFailed, match="Too many open files"):
        desk.place("web", pid)
    kernel.out_of_handles = False

    assert ("", "") == (desk.state("web"), desk.stored("web"))
    desk.restart()
    assert kernel.picture() == before
    assert desk.place("web", pid).state == "ACTIVE"


def test_a_move_without_a_handle_is_put_back(desk: Desk, kernel: StubbornKernel) -> None:
    desk.place("db", kernel.spawn(), profile=hungry("db"))
    desk.at["move: apply"] = lambda: setattr(kernel, "out_of_handles", True)
    desk.place("scan", kernel.spawn(), profile=streaming("scan"))
    kernel.out_of_handles = False

    assert ("ACTIVE", 0) == (desk.state("db"), ways(desk, "db"))
    assert stored(desk, "db") == desk.controller.get("db")
    desk.turns(1)
    assert ways(desk, "db") != 0


def test_a_placing_that_cannot_be_planned_anew_is_forgotten(desk: Desk, kernel: StubbornKernel) -> None:
    pids = {"db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    before = kernel.picture()

    def refuse(disturb: Callable[[], None]) -> Callable[[str, str], int]:
        def once(path: str, _text: str) -> int:
            if not path.endswith("cotenant:scan/schemata"):
                return 0
            kernel.refuses = lambda _path, _text: 0
            disturb()
            return errno.EINVAL

        return once

    kernel.refuses = refuse(lambda: setattr(desk.journal, "refused", ("change of",)))
    with pytest.raises(JournalFailed):
        desk.place("scan", pids["scan"], profile=streaming("scan"))
    desk.journal.refused = ()
    assert "" == desk.stored("scan")

    desk._store.save(streaming("scan"))
    kernel.refuses = refuse(lambda: desk._store.delete("scan"))
    request = WorkloadRequest(name="scan", cpus=1, pids=(pids["scan"],), profile_name="scan")
    with pytest.raises(ProfileUnknown):
        desk.controller.place("by name", b"place", request, allow_best_effort=True)
    assert "" == desk.stored("scan")
    desk.restart()

    assert kernel.picture() == before
    assert agreed(desk, db=pids["db"])
    assert desk.kinds("scan") == ["refused", "refused"]


# --- answers -----------------------------------------------------------------------------------------


def fourth(folder: Path, refused: tuple[str, ...] = ()) -> tuple[Desk, int, Placement]:
    """Place a fourth workload that first finds no class, until the others share one."""
    kernel = StubbornKernel(topology=FOUR, closids=4)
    desk = Desk(folder, topology=FOUR, kernel=kernel)
    for name, profile in (("db0", hungry), ("scan", streaming), ("db1", hungry)):
        desk.place(name, kernel.spawn(), profile=profile(name))
    desk.journal.refused = refused
    pid = kernel.spawn()
    return desk, pid, desk.place("db2", pid, profile=hungry("db2"), request_id="fourth")


def test_the_answer_is_the_placement_after_all_shares_were_dealt_out(tmp_path: Path) -> None:
    desk, pid, answer = fourth(tmp_path)

    assert len([one for one in desk.kinds("db2") if one == "placed"]) == 2  # without a class, and with one
    assert answer == desk.controller.get("db2")
    assert answer.decision.cache_ways[0].mask.bits == held(desk, pid)
    desk.restart()
    assert desk.place("db2", pid, request_id="fourth") == answer
    assert desk.release("db2", etag=answer.etag).state == "RELEASED"


def test_an_answer_that_cannot_be_saved_at_once_is_saved_later(tmp_path: Path) -> None:
    desk, pid, answer = fourth(tmp_path, refused=("answer to",))
    assert answer == desk.controller.get("db2")
    desk.journal.refused = ()
    desk.turns(1)
    desk.restart()

    assert desk.place("db2", pid, request_id="fourth") == answer


# --- failures are told once and tried again ever more rarely ---------------------------------------


def stored(desk: Desk, name: str) -> Placement:
    return next(wire.placement_from_bytes(one.record) for one in desk.journal.entries() if one.name == name)


def test_a_share_that_cannot_be_given_is_told_once_and_tried_ever_more_rarely(
    desk: Desk, kernel: StubbornKernel
) -> None:
    pids = {"db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    kernel.refuses = lambda path, text: errno.EPERM if RESCTRL in path and text == str(pids["db"]) else 0
    desk.place("scan", pids["scan"], profile=streaming("scan"))
    first, told = kernel.refused, desk.events("db")
    seen = []
    for _ in range(20):
        desk.turns(1)
        seen.append(kernel.refused - first)

    assert [kind for kind, _ in told] == ["placed", "refused"]
    assert desk.events("db") == told
    assert [number + 1 for number in range(20) if seen[number] > (seen[number - 1] if number else 0)] == [1, 3, 7, 15]
    assert desk.state("db") == "ACTIVE"
    assert agreed(desk, **pids)
    kernel.refuses = lambda _path, _text: 0
    desk.turns(12)
    assert ways(desk, "db") != 0
    assert agreed(desk, **pids)


def test_a_refused_class_is_tried_again_without_a_word_until_there_is_one(desk: Desk, kernel: StubbornKernel) -> None:
    pids = {"db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    kernel.limbo = True
    placed = desk.place("scan", pids["scan"], profile=streaming("scan"))
    told, tried = desk.events("scan"), []
    for _ in range(20):
        kernel.tried.clear()
        desk.turns(1)
        tried.append(f"{RESCTRL}/cotenant:scan" in kernel.tried)

    assert [number + 1 for number in range(20) if tried[number]] == [1, 3, 7, 15]
    assert desk.events("scan") == told
    assert desk.controller.get("scan").etag == placed.etag
    assert stored(desk, "scan") == desk.controller.get("scan")
    kernel.limbo = False
    desk.turns(12)
    assert 0 not in {ways(desk, name) for name in pids}
    assert agreed(desk, **pids)


def test_a_class_that_another_tool_gives_back_is_taken(tmp_path: Path) -> None:
    kernel = StubbornKernel(closids=3)
    desk = Desk(tmp_path, kernel=kernel)
    kernel.mkdir(f"{RESCTRL}/other")
    pids = {"db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    desk.place("scan", pids["scan"], profile=streaming("scan"))
    desk.turns(4)
    assert 0 in {ways(desk, name) for name in pids}
    kernel.rmdir(f"{RESCTRL}/other")
    desk.turns(4)

    assert 0 not in {ways(desk, name) for name in pids}
    assert held(desk, pids["db"]) & held(desk, pids["scan"]) == 0


# --- one turn ------------------------------------------------------------------------------------------


def test_what_is_still_to_be_saved_is_not_written_over_something_newer(desk: Desk, kernel: StubbornKernel) -> None:
    pids = {"db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    desk.at["move: save outcome"] = lambda: setattr(desk.journal, "refused", ("change of",))
    desk.place("scan", pids["scan"], profile=streaming("scan"))
    kernel.end(pids["scan"])
    desk.at["release: restore"] = lambda: setattr(desk.journal, "refused", ())  # after paying failed
    desk.turns(1)
    assert desk.controller.owes("db")
    desk.turns(1)

    assert not desk.controller.owes("db")
    assert stored(desk, "db") == desk.controller.get("db")
    assert (ways(desk, "db"), held(desk, pids["db"])) == (0, 0x7FF)
    desk.restart()
    assert (ways(desk, "db"), held(desk, pids["db"])) == (0, 0x7FF)


def test_text_that_no_kernel_would_write_stops_one_placement_alone(desk: Desk, kernel: StubbornKernel) -> None:
    first, second = kernel.spawn(), kernel.spawn()
    desk.place("a", first)
    seat = str(desk.place("b", second).decision.cpus)
    kernel.odd[f"/proc/{first}/task/{first}/status"] = "Name:\tx\n"
    kernel.write(f"{kernel.mount}/cgroup.procs", str(second))
    desk.turns(2)

    assert desk.cpus(second) == {seat}
    assert desk.kinds("a") == ["placed", "refused"]
    assert "ValueError" in desk.events("a")[-1][1]
    assert desk.state("a") == "ACTIVE"


def test_who_is_contested_takes_no_part_in_the_shares(tmp_path: Path) -> None:
    kernel = StubbornKernel(topology=FOUR, closids=3)
    desk = Desk(tmp_path, topology=FOUR, kernel=kernel)
    pids = {"db": kernel.spawn(), "scan": kernel.spawn()}
    desk.place("db", pids["db"], profile=hungry("db"))
    desk.place("scan", pids["scan"], profile=streaming("scan"))
    for _ in range(2):
        kernel.classes[kernel.where[pids["scan"]]].amounts["L3"][0] = 0x7FF
        desk.turns(1)

    assert desk.state("scan") == "CONTESTED"
    assert (ways(desk, "db"), held(desk, pids["db"])) == (0, 0x7FF)
    desk.turns(2)
    assert held(desk, pids["scan"]) == 0x7FF  # left alone


def test_the_lock_of_resctrl_is_waited_for_once_a_turn(desk: Desk, kernel: StubbornKernel) -> None:
    pids = {"db": kernel.spawn(), "scan": kernel.spawn(), "db2": kernel.spawn(), "end": kernel.spawn()}
    for name, pid in pids.items():
        desk.place(name, pid, profile=streaming(name) if name == "scan" else hungry(name))
    desk.at["release: restore"] = lambda: setattr(kernel, "locked_by_other", True)
    with pytest.raises(ResctrlBusy):
        desk.release("end")
    for pid in pids.values():
        kernel.where.pop(pid, None)
    seen = []
    for _ in range(3):
        kernel.waits = 0
        desk.turns(1)
        seen.append(kernel.waits)
    kernel.locked_by_other = False
    desk.turns(2)

    assert seen == [1, 1, 1]
    assert desk.state("end") == "RELEASED"
    assert {"ACTIVE"} == {desk.state(name) for name in ("db", "scan", "db2")}
    assert agreed(desk, db=pids["db"], scan=pids["scan"], db2=pids["db2"])


def test_a_group_that_a_release_left_is_removed_once_it_is_empty(desk: Desk, kernel: StubbornKernel) -> None:
    desk.place("web", kernel.spawn())
    desk.group("/cotenant/left")
    dying = kernel.spawn(group="/cotenant/left")
    desk.turns(3)
    assert desk.kinds("left") == ["refused"]
    assert "/cotenant/left" in kernel.groups
    kernel.end(dying)
    desk.turns(1)

    assert "/cotenant/left" not in kernel.groups
    assert "/cotenant/web" in kernel.groups
    assert desk.state("web") == "ACTIVE"
