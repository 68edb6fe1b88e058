"""Figures of slowdown: matrices, effect sizes, distributions, relief. They draw what the analysis found, no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.analysis import Analysis
from benchmarks.cell_effects import CellEffect
from benchmarks.cells import Side
from benchmarks.design import Isolation, Part
from benchmarks.drawing import (
    GREY,
    ISOLATION_COLOURS,
    ISOLATION_MARKERS,
    SIDE_NAMES,
    Drawing,
    drawn,
    factor_scale,
    label,
    stripes,
)
from benchmarks.statistical_power import ALPHA

_COLOURS = colormaps["YlOrBr"]  # lighter to darker throughout, so that it survives a printer
_LEAST_TOP_SF = 2.0
_ROW_IN = 0.19
_HEAD_IN = 1.3
_SHARE = 0.6180339887  # of a row: golden section, so that points of a row keep apart without chance

_SIDES = (Side.AGENT, Side.TRADITIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One row of a figure with many."""

    label: str
    group: str
    isolation: Isolation


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark(_Row):
    """An estimate with its interval."""

    estimate: float
    lower: float
    upper: float
    certain: bool


def slowdown_matrix(found: Analysis, note: str) -> Drawing:
    """Draw the median SF of every factorial cell, both sides."""
    name, title = "slowdown_matrix", "Slowdown of each factorial cell"
    caption = (
        "Median slowdown factor SF of the agent (left) and of the ordinary work (right). A row is what runs side by "
        "side; a column is the isolation and how many processes of the ordinary work run. 1.00 = as fast as alone, "
        "2.00 = the same work takes twice as long; darker = slower. A dash = no good run. Isolations without any "
        "good run have no column."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    fields = {(one.factors, one.side): one.slowdown.estimate for one in found.effects if one.factors}
    keys = [factors for factors, _ in fields]
    rows = list(dict.fromkeys((traditional, agent) for traditional, agent, *_ in keys))
    order = [str(one) for one in Isolation]
    columns = sorted({(isolation, count) for *_, isolation, count in keys}, key=lambda one: (order.index(one[0]), one))
    if not rows:
        return replace(asked, missing="no good run of the factorial part")
    grids = {
        side: [[fields.get(((*row, isolation, count), side), math.nan) for isolation, count in columns] for row in rows]
        for side in _SIDES
    }
    top = _top([one for grid in grids.values() for line in grid for one in line])

    def draw(figure: Figure) -> None:
        for axes, side in zip(figure.subplots(1, 2, sharey=True), _SIDES, strict=True):
            _heat(axes, grids[side], top, size=9)
            axes.set_title(SIDE_NAMES[side], pad=20)
            axes.set_xticks(range(len(columns)), [str(count) for _, count in columns])
            axes.set_yticks(range(len(rows)), [label(" + ".join(row)) for row in rows])
            axes.set_xlabel("processes of the ordinary work")
            for isolation in dict.fromkeys(isolation for isolation, _ in columns):
                places = [place for place, column in enumerate(columns) if column[0] == isolation]
                axes.text((places[0] + places[-1]) / 2, -0.6, isolation, ha="center", va="bottom", fontweight="bold")
                if places[0]:
                    axes.axvline(places[0] - 0.5, color="white", linewidth=4)

    return drawn(asked, draw, height_in=_HEAD_IN + 0.36 * len(rows), note=note)


def pair_matrix(found: Analysis, isolation: Isolation, note: str) -> Drawing:
    """Draw who suffers beside whom in the breadth part, under one isolation."""
    name, title = f"pairs_{isolation}", f"Who suffers beside whom, {isolation}"
    caption = (
        f"Pairs of the breadth part under {isolation}: median SF of the workload in the row while the one in the "
        "column runs beside it. White = this pair is not in the design, or has no good run."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    fields: dict[tuple[str, str], float] = {}
    sides: dict[str, Side] = {}
    for one in found.effects:
        if one.part is Part.BREADTH and one.isolation is isolation and len(one.members) == 2:
            neighbour = next(other for other in one.members if other != one.member)
            fields[one.member, neighbour] = one.slowdown.estimate
            sides[one.member] = one.side
    if not fields:
        return replace(asked, missing=f"no good run of the breadth part, {isolation}")
    names = sorted(sides, key=lambda one: (list(Side).index(sides[one]), one))
    rows = [one for one in names if any((one, other) in fields for other in names)]
    columns = [one for one in names if any((other, one) in fields for other in names)]
    grid = [[fields.get((row, column), math.nan) for column in columns] for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _heat(axes, grid, _top(list(fields.values())), size=8, unknown="")
        axes.set_xticks(range(len(columns)), [label(one) for one in columns], rotation=60, ha="right")
        axes.set_yticks(range(len(rows)), [label(one) for one in rows])
        axes.set_xlabel("runs beside it")
        axes.set_ylabel("is slowed by the factor in the field")

    return drawn(asked, draw, height_in=_HEAD_IN + 0.6 + 0.27 * len(rows), note=note)


def distributions(found: Analysis, part: Part, note: str) -> Drawing:
    """Draw every good run's SF of one part."""
    name, title = f"distributions_{part}", f"Slowdown of every good run, part {part}"
    caption = (
        "Every point is the slowdown factor of one good run; the bar behind holds the middle half of the runs of its "
        "cell, the black tick is their median. Logarithmic axes: half as fast and twice as fast are equally far from "
        "1. Colour and shape tell the isolation; each side has an axis of its own."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    chosen = {side: _ordered(one for one in found.effects if one.part is part and one.side is side) for side in _SIDES}
    if not any(one.n for group in chosen.values() for one in group):
        return replace(asked, missing=f"no good run of part {part}")

    def panel(axes: Axes, group: Sequence[CellEffect]) -> None:
        values = [value for one in group for value in one.slowdowns]
        factor_scale(axes, min([*values, 0.9]) / 1.03, max([*values, 1.2]) * 1.03, ticks=7)
        axes.axvline(1.0, color=GREY, linewidth=0.8)
        for row, one in enumerate(group):
            known = np.sort(np.asarray(one.slowdowns))
            if not known.size:
                continue
            colour = ISOLATION_COLOURS[one.isolation]
            first, middle, third = np.quantile(known, [0.25, 0.5, 0.75])
            axes.plot([first, third], [row, row], color=colour, alpha=0.35, linewidth=7, solid_capstyle="butt")
            heights = row + 0.5 * (np.modf(np.arange(known.size) * _SHARE)[0] - 0.5)
            axes.plot(
                known,
                heights,
                linestyle="",
                marker=ISOLATION_MARKERS[one.isolation],
                color=colour,
                markersize=2.6,
                markeredgewidth=0,
                alpha=0.75,
                rasterized=True,
            )
            axes.plot([middle], [row], linestyle="", marker="|", color="black", markersize=8, markeredgewidth=1.4)
        axes.set_xlabel("SF (1 = as fast as alone)")

    rows = {
        side: [_Row(label=_cell_label(one), group=_group(one.members), isolation=one.isolation) for one in group]
        for side, group in chosen.items()
    }
    return _panels(asked, rows, lambda axes, side: panel(axes, chosen[side]), note)


def effect_sizes(found: Analysis, note: str) -> Drawing:
    """Draw d_z of log SF of every factorial cell with its interval."""
    name, title = "effect_sizes", "Effect size of each factorial cell against no slowdown"
    caption = (
        "Cohen's d_z: the mean of log SF over its standard deviation between repetitions, with its 95 % interval. "
        "Right of 0 = slower than alone; dotted lines at 0.8, what the design is made to find. Filled = beyond "
        "chance (paired t, Holm, below 0.05). A steady slowdown of a few per cent may have a large d_z: it says how "
        "sure the effect is, not how much it costs. A row without mark has fewer than two runs, or no spread. The "
        "axis is linear up to 1 and logarithmic beyond."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    chosen = {side: _ordered(one for one in found.effects if one.factors and one.side is side) for side in _SIDES}
    marks = {
        side: [
            _Mark(
                label=_cell_label(one),
                group=_group(one.members),
                isolation=one.isolation,
                estimate=one.effect.d,
                lower=one.effect.lower,
                upper=one.effect.upper,
                certain=one.t_p_holm < ALPHA,
            )
            for one in group
        ]
        for side, group in chosen.items()
    }
    ends = [end for group in marks.values() for one in group for end in (one.estimate, one.lower, one.upper)]
    known = [end for end in ends if math.isfinite(end)]
    if not known:
        return replace(asked, missing="no factorial cell has two good runs")
    nearest, furthest = min(*known, -1.0) * 1.2, max(*known, 1.0) * 1.2

    def panel(axes: Axes, side: Side) -> None:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(nearest, furthest)
        ticks = [one for one in (-30, -10, -3, -1, 0, 1, 3, 10, 30, 100) if nearest <= one <= furthest]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        for place, dashes in ((0.0, "-"), (-0.8, ":"), (0.8, ":")):
            axes.axvline(place, color=GREY, linewidth=0.8, linestyle=dashes)
        _forest(axes, marks[side])
        axes.set_xlabel("d_z of log SF")

    return _panels(asked, marks, panel, note)


def relief(found: Analysis, note: str) -> Drawing:
    """Draw what isolation changes, pair by pair."""
    name, title = "relief", "What isolation changes: median SF with it / without it"
    caption = (
        "Each row compares the same members with and without an isolation: the ratio of the two median slowdown "
        "factors with its 95 % interval. Left of 1 = isolation helps; 0.5 = the slowdown factor is halved. Filled = "
        "better beyond chance (Welch t, one-sided, Holm, below 0.05). Each side has an axis of its own."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    marks = {
        side: [
            _Mark(
                label=label(f"{' + '.join(one.members)}, {one.isolation}"),
                group=_group(one.members),
                isolation=one.isolation,
                estimate=one.ratio.estimate,
                lower=one.ratio.lower,
                upper=one.ratio.upper,
                certain=one.p_holm < ALPHA,
            )
            for one in sorted(found.reliefs, key=lambda one: (one.traditional, one.agent, one.concurrency))
            if one.side is side
        ]
        for side in _SIDES
    }
    if not any(marks.values()):
        return replace(asked, missing="no two factorial cells with good runs that differ in isolation only")

    def panel(axes: Axes, side: Side) -> None:
        ends = [end for one in marks[side] for end in (one.estimate, one.lower, one.upper)]
        known = [end for end in ends if math.isfinite(end) and end > 0]
        factor_scale(axes, min([*known, 0.9]) / 1.05, max([*known, 1.1]) * 1.05, ticks=7)
        axes.axvline(1.0, color=GREY, linewidth=0.8)
        _forest(axes, marks[side])
        axes.set_xlabel("SF with / SF without (below 1 is better)")

    return _panels(asked, marks, panel, note)


def _panels(
    asked: Drawing, rows: Mapping[Side, Sequence[_Row]], panel: Callable[[Axes, Side], None], note: str
) -> Drawing:
    """Draw one panel a side that has rows; equal rows are named once."""
    sides = [side for side in _SIDES if rows[side]]
    labels = {side: [one.label for one in rows[side]] for side in sides}
    is_shared = len({tuple(one) for one in labels.values()}) == 1
    isolations = {one.isolation for group in rows.values() for one in group}

    def draw(figure: Figure) -> None:
        for place, side in enumerate(sides):
            axes = figure.add_subplot(1, len(sides), place + 1)
            panel(axes, side)
            stripes(axes, [one.group for one in rows[side]])
            axes.set_title(SIDE_NAMES[side])
            named = [""] * len(labels[side]) if is_shared and place else labels[side]
            axes.set_yticks(range(len(named)), named, fontsize=8)
            axes.tick_params(axis="y", length=0)
        handles = [
            Line2D([], [], linestyle="", marker=ISOLATION_MARKERS[one], color=ISOLATION_COLOURS[one], label=str(one))
            for one in Isolation
            if one in isolations
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), handletextpad=0.1)

    most = max(len(labels[side]) for side in sides)
    return drawn(asked, draw, height_in=_HEAD_IN + _ROW_IN * most, note=note)


def _forest(axes: Axes, marks: Sequence[_Mark]) -> None:
    for row, one in enumerate(marks):
        if not math.isfinite(one.estimate):
            continue
        colour = ISOLATION_COLOURS[one.isolation]
        if math.isfinite(one.lower) and math.isfinite(one.upper):
            axes.plot([one.lower, one.upper], [row, row], color=colour, linewidth=1.3)
        axes.plot(
            [one.estimate],
            [row],
            linestyle="",
            marker=ISOLATION_MARKERS[one.isolation],
            markersize=4.5,
            markeredgecolor=colour,
            markerfacecolor=colour if one.certain else "white",
        )


def _heat(axes: Axes, grid: Sequence[Sequence[float]], top: float, *, size: float, unknown: str = "-") -> None:
    values = np.asarray(grid, dtype=np.float64)
    norm = LogNorm(1.0, top)
    axes.imshow(np.where(np.isfinite(values), values, np.nan), norm=norm, cmap=_COLOURS, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        is_known = math.isfinite(value)
        is_dark = is_known and norm(max(value, 1.0)) > 0.6
        text = (f"{value:.2f}" if value < 9.995 else f"{value:.1f}") if is_known else unknown
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if is_dark else "black")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _top(values: Sequence[float]) -> float:
    return max([_LEAST_TOP_SF, *(one for one in values if math.isfinite(one))])


def _ordered(effects: Iterable[CellEffect]) -> list[CellEffect]:
    """Put cells of the same members one below the other, one line an isolation."""
    isolations = list(Isolation)

    def place(one: CellEffect) -> tuple[object, ...]:
        members = (one.factors[0], one.factors[1], one.factors[3]) if one.factors else (len(one.members), *one.members)
        return *members, one.member, isolations.index(one.isolation)

    return sorted(effects, key=place)


def _cell_label(one: CellEffect) -> str:
    if one.factors:
        return label(f"{_group(one.members)}, {one.isolation}")
    return label(f"{one.member} in {'+'.join(one.members)}, {one.isolation}")


def _group(members: Sequence[str]) -> str:
    return " + ".join(members)
