"""A unit of a real systemd, placed and released through the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.daemon_process import DaemonProcess
from cotenant import Client
from isolation.systemd import Systemd
from tests.fakes.children import real_process
from tests.vm.init import ask_manager, real_systemd, start_slice, stop_unit

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("daemon") / "s"
    with real_systemd(), DaemonProcess(state, "--mechanism", "cgroup_v2") as daemon, Client(daemon.socket) as connected:
        yield connected


def allowed(pid: int) -> set[str]:
    """Return the Cpus_allowed_list of every thread, each once."""
    texts = [task.read_text(encoding="ascii") for task in Path(f"/proc/{pid}/task").glob("*/status")]
    return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Cpus_allowed_list")}


def test_a_slice_is_placed_survives_daemon_reload_and_is_released(client: Client) -> None:
    """A slice, since this systemd starts services in a pid namespace of its own, whose processes are not placed."""
    group = start_slice("placed.slice")
    files = Path("/sys/fs/cgroup" + group)
    with real_process(threads=4) as pid:
        (files / "cgroup.procs").write_text(str(pid), encoding="ascii")
        before = allowed(pid)
        placed = client.place("placed", cgroup_path=group, cpus=2)
        ask_manager("Reload")
        during = allowed(pid), (files / "cpuset.cpus.effective").read_text(encoding="ascii").strip()
        properties = Systemd().allowed("placed.slice")
        client.release("placed")
        after = allowed(pid), Systemd().allowed("placed.slice")
    stop_unit("placed.slice")

    assert properties is not None
    assert after[1] is not None
    assert during == ({placed.cpus}, placed.cpus)
    assert str(properties["cpus"]) == placed.cpus
    assert {placed.cpus} != before == after[0]
    assert not after[1]["cpus"]
