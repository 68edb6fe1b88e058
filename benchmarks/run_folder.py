"""Which folder of runs is looked at: the one named, else what was measured here, else a dataset that comes along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import RunsMissing
from benchmarks.host_class import host_class
from benchmarks.runs import RunLog
from isolation.topology import read_topology


def run_folder(
    named: Path | None,
    measured: Path,
    datasets: str,
    tell: Callable[[str], None],
    *,
    this_class: Callable[[], str] = lambda: host_class(read_topology()).fingerprint,
) -> Path:
    """Give the folder named, else `measured` if it holds runs, else one below `datasets`; tells when it takes that.

    Of several datasets it is the one of this class of host. Gives `measured`, which is empty then, where there is no
    dataset (`datasets` empty = there is none); raises RunsMissing where it is not clear which, RunsDamaged.
    """
    if named is not None:
        return named
    if RunLog.load(measured).runs:
        return measured
    folders = sorted(Path(datasets).glob("*/")) if datasets else []
    found = {log.folder: log for log in map(RunLog.load, folders) if log.runs}
    if not found:
        return measured
    chosen = list(found)
    if len(found) > 1:
        here = this_class()
        chosen = [folder for folder, log in found.items() if log.runs[0].host == here]
    if len(chosen) != 1:
        raise RunsMissing(
            f"no runs in {str(measured)!r}, and {len(chosen) or 'none'} of the datasets that come along are of this "
            f"class of host: choose one with --data, {' or '.join(repr(str(one)) for one in found)}"
        )
    hosts = found[chosen[0]].hosts.values()
    told = " and ".join(dict.fromkeys(str(host.kind) for host in hosts)) or "unknown"
    tell(f"no runs in {str(measured)!r}: taking the dataset {str(chosen[0])!r}, host class {told}")
    return chosen[0]
