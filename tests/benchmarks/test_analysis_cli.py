"""`experiment analyze` on records in folders; the records are simulated."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.analysis_cli import analyse_folder, analyse_record, held_out_score, print_analysis
from benchmarks.design import Isolation
from benchmarks.errors import RunsMissing
from benchmarks.experiment_cli import app
from benchmarks.runs import RunLog
from profiler.registry import ModelRegistry
from profiler.training import train
from tests.benchmarks.simulated_runs import factorial_cells, simulated_runs
from tests.fakes.campaigns import HOST as CAMPAIGN_HOST
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST


@pytest.fixture
def record(tmp_path: Path) -> Path:
    cells = factorial_cells(
        traditional=("cpu",), agents=("single",), isolation=(Isolation.NONE, Isolation.CAT), concurrency=(1,)
    )
    log = RunLog(tmp_path, runs=simulated_runs(cells, repetitions=3))
    log.pack(tmp_path)
    return tmp_path


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunsMissing, match=r"no runs in '.*experiment run"):
        analyse_folder(tmp_path, tmp_path)


def test_json_holds_everything_and_is_the_same_twice(record: Path) -> None:
    texts = [
        CliRunner()
        .invoke(app, ["experiment", "analyze", "--data", str(record), "--state", str(record), "--json"])
        .output
        for _ in range(2)
    ]

    read = json.loads(texts[0])
    assert texts[0] == texts[1]
    assert (read["runs"], read["good_runs"]) == (6, 3)
    assert [len(read[key]) for key in ("questions", "hypotheses", "effects", "factors")] == [4, 3, 2, 2]
    assert read["effects"][0]["slowdown"]["lower"] is None
    assert "needs at least 6" in read["effects"][0]["slowdown"]["reason"]


def test_tables_name_cells_verdicts_and_what_is_missing(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_analysis(record, record, as_json=False)

    shown = " ".join(capsys.readouterr().out.split())
    assert "3 of 6 runs analysed" in shown
    assert "cat: not testable here: no cache ways can be given: simulated" in shown
    assert shown.count("not testable here") >= 3
    assert "Not answered yet" in shown
    assert "CIS, ordinary side" in shown
    assert "traditional" not in shown
    assert str(record) not in shown


def test_where_there_is_little_room_columns_are_left_out_and_nothing_is_cut_short(record: Path) -> None:
    command = ["experiment", "analyze", "--data", str(record), "--state", str(record)]

    narrow, wide = (CliRunner().invoke(app, command, env={"COLUMNS": width}).output for width in ("80", "200"))

    assert "…" not in narrow + wide
    assert "factorial/cpu+single/none" in narrow
    assert "makes room): " in narrow
    assert "TLS, TTFT, TTLT, TBT. " in " ".join(narrow.split())
    assert re.search("TBT +┃", wide)
    assert "makes room" not in wide


def test_no_model_in_use_is_a_reason(tmp_path: Path) -> None:
    score, reason = held_out_score(tmp_path, set())

    assert score is None
    assert "cotenant train" in reason
    assert str(tmp_path) not in reason


def test_a_damaged_model_is_told_as_damaged_and_without_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("no manifest")
    (tmp_path / "models" / "active").write_text("m1")

    score, reason = held_out_score(tmp_path, set())

    assert score is None
    assert "STATE/models/m1/manifest.json" in reason
    assert str(tmp_path) not in reason


def test_a_record_may_bring_its_model_along_which_one_in_use_goes_before(record: Path, tmp_path: Path) -> None:
    profiles = made_up_profiles()
    model = train(made_up_observations(profiles)[:12], profiles, HOST, created_unix_s=1e9)
    log = RunLog.load(record)
    log.hosts = {"i": replace(CAMPAIGN_HOST, instance="i", topology=HOST.fingerprint)}
    state = tmp_path / "state"

    def answer() -> str:
        found = analyse_record(log, state)
        assert "this host is of another class" in found.not_placed
        return next(one.answer for one in found.questions if one.name == "prediction")

    assert analyse_record(log, state).not_placed.endswith("`cotenant train`.")
    packed, own = ModelRegistry(record / "models"), ModelRegistry(state / "models")
    packed.activate(theirs := packed.save(model))
    assert theirs in answer()
    newer = replace(model, manifest=replace(model.manifest, created_unix_s=2e9))
    own.activate(mine := own.save(newer))
    assert mine in answer()


def test_the_score_of_a_model_counts_for_its_own_class_of_host_only(tmp_path: Path) -> None:
    profiles = made_up_profiles()
    model = train(made_up_observations(profiles)[:12], profiles, HOST, created_unix_s=1e9)
    registry = ModelRegistry(tmp_path / "models")
    model_id = registry.save(model)
    registry.activate(model_id)

    here, no_reason = held_out_score(tmp_path, {HOST.fingerprint})
    elsewhere, reason = held_out_score(tmp_path, {"another"})

    assert here is not None
    assert (here.model, here.scores) == (model_id, model.manifest.scores)
    assert not no_reason
    assert elsewhere is None
    assert "another class of host" in reason
