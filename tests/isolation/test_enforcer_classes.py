"""CPUs, memory nodes, cache ways and bandwidth as one transaction, on the fake machine with resctrl."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from isolation.cpuset import CpuSet, NodeSet
from isolation.enforcer import Applied, Target, Undo
from isolation.errors import ApplyFailed, IsolationError, ResctrlBusy, SchemataRejected, SpecInvalid
from isolation.process import identify
from isolation.resctrl_info import BandwidthUnit
from isolation.resctrl_mask import WayMask
from isolation.resctrl_wish import schemata_of
from isolation.spec import CacheWays, IsolationSpec, MemoryBandwidth
from tests.fakes.bench import TOPOLOGY
from tests.fakes.kernel import FakeGroup
from tests.fakes.resctrl import RESCTRL, FakeResctrl

FULL = IsolationSpec(
    cpus=CpuSet.parse("2-3"),
    mems=NodeSet.parse("1"),
    cache_ways=(CacheWays(cache_id=1, mask=WayMask(0x7)),),
    memory_bandwidth=(MemoryBandwidth(cache_id=1, percent=40),),
)
NARROWER = replace(FULL, cache_ways=(CacheWays(cache_id=1, mask=WayMask(0x3)),))
CPUS_ONLY = replace(FULL, cache_ways=(), memory_bandwidth=())
CODES = (errno.EINVAL, errno.EBUSY, errno.EACCES)


class Bench:
    """A process of three threads and a child; one thread is in a monitoring group of somebody else's."""

    def __init__(self, *, version: int = 1, existing: bool = False, closids: int = 8, l2: bool = False) -> None:
        self.kernel = FakeResctrl(version=version, closids=closids, l2=l2)
        if version == 2:
            self.kernel.groups["/"].subtree.add("cpuset")
        self.kernel.groups["/app"] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0-1"))
        self.pid = self.kernel.spawn(threads=3, group="/app")
        self.child = self.kernel.fork(self.pid)
        self.kernel.mkdir(f"{RESCTRL}/foreign")
        self.kernel.mkdir(f"{RESCTRL}/foreign/mon_groups/inner")
        self.kernel.where[self.pid + 1] = "foreign/mon_groups/inner"
        self.enforcer = self.kernel.enforcer(TOPOLOGY)
        who = identify(self.pid, allowed_uids=None, files=self.kernel, own_pid=99)
        self.target = Target(cgroup_path="/app") if existing else Target(processes=(who,))
        self.kernel.steps = 0
        self.before = self.kernel.picture()
        self.undo = self.enforcer.snapshot("web", self.target)

    def apply(self, spec: IsolationSpec = FULL) -> Applied:
        return self.enforcer.apply("web", self.target, spec, self.undo)

    def classes(self) -> set[str]:
        """Say in which resctrl groups the threads are."""
        tids = [*self.kernel.processes[self.pid].threads, *self.kernel.processes[self.child].threads]
        return {self.kernel.where.get(tid, "") for tid in tids}


KINDS = [(1, False), (2, False), (1, True), (2, True)]


@pytest.fixture(params=KINDS, ids=["v1", "v2", "v1 group", "v2 group"])
def kind(request: pytest.FixtureRequest) -> tuple[int, bool]:
    found: tuple[int, bool] = request.param
    return found


def bench_of(kind: tuple[int, bool]) -> Bench:
    return Bench(version=kind[0], existing=kind[1])


def test_all_of_it_is_applied_and_all_of_it_goes_back(kind: tuple[int, bool]) -> None:
    bench = bench_of(kind)
    applied = bench.apply()

    assert applied.complete
    assert applied.class_refused == ""
    assert bench.classes() == {"cotenant:web"}
    assert bench.kernel.classes["cotenant:web"].amounts == {"L3": {0: 0x7FF, 1: 0x7}, "MB": {0: 100, 1: 40}}
    assert bench.enforcer.verify(bench.target, FULL, bench.undo) == ()
    again = bench.apply()
    assert (again.writes, again.threads) == (0, applied.threads)
    for _ in range(2):
        assert bench.enforcer.release(bench.undo).left_over == ()
    assert bench.kernel.picture() == bench.before


def test_a_failure_or_a_lie_at_any_step_leaves_the_state_before(kind: tuple[int, bool]) -> None:
    twin = bench_of(kind)
    twin.apply()
    assert twin.kernel.steps >= 8
    for step in range(1, twin.kernel.steps + 1):
        for code in (*CODES, None):
            bench = bench_of(kind)
            if code is None:
                bench.kernel.pretend_at.add(step)
            else:
                bench.kernel.fail_at[step] = code
            try:
                applied = bench.apply()
            except IsolationError:
                assert bench.kernel.picture() == bench.before, f"step {step}, {code}"
                continue
            if applied.class_refused:  # monitoring ids in limbo, or the group vanished: it goes without
                assert code in {errno.EBUSY, None}
                assert bench.classes() == {"", "foreign/mon_groups/inner"}
            bench.enforcer.release(bench.undo)
            assert bench.kernel.picture() == bench.before, f"step {step}, {code}"


def test_ways_change_in_place_and_go_when_none_are_wished(kind: tuple[int, bool]) -> None:
    bench = bench_of(kind)
    bench.apply()

    assert bench.apply(NARROWER).writes == 1
    assert bench.enforcer.verify(bench.target, NARROWER, bench.undo) == ()
    assert bench.enforcer.verify(bench.target, FULL, bench.undo) != ()
    bench.apply(CPUS_ONLY)
    assert bench.classes() == {"", "foreign/mon_groups/inner"}
    assert "cotenant:web" not in bench.kernel.classes
    assert bench.apply(CPUS_ONLY).writes == 0
    assert bench.apply(FULL).class_refused == ""
    assert bench.classes() == {"cotenant:web"}


def test_a_child_born_later_goes_home_with_its_parent() -> None:
    bench = Bench()
    bench.apply()
    late = bench.kernel.fork(bench.pid)
    assert bench.kernel.where[late] == "cotenant:web"

    assert bench.enforcer.release(bench.undo).left_over == ()
    assert bench.kernel.where.get(late, "") == ""


def test_the_record_of_an_earlier_daemon_restores_everything() -> None:
    bench = Bench()
    bench.apply()
    undo = Undo.from_json(bench.undo.to_json())

    assert undo == bench.undo
    assert bench.kernel.enforcer(TOPOLOGY).release(undo).left_over == ()
    assert bench.kernel.picture() == bench.before


def test_a_record_without_resctrl_is_read_as_before() -> None:
    bench = Bench()
    text = replace(bench.undo, resctrl=None).to_json().replace('"schema_version": 2', '"schema_version": 1')
    text = text.replace('"resctrl": null, ', "")

    assert Undo.from_json(text) == replace(bench.undo, resctrl=None)


def test_fault_46_without_a_class_it_runs_without_ways_and_says_so() -> None:
    bench = Bench(closids=2)
    applied = bench.apply()

    assert "Out of CLOSIDs" in applied.class_refused
    assert applied.complete
    assert bench.classes() == {"", "foreign/mon_groups/inner"}
    assert bench.enforcer.verify(bench.target, CPUS_ONLY, bench.undo) == ()
    bench.enforcer.release(bench.undo)
    assert bench.kernel.picture() == bench.before


def test_fault_47_monitoring_ids_in_limbo_cost_the_ways_not_the_placement() -> None:
    bench = Bench()
    bench.kernel.limbo = True

    assert "Out of RMIDs" in bench.apply().class_refused
    bench.kernel.limbo = False
    assert bench.apply().class_refused == ""


def test_fault_48_ways_refused_by_the_kernel_undo_the_whole_placement() -> None:
    bench = Bench()
    step = next(number for number in range(1, 20) if _is_schemata(number))
    bench.kernel.at_step[step] = lambda: setattr(bench.kernel, "full", 3)
    with pytest.raises(SchemataRejected, match=r"was undone: .*Mask out of range"):
        bench.apply()

    assert bench.kernel.groups.keys() == Bench().kernel.groups.keys()
    assert bench.classes() == {"", "foreign/mon_groups/inner"}


def _is_schemata(number: int) -> bool:
    bench = Bench()
    bench.kernel.fail_at[number] = errno.EINVAL
    try:
        bench.apply()
    except SchemataRejected:
        return True
    except IsolationError:
        return False
    return False


def test_fault_49_resctrl_unmounted_costs_the_ways_and_keeps_the_cpus() -> None:
    bench = Bench()
    bench.apply()
    bench.kernel.unmount()
    drifts = bench.enforcer.verify(bench.target, FULL, bench.undo)
    applied = bench.apply()

    assert ["no resctrl is mounted" in drift.found for drift in drifts] == [True]
    assert "no resctrl is mounted" in applied.class_refused
    assert bench.enforcer.controls() is None
    assert bench.enforcer.verify(bench.target, CPUS_ONLY, bench.undo) == ()


def test_fault_50_a_mount_with_another_unit_refuses_old_numbers() -> None:
    bench = Bench()
    info = bench.kernel.info
    control = replace(info.bandwidths[0], unit=BandwidthUnit.MIB_PER_S, unlimited={0: 4294967295, 1: 4294967295})
    steered = replace(info, bandwidths=(control,))
    absolute = replace(FULL, memory_bandwidth=(MemoryBandwidth(cache_id=1, bytes_per_s=3 * 2**30 + 1),))
    with pytest.raises(SpecInvalid, match="limited in MiB/s here, and the two cannot be converted"):
        schemata_of(FULL, steered)
    with pytest.raises(SpecInvalid, match="limited in percent here"):
        schemata_of(absolute, info)

    assert schemata_of(absolute, steered).domains("MB") == {0: 4294967295, 1: 3073}
    amd = replace(control, unit=BandwidthUnit.EIGHTH_GB_PER_S, unlimited={0: 2048, 1: 2048})
    assert schemata_of(absolute, replace(info, bandwidths=(amd,))).domains("MB") == {0: 2048, 1: 26}


def test_a_cache_that_others_hold_wholly_is_left_out_of_the_wish() -> None:
    info = Bench().kernel.info
    held = replace(info, caches=(replace(info.caches[0], bit_usage={0: "EEEEEEEEEEE", 1: "XXXXXXXXXXX"}),))

    assert schemata_of(FULL, held).domains("L3") == {1: WayMask(0x7)}


def test_with_cdp_code_and_data_get_the_same_ways() -> None:
    info = Bench().kernel.info
    halves = tuple(replace(info.caches[0], resource=name) for name in ("L3CODE", "L3DATA"))
    wish = schemata_of(FULL, replace(info, caches=halves))

    assert wish.domains("L3CODE") == wish.domains("L3DATA") == {0: WayMask(0x7FF), 1: WayMask(0x7)}


def test_ways_of_the_second_level_are_applied_verified_and_taken_back() -> None:
    bench = Bench(l2=True)
    both = (*FULL.cache_ways, CacheWays(cache_id=1, mask=WayMask(0x70), level=2))
    wish = replace(FULL, cache_ways=both)
    bench.apply(wish)
    held = bench.kernel.classes["cotenant:web"].amounts

    assert (held["L2"], held["L3"]) == ({0: 0x7FF, 1: 0x70}, {0: 0x7FF, 1: 0x7})
    assert bench.enforcer.verify(bench.target, wish, bench.undo) == ()
    bench.enforcer.release(bench.undo)
    assert bench.kernel.picture() == bench.before


def test_ways_of_caches_that_are_offline_are_left_out_level_by_level() -> None:
    l2 = tuple(replace(TOPOLOGY.llc_domains[0], level=2, kernel_id=number) for number in (4, 5))
    topology = replace(TOPOLOGY, l2_domains=l2)
    ways = [CacheWays(cache_id=number, mask=WayMask(1), level=level) for number in (4, 9) for level in (2, 3)]

    assert replace(FULL, cache_ways=tuple(ways)).within(topology).cache_ways == (ways[0],)


def test_a_wish_for_what_this_resctrl_lacks_is_refused_and_nothing_is_done() -> None:
    for wrong, told in [
        (replace(FULL, cache_ways=(CacheWays(cache_id=7, mask=WayMask(3)),)), "no L3 there; it controls L3 of domains"),
        (replace(FULL, cache_ways=(CacheWays(cache_id=1, mask=WayMask(3), level=2),)), "no L2 there"),
        (replace(FULL, cache_ways=(CacheWays(cache_id=1, mask=WayMask(5)),)), "has gaps"),
        (replace(FULL, memory_bandwidth=(MemoryBandwidth(cache_id=9, percent=40),)), "no MB there"),
    ]:
        bench = Bench()
        with pytest.raises(SpecInvalid, match=told):
            bench.apply(wrong)
        assert bench.kernel.picture() == bench.before


def test_fault_51_a_foreign_hand_on_ways_and_threads_is_drift_and_one_apply_repairs_it() -> None:
    bench = Bench()
    bench.apply()
    bench.kernel.write(f"{RESCTRL}/cotenant:web/schemata", "L3:1=7f0\n")
    bench.kernel.write(f"{RESCTRL}/tasks", str(bench.pid))
    drifts = bench.enforcer.verify(bench.target, FULL, bench.undo)

    assert [(drift.tid, drift.path) for drift in drifts] == [
        (None, f"{RESCTRL}/cotenant:web/schemata"),
        (bench.pid, None),
    ]
    assert bench.apply().writes == 2
    assert bench.enforcer.verify(bench.target, FULL, bench.undo) == ()


def test_fault_57_a_cache_that_went_with_its_cpus_is_drift_that_nobody_is_blamed_for() -> None:
    bench = Bench()
    bench.apply()
    bench.kernel.set_domains(0)
    gone = bench.enforcer.verify(bench.target, FULL, bench.undo)
    with pytest.raises(SpecInvalid):
        bench.apply()
    bench.kernel.set_domains(0, 1)
    back = bench.enforcer.verify(bench.target, FULL, bench.undo)

    assert [(drift.path, drift.blameless) for drift in gone] == [("resctrl", True)]
    assert "for L3 cache 1: resctrl offers no L3 there" in gone[0].found
    assert [drift.path for drift in back] == [f"{RESCTRL}/cotenant:web/schemata"] * 2  # it came back without limits


def test_fault_52_ways_that_another_group_holds_alone_are_never_wished() -> None:
    info = Bench().kernel.info
    held = replace(info.caches[0], bit_usage={0: "XXXXXXXXXXX", 1: "EEEEEEXXXXX"})
    taken = replace(info, caches=(held,))

    assert schemata_of(replace(FULL, memory_bandwidth=()), taken).domains("L3")[1] == WayMask(0x7)
    other = IsolationSpec(cpus=CpuSet.parse("0"), cache_ways=(CacheWays(cache_id=0, mask=WayMask(0x7)),))
    assert schemata_of(other, taken).domains("L3")[1] == WayMask(0x1F)  # not the six of the other group
    assert any("holds ways 5-6" in told for told in taken.misfits(schemata_of(_on(0x60), taken)))


def test_fault_52_a_foreign_group_on_our_ways_is_told_and_not_touched() -> None:
    bench = Bench()
    before = bench.kernel.read(f"{RESCTRL}/foreign/schemata")
    assert bench.apply().overlapping == ("foreign",)
    bench.kernel.write(f"{RESCTRL}/foreign/schemata", "L3:1=7f0\n")
    assert bench.apply().overlapping == ()  # domain 0 is not divided
    bench.kernel.write(f"{RESCTRL}/foreign/schemata", "L3:1=7ff\n")

    assert bench.kernel.read(f"{RESCTRL}/foreign/schemata") == before


def _on(mask: int) -> IsolationSpec:
    return IsolationSpec(cpus=CpuSet.parse("0"), cache_ways=(CacheWays(cache_id=1, mask=WayMask(mask)),))


def test_fault_56_a_lock_held_for_ever_undoes_the_placement_and_may_be_tried_again() -> None:
    bench = Bench()
    bench.kernel.locked_by_other = True
    with pytest.raises(ResctrlBusy, match="try again") as caught:
        bench.apply()

    assert caught.value.retryable
    assert bench.kernel.picture() == bench.before
    assert bench.apply(CPUS_ONLY).complete  # who needs no ways does not wait


def test_ways_that_cannot_be_taken_back_leave_all_as_it_was(kind: tuple[int, bool]) -> None:
    twin = bench_of(kind)
    twin.apply()
    first = twin.kernel.steps
    twin.apply(CPUS_ONLY)
    assert twin.kernel.steps - first >= 4
    for step in range(1, twin.kernel.steps - first + 1):
        bench = bench_of(kind)
        bench.apply()
        before = bench.kernel.picture()
        bench.kernel.fail_at[bench.kernel.steps + step] = errno.EACCES
        with pytest.raises(ApplyFailed, match="was undone"):
            bench.apply(CPUS_ONLY)
        assert bench.kernel.picture() == before, f"step {step}"


def test_a_thread_of_a_foreign_group_goes_back_there_though_ours_was_removed_by_others() -> None:
    bench = Bench()
    bench.apply()
    bench.kernel.rmdir(f"{RESCTRL}/cotenant:web")
    assert bench.kernel.where == {}

    assert bench.enforcer.release(bench.undo).left_over == ()
    assert bench.kernel.picture() == bench.before


def test_release_leaves_a_child_that_is_placed_on_its_own_in_the_class_they_share() -> None:
    bench = Bench()
    bench.kernel.groups["/other"] = FakeGroup(CpuSet.parse("0-3"), NodeSet.parse("0-1"))
    bench.kernel.write(f"{bench.kernel.mount}/other/cgroup.procs", str(bench.child))
    child = Target(processes=(identify(bench.child, allowed_uids=None, files=bench.kernel, own_pid=99),))
    undo = bench.enforcer.snapshot("web", bench.target)
    bench.enforcer.apply("web", bench.target, FULL, undo)
    own = bench.enforcer.snapshot("child", child)
    bench.enforcer.apply("child", child, FULL, own)
    assert bench.classes() == {"cotenant:web"}

    assert bench.enforcer.release(undo, shared=True).left_over == ()
    assert bench.kernel.where[bench.child] == "cotenant:web"
    assert bench.enforcer.verify(child, FULL, own) == ()


def test_who_joins_a_placed_group_is_a_newcomer_and_who_was_moved_out_is_drift() -> None:
    bench = Bench(existing=True)
    bench.apply()
    assert bench.enforcer.verify(bench.target, FULL, bench.undo) == ()
    late = bench.kernel.spawn(group="/app")
    newcomers = bench.enforcer.verify(bench.target, FULL, bench.undo)
    bench.apply()
    bench.kernel.write(f"{RESCTRL}/tasks", str(late))
    moved = bench.enforcer.verify(bench.target, FULL, bench.undo)

    assert [(drift.tid, drift.blameless) for drift in newcomers] == [(late, True)]
    assert [(drift.tid, drift.blameless) for drift in moved] == [(late, False)]
