"""The picture decisions are made from: a change keeps what was worked out of everything it did not touch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from isolation.cpuset import CpuSet
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from scheduler.placement import PlacementState, WorkloadRequest
from scheduler.view import Viewer
from tests.fakes.desk import Desk
from tests.fakes.predictions import HOST, hog


def test_a_change_of_state_alone_keeps_the_ledger_and_a_newcomer_keeps_its_relations(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    placed = desk.place("a", desk.kernel.spawn())
    ledger = desk.viewer.current().ledger

    desk.viewer.put(replace(placed, state=PlacementState.PARTIAL))
    assert ledger is desk.viewer.current().ledger
    desk.place("b", desk.kernel.spawn())
    desk.release("a")

    assert ["b"] == [one.name for one in desk.viewer.current().ledger.residents]
    assert ledger.sharing is desk.viewer.current().ledger.sharing


def test_a_move_changes_the_resident_and_a_profile_stored_later_is_seen(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    store = ProfileStore(tmp_path / "others")
    models = ModelRegistry(tmp_path / "models")
    viewer = Viewer(topology=desk.topology, host=HOST, profiles=store, models=models)
    placed = desk.place("a", desk.kernel.spawn())
    unknown = replace(placed, request=WorkloadRequest(name="a", cpus=1))
    viewer.put(unknown)
    assert [None] == [one.profile for one in viewer.current().ledger.residents]

    viewer.put(replace(unknown, decision=replace(placed.decision, cpus=CpuSet.parse("1"))))
    store.save(hog("a"))

    (resident,) = viewer.current().ledger.residents
    assert ("1", "a") == (str(resident.cpus), resident.profile and resident.profile.name)
