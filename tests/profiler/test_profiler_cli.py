"""The commands, through the door a user takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isolation.topology import read_topology
from profiler.cli import app
from profiler.errors import ModelMissing, ProfileMissing, ProfilerError, TrainingImpossible
from profiler.interruption import ended_by_signals
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


def store_made_up(state: Path, *, workloads: int) -> None:
    profiles = made_up_profiles(workloads)
    for one in profiles.values():
        ProfileStore(state / "profiles").save(one)
    here = read_topology().fingerprint
    observations = [replace(one, host_fingerprint=here) for one in made_up_observations(profiles)]
    ObservationStore(state / "observations.jsonl").append(observations)


def test_train_then_models_shows_scores_and_rolls_back(tmp_path: Path) -> None:
    store_made_up(tmp_path, workloads=3)
    state = ["--state", str(tmp_path)]

    trained = RUNNER.invoke(app, ["train", *state])
    models = json.loads(RUNNER.invoke(app, ["models", *state, "--json"]).stdout)

    assert "prior alone" in trained.stdout
    assert [one["active"] for one in models] == [True]
    assert RUNNER.invoke(app, ["models", *state, "--activate", models[0]["id"]]).exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_command_ends_the_measured_workload_too(tmp_path: Path, number: signal.Signals) -> None:
    wish = ["profile", "x", "--state", str(tmp_path), "--no-probes", "--window", "60", "--", "sleep", "4321.5"]

    code, measured = ended_while_it_runs(wish, number, lambda cmdline: cmdline == b"sleep\x004321.5\x00")

    assert code == 130
    assert not running(measured)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_train_ends_the_training_child(tmp_path: Path, number: signal.Signals) -> None:
    wish = ["train", "--state", str(tmp_path)]
    store_made_up(tmp_path, workloads=5)

    def trains(cmdline: bytes) -> bool:
        return b"profiler.training" in cmdline and str(tmp_path).encode() in cmdline

    code, child = ended_while_it_runs(wish, number, trains)

    assert code == 130
    assert not running(child)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_does_not_break_the_clean_up_off() -> None:
    cleaned_up = []

    def signalled_twice() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned_up.append(True)

    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        signalled_twice()

    assert cleaned_up
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def ended_while_it_runs(
    arguments: list[str], number: signal.Signals, wanted: Callable[[bytes], bool]
) -> tuple[int, int]:
    """Send the command a signal once a process with such a command line is there; give exit code and that pid."""
    command = [sys.executable, "-m", "cotenant.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ours:
        found: list[int] = []
        deadline_s = time.monotonic() + 20
        while not found and time.monotonic() < deadline_s:
            time.sleep(0.02)
            pids = map(int, filter(str.isdecimal, os.listdir("/proc")))  # noqa: PTH208
            found = [pid for pid in pids if wanted(cmdline_of(pid))]
        ours.send_signal(number)
        code = ours.wait(10)

    assert len(found) == 1
    return code, found[0]


def cmdline_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def running(pid: int) -> bool:
    return cmdline_of(pid) != b""  # a zombie has no command line


def test_a_signal_ends_a_service_of_the_catalogue_with_its_load_and_folder(tmp_path: Path) -> None:
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "own.toml").write_text(
        'description = "x"\nmetric = "count:^x$"\n[workload]\ncommand = ["sh", "-c", "cd {folder}; sleep 4322.5"]\n'
        'ready = ["true"]\n[load]\ncommand = ["sh", "-c", "echo x; sleep 4323.5"]\n'
    )
    wish = ["profile", "own", "--state", str(tmp_path), "--start-limit", "3000"]
    if len(read_topology().usable) < 2:
        pytest.skip("the load generator needs a CPU of its own")

    code, load = ended_while_it_runs(wish, signal.SIGTERM, lambda cmdline: cmdline == b"sleep\x004323.5\x00")
    servers = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if b"4322.5" in cmdline_of(pid)]  # noqa: PTH208

    assert code == 130
    assert not running(load)
    assert servers == []


def test_running_processes_are_profiled_by_pid(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as one:
        wish = ["profile", "x", "--state", str(tmp_path), "--pid", str(one.pid), "--duration", "0.6", "--json"]
        done = RUNNER.invoke(app, wish)
        one.kill()

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["window"]["length_s"] > 0.5


def test_a_run_that_does_not_repeat_the_one_before_is_marked(tmp_path: Path) -> None:
    wish = ["profile", "x", "--state", str(tmp_path), "--cpus", "1", "--no-probes", "--window", "0.6", "--warmup", "0"]
    assert RUNNER.invoke(app, [*wish, "--", "sleep", "100"]).exit_code == 0
    before = ProfileStore(tmp_path / "profiles").load("x")
    changed = tuple(replace(one, value=one.value * 3) for one in before.features if one.name == "threads")
    ProfileStore(tmp_path / "profiles").save(replace(before, features=changed), replace=True)

    done = RUNNER.invoke(app, [*wish, "--json", "--", "sleep", "100"])

    assert json.loads(done.stdout)["quality"] != "stable"
    assert "the median feature differs by 67% from the run before it" in json.loads(done.stdout)["note"]


def test_the_catalogue_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "own.toml").write_text(
        'description = "x"\nmetric = "auto"\npackages = ["made-up"]\n[workload]\ncommand = ["no-such-program"]\n'
    )
    (tmp_path / "catalogue" / "bad.toml").write_text("=")

    listed = RUNNER.invoke(app, ["catalogue", "--state", str(tmp_path), "--json"])
    rows = {one["name"]: one for one in json.loads(listed.stdout)}

    assert (rows["own"]["usable"], rows["own"]["missing"]) == (False, ["no-such-program"])
    assert rows["redis"]["load_cpus"] == 1
    assert "bad.toml' is no TOML" in listed.stderr
