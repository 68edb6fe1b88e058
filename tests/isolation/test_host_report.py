"""What people see: the map, the report, the two commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isolation.capabilities import read_capabilities
from isolation.cli import app
from isolation.cpuset import CpuSet
from isolation.drawing import draw_host
from isolation.topology import read_topology
from tests.fakes.machines import make_topology

RUNNER = CliRunner()


def test_a_small_host_shows_every_cpu_and_who_sits_there() -> None:
    text = draw_host(make_topology(threads_per_core=2), {0: ["llama"], 2: ["web", "db"]}, width=60)

    assert text.splitlines() == [
        "Imaginary CPU: 4 CPUs, 2 cores, 1 package, 1 NUMA node, 1 cache domain",
        "+- package 0 ----------------------------------------------+",
        "| node 0: 64.0 GiB                                         |",
        "|   L3 0: 32.0 MiB, 16 ways                                |",
        "|     [0 llama | 2 db+web] [1 . | 3 .]                     |",
        "+----------------------------------------------------------+",
    ]


@pytest.mark.parametrize("width", [20, 60, 100, 200])
def test_256_cpus_stay_readable_and_none_is_lost(width: int) -> None:
    topology = make_topology(packages=2, nodes_per_package=4, llcs_per_node=2, cores_per_llc=8, threads_per_core=2)
    text = draw_host(topology, {5: ["llama"], 133: ["a-very-long-name-of-a-workload-indeed"]}, width=width)
    lines = text.splitlines()

    assert len(topology.cpus) == 256
    assert len(lines) < 70
    assert {len(line) for line in lines[1:]} == {max(width, 40)}
    assert "llama" in text


def test_a_host_of_one_cpu_draws() -> None:
    assert "[0 .]" in draw_host(make_topology(cores_per_llc=1), {})


def test_what_cannot_be_used_is_said_below_the_map() -> None:
    text = draw_host(make_topology(usable=CpuSet.parse("0")), {})

    assert text.endswith("CPUs 1: not usable by this process")


def test_unknown_sizes_are_said_to_be_unknown() -> None:
    text = draw_host(make_topology(llc_size_bytes=None, llc_ways=None, node_memory_bytes=None), {})

    assert "L3 0: size unknown" in text
    assert "node 0: size unknown" in text


def test_the_report_covers_what_the_design_lists_and_every_line_helps() -> None:
    report = {one.name: one for one in read_capabilities()}

    assert {
        "privileges",
        "cpuset cgroup",
        "affinity",
        "resctrl",
        "hardware counters",
        "software counters",
        "NUMA",
        "SMT",
        "last-level cache",
        "cache ids",
        "pressure stall information",
        "bare metal",
    } <= set(report)
    assert all(one.detail and one.loss and one.remedy for one in report.values())
    assert report["affinity"].available is True
    assert report["NUMA"].available == (len(read_topology().nodes) > 1)
    assert report["privileges"].available == (os.geteuid() == 0)
    assert report["resctrl"].available == any(
        line.split()[2] == "resctrl" for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    )


def test_a_captured_tree_is_not_asked_about_this_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu cat_l3 hypervisor\n", encoding="utf-8")
    report = {one.name: one for one in read_capabilities(tmp_path)}

    assert report["hardware counters"].available is None
    assert report["cpuset cgroup"].available is None
    assert "cat_l3" in report["resctrl"].detail
    assert report["bare metal"].available is False


@pytest.mark.parametrize(
    ("release", "keeps"), [("6.1.0-56-amd64\n", False), ("6.2.0\n", True), ("10.0-rc1\n", True), ("", None)]
)
def test_kernels_before_6_2_are_said_to_forget_what_threads_asked_for(
    *, release: str, keeps: bool | None, tmp_path: Path
) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text(release, encoding="utf-8")
    found = next(one for one in read_capabilities(tmp_path) if one.name == "CPUs that threads asked for")

    assert found.available is keeps
    assert release.strip() in found.detail


def test_check_prints_a_table_and_json() -> None:
    table = RUNNER.invoke(app, ["check"])
    listing = RUNNER.invoke(app, ["check", "--json"])

    assert (table.exit_code, listing.exit_code) == (0, 0)
    assert "What this host allows" in table.output
    assert {"name", "available", "detail", "loss", "remedy"} == set(json.loads(listing.output)[0])


def test_host_draws_this_host_and_prints_json() -> None:
    drawn = RUNNER.invoke(app, ["host"])
    record = json.loads(RUNNER.invoke(app, ["host", "--json"]).output)

    assert drawn.exit_code == 0
    assert "package 0" in drawn.output
    assert record["fingerprint"] == read_topology().fingerprint
    assert CpuSet.parse(record["online"]) == read_topology().online


def test_host_refuses_a_folder_that_is_no_machine(tmp_path: Path) -> None:
    empty = RUNNER.invoke(app, ["host", "--sysfs", str(tmp_path)])
    absent = RUNNER.invoke(app, ["host", "--sysfs", str(tmp_path / "nothing")])

    assert (empty.exit_code, absent.exit_code) == (1, 2)
    assert "no CPU found below" in empty.output


@pytest.mark.parametrize("command", ["check", "host"])
def test_help_says_what_a_command_does(command: str) -> None:
    result = RUNNER.invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert "--json" in result.output
    assert "--sysfs" in result.output
