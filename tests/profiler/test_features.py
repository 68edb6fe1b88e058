"""Rows of the model: one column per name, unknown stays unknown."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiler.features import FEATURE_NAMES, PROFILE_COLUMNS, SCHEMA_HASH, pair_rows
from profiler.prior import prior
from profiler.records import PROFILE_FEATURES, HostTraits, Relation, WorkloadProfile
from tests.fakes.profiles import APART, HOST, SAME_CPU, profile_of


def test_every_column_is_a_profile_feature_a_share_or_the_host() -> None:
    assert set(PROFILE_COLUMNS) <= set(PROFILE_FEATURES)
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES) == 2 * len(PROFILE_COLUMNS) + 11


def pair_row(
    victim: WorkloadProfile | None, aggressor: WorkloadProfile | None, relation: Relation, host: HostTraits
) -> NDArray[np.float32]:
    row: NDArray[np.float32] = pair_rows(
        [(victim, aggressor, relation)], [prior(victim, aggressor, relation, host)], host
    )[0]
    return row


def test_a_row_holds_each_value_in_its_column() -> None:
    victim = profile_of("v", cpu_utilisation_ratio=0.5, rss_bytes=1e6)
    aggressor = profile_of("a", cpu_utilisation_ratio=0.25)

    row = dict(zip(FEATURE_NAMES, pair_row(victim, aggressor, SAME_CPU, HOST), strict=True))

    assert row["v_cpu_utilisation_ratio"] == 0.5
    assert row["a_cpu_utilisation_ratio"] == 0.25
    assert row["v_rss_bytes"] == np.float32(math.log1p(1e6))
    assert math.isnan(row["a_rss_bytes"])
    assert row["same_llc"] == 1
    assert row["llc_bytes"] == np.float32(math.log1p(32e6))


def test_nothing_known_is_all_missing_but_the_relation() -> None:
    row = pair_row(None, None, APART, HOST)

    assert np.isnan(row[: 2 * len(PROFILE_COLUMNS)]).all()
    assert row.dtype == np.float32


@given(st.dictionaries(st.sampled_from(sorted(PROFILE_FEATURES)), st.floats(0, 1)))
def test_any_profile_gives_a_row_of_finite_or_missing_numbers(ratios: dict[str, float]) -> None:
    values = {
        k: PROFILE_FEATURES[k][0] + r * (PROFILE_FEATURES[k][1] - PROFILE_FEATURES[k][0]) for k, r in ratios.items()
    }

    row = pair_row(profile_of("v", **values), None, SAME_CPU, HOST)

    assert row.shape == (len(FEATURE_NAMES),)
    assert not np.isinf(row).any()
    assert np.isfinite(row[: len(PROFILE_COLUMNS)]).sum() == len(set(values) & set(PROFILE_COLUMNS))


def test_the_schema_hash_changes_only_with_columns_and_prior() -> None:
    assert SCHEMA_HASH == "56b6f2d7e031a346", (
        "columns or prior changed: stored models are refused from now on; pin the new hash"
    )
