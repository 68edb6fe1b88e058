"""The experiment where cache ways can be given: cells with CAT, done through the enforcer and seen in the kernel."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks.gauges import Gauges
from benchmarks.runner import Campaign, Setting
from benchmarks.runs import Outcome, RunLog
from benchmarks.seats import lacking
from isolation.enforcer import Enforcer
from isolation.topology import read_topology
from tests.fakes.campaigns import HOST, design

pytestmark = pytest.mark.root
_PREFIX = f"cotenant-test-{os.getpid()}"


def groups(resctrl: Path) -> dict[str, str]:
    """Return schemata of every group of this test."""
    found = {}
    for folder in resctrl.glob(f"{_PREFIX}*"):
        try:
            found[folder.name] = (folder / "schemata").read_text()
        except OSError:  # it was removed while we looked
            continue
    return found


def test_members_get_ways_of_their_own_and_are_monitored(tmp_path: Path, resctrl: Path) -> None:
    topology = read_topology()
    enforcer = Enforcer.for_host(topology, prefix=_PREFIX)
    controls = enforcer.controls()
    cache = controls.cache("L3") if controls else None
    assert cache is not None, "resctrl is mounted, so there are ways"
    gauges = Gauges.for_host(f"{_PREFIX}-run")
    table = {"left": ["cpu"], "right": ["memory"], "isolation": ["cat", "combined"], "repetitions": 1}
    what = design(factorial=None, breadth=[table])
    setting = Setting(
        design=what,
        host=HOST,
        topology=topology,
        enforcer=enforcer,
        cache=cache,
        lacking=lacking(cache, ""),
        gauges=gauges,
        revision="test",
    )
    campaign = Campaign(setting, RunLog.load(tmp_path), attempts=1)
    seen: dict[str, set[str]] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            for name, schemata in groups(resctrl).items():
                seen.setdefault(name, set()).add(schemata)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with campaign.log.locked():
            campaign.run(what.steps(), lambda *_: None)
    finally:
        is_over.set()
        watcher.join()

    # an emulated machine is never quiet; what counts here is that nothing failed
    assert [run.outcome for run in campaign.log.runs if run.outcome not in {Outcome.OK, Outcome.DISTURBED}] == []
    assert {run.cell for run in campaign.log.runs} == {"breadth/cpu+memory/cat", "breadth/cpu+memory/combined"}
    masks = {line for texts in seen.values() for text in texts for line in text.splitlines() if "L3:" in line}
    assert len(masks) >= 2, f"two classes with masks of their own: {seen}"
    if gauges.cache is not None:
        told = {one.llc_occupancy_bytes is not None for run in campaign.log.runs for one in run.readings}
        assert told == {True}
    assert groups(resctrl) == {}
    assert enforcer.groups() == ()
