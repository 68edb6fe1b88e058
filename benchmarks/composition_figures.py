"""Figure of slowdowns composed from pairs, against those measured with several neighbours at once."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from benchmarks.analysis import Analysis
from benchmarks.composition_rules import SCHEDULERS, Rule
from benchmarks.drawing import GREY, ISOLATION_COLOURS, ISOLATION_MARKERS, Drawing, drawn, factor_scale


def composition(found: Analysis, note: str) -> Drawing:
    """Draw every member of a cell of three or more, once for each rule."""
    caption = (
        "One point a member of a cell of three or more, all of whose pairs were measured. To the right: its median SF "
        "there; up: what the rule composes from its median SF beside each of the others alone. On the line: exact; "
        f"below it: composed too low. The scheduler's rule is “{SCHEDULERS}”."
    )
    asked = Drawing(name="composition", title="Slowdowns composed, against those measured", caption=caption)
    members = found.composition.members
    if not members:
        return replace(asked, missing=found.composition.scores[0].error.reason)
    values = [value for one in members for value in (one.measured, *one.composed.values())]
    low, high = min(*values, 1.0) / 1.08, max(values) * 1.08
    scores = {one.rule: one for one in found.composition.scores if one.isolation is None}

    def draw(figure: Figure) -> None:
        for axes, rule in zip(figure.subplots(1, len(Rule), sharey=True), Rule, strict=True):
            axes.plot([low, high], [low, high], color=GREY, linewidth=0.8)
            for isolation in dict.fromkeys(one.isolation for one in members):
                points = [(one.measured, one.composed[rule]) for one in members if one.isolation is isolation]
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    linestyle="",
                    marker=ISOLATION_MARKERS[isolation],
                    markersize=5,
                    alpha=0.7,
                    color=ISOLATION_COLOURS[isolation],
                    label=str(isolation),
                )
            factor_scale(axes, low, high, ticks=6)
            factor_scale(axes, low, high, vertical=True, ticks=6)
            axes.set_aspect("equal")
            axes.set_title(f"{rule}: median error {scores[rule].error.estimate:.1%}", loc="left")
            axes.set_xlabel("measured SF")
        figure.axes[0].set_ylabel("composed SF")
        figure.axes[0].legend(loc="upper left")

    return drawn(asked, draw, height_in=4.2, note=note)
