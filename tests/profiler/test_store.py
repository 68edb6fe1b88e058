"""Profiles and observations survive the disk, and damage is named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import ObservationsDamaged, ProfileDamaged, ProfileMissing, RecordInvalid, StoreFailed
from profiler.records import PROFILE_FEATURES, Feature, Observation, Quality, Relation, Source, WorkloadProfile
from profiler.store import ObservationStore, ProfileStore, profile_from_json, profile_to_json
from tests.fakes.profiles import SAME_CPU, profile_of

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


@st.composite
def features(draw: st.DrawFn, name: str) -> Feature:
    return Feature(
        name=name,
        value=draw(st.floats(*PROFILE_FEATURES[name])),
        spread=draw(st.none() | st.floats(0, 1e12)),
        source=draw(st.sampled_from(Source)),
        window_s=draw(st.floats(0, 1e6)),
        samples=draw(st.integers(1, 10**6)),
    )


@st.composite
def profiles(draw: st.DrawFn) -> WorkloadProfile:
    names = draw(st.lists(st.sampled_from(sorted(PROFILE_FEATURES)), unique=True))
    return WorkloadProfile(
        name=draw(NAMES),
        cpus=draw(st.integers(1, 8192)),
        features=tuple(draw(features(name)) for name in names),
        host_fingerprint=draw(st.text(max_size=20).filter(str.isprintable)),
        created_unix_s=draw(st.floats(0, 1e11)),
        quality=draw(st.sampled_from(Quality)),
        note=draw(st.text(st.characters(exclude_categories=["Cs"]))),
    )


def observation(
    slowdown: float = 1.5, victim: str = "v", aggressor: str = "a", spread: float | None = 0.1
) -> Observation:
    return Observation(
        victim=victim,
        aggressors=(aggressor,),
        relations=(SAME_CPU,),
        slowdown=slowdown,
        spread=spread,
        repetitions=3,
        window_s=1.0,
        host_fingerprint="test-host",
        created_unix_s=1.0,
    )


def files(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


@given(profiles())
def test_a_profile_is_the_same_after_a_round_trip(profile: WorkloadProfile) -> None:
    assert profile_from_json(profile_to_json(profile)) == profile


def test_a_saved_profile_is_found_again_by_another_store(tmp_path: Path) -> None:
    profile = profile_of("web", cpu_cores=1.5)
    ProfileStore(tmp_path / "deep/profiles").save(profile)

    store = ProfileStore(tmp_path / "deep/profiles")

    assert store.load("web") == profile
    assert store.load_all() == {"web": profile}
    assert files(tmp_path / "deep/profiles") == ["web.json"], "no temporary file is left"


def test_an_existing_profile_is_replaced_only_on_request(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.save(profile_of("web", cpu_cores=1))

    with pytest.raises(RecordInvalid, match="'web' exists already"):
        store.save(profile_of("web", cpu_cores=2))

    assert store.load("web").value("cpu_cores") == 1
    store.save(profile_of("web", cpu_cores=2), replace=True)
    assert store.load("web").value("cpu_cores") == 2


@pytest.mark.parametrize(
    "name", ["", "Web", "../etc", "a/b", "a\nb", "a\x00b", ".hidden", "-x", "ü", "x" * 64, "web\x1b[31m"]
)
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    store = ProfileStore(tmp_path / "profiles")
    for action in (store.load, store.delete, lambda one: store.save(profile_of(one))):
        with pytest.raises(RecordInvalid, match="must be 1 to 63 of"):
            action(name)

    assert not (tmp_path / "profiles").exists()


def test_a_missing_profile_names_those_there_are(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.save(profile_of("web"))

    with pytest.raises(ProfileMissing, match=r"no profile 'db' in .*there are: web"):
        store.load("db")
    with pytest.raises(ProfileMissing, match="nothing was deleted"):
        store.delete("db")


def test_a_deleted_profile_is_gone(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.save(profile_of("web"))
    store.delete("web")

    assert store.names() == []


VALID = json.loads(profile_to_json(profile_of("web", cpu_cores=1.0)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "object"),
        (json.dumps({**VALID, "schema_version": 3}), "schema_version is 3, this version reads 1 to 2"),
        (json.dumps({**VALID, "window": {"start_s": 1.0, "length_s": -1, "decided_by": ""}}), "window from 1"),
        (json.dumps({**VALID, "window": {"start_s": 1.0}}), "window.length_s"),
        (json.dumps({**VALID, "cpus": 0}), "0 CPUs"),
        (json.dumps({**VALID, "cpus": None}), "cpus"),
        (json.dumps({**VALID, "surprise": 1}), "surprise"),
        (json.dumps({**VALID, "created_unix_s": math.nan}), "created_unix_s"),
        (json.dumps({**VALID, "features": [{**VALID["features"][0], "value": math.nan}]}), "features.0.value"),
        (json.dumps({**VALID, "features": [{**VALID["features"][0], "value": -1}]}), "cpu_cores is -1"),
        (json.dumps({**VALID, "features": [{**VALID["features"][0], "name": "speed"}]}), "'speed' is not one of"),
        (json.dumps({**VALID, "features": VALID["features"] * 2}), "holds a feature twice"),
        (json.dumps({**VALID, "name": "other"}), "holds the profile of 'other'"),
        ("x" * (2**20 + 1), "larger than"),
        ("\x00" * 500, "Invalid JSON"),
    ],
)
def test_a_damaged_profile_names_file_and_field_and_spares_the_others(
    tmp_path: Path, content: str, message: str
) -> None:
    store = ProfileStore(tmp_path)
    store.save(profile_of("good"))
    (tmp_path / "web.json").write_text(content)
    damaged: list[ProfileDamaged] = []

    with pytest.raises(ProfileDamaged, match=f"web.json.*{message}"):
        store.load("web")
    with pytest.raises(ProfileDamaged):
        store.load_all()
    assert list(store.load_all(on_damaged=damaged.append)) == ["good"]
    assert len(damaged) == 1


def test_a_folder_in_the_place_of_a_profile_is_damage(tmp_path: Path) -> None:
    (tmp_path / "web.json").mkdir()

    with pytest.raises(ProfileDamaged, match=r"web\.json: Is a directory"):
        ProfileStore(tmp_path).load("web")


def test_the_revision_changes_with_every_change(tmp_path: Path) -> None:
    store, other = ProfileStore(tmp_path / "profiles"), ProfileStore(tmp_path / "profiles")
    seen = [store.revision()]
    store.save(profile_of("web"))
    seen.append(store.revision())
    store.save(profile_of("web"), replace=True)
    seen.append(store.revision())
    time.sleep(0.02)  # the file clock ticks every few milliseconds
    other.save(profile_of("db"))
    seen.append(store.revision())
    store.delete("web")
    seen.append(store.revision())

    assert len(set(seen)) == 5
    assert store.revision() == seen[-1]


def test_a_state_folder_that_cannot_be_written_is_named_and_the_old_profile_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreFailed, match=r"cannot make folder .*file/profiles.*--state DIR"):
        ProfileStore(tmp_path / "file" / "profiles").save(profile_of("web"))
    with pytest.raises(StoreFailed, match="cannot make folder"):
        ObservationStore(tmp_path / "file" / "observations.jsonl").append([observation()])


def test_a_full_disk_leaves_the_old_profile_and_no_half_file(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.save(profile_of("web", cpu_cores=1))
    store_big = """
import resource, signal, sys
from pathlib import Path
from profiler.errors import StoreFailed
from profiler.records import WorkloadProfile
from profiler.store import ObservationStore, ProfileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
big = WorkloadProfile(name="web", cpus=1, features=(), host_fingerprint="h", created_unix_s=0, note="x" * 5000)
try:
    ProfileStore(Path(sys.argv[1])).save(big, replace=True)
except StoreFailed as error:
    print(error)
"""

    done = subprocess.run([sys.executable, "-c", store_big, str(tmp_path)], capture_output=True, text=True, check=True)

    assert "File too large" in done.stdout
    assert store.load("web").value("cpu_cores") == 1
    assert files(tmp_path) == ["web.json"]


def test_observations_come_back_in_order(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "state" / "observations.jsonl")
    both = [observation(1.5), observation(2.5, spread=None)]
    assert store.load() == []
    store.append(both[:1])
    store.append([])
    store.append(both[1:])

    assert store.load() == both


@given(
    st.floats(1e-3, 1e6),
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4).map(sorted), min_size=1, max_size=3),
)
def test_any_observation_is_the_same_after_a_round_trip(slowdown: float, shares: list[list[float]]) -> None:
    one = Observation(
        victim="v",
        aggressors=("a",) * len(shares),
        relations=tuple(Relation(s[0], s[1], s[2], s[3], 1.0, 0.5) for s in shares),
        slowdown=slowdown,
        spread=None,
        repetitions=1,
        window_s=0.5,
        host_fingerprint="h",
        created_unix_s=2.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = ObservationStore(Path(folder) / "o.jsonl")
        store.append([one])

        assert store.load() == [one]


def test_a_last_line_cut_off_by_a_crash_is_ignored_and_then_replaced(tmp_path: Path) -> None:
    path = tmp_path / "observations.jsonl"
    store = ObservationStore(path)
    store.append([observation(1.5), observation(2.5)])
    path.write_bytes(path.read_bytes()[:-20])

    assert [one.slowdown for one in store.load()] == [1.5]
    store.append([observation(3.5)])
    assert [one.slowdown for one in store.load()] == [1.5, 3.5]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: "nonsense",
        lambda line: json.dumps({**line, "slowdown": math.nan}),
        lambda line: json.dumps({**line, "slowdown": -1}),
        lambda line: json.dumps({**line, "relations": []}),
        lambda line: json.dumps({**line, "relations": [[1, 0, 0, 0, 0, 0]]}),
        lambda line: json.dumps({**line, "schema_version": 7}),
        lambda line: json.dumps({**line, "spread": math.inf}),
        lambda line: json.dumps({**line, "repetitions": 0}),
    ],
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "observations.jsonl"
    store = ObservationStore(path)
    store.append([observation(), observation(), observation()])
    lines = path.read_text().splitlines()
    lines[1] = damage(json.loads(lines[1]))  # type: ignore[operator]
    path.write_text("\n".join(lines) + "\n")

    with pytest.raises(ObservationsDamaged, match=r"observations\.jsonl, line 2: "):
        store.load()


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    code = """
import sys
import tempfile
from pathlib import Path
from profiler.store import ObservationStore
from profiler.records import Observation, Relation
one = Observation(victim=sys.argv[2], aggressors=("a",), relations=(Relation(1,1,1,1,1,1),), slowdown=1.0, spread=None,
    repetitions=1, window_s=1.0, host_fingerprint="h", created_unix_s=1.0)
for _ in range(40): ObservationStore(Path(sys.argv[1])).append([one])
"""
    path = tmp_path / "o.jsonl"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("x", "y")]

    assert [child.wait(30) for child in children] == [0, 0]
    victims = [one.victim for one in ObservationStore(path).load()]
    assert (victims.count("x"), victims.count("y")) == (40, 40)
