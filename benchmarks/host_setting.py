"""The setting of a campaign: this host, what confines and measures on it, and the revision of the source."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from benchmarks.design import Design
from benchmarks.environment import read_environment
from benchmarks.errors import BenchmarkError
from benchmarks.gauges import Gauges
from benchmarks.host_class import Host, host_class, memory_gib, read_instance
from benchmarks.runner import Setting
from benchmarks.seats import lacking
from isolation.enforcer import Enforcer
from isolation.errors import CgroupRefused
from isolation.topology import read_topology
from scheduler.state import group_prefix


def host_setting(design: Design, folder: Path, *, revision: str) -> Setting:
    """Read what this host is and can do, for runs kept in a folder; raises what reading the kernel raises."""
    topology = read_topology()
    prefix = group_prefix(folder.absolute())
    enforcer = Enforcer.for_host(topology, prefix=prefix)
    gauges = Gauges.for_host(f"{prefix}-run")
    controls = enforcer.controls()
    cache = controls.cache("L3") if controls else None
    without = lacking(cache, _no_ways(controls is not None))
    environment = read_environment()
    host = Host(
        kind=host_class(topology),
        instance=read_instance(),
        topology=topology.fingerprint,
        kernel=topology.kernel,
        memory_gib=memory_gib(topology),
        mechanism=str(enforcer.mechanism),
        without=(*dict.fromkeys(without.values()), *gauges.missing),
        versions=environment.versions,
    )
    return Setting(
        design=design,
        host=host,
        topology=topology,
        enforcer=enforcer,
        cache=cache,
        lacking=without,
        no_agents=no_agents(),
        gauges=gauges,
        revision=revision,
    )


def source_revision() -> str:
    """Name the source's revision; "unknown" for an installed package without its repository."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ("git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"),
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"


def remove_orphans(enforcer: Enforcer) -> None:
    """Remove what a killed campaign in the same folder left in the kernel; raises BenchmarkError for what is in use."""
    for name in enforcer.groups():
        try:
            enforcer.remove_orphan(name)
        except CgroupRefused as error:
            raise BenchmarkError(f"a killed campaign left group {name!r} with living processes: {error}") from error
    if left := enforcer.remove_empty_classes():
        raise BenchmarkError(f"a killed campaign left classes of resctrl: {'; '.join(left)}")


def no_agents() -> str:
    """Say why agents cannot be run here; empty = they can."""
    missing = [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (extra `bench`; `make setup` installs it)" if missing else ""


def _no_ways(has_resctrl: bool) -> str:  # noqa: FBT001 - one fact
    if has_resctrl:
        return "resctrl is mounted, but it controls no L3 cache ways (with CDP they are not split here)"
    return "no cache ways can be given: resctrl is not mounted or not ours to write (see `cotenant check`)"
