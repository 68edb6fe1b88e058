"""Profiles handed over as a file, and profiles side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from profiler.cli import app
from profiler.comparison import beside_the_last, compare, median_difference, rate_difference, unrepeated
from profiler.errors import RecordInvalid
from profiler.exchange import profiles_from_json, profiles_to_json
from profiler.picture import SCALES, draw_profile
from profiler.records import PROFILE_FEATURES, PROFILE_SCHEMA_VERSION, Feature, Quality, Source, WorkloadProfile
from profiler.sensitivity import amounts, bars, sensitivity_curve
from profiler.store import ProfileStore, profile_to_json
from tests.fakes.profiles import profile_of

RUNNER = CliRunner()

#: As the first version wrote it, word for word.
OLD = """{"schema_version": 1, "name": "old", "cpus": 2, "features": [{"name": "cpu_cores", "value": 1.5,
"spread": null, "source": "procfs", "window_s": 6.0, "samples": 1}], "host_fingerprint": "abc", "created_unix_s": 1.0,
"quality": "stable", "note": ""}"""


def spread_profile(name: str, value: float, spread: float, samples: int = 4) -> WorkloadProfile:
    feature = Feature(
        name="rate_per_s", value=value, spread=spread, source=Source.PROGRESS, window_s=6.0, samples=samples
    )
    return replace(profile_of(name), features=(feature,))


def test_a_profile_of_the_first_version_loads(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(OLD)

    found = ProfileStore(tmp_path).load("old")

    assert found.value("cpu_cores") == 1.5
    assert found.window is None
    assert found.schema_version == PROFILE_SCHEMA_VERSION


def test_profiles_are_the_same_after_export_and_import() -> None:
    both = [profile_of("a", cpu_cores=1), profile_of("b", rss_bytes=5e6)]

    assert profiles_from_json(profiles_to_json(both)) == both
    assert profiles_from_json(profile_to_json(both[0])) == both[:1]


GOOD = json.loads(profiles_to_json([profile_of("a", cpu_cores=1)]))
ONE = GOOD["profiles"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "a list instead of an object"),
        (json.dumps({**GOOD, "version": 9}), "in version 9"),
        (json.dumps({**GOOD, "format": "x"}), "format is 'x'"),
        (json.dumps({**GOOD, "profiles": {}}), "profiles: a dict instead of a list"),
        (json.dumps({**GOOD, "profiles": [ONE, ONE]}), "profiles: a more than once"),
        (json.dumps({**GOOD, "profiles": [ONE, {**ONE, "cpus": "x"}]}), "profiles.1.cpus"),
        (json.dumps({**GOOD, "profiles": [{**ONE, "schema_version": 99}]}), "profiles.0.schema_version is 99"),
        (json.dumps({**GOOD, "profiles": [{**ONE, "name": "../x"}]}), "profiles.0.name '../x'"),
        (json.dumps({"x": 1}), "schema_version: Field required"),
    ],
)
def test_a_bad_file_names_the_profile_and_its_field(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "in.json").write_text(content)

    done = RUNNER.invoke(app, ["profiles", "import", str(tmp_path / "in.json"), "--state", str(tmp_path)])

    assert isinstance(done.exception, RecordInvalid)
    assert message in str(done.exception)
    assert "in.json" in str(done.exception)
    assert ProfileStore(tmp_path / "profiles").names() == []


def test_neither_export_nor_import_overwrites_unasked(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    store.save(profile_of("a", cpu_cores=1))
    store.save(profile_of("b", cpu_cores=1))
    out, state = str(tmp_path / "out.json"), ["--state", str(tmp_path)]

    assert RUNNER.invoke(app, ["profiles", "export", "a", "-o", out, *state]).exit_code == 0
    again = RUNNER.invoke(app, ["profiles", "export", "a", "-o", out, *state])
    store.save(profile_of("a", cpu_cores=2), replace=True)
    back = RUNNER.invoke(app, ["profiles", "import", out, *state])

    assert "exists already" in str(again.exception)
    assert "a exist already, nothing was imported" in str(back.exception)
    assert store.load("a").value("cpu_cores") == 2
    assert RUNNER.invoke(app, ["profiles", "import", out, "--replace", *state]).exit_code == 0
    assert store.load("a").value("cpu_cores") == 1


def test_export_writes_all_to_standard_output(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    store.save(profile_of("a"))
    store.save(profile_of("b"))

    done = RUNNER.invoke(app, ["profiles", "export", "--state", str(tmp_path)])

    assert [one.name for one in profiles_from_json(done.stdout.encode())] == ["a", "b"]


def test_a_difference_counts_when_it_exceeds_the_spread() -> None:
    # standard errors of 1 each: two of them together are 2.8
    near = compare(spread_profile("a", 100, 2), spread_profile("b", 102, 2))
    far = compare(spread_profile("a", 100, 2), spread_profile("b", 103, 2))
    unknown = compare(profile_of("a", cpu_cores=1), profile_of("b", rss_bytes=1e6))

    assert (near[0].ratio, near[0].beyond_spread) == (1.02, False)
    assert far[0].beyond_spread is True
    assert [(one.name, one.ratio, one.beyond_spread) for one in unknown] == [
        ("cpu_cores", None, None),
        ("rss_bytes", None, None),
    ]


def test_the_median_feature_decides_what_is_repeatable_and_next_to_nothing_is_nothing() -> None:
    first = profile_of("a", cpu_cores=1.0, rss_bytes=1e9, minor_faults_per_s=1.0)
    second = profile_of("b", cpu_cores=1.05, rss_bytes=2e9, minor_faults_per_s=3.0)

    # 4.8 %, 50 % and 2 of the 50 faults that are negligible
    assert median_difference(first.features, second.features) == pytest.approx(0.05 / 1.05)
    assert str(median_difference((), first.features)) == "nan"


def test_compare_prints_ratio_and_verdict(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    store.save(spread_profile("a", 100, 2))
    store.save(spread_profile("b", 150, 2))
    state = ["--state", str(tmp_path)]

    shown = RUNNER.invoke(app, ["profiles", "compare", "a", "b", *state]).stdout
    told = json.loads(RUNNER.invoke(app, ["profiles", "compare", "a", "b", "--json", *state]).stdout)

    assert "1.5" in shown
    assert "33.3%" in shown
    assert told["features"][0]["beyond_spread"] is True


def test_bars_are_full_at_the_top_of_their_scale_and_the_unknown_is_said_to_be() -> None:
    drawn = draw_profile(profile_of("a", cpu_utilisation_ratio=0.5, rss_bytes=2.0**49, kv_bytes=1.0)).splitlines()
    bars = {line.split("  ")[0].strip(): line for line in drawn}

    assert bars["CPU use"].count("█") == 12
    assert bars["memory"].count("█") == 24
    assert bars["memory"].endswith("512 TiB+")
    assert bars["KV cache"].count("█") == 0
    assert bars["instructions/cycle"].endswith("unknown")
    assert set(SCALES) <= set(PROFILE_FEATURES)


def test_show_prints_window_table_and_bars(tmp_path: Path) -> None:
    ProfileStore(tmp_path / "profiles").save(replace(profile_of("a", cpu_cores=1), quality=Quality.NOISY, note="why"))

    shown = RUNNER.invoke(app, ["profiles", "show", "a", "--state", str(tmp_path)]).stdout

    assert "noisy" in shown
    assert "samples" in shown
    assert "note: why" in shown


def probed(**values: tuple[float, float | None]) -> WorkloadProfile:
    features = tuple(
        Feature(name=name, value=value, spread=spread, source=Source.PROBE, window_s=1.0, samples=2)
        for name, (value, spread) in values.items()
    )
    return replace(profile_of("a"), features=features)


def run_of(*, rate: float, spread: float | None = None, **others: tuple[float, float | None]) -> WorkloadProfile:
    """Describe a run of four samples each."""
    planted = {"cpu_cores": (1.0, 0.01), "rss_bytes": (1e8, 1e3), "threads": (2.0, 0.0), **others}
    features = [
        Feature(name=name, value=value, spread=width, source=Source.PROGRESS, window_s=6.0, samples=4)
        for name, (value, width) in {"rate_per_s": (rate, spread), **planted}.items()
    ]
    return replace(profile_of("a"), features=tuple(features))


@pytest.mark.parametrize("spread", [None, 0.0, 500.0])
def test_a_rate_that_does_not_repeat_marks_the_profile_whatever_its_spread(spread: float | None) -> None:
    first, second = run_of(rate=100, spread=spread), run_of(rate=132, spread=spread)

    assert median_difference(first.features, second.features) == 0
    assert rate_difference(first.features, second.features) == pytest.approx(32 / 132)
    marked = beside_the_last(first, second)
    assert marked.quality is Quality.NOISY
    assert "the rate differs by 24% from the run before it; did not repeat: rate_per_s (24%)" in marked.note


def test_a_rate_within_a_tenth_repeats() -> None:
    first, second = run_of(rate=100), run_of(rate=109)

    assert beside_the_last(first, second) == second


@pytest.mark.parametrize("name", sorted(PROFILE_FEATURES))
def test_every_feature_that_does_not_repeat_is_named(name: str) -> None:
    low, high = PROFILE_FEATURES[name]
    value = min(high, max(low, 1e6))
    same = {one: run_of(rate=100).value(one) for one in ("rate_per_s", "cpu_cores", "rss_bytes", "threads")}
    first = profile_of("a", **(same | {name: value}))
    second = profile_of("a", **(same | {name: value / 2}))

    marked = beside_the_last(first, second)

    assert [one for one, _ in unrepeated(first.features, second.features)] == [name]
    assert f"did not repeat: {name} (" in marked.note
    assert (marked.quality is Quality.NOISY) == (name == "rate_per_s")


def test_a_difference_within_its_spread_repeats_and_one_beyond_does_not() -> None:
    first = run_of(rate=100, ttft_s=(1.0, 1.0), ipc=(1.0, 0.01))
    second = run_of(rate=100, ttft_s=(1.3, 1.0), ipc=(1.3, 0.01))

    assert [one for one, _ in unrepeated(first.features, second.features)] == ["ipc"]
    assert beside_the_last(first, second).quality is Quality.STABLE


def test_runs_on_another_host_are_not_compared() -> None:
    first, second = run_of(rate=100), run_of(rate=300)

    assert beside_the_last(replace(first, cpus=2), second) == second
    assert beside_the_last(replace(first, host_fingerprint="other"), second) == second


PROBED = probed(
    cache_sensitivity_sf=(1.5, 0.25),
    cache_eighth_sf=(1.02, None),
    stream_half_sf=(1.25, 0.25),
    memory_bytes_per_s=(2e9, 3e9),
    llc_footprint_bytes=(16 * 2**20, 2**20),
)


def test_the_sensitivity_curve_rises_in_pressure_and_has_intervals() -> None:
    curve = sensitivity_curve(PROBED)

    assert [one.what for one in curve] == [
        "reads over 1/8 of the cache",
        "copying, 50% of the time",
        "copying, 100% of the time",
    ]
    assert [(one.low, one.high) for one in curve] == [(None, None), (1.0, 1.5), (1.25, 1.75)]
    assert [(one.name, one.low, one.high) for one in amounts(PROBED)] == [
        ("memory_bytes_per_s", 0.0, 5e9),
        ("llc_footprint_bytes", 15 * 2**20, 17 * 2**20),
    ]


def test_what_a_counter_measured_is_no_estimate_of_a_probe() -> None:
    counted = replace(PROBED.features[3], source=Source.RESCTRL)

    assert amounts(replace(PROBED, features=(counted,))) == ()


def test_bars_of_the_curve_show_value_and_interval_on_one_scale() -> None:
    full, drawn = bars(sensitivity_curve(PROBED))

    assert full == 2.0
    assert drawn == ["", "▓▓▓▓░░░░", "████▓▓▓▓░░░░"]
    assert bars(sensitivity_curve(probed(cache_full_sf=(0.9, 0.05)))) == (1.25, [""]), "faster is no loss"


def test_show_prints_the_curve_and_the_estimates_in_both_forms(tmp_path: Path) -> None:
    ProfileStore(tmp_path / "profiles").save(PROBED)
    shown = RUNNER.invoke(app, ["profiles", "show", "a", "--state", str(tmp_path)]).stdout
    told = json.loads(RUNNER.invoke(app, ["profiles", "show", "a", "--json", "--state", str(tmp_path)]).stdout)

    assert "1.25 to 1.75" in shown
    assert "15 MiB to 17 MiB" in shown
    assert "0 B/s to 5 GB/s" in shown
    assert [(one["name"], one["low"], one["high"]) for one in told["sensitivity_curve"]] == [
        ("cache_eighth_sf", None, None),
        ("stream_half_sf", 1.0, 1.5),
        ("cache_sensitivity_sf", 1.25, 1.75),
    ]
    assert told["amounts"][0]["high"] == 5e9
    assert told["features"], "what was there stays"
