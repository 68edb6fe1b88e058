"""Runs as observations for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.design import Isolation, Member
from benchmarks.observations import observations
from benchmarks.runs import PROFILES_FOLDER, Outcome, RunLog
from benchmarks.solo_profiles import families, measure_profiles, pack_model, pack_training
from isolation.topology import read_topology
from profiler.dataset import FAMILIES, OBSERVATIONS, load_dataset
from profiler.records import WorkloadProfile
from profiler.registry import ModelRegistry
from profiler.store import ProfileStore
from profiler.training import train
from tests.fakes.campaigns import HOST, design, slowed_run
from tests.fakes.machines import make_topology
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST as TRAITS
from tests.fakes.profiles import profile_of

MACHINE = make_topology()
A, B = Member(workload="a"), Member(workload="b")


def test_repetitions_of_a_pair_make_one_observation_each_way() -> None:
    runs = [
        slowed_run(A, B, cpus=("0", "1"), factor=factor, repetition=at) for at, factor in enumerate((1.1, 1.3, 1.2))
    ]
    found = observations(runs, MACHINE)

    assert [(one.victim, one.aggressors) for one in found] == [
        ("experiment.a", ("experiment.b",)),
        ("experiment.b", ("experiment.a",)),
    ]
    first = found[0]
    assert first.slowdown == pytest.approx(1.2)
    assert first.repetitions == 3
    assert first.spread == pytest.approx(math.log(1.3 / 1.1) / 2, rel=0.05)
    assert first.relations[0].same_cpu == 0
    assert first.relations[0].same_llc == 1
    assert first.host_fingerprint == MACHINE.fingerprint


def test_who_shares_a_cpu_is_told_so() -> None:
    (first, _) = observations([slowed_run(A, B, cpus=("0", "0"), factor=2.0)], MACHINE)

    assert first.relations[0].same_cpu == 1
    assert first.spread is None


def test_several_processes_are_several_aggressors_and_no_victim() -> None:
    many = Member(workload="b", instances=4)
    found = observations([slowed_run(A, many, cpus=("0", "1"), factor=1.5)], MACHINE)

    assert [(one.victim, one.aggressors) for one in found] == [("experiment.a", ("experiment.b",) * 4)]
    assert len(found[0].relations) == 4


def test_what_was_left_to_the_kernel_or_disturbed_is_no_observation() -> None:
    runs = [
        slowed_run(A, B, cpus=(), factor=1.5),
        slowed_run(A, B, cpus=("0", "1"), factor=1.5, outcome=Outcome.DISTURBED),
    ]

    assert observations(runs, MACHINE) == []


def test_who_may_run_on_the_same_several_cpus_is_no_observation() -> None:
    assert observations([slowed_run(A, B, cpus=("0-1", "0-1"), factor=1.5, isolation=Isolation.CAT)], MACHINE) == []


def test_a_cell_measured_on_other_cpus_is_an_observation_of_its_own() -> None:
    runs = [slowed_run(A, B, cpus=cpus, factor=1.5, repetition=at) for at, cpus in enumerate((("0", "1"), ("0", "0")))]
    found = [one for one in observations(runs, MACHINE) if one.victim == "experiment.a"]

    assert [(one.relations[0].same_cpu, one.repetitions) for one in found] == [(0, 1), (1, 1)]


def test_variants_of_one_program_are_told_apart_from_other_programs() -> None:
    told = families()

    assert told["experiment.single"] == told["experiment.multi-4"] == told["experiment.plan-1"]
    assert told["experiment.memory"] == told["experiment.stream-8m"]
    assert told["experiment.latency"] == told["experiment.chase-8m"]
    assert len(set(told.values())) == 5


def test_a_dataset_holds_what_training_takes_the_same_bytes_twice(tmp_path: Path) -> None:
    here = read_topology()
    log = RunLog(tmp_path / "runs", runs=[slowed_run(A, B, cpus=("0", "0"), factor=2.0)])
    log.hosts = {"a1": replace(HOST, topology=here.fingerprint)}
    store = ProfileStore(log.folder / PROFILES_FOLDER)
    for name in ("experiment.a", "experiment.b"):
        store.save(profile_of(name))
    to = tmp_path / "data" / "here"
    log.pack(to)

    assert "2 observations" in pack_training(log, log.folder, to, here)
    first = {path.name: path.read_bytes() for path in to.iterdir()}
    pack_training(log, log.folder, to, here)
    assert {path.name: path.read_bytes() for path in to.iterdir()} == first

    damaged: list[Exception] = []
    assert load_dataset(tmp_path / "data", here.fingerprint, damaged.append).families == families()
    found = load_dataset(tmp_path / "data", here.fingerprint, damaged.append)
    assert [one.slowdown for one in found.observations] == [pytest.approx(2.0)] * 2
    assert {one.name for one in found.profiles} == {"experiment.a", "experiment.b"}
    assert load_dataset(to, here.fingerprint, damaged.append) == found, "the folder itself, too"
    assert load_dataset(tmp_path / "data", "elsewhere", damaged.append).observations == ()
    assert damaged == []

    (to / FAMILIES).write_text('{"experiment.a": 1}')
    assert load_dataset(tmp_path / "data", here.fingerprint, damaged.append).observations == ()
    assert "does not name a program for each workload" in str(damaged.pop())
    (to / FAMILIES).unlink()
    assert len(load_dataset(tmp_path / "data", here.fingerprint, damaged.append).observations) == 2

    with (to / OBSERVATIONS).open("a") as file:
        file.write("{}\n")
    assert load_dataset(tmp_path / "data", here.fingerprint, damaged.append).observations == ()
    assert "line 3" in str(damaged[0])


def test_the_model_in_use_goes_into_the_dataset_and_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    profiles = made_up_profiles()
    model = train(made_up_observations(profiles)[:12], profiles, TRAITS, created_unix_s=1e9)
    registry, to = ModelRegistry(tmp_path / "models"), tmp_path / "data"
    log = RunLog(tmp_path / "runs", hosts={"a1": replace(HOST, topology=TRAITS.fingerprint)})

    assert pack_model(log, tmp_path, to).startswith("no model was packed: no model is in use")
    for created in (1e9, 2e9):
        model_id = registry.save(replace(model, manifest=replace(model.manifest, created_unix_s=created)))
        registry.activate(model_id)
        assert model_id in pack_model(log, tmp_path, to)

    packed = ModelRegistry(to / "models")
    assert [one.id for one in packed.list()] == [model_id]
    assert packed.active().manifest == registry.active().manifest
    assert packed.held_out(model_id) == registry.held_out(model_id)
    assert "is the state folder itself" in pack_model(log, tmp_path, tmp_path)
    assert len(registry.list()) == 2
    log.hosts = {"a1": HOST}
    assert pack_model(log, tmp_path, to) == f"no model was packed: {model_id} is of another class of host"
    assert [one.id for one in packed.list()] == [model_id]


def test_observations_left_out_for_want_of_a_profile_are_counted_and_named(tmp_path: Path) -> None:
    here = read_topology()
    runs = [
        slowed_run(A, B, cpus=("0", "0"), factor=2.0),
        slowed_run(A, Member(workload="c"), cpus=("0", "0"), factor=2.0),
    ]
    log = RunLog(tmp_path / "runs", runs=runs, hosts={"a1": replace(HOST, topology=here.fingerprint)})
    for name in ("experiment.a", "experiment.b"):
        ProfileStore(log.folder / PROFILES_FOLDER).save(profile_of(name))
    to = tmp_path / "data"
    log.pack(to)

    told = pack_training(log, log.folder, to, here)

    assert "2 observations of" in told
    assert told.endswith("2 left out, without profile: experiment.c")


def test_workloads_without_a_profile_are_measured_services_among_them(tmp_path: Path) -> None:
    what = design().with_services(["redis"])
    measured: list[str] = []

    def measure(name: str, _command: Sequence[str], **_options: Any) -> WorkloadProfile:
        measured.append(name)
        return profile_of(name)

    ProfileStore(tmp_path / PROFILES_FOLDER).save(profile_of("experiment.memory"))
    found = measure_profiles(what, tmp_path, MACHINE, lambda *_: None, measure=measure)

    assert measured == ["experiment.cpu", "experiment.single", "experiment.redis"]
    assert {one.name for one in found} == {*measured, "experiment.memory"}
    measure_profiles(what, tmp_path, MACHINE, lambda *_: None, measure=measure)
    assert len(measured) == 3, "all are there already"


def test_a_record_of_another_host_is_packed_without_observations(tmp_path: Path) -> None:
    log = RunLog(tmp_path, runs=[slowed_run(A, B, cpus=("0", "0"), factor=2.0)])
    log.hosts = {"a1": HOST}

    assert "no observations were written: the runs are of a host with topology t" in pack_training(
        log, tmp_path, tmp_path, read_topology()
    )
    assert not (tmp_path / OBSERVATIONS).exists()
