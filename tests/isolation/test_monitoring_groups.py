"""Monitoring groups of ours: the fake resctrl and the real one, nobody else's threads, everything back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from isolation.errors import OutOfRmids
from isolation.monitoring_groups import MonitoringGroups
from isolation.resctrl_files import control_of
from isolation.steps import Steps
from tests.fakes.resctrl import FakeResctrl
from tests.isolation.test_resctrl_contract import PREFIX, World


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        found = World(stack, fake=None if request.param == "real" else FakeResctrl())
        if request.param == "real" and not found.info.monitoring:
            pytest.skip("needs resctrl that monitors")
        stack.callback(_clean, found)
        yield found


def _clean(world: World) -> None:
    groups = monitoring(world)
    for name in groups.names():
        groups.unwatch(name)


def monitoring(world: World) -> MonitoringGroups:
    return MonitoringGroups(world.mount, files=world.files, locks=world.locks, prefix=PREFIX)


def test_threads_are_watched_where_they_are_and_fall_back_there(world: World) -> None:
    placed, free = world.spawn(3), world.spawn(2)
    undo = world.groups.snapshot("web", world.living(placed))
    world.groups.place(world.living(placed), world.ways(3), undo, Steps())
    before = world.verbs.whereabouts()
    groups = monitoring(world)

    watch = groups.watch("web", world.living(placed, free))

    assert watch.groups == (f"{PREFIX}:web/mon_groups/{PREFIX}:web", f"mon_groups/{PREFIX}:web")
    assert (watch.threads, watch.missed, watch.foreign) == (5, (), ())
    where = world.verbs.whereabouts()
    assert all(where[tid].endswith(f"mon_groups/{PREFIX}:web") for tid in world.tids(placed) | world.tids(free))
    assert {control_of(where[tid]) for tid in world.tids(placed)} == {f"{PREFIX}:web"}
    assert world.groups.verify(world.living(placed), world.ways(3), undo) == (), "what it may use is as before"
    assert groups.watch("web", world.living(placed, free)) == watch
    assert groups.names() == ("web",)
    groups.unwatch("web")
    groups.unwatch("web")
    assert before == world.verbs.whereabouts()
    assert groups.names() == ()


def test_readings_are_of_every_domain_or_none(world: World) -> None:
    pid = world.spawn(2)
    groups = monitoring(world)
    groups.watch("web", world.living(pid))

    found = groups.readings("web")

    assert all(one.llc_occupancy_bytes is None or one.llc_occupancy_bytes >= 0 for one in found)
    assert bool(found) == (not isinstance(world.files, FakeResctrl)), "the fake has no mon_data"
    assert groups.readings("absent") == ()


def test_threads_that_another_tool_monitors_stay_with_it(world: World) -> None:
    pid = world.spawn(2)
    foreign = f"{world.mount}/mon_groups/other-{PREFIX}"
    world.files.mkdir(foreign)
    try:
        world.files.write(f"{foreign}/tasks", str(pid))
        watch = monitoring(world).watch("web", world.living(pid))

        assert watch.foreign == (pid,)
        assert watch.threads == len(world.tids(pid)) - 1
        assert world.verbs.whereabouts()[pid] == f"mon_groups/other-{PREFIX}"
    finally:
        world.files.rmdir(foreign)


def test_without_a_monitoring_id_nothing_stays_moved() -> None:
    fake = FakeResctrl(rmids=2)
    placed, free = fake.spawn(threads=2), fake.spawn(threads=2)
    with ExitStack() as stack:
        world = World(stack, fake=fake)
        undo = world.groups.snapshot("web", world.living(placed))
        world.groups.place(world.living(placed), world.ways(3), undo, Steps())
        before = fake.picture()

        with pytest.raises(OutOfRmids, match=r"monitoring group 'mon_groups/.*go without"):
            monitoring(world).watch("web", world.living(free, placed))

        assert before == fake.picture()
        fake.rmids = 3
        with pytest.raises(OutOfRmids):
            monitoring(world).watch("web", world.living(free, placed))
        assert before == fake.picture()


def test_threads_born_inside_are_counted() -> None:
    fake = FakeResctrl()
    with ExitStack() as stack:
        world = World(stack, fake=fake)
        pid = fake.spawn(threads=2)
        watch = monitoring(world).watch("web", world.living(pid))
        assert watch.threads == 2
        born = fake.clone(pid)

        assert fake.where[born] == f"mon_groups/{PREFIX}:web", "born inside"
        assert monitoring(world).watch("web", world.living(pid)).threads == 3
