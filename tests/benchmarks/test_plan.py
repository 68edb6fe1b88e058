"""What is asked for of a design, told by `experiment plan` on this host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.design import Isolation, Part
from benchmarks.errors import DesignInvalid
from benchmarks.experiment_cli import app
from benchmarks.host_setting import host_setting
from benchmarks.plan import chosen_cells, read_design, run_s
from benchmarks.runs import RunLog
from tests.benchmarks.simulated_runs import factorial_cells, simulated_runs


def test_the_plan_tells_what_the_options_leave_and_its_time() -> None:
    ended = CliRunner().invoke(app, ["experiment", "plan", "--cells", "cpu+single*", "--reps", "2", "--json"])

    told = json.loads(ended.output)
    assert {one["cell"].rsplit("/", 1)[1] for one in told["cells"]} == {"none", "pinning", "cat", "combined"}
    assert {one["repetitions"] for one in told["cells"]} == {2}
    assert all(bool(one["reason"]) != one["feasible"] for one in told["cells"])
    assert told["seconds"] == pytest.approx(sum(2 * one["run_s"] for one in told["cells"] if one["feasible"]))


def test_the_plan_tells_what_is_still_to_do(tmp_path: Path) -> None:
    cells = factorial_cells(traditional=("cpu",), agents=("single",), isolation=(Isolation.NONE,), concurrency=(1,))
    RunLog(tmp_path, runs=simulated_runs(cells, repetitions=3)).pack(tmp_path)
    options = ["--cells", "*/cpu+single/none", "--reps", "5", "--data", str(tmp_path)]

    told = json.loads(CliRunner().invoke(app, ["experiment", "plan", *options, "--json"]).output)
    shown = " ".join(CliRunner().invoke(app, ["experiment", "plan", *options]).output.split())

    (cell,) = told["cells"]
    assert told["due_runs"] == 2
    assert told["due_seconds"] == round(2 * cell["run_s"])
    assert "Still to do: 2 runs" in shown
    assert "not applicable" not in shown


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b"])
def test_a_shard_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, shard: str) -> None:
    ended = CliRunner().invoke(app, ["experiment", "run", "--shard", shard, "--data", str(tmp_path / "runs")])

    assert isinstance(ended.exception, DesignInvalid)
    assert not (tmp_path / "runs").exists()


def test_services_that_are_added_are_measured_alone_unless_parts_are_named(tmp_path: Path) -> None:
    setting = host_setting(read_design(None).with_services(["redis"]), tmp_path, revision="")

    alone = chosen_cells(setting, None, None, 1, "redis")
    besides = chosen_cells(setting, [Part.FACTORIAL, Part.BREADTH], None, 1, "redis")
    without = chosen_cells(setting, None, None, 1)

    assert len(alone.repetitions) == 12  # beside six workloads, pinned and stacked
    assert all("redis+" in cell.name for cell in alone.repetitions)
    assert {cell.part for cell in without.repetitions} == {Part.FACTORIAL}
    assert {*alone.repetitions, *without.repetitions} < {*besides.repetitions}


def test_no_cells_are_no_plan() -> None:
    ended = CliRunner().invoke(app, ["experiment", "plan", "--cells", "0"])

    assert "--cells '0' leaves nothing" in str(ended.exception)


def test_a_run_takes_each_member_twice_alone_and_once_together() -> None:
    design = read_design(None).chosen([Part.FACTORIAL], cells="cpu+single/none")
    (cell,) = design.repetitions

    windows_s = 2 * sum(design.solo_s(one) for one in cell.members) + design.together_s(cell)
    assert run_s(design, cell) == pytest.approx(windows_s + 5 * 0.35 + 0.15)


@pytest.mark.parametrize(
    ("data", "told"), [(None, "cannot be read: No such file"), (b"[", "is no TOML"), (b"\xff", "is no TOML")]
)
def test_a_design_that_cannot_be_read_is_named(tmp_path: Path, data: bytes | None, told: str) -> None:
    path = tmp_path / "design.toml"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(DesignInvalid, match=rf"design '.*/design.toml' {told}"):
        read_design(path)
