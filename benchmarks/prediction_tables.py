"""Tables of the report about what the scheduler tells of the measured cells. Pure."""

from __future__ import annotations

from benchmarks.analysis import Analysis
from benchmarks.table import Column, Table


def placed(found: Analysis) -> Table:
    """Tell how good the predictions are, by kind of neighbours."""
    return Table(
        name="placed",
        title="What the scheduler tells of the confined cells with the model at hand, beside what was measured",
        columns=(
            Column(key="neighbours", heading="neighbours"),
            Column(key="predictions", heading="predictions", form="d"),
            Column(key="error_mean", heading="error, mean", form=".1%"),
            Column(key="error_median", heading="median", form=".1%"),
            Column(key="bias_median", heading="median bias", form=".1%"),
            Column(key="kept", heading="measured below the upper end", form=".0%"),
            Column(key="plain_sum_error_mean", heading="plain sum of pairs: error, mean", form=".1%"),
            Column(key="plain_sum_error_median", heading="median", form=".1%"),
        ),
        rows=tuple(
            (
                str(one.neighbours),
                one.predictions,
                one.error.mean,
                one.error.median,
                one.bias,
                one.kept,
                one.plain_sum.mean,
                one.plain_sum.median,
            )
            for one in found.placed_scores
        ),
    )


def placed_cells(found: Analysis) -> Table:
    """List every prediction."""
    keys = ("n", "processes", "measured", "predicted", "lower", "upper", "plain_sum")
    return Table(
        name="placed_cells",
        title="What the scheduler tells of each confined cell",
        columns=(
            Column(key="cell"),
            Column(key="member"),
            Column(key="neighbours"),
            *(Column(key=key) for key in keys),
        ),
        rows=tuple(
            (one.cell, one.member, str(one.neighbours), *(getattr(one, key) for key in keys)) for one in found.placed
        ),
    )
