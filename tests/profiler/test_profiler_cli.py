"""The commands, through the door a user takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isolation.topology import read_topology
from profiler.cli import app
from profiler.errors import ModelMissing, ProfileMissing, ProfilerError, TrainingImpossible
from profiler.store import ObservationStore, ProfileStore
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import profile_of

RUNNER = CliRunner()


def test_profile_measures_a_command_and_stores_it(tmp_path: Path) -> None:
    wish = ["profile", "nap", "--state", str(tmp_path), "--window", "0.5", "--warmup", "0", "--no-probes", "--json"]

    done = RUNNER.invoke(app, [*wish, "--", "sleep", "100"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "nap"
    assert ProfileStore(tmp_path / "profiles").load("nap").value("threads") == 1


def test_profiles_lists_shows_and_names_damaged_ones(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    assert "no profiles yet" in RUNNER.invoke(app, ["profiles", "--state", str(tmp_path)]).stdout
    store.save(profile_of("web", cpu_cores=1.5))
    (tmp_path / "profiles" / "bad.json").write_text("{")

    listed = RUNNER.invoke(app, ["profiles", "--state", str(tmp_path), "--json"])
    shown = RUNNER.invoke(app, ["profiles", "--state", str(tmp_path), "show", "web"])

    assert [one["name"] for one in json.loads(listed.stdout)] == ["web"]
    assert "bad.json cannot be read" in listed.stderr
    assert "cpu_cores" in shown.stdout
    assert "web" in RUNNER.invoke(app, ["profiles", "--state", str(tmp_path)]).stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["profiles", "show", "nosuch"], ProfileMissing),
        (["models", "--activate", "nosuch"], ModelMissing),
        (["train"], TrainingImpossible),
        (["profile", "Bad\x07Name", "--", "true"], ProfilerError),
        (["profile", "x", "--", "no-such-command-here"], ProfilerError),
    ],
)
def test_what_cannot_be_done_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[ProfilerError]
) -> None:
    monkeypatch.setenv("COTENANT_STATE", str(tmp_path))

    done = RUNNER.invoke(app, arguments)

    assert isinstance(done.exception, error), done.output


def test_an_unwritable_state_folder_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = RUNNER.invoke(app, ["profile", "x", "--state", str(tmp_path / "file"), "--", "sleep", "100"])

    assert "--state DIR" in str(done.exception)


def test_train_then_models_shows_scores_and_rolls_back(tmp_path: Path) -> None:
    profiles = made_up_profiles(3)
    for one in profiles.values():
        ProfileStore(tmp_path / "profiles").save(one)
    here = read_topology().fingerprint
    observations = [replace(one, host_fingerprint=here) for one in made_up_observations(profiles)]
    ObservationStore(tmp_path / "observations.jsonl").append(observations)
    state = ["--state", str(tmp_path)]

    trained = RUNNER.invoke(app, ["train", *state])
    models = json.loads(RUNNER.invoke(app, ["models", *state, "--json"]).stdout)

    assert "prior alone" in trained.stdout
    assert [one["active"] for one in models] == [True]
    assert RUNNER.invoke(app, ["models", *state, "--activate", models[0]["id"]]).exit_code == 0


def test_sigterm_to_the_command_ends_the_measured_workload_too(tmp_path: Path) -> None:
    code = "from profiler.cli import app; app()"
    wish = ["profile", "x", "--state", str(tmp_path), "--no-probes", "--window", "60", "--", "sleep", "4321.5"]
    with subprocess.Popen([sys.executable, "-c", code, *wish], stderr=subprocess.DEVNULL) as ours:
        sleepers: list[int] = []
        deadline_s = time.monotonic() + 20
        while not sleepers and time.monotonic() < deadline_s:
            time.sleep(0.05)
            sleepers = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if sleeps(pid)]  # noqa: PTH208
        ours.send_signal(signal.SIGTERM)
        ours.wait(10)

    assert len(sleepers) == 1
    assert not sleeps(sleepers[0])


def sleeps(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x004321.5\x00"
    except OSError:
        return False
