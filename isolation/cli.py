"""Commands `check`, `host` and `memory`: what this machine allows, what it looks like, where memory lives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from isolation.capabilities import Capability, read_capabilities
from isolation.cgroup import CpusetGroups, find_hierarchy
from isolation.cpuset import CpuSet
from isolation.drawing import draw_host
from isolation.errors import IsolationError
from isolation.kernelfs import HOST_FILES
from isolation.memory_report import read_memory_report
from isolation.topology import Topology, read_topology

app = typer.Typer(no_args_is_help=True, add_completion=False)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table or map.")]
_Sysfs = Annotated[
    Path,
    typer.Option(
        "--sysfs",
        metavar="ROOT",
        help="Read sys/ and proc/ below this folder instead of this host's, such as a captured tree.",
        exists=True,
        file_okay=False,
    ),
]
_Resctrl = Annotated[
    Path | None,
    typer.Option(
        "--resctrl",
        metavar="TREE",
        help="Report on this captured resctrl tree instead of the mounted one.",
        exists=True,
        file_okay=False,
    ),
]
_MARKS = {True: "[green]yes[/]", False: "[yellow]no[/]", None: "?"}


@app.command()
def check(*, sysfs: _Sysfs = Path("/"), resctrl: _Resctrl = None, as_json: _Json = False) -> None:
    """Report what this host allows, what is lost without it, and how to enable it. Changes nothing."""
    capabilities = read_capabilities(sysfs, resctrl=resctrl)
    if as_json:
        typer.echo(json.dumps([asdict(capability) for capability in capabilities], indent=2))
        return
    Console().print(_table(capabilities))


@app.command()
def host(*, sysfs: _Sysfs = Path("/"), as_json: _Json = False) -> None:
    """Draw this host: packages, NUMA nodes, caches, cores and CPUs, with the placements that sit there."""
    try:
        topology = read_topology(sysfs)
        occupants = _occupants() if sysfs == Path("/") else {}
    except IsolationError as cause:
        typer.echo(f"cotenant host: {cause}", err=True)
        raise typer.Exit(1) from cause
    if as_json:
        typer.echo(json.dumps(_as_record(topology, occupants), indent=2))
        return
    typer.echo(draw_host(topology, occupants, width=min(Console().width, 120)))


@app.command()
def memory(
    pids: Annotated[list[int] | None, typer.Argument(metavar="[PID]...", help="Processes to look at.")] = None,
    *,
    file: Annotated[list[Path] | None, typer.Option(help="A file, such as a model; may be given again.")] = None,
    as_json: _Json = False,
) -> None:
    """Tell on which nodes processes have their memory and files their page cache. Changes nothing, reads no disk.

    Large files that a process has mapped are told with it. Of a large file not every page is looked at: then the
    answer is an estimate and says so.
    """
    try:
        report = read_memory_report(pids or (), [str(path) for path in file or ()])
    except IsolationError as cause:
        typer.echo(f"cotenant memory: {cause}", err=True)
        raise typer.Exit(1) from cause
    typer.echo(json.dumps(report.as_record(), indent=2) if as_json else "\n".join(report.lines()))


def _table(capabilities: tuple[Capability, ...]) -> Table:
    table = Table(title="What this host allows", show_lines=True, expand=True)
    table.add_column("capability", ratio=3)
    table.add_column("has it")
    table.add_column("found", ratio=4, overflow="fold")
    table.add_column("lost without it, and how to get it", ratio=6, overflow="fold")
    for one in capabilities:
        lost = "" if one.available else f"{one.loss}. Remedy: {one.remedy}."
        table.add_row(one.name, _MARKS[one.available], one.detail, lost)
    return table


def _occupants() -> dict[int, list[str]]:
    """Return the names of all daemons' groups on this host, by CPU."""
    hierarchy = find_hierarchy()
    found: dict[int, list[str]] = {}
    if hierarchy is None or hierarchy.refusal is not None:
        return found
    groups = CpusetGroups(hierarchy, files=HOST_FILES, proc_root="/proc")
    for home in groups.children("/"):
        if home == "/cotenant" or home.startswith("/cotenant-"):
            for group in groups.children(home):
                for cpu in CpuSet.parse(groups.granted(group, "cpus")):
                    found.setdefault(cpu, []).append(group.rpartition("/")[2])
    return found


def _as_record(topology: Topology, occupants: dict[int, list[str]]) -> dict[str, object]:
    return {
        "fingerprint": topology.fingerprint,
        "cpu_model": topology.cpu_model,
        "kernel": topology.kernel,
        "online": str(topology.online),
        "offline": str(topology.offline),
        "isolated": str(topology.isolated),
        "usable": str(topology.usable),
        "usable_mems": None if topology.usable_mems is None else str(topology.usable_mems),
        "cpus": [asdict(cpu) | {"occupants": occupants.get(cpu.id, [])} for cpu in topology.cpus],
        "llc_domains": [asdict(domain) | {"cpus": str(domain.cpus)} for domain in topology.llc_domains],
        "l2_domains": [asdict(domain) | {"cpus": str(domain.cpus)} for domain in topology.l2_domains],
        "core_kinds": [asdict(kind) | {"cpus": str(kind.cpus)} for kind in topology.core_kinds],
        "nodes": [asdict(node) | {"cpus": str(node.cpus)} for node in topology.nodes],
    }
