"""Resctrl groups when the kernel refuses, lies, or the world moves: every failure at every step, on the fake."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from isolation.errors import (
    ApplyFailed,
    IsolationError,
    OutOfClosids,
    ResctrlBusy,
    ResctrlRefused,
    ResctrlVanished,
    SchemataRejected,
    SpecInvalid,
)
from isolation.process import ThreadId, family, threads
from isolation.resctrl import ResctrlGroups
from isolation.resctrl_files import ResctrlFiles
from isolation.resctrl_mask import WayMask
from isolation.resctrl_schemata import Schemata
from isolation.steps import Steps
from isolation.undo import Applied, ResctrlUndo
from tests.fakes.resctrl import RESCTRL, FakeResctrl

OURS = f"{RESCTRL}/cotenant:web"
WISH = Schemata.of({"L3": {0: WayMask.run(0, 3), 1: WayMask.run(0, 3)}, "MB": {1: 41}})
OTHER_WISH = Schemata.of({"L3": {0: WayMask.run(2, 4)}})
CODES = (errno.EINVAL, errno.ENOSPC, errno.EBUSY, errno.EACCES)


class Bench:
    """A fake with a process of three threads, one of which is in a foreign monitoring group."""

    def __init__(self, kernel: FakeResctrl | None = None) -> None:
        self.kernel = kernel or FakeResctrl()
        self.pid = self.kernel.spawn(threads=3)
        self.groups = self.groups_of("cotenant")
        self.kernel.mkdir(f"{RESCTRL}/foreign")
        self.kernel.mkdir(f"{RESCTRL}/foreign/mon_groups/inner")
        self.kernel.where[self.pid + 2] = "foreign/mon_groups/inner"
        self.kernel.steps = 0
        self.before = self.kernel.picture()
        self.undo = self.groups.snapshot("web", self.living)

    def groups_of(self, prefix: str) -> ResctrlGroups:
        return ResctrlGroups(RESCTRL, lambda: self.kernel.info, files=self.kernel, locks=self.kernel, prefix=prefix)

    def living(self) -> tuple[ThreadId, ...]:
        pids = family(self.pid, files=self.kernel)
        return tuple(one for pid in pids for one in threads(pid, files=self.kernel))

    def place(self, wish: Schemata = WISH) -> Applied:
        """Place as the enforcer will: all steps taken back when one fails."""
        steps = Steps()
        try:
            return self.groups.place(self.living, wish, self.undo, steps)
        except IsolationError:
            assert steps.undo_all() == ()
            raise


def steps_of(act: Callable[[Bench], object]) -> int:
    bench = Bench()
    before = bench.kernel.steps
    act(bench)
    return bench.kernel.steps - before


def test_a_failure_at_any_step_leaves_the_state_before() -> None:
    total = steps_of(Bench.place)
    assert total == 5  # mkdir, schemata, three threads
    for step in range(1, total + 1):
        for code in CODES:
            bench = Bench()
            bench.kernel.fail_at[step] = code
            with pytest.raises(IsolationError):
                bench.place()
            assert bench.kernel.picture() == bench.before, f"step {step}"


def test_a_failure_at_any_step_of_a_change_leaves_the_earlier_placement() -> None:
    for step in (1, 2):
        bench = Bench()
        bench.place()
        late = bench.kernel.clone(bench.pid)
        bench.kernel.where.pop(late)  # born outside
        before = bench.kernel.picture()
        bench.kernel.fail_at[bench.kernel.steps + step] = errno.EINVAL
        with pytest.raises(ApplyFailed):
            bench.place(OTHER_WISH)
        assert bench.kernel.picture() == before, f"step {step}"


def test_success_without_effect_at_any_step_is_noticed_and_undone() -> None:
    for step in range(1, steps_of(Bench.place) + 1):
        bench = Bench()
        bench.kernel.pretend_at.add(step)
        with pytest.raises((ApplyFailed, ResctrlVanished)):
            bench.place()
        assert bench.kernel.picture() == bench.before, f"step {step}"


def test_a_failure_at_any_step_of_release_is_told_and_made_up_for_by_the_next() -> None:
    bench = Bench()
    bench.place()
    first = bench.kernel.steps
    bench.groups.release(bench.undo, bench.living)
    for step in range(1, bench.kernel.steps - first + 1):
        for lies in (False, True):
            fresh = Bench()
            fresh.place()
            number = fresh.kernel.steps + step
            if lies:
                fresh.kernel.pretend_at.add(number)
            else:
                fresh.kernel.fail_at[number] = errno.EACCES
            released = fresh.groups.release(fresh.undo, fresh.living)
            assert released.left_over or fresh.kernel.picture() == fresh.before, f"step {step}"
            assert fresh.groups.release(fresh.undo, fresh.living).left_over == ()
            assert fresh.kernel.picture() == fresh.before, f"step {step}"


def test_re_apply_writes_nothing() -> None:
    bench = Bench()
    bench.place()
    before = bench.kernel.steps

    assert bench.place() == Applied(threads=3)
    assert bench.kernel.steps == before
    assert not bench.kernel.wrote_zero


def test_the_writer_itself_is_never_moved() -> None:
    verbs = ResctrlFiles(RESCTRL, files=Bench().kernel, locks=FakeResctrl())
    with pytest.raises(ValueError, match="BUG"):
        verbs.attach("foreign", 0)


def test_schemata_are_read_back_before_the_first_thread_moves() -> None:
    bench = Bench()
    bench.kernel.pretend_at.add(2)
    with pytest.raises(ApplyFailed, match="does not hold what the kernel accepted"):
        bench.place()

    assert bench.kernel.where == {bench.pid + 2: "foreign/mon_groups/inner"}


def test_threads_born_while_we_move_are_caught() -> None:
    bench = Bench()
    born: list[int] = []
    bench.kernel.at_step[3] = lambda: born.append(bench.kernel.clone(bench.pid + 1))
    applied = bench.place()

    assert applied.complete
    assert set(bench.groups.members("web")) == {one.tid for one in bench.living()} > set(born)
    bench.groups.release(bench.undo, bench.living)
    assert bench.kernel.where == {bench.pid + 2: "foreign/mon_groups/inner"}


def test_threads_born_faster_than_we_follow_are_reported_as_missed() -> None:
    bench = Bench()

    def outrun() -> None:
        bench.kernel.where.pop(bench.kernel.clone(bench.pid), None)

    bench.kernel.at_step = dict.fromkeys(range(3, 40), outrun)
    applied = bench.place()

    assert not applied.complete
    assert applied.threads > 3


def test_a_thread_that_ends_meanwhile_is_no_failure() -> None:
    bench = Bench()
    bench.kernel.at_step[4] = lambda: bench.kernel.end(bench.pid + 1)

    assert bench.place().complete
    assert bench.groups.release(bench.undo, bench.living).gone == 1


def test_a_wish_the_host_cannot_hold_is_refused_before_anything_is_made() -> None:
    bench = Bench()
    with pytest.raises(SpecInvalid, match="has gaps"):
        bench.place(Schemata.of({"L3": {0: WayMask(5)}}))

    assert bench.kernel.steps == 0


def test_a_thread_in_a_group_of_ours_is_not_placed_again() -> None:
    bench = Bench()
    bench.place()

    for groups in (bench.groups, bench.groups_of("cotenant-other"), bench.groups_of("else")):
        with pytest.raises(ResctrlRefused, match="release that placement first"):
            groups.snapshot("db", bench.living)


def test_a_stranger_in_our_group_stays_and_so_does_the_group() -> None:
    bench = Bench()
    bench.place()
    stranger = bench.kernel.spawn()
    bench.kernel.where[stranger] = "cotenant:web"
    released = bench.groups.release(bench.undo, bench.living)

    assert "threads of others" in released.left_over[0]
    assert bench.groups.members("web") == (stranger,)


def test_a_home_that_is_gone_is_told_and_the_default_group_takes_its_threads() -> None:
    bench = Bench()
    bench.place()
    bench.kernel.rmdir(f"{RESCTRL}/foreign")
    released = bench.groups.release(bench.undo, bench.living)

    assert "could not go back to resctrl group 'foreign/mon_groups/inner'" in released.left_over[0]
    assert bench.kernel.where == {}
    assert bench.groups.names() == ()


# --- the faults of resctrl ---------------------------------------------------------------------------


def test_fault_46_out_of_closids_leaves_all_as_it_was() -> None:
    bench = Bench(FakeResctrl(closids=2))
    with pytest.raises(OutOfClosids, match="Out of CLOSIDs"):
        bench.place()

    assert bench.kernel.picture() == bench.before


def test_the_group_of_a_neighbour_of_like_prefix_is_not_ours() -> None:
    bench = Bench()
    bench.kernel.mkdir(f"{RESCTRL}/cotenant-b:web")
    bench.kernel.mkdir(f"{RESCTRL}/cotenant-b-c:db")

    assert bench.groups.names() == ()
    assert bench.groups_of("cotenant-b").names() == ("web",)
    assert bench.groups_of("cotenant-b").remove_empty() == ()
    assert "cotenant-b-c:db" in bench.kernel.classes
    assert "cotenant-b:web" not in bench.kernel.classes


def test_who_must_be_alone_shares_with_nobody() -> None:
    bench = Bench()
    bench.place()
    other = bench.kernel.spawn()
    bench.kernel.where[other] = "cotenant:web"
    for _ in range(2):
        bench.groups.place(bench.living, WISH, bench.undo, Steps(), alone=True)

    assert bench.groups.members("web") == (other,)
    assert len(bench.groups.members("web:2")) == 3


def test_a_group_that_others_share_is_left_alone_and_another_made() -> None:
    bench = Bench()
    bench.place()
    other = bench.kernel.spawn()
    bench.kernel.where[other] = "cotenant:web"
    assert bench.place(OTHER_WISH).complete

    assert bench.groups.members("web") == (other,)
    assert len(bench.groups.members("web:2")) == 3
    assert WISH.missing_in(bench.groups.schemata("web"), bench.kernel.info.rounding) == ()
    assert bench.groups.release(bench.undo, bench.living, shared=True).left_over == ()
    assert bench.groups.names() == ("web",)


def test_fault_47_monitoring_ids_in_limbo_are_worth_another_try() -> None:
    bench = Bench()
    bench.kernel.limbo = True
    with pytest.raises(ResctrlBusy, match="Out of RMIDs") as caught:
        bench.place()

    assert caught.value.retryable
    assert bench.kernel.picture() == bench.before
    bench.kernel.limbo = False
    assert bench.place().complete


def test_fault_48_a_mask_refused_despite_all_checks_tells_the_kernels_words_and_is_undone() -> None:
    bench = Bench()
    bench.kernel.at_step[2] = lambda: setattr(bench.kernel, "full", 3)  # fewer ways than info told
    with pytest.raises(SchemataRejected, match="Mask out of range"):
        bench.place()

    assert bench.groups.names() == ()
    assert bench.kernel.where == {bench.pid + 2: "foreign/mon_groups/inner"}


def test_fault_49_unmounted_before_during_or_after_is_told_and_nothing_is_left() -> None:
    for step in range(1, steps_of(Bench.place) + 1):
        bench = Bench()
        bench.kernel.where.clear()
        bench.undo = bench.groups.snapshot("web", bench.living)
        bench.kernel.at_step[step] = bench.kernel.unmount
        with pytest.raises(ResctrlVanished, match="mount -t resctrl"):
            bench.place()
    bench = Bench()
    bench.place()
    bench.kernel.unmount()
    with pytest.raises(ResctrlVanished, match="no resctrl is mounted"):
        bench.place()
    assert "no resctrl is mounted" in bench.groups.verify(bench.living, WISH, bench.undo)[0].found
    released = bench.groups.release(bench.undo, bench.living)
    assert (released.restored, len(released.left_over)) == (2, 1)  # the third came from a group that went, too


def test_fault_51_a_foreign_edit_and_a_moved_thread_are_seen_and_repaired_by_placing_again() -> None:
    bench = Bench()
    bench.place()
    bench.kernel.write(f"{OURS}/schemata", "L3:0=7f0\n")
    bench.kernel.where.pop(bench.pid)
    drifts = bench.groups.verify(bench.living, WISH, bench.undo)

    assert [(drift.path, drift.tid) for drift in drifts] == [(f"{OURS}/schemata", None), (None, bench.pid)]
    assert "wished 7, is 7f0" in drifts[0].found
    assert bench.place().writes == 2
    assert bench.groups.verify(bench.living, WISH, bench.undo) == ()


def test_fault_51_one_who_edits_while_we_place_is_noticed() -> None:
    bench = Bench()
    bench.kernel.at_step[5] = lambda: bench.kernel.classes["cotenant:web"].amounts["L3"].update({0: 0x700})
    with pytest.raises(ApplyFailed, match="somebody else"):
        bench.place()

    assert bench.kernel.picture() == bench.before


def test_fault_55_our_group_removed_is_seen_made_again_and_released() -> None:
    for again in (True, False):
        bench = Bench()
        bench.place()
        bench.kernel.rmdir(OURS)
        assert "removed the group" in bench.groups.verify(bench.living, WISH, bench.undo)[0].found
        if again:
            assert bench.place().threads == 3
        assert bench.groups.release(bench.undo, bench.living).left_over == ()
        assert bench.kernel.picture() == bench.before


def test_fault_55_our_group_removed_while_we_fill_it_is_told() -> None:
    bench = Bench()
    bench.kernel.at_step[4] = lambda: bench.kernel.rmdir(OURS)
    with pytest.raises(ResctrlVanished, match="somebody removed the group"):
        bench.place()

    assert bench.groups.release(bench.undo, bench.living).left_over == ()
    assert bench.kernel.picture() == bench.before


def test_fault_56_a_lock_held_for_ever_is_told_and_nothing_is_changed() -> None:
    bench = Bench()
    bench.kernel.locked_by_other = True
    with pytest.raises(ResctrlBusy, match=r"held the lock \(flock\)") as caught:
        bench.place()

    assert caught.value.retryable
    assert bench.kernel.steps == 0
    with pytest.raises(ResctrlBusy):
        bench.groups.release(ResctrlUndo(group="cotenant:web"), bench.living)
