"""Which folder of runs is looked at; the records are simulated."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.errors import RunsMissing
from benchmarks.experiment_cli import app
from benchmarks.run_folder import run_folder
from benchmarks.runs import RunLog
from tests.benchmarks.simulated_runs import factorial_cells, simulated_runs


def record(folder: Path, *, host: str = "simulated") -> Path:
    runs = simulated_runs(factorial_cells()[:1], repetitions=2)
    RunLog(folder, runs=[dataclasses.replace(one, host=host) for one in runs]).pack(folder)
    return folder


def chosen(tmp_path: Path, *, named: Path | None = None, datasets: str | None = None) -> tuple[Path, list[str]]:
    told: list[str] = []
    where = str(tmp_path / "data") if datasets is None else datasets
    found = run_folder(named, tmp_path / "measured", where, told.append, this_class=lambda: "simulated")
    return found, told


def test_what_is_named_is_taken_though_it_is_empty(tmp_path: Path) -> None:
    record(tmp_path / "measured")
    record(tmp_path / "data" / "one")

    assert chosen(tmp_path, named=tmp_path / "other") == (tmp_path / "other", [])


def test_what_was_measured_here_comes_before_a_dataset(tmp_path: Path) -> None:
    record(tmp_path / "measured")
    record(tmp_path / "data" / "one")

    assert chosen(tmp_path) == (tmp_path / "measured", [])


def test_the_only_dataset_is_taken_of_whatever_class_and_told(tmp_path: Path) -> None:
    only = record(tmp_path / "data" / "one", host="another")
    (tmp_path / "data" / "empty").mkdir()

    found, told = chosen(tmp_path)

    assert found == only
    assert len(told) == 1
    assert f"taking the dataset {str(only)!r}" in told[0]


def test_of_several_datasets_that_of_this_class_is_taken(tmp_path: Path) -> None:
    record(tmp_path / "data" / "a", host="another")
    ours = record(tmp_path / "data" / "b")

    assert chosen(tmp_path)[0] == ours


@pytest.mark.parametrize(("hosts", "count"), [(("x", "y"), "none"), (("simulated", "simulated", "x"), "2")])
def test_where_it_is_not_clear_which_the_choices_are_named(tmp_path: Path, hosts: tuple[str, ...], count: str) -> None:
    folders = [record(tmp_path / "data" / f"d{number}", host=host) for number, host in enumerate(hosts)]

    with pytest.raises(RunsMissing, match=f"{count} of the datasets .* of this class") as refused:
        chosen(tmp_path)

    assert all(repr(str(one)) in str(refused.value) for one in folders)


@pytest.mark.parametrize("datasets", ["", None])
def test_without_a_dataset_the_empty_folder_stays(tmp_path: Path, datasets: str | None) -> None:
    assert chosen(tmp_path, datasets=datasets) == (tmp_path / "measured", [])


def test_the_command_says_on_stderr_what_it_takes(tmp_path: Path) -> None:
    only = record(tmp_path / "data" / "one")
    around = {"COTENANT_STATE": str(tmp_path), "COTENANT_DATASET": str(tmp_path / "data")}

    ended = CliRunner(env=around).invoke(app, ["experiment", "status", "--json"])

    assert json.loads(ended.stdout)["folder"] == str(only)
    assert "taking the dataset" in ended.stderr
