"""Catalogue entries: those shipped, those of a user, and bad ones; what they start, where it is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.catalogue import Entry, read_catalogue, read_entry
from profiler.collector import collect
from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.procfs import members
from profiler.staging import staged

TOPOLOGY = read_topology()
ONE_CPU = CpuSet.of(list(TOPOLOGY.usable)[-1:])
SHIPPED = read_catalogue()
MINIMAL = 'description = "x"\nmetric = "auto"\n[workload]\ncommand = ["sleep", "100"]\n'


def entry_of(folder: Path, text: str) -> Entry:
    (folder / "own.toml").write_text(text)
    return read_entry(folder / "own.toml")


def test_the_shipped_entries_name_packages_and_programs() -> None:
    assert {"nginx", "postgresql", "redis", "sqlite", "sysbench", "zstd"} == set(SHIPPED)
    assert all(one.packages and one.name for one in SHIPPED.values())


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_entry_runs_and_leaves_nothing(name: str) -> None:
    entry = SHIPPED[name]
    if entry.missing():
        pytest.skip(f"{', '.join(entry.missing())} not installed: apt-get install {' '.join(entry.packages)}")
    if entry.load and len(TOPOLOGY.usable) < 2:
        pytest.skip("the load generator needs a CPU of its own")
    before = members({os.getpid()})
    with staged(entry, ONE_CPU, TOPOLOGY) as stage:
        found = collect(
            name,
            stage.command,
            cpus=ONE_CPU,
            metric=entry.metric,
            driver=stage.driver,
            probes=False,
            window_s=2.0,
            warmup_s=0.5,
        )

    assert found.value("rate_per_s") > 0
    assert found.value("cpu_utilisation_ratio") > 0
    assert (stage.driver is None) == (entry.load is None)
    assert stage.driver is None or not stage.driver.cpus & ONE_CPU
    assert members({os.getpid()}) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is no TOML"),
        (MINIMAL.replace("description", "descriptoin"), "own.toml': description: Field required"),
        (MINIMAL.replace('"auto"', '"fast"'), "metric 'fast' is not one of"),
        (MINIMAL.replace('["sleep", "100"]', "[]"), "workload.command: Tuple should have at least 1 item"),
        (MINIMAL.replace('"100"', '"{prot}"'), "{prot}: known are folder, port, cpus"),
        (MINIMAL + "cpus = 0\n", "workload.cpus"),
        (MINIMAL + 'ready = "tcp:1"\n', "workload.ready is 'tcp:1'"),
        (MINIMAL + '[load]\ncommand = ["true"]\n', "workload.ready is missing"),
        (MINIMAL + '[files]\n"../x" = ""\n', "must be a plain file name"),
        (MINIMAL + "[server]\n", "server: Extra inputs"),
    ],
)
def test_a_bad_entry_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecordInvalid) as caught:
        entry_of(tmp_path, text)

    assert message in str(caught.value)
    assert "own.toml" in str(caught.value)


def test_an_own_entry_wins_and_a_bad_one_spares_the_others(tmp_path: Path) -> None:
    (tmp_path / "redis.toml").write_text(MINIMAL)
    (tmp_path / "bad.toml").write_text("=")
    damaged: list[RecordInvalid] = []

    found = read_catalogue(tmp_path, on_damaged=damaged.append)

    assert found["redis"].description == "x"
    assert "zstd" in found
    assert len(damaged) == 1


def test_a_program_that_is_not_installed_names_the_package(tmp_path: Path) -> None:
    text = 'packages = ["made-up"]\n' + MINIMAL.replace('"sleep"', '"no-such-program"')

    with (
        pytest.raises(RecordInvalid, match="needs no-such-program, not found here: apt-get install made-up"),
        staged(entry_of(tmp_path, text), ONE_CPU, TOPOLOGY),
    ):
        pass


def test_a_load_that_finds_no_cpu_of_its_own_is_refused(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, MINIMAL + 'ready = ["true"]\n[load]\ncommand = ["sleep", "9"]\n')

    with (
        pytest.raises(RecordInvalid, match="the load generator needs 1 CPUs besides"),
        staged(entry, TOPOLOGY.usable, TOPOLOGY),
    ):
        pass


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('prepare = [["sh", "-c", "echo why >&2; exit 3"]]\n', "preparing with .* exit code 3 .*it wrote: why"),
        ('ready = ["false"]\n[load]\ncommand = ["sleep", "9"]\n', "was not ready within 0.5 s: .*false' ended with 1"),
        ('ready = ["true"]\n[load]\ncommand = ["true"]\n', "the load generator must not end while we measure"),
        (
            'ready = ["true"]\n[load]\nprepare = [["false"]]\ncommand = ["sleep", "9"]\n',
            "preparing with .*false.* exit code 1",
        ),
    ],
)
def test_what_goes_wrong_on_the_stage_is_told(tmp_path: Path, more: str, message: str) -> None:
    if len(TOPOLOGY.usable) < 2:
        pytest.skip("the load generator needs a CPU of its own")
    entry = entry_of(tmp_path, MINIMAL + more)

    with pytest.raises(WorkloadFailed, match=message), staged(entry, ONE_CPU, TOPOLOGY) as stage:
        collect("x", stage.command, cpus=ONE_CPU, driver=stage.driver, start_limit_s=0.5, window_s=0.5, probes=False)


def test_files_get_their_values_and_other_braces_stay(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, MINIMAL + '[files]\n"a" = "{folder} {port} {cpus} { x } {other}"\n')

    with staged(entry, ONE_CPU, TOPOLOGY) as stage:
        made = next(Path(next(iter(Path("/tmp").glob("cotenant-*/data/a")))).parents[0].glob("a"))  # noqa: S108
        text = made.read_text()

    assert stage.command[-1] == "100"
    assert " 1 { x } {other}" in text
    assert "{port}" not in text
    assert not made.exists()
