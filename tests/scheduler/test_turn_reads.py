"""What a turn reads of resctrl: as much for many placements that share a class as for few, and no drift is missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.held import spec_of
from tests.fakes.desk import Desk, SickKernel
from tests.fakes.machines import make_topology
from tests.scheduler.test_cache_ways import agreed, hungry, streaming

RESCTRL = "/sys/fs/resctrl"
FOUR = make_topology(cores_per_llc=4)  # CPUs 0-3, one cache


class ListeningKernel(SickKernel):
    """Notes every read of a file of resctrl, and calls what `after` has for a path once that was read."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.after: dict[str, Callable[[], object]] = {}
        super().__init__(cpus=str(FOUR.online), mems="0", version=1, closids=8)

    def read(self, path: str) -> str:
        text = super().read(path)
        if path.startswith(RESCTRL):
            self.reads.append(path)
        if path in self.after:
            self.after.pop(path)()
        return text


def crowded(folder: Path, sharing: int) -> tuple[Desk, ListeningKernel, dict[str, int]]:
    """Place so many streams, which share a class, beside one that suffers."""
    folder.mkdir(exist_ok=True)
    kernel = ListeningKernel()
    desk = Desk(folder, topology=FOUR, kernel=kernel)
    pids = {"db": kernel.spawn(threads=2)} | {f"scan{number}": kernel.spawn(threads=2) for number in range(sharing)}
    for name, pid in pids.items():
        desk.place(name, pid, profile=hungry(name) if name == "db" else streaming("scan"))
    desk.reconciler.reconcile()
    return desk, kernel, pids


def test_each_group_is_read_as_often_for_twelve_that_share_it_as_for_three(tmp_path: Path) -> None:
    read = []
    for sharing in (3, 12):
        desk, kernel, pids = crowded(tmp_path / str(sharing), sharing)
        kernel.reads.clear()
        desk.reconciler.reconcile()
        assert len({kernel.where[pid] for pid in pids.values()}) == 2
        read.append(sorted(kernel.reads))

    assert read[0] == read[1]
    of_threads = [path for path in read[1] if path.endswith("/tasks")]
    assert {of_threads.count(path) for path in of_threads} == {2}  # compared with the placements, then looked for empty


@pytest.mark.parametrize("name", ["scan0", "scan11", "db"])
def test_fault_51_a_thread_moved_away_is_seen_whoever_of_the_class_it_is_of(tmp_path: Path, name: str) -> None:
    desk, kernel, pids = crowded(tmp_path, 12)
    kernel.write(f"{RESCTRL}/tasks", str(pids[name] + 1))
    desk.reconciler.reconcile()

    assert desk.kinds(name)[-1] == "drift"
    assert [one for one in pids if "drift" in desk.kinds(one)] == [name]
    assert {kernel.where[pids[name]], kernel.where[pids[name] + 1]} == {kernel.where[pids[name]]}
    assert agreed(desk, **pids)


def test_a_thread_born_after_the_groups_were_read_is_no_drift(tmp_path: Path) -> None:
    desk, kernel, pids = crowded(tmp_path, 3)
    born: list[int] = []
    kernel.after[f"{RESCTRL}/{kernel.where[pids['scan2']]}/tasks"] = lambda: born.append(kernel.clone(pids["scan2"]))
    found = {}
    with desk.enforcer.looking_once():
        for name, placement in desk.viewer.current().placements.items():
            one = desk.held[name]
            found[name] = desk.enforcer.verify(one.target, spec_of(placement.decision), one.undo)

    assert len(born) == 1
    assert found == dict.fromkeys(pids, ())
