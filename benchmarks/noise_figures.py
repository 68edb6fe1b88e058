"""Figures around the slowdowns: how quiet the host was, how bursty agents are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.analysis import Analysis
from benchmarks.drawing import BLUE, GREY, VERMILLION, Drawing, drawn, factor_scale, label
from benchmarks.quiet import DRIFT_FACTOR, OTHERS_RATIO, STEAL_RATIO
from benchmarks.runs import Outcome, Run
from benchmarks.slowdown import solo_drift

_EDGE = 3.0  # times the limit: what lies beyond is drawn at the edge
_PROBE_EDGE = 1.6
_LABEL_SHARES = (0.09, 0.05, 0.012)  # of the axes: width and height of a label, distance from its mark
_LIMIT_LINE: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": "--"}


def noise(runs: Sequence[Run], note: str) -> Drawing:
    """Draw every measure of disturbance, run after run, good runs and disturbed ones."""
    name, title = "noise", "How quiet the host was, run after run"
    caption = (
        "Every run that was measured, in order of time, one host instance after the other. Blue points: good runs; "
        f"vermilion crosses: runs marked disturbed, which are not analysed. Dashed: the limits, {STEAL_RATIO:.0%} of "
        f"CPU time stolen by the hypervisor, {OTHERS_RATIO:.0%} used by other programs, a factor of {DRIFT_FACTOR} "
        "between a member's two windows alone. The two fixed pieces of work are timed before and after each run "
        "while all stand still, as a multiple of their median on the same host instance; they decide nothing. Grey "
        "lines: a new block; black: another host instance. Values far beyond a limit are drawn at the edge."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    timed = _in_order([run for run in runs if run.outcome in {Outcome.OK, Outcome.DISTURBED}])
    if not timed:
        return replace(asked, missing="no run was measured")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(5, 1, sharex=True)
        shares: Sequence[tuple[str, Callable[[Run], float | None], float]] = (
            ("stolen CPU time", lambda run: run.steal_ratio, STEAL_RATIO),
            ("other programs, share of all CPUs", lambda run: run.others_ratio, OTHERS_RATIO),
        )
        for axes, (heading, value, limit) in zip(panels[:2], shares, strict=True):
            _scatter(axes, heading, timed, [(value(run),) for run in timed], (0.0, _EDGE * limit))
            axes.axhline(limit, **_LIMIT_LINE)
            axes.set_ylim(-0.1 * limit, (_EDGE + 0.2) * limit)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        probes: Sequence[tuple[str, Callable[[Run], Sequence[float]]]] = (
            ("fixed computation, multiple of its median", lambda run: run.cpu_probe_s),
            ("fixed copy, multiple of its median", lambda run: run.memory_probe_s),
        )
        for axes, (heading, times_s) in zip(panels[2:4], probes, strict=True):
            _scatter(axes, heading, timed, _over_median(timed, times_s), (1 / _PROBE_EDGE, _PROBE_EDGE))
            axes.axhline(1.0, color=GREY, linewidth=0.8)
            factor_scale(axes, 0.97 / _PROBE_EDGE, 1.03 * _PROBE_EDGE, vertical=True, ticks=5)
        edge = DRIFT_FACTOR**_EDGE
        drifts = [[solo_drift(run.readings, member.workload) for member in run.members] for run in timed]
        _scatter(panels[4], "drift: factor between a member's two windows alone", timed, drifts, (1.0, edge))
        panels[4].axhline(DRIFT_FACTOR, **_LIMIT_LINE)
        factor_scale(panels[4], 0.98, edge * 1.03, vertical=True, ticks=5)
        panels[4].set_xlabel("run, in order of time")
        for axes in panels:
            _mark_blocks(axes, timed)

    return drawn(asked, draw, height_in=8.0, note=note)


def burstiness(found: Analysis, note: str) -> Drawing:
    """Draw how bursty each agent is alone against how much it suffers."""
    name, title = "burstiness", "Burstiness alone against sensitivity"
    correlation = found.burstiness.pearson
    interval = f", 95 % interval {correlation.lower:.2f} to {correlation.upper:.2f}"
    told = f"Pearson's r = {correlation.r:.2f}{interval if math.isfinite(correlation.lower) else ''}"
    caption = (
        "One point an agent workload. To the right: tokens come in bursts (burstiness index, spread of the time "
        "between tokens over its mean, measured alone). Up: slowed more (geometric mean of the median SF over the "
        f"{len(found.burstiness.conditions)} conditions that all of these agents were measured in). "
        f"{told + '.' if math.isfinite(correlation.r) else 'No correlation: ' + correlation.reason + '.'}"
    )
    asked = Drawing(name=name, title=title, caption=caption)
    points = sorted(
        (math.exp(one.sensitivity), one.burstiness_index, label(one.workload))
        for one in found.burstiness.agents
        if math.isfinite(one.sensitivity) and math.isfinite(one.burstiness_index)
    )
    if not points:
        missing = "no agent whose burstiness and sensitivity are both known"
        return replace(asked, missing=missing)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        heights, indices = [one for one, *_ in points], [one for _, one, _ in points]
        low, high = min(heights) / 1.05, max(heights) * 1.05
        factor_scale(axes, low / (high / low) ** 0.1, high * (high / low) ** 0.1, vertical=True, ticks=7)
        width = max(indices) - min(indices) or 0.2
        axes.set_xlim(min(indices) - 0.05 * width, max(indices) + 0.2 * width)
        axes.axhline(1.0, color=GREY, linewidth=0.8)
        axes.plot(indices, heights, linestyle="", marker="o", color=BLUE)
        left, right = axes.get_xlim()
        bottom, top = np.log(axes.get_ylim())
        marks = [((x - left) / (right - left), (math.log(y) - bottom) / (top - bottom)) for y, x, _ in points]
        for (height, index, name), place in zip(points, _beside(marks), strict=True):
            line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
            axes.annotate(name, (index, height), place, textcoords="axes fraction", va="center", arrowprops=line)
        axes.set_xlabel("burstiness index, alone")
        axes.set_ylabel("mean SF over the same conditions")
        if math.isfinite(correlation.r):
            axes.set_title(told, loc="left", fontsize=9)

    return drawn(asked, draw, height_in=4.5, note=note)


def _scatter(
    axes: Axes,
    heading: str,
    runs: Sequence[Run],
    values: Sequence[Iterable[float | None]],
    edges: tuple[float, float],
) -> None:
    """Draw the values of every run, those beyond the edges at them."""
    axes.set_title(heading, loc="left", fontsize=9)
    lowest, highest = edges
    points = [
        (place, max(lowest, min(value, highest)))
        for place, group in enumerate(values)
        for value in group
        if value is not None and math.isfinite(value)
    ]
    if not points:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=GREY)
    for outcome, colour, marker in ((Outcome.OK, BLUE, "."), (Outcome.DISTURBED, VERMILLION, "x")):
        chosen = [(place + 1, value) for place, value in points if runs[place].outcome is outcome]
        x, y = [place for place, _ in chosen], [value for _, value in chosen]
        axes.plot(x, y, linestyle="", marker=marker, markersize=3.5, color=colour, alpha=0.7, rasterized=True)


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """Sort by time, one host instance after the other: several may have worked at once."""
    began_s: dict[str, float] = {}
    for run in runs:
        began_s[run.instance] = min(run.started_unix_s, began_s.get(run.instance, run.started_unix_s))

    def place(run: Run) -> tuple[float, str, float, str, int, int]:
        return began_s[run.instance], run.instance, run.started_unix_s, run.cell, run.repetition, run.attempt

    return sorted(runs, key=place)


def _mark_blocks(axes: Axes, runs: Sequence[Run]) -> None:
    for place, (one, other) in enumerate(pairwise(runs)):
        if one.instance != other.instance:
            axes.axvline(place + 1.5, color="black", linewidth=1.0, zorder=0, rasterized=True)
        elif one.block != other.block:
            axes.axvline(place + 1.5, color="#cccccc", linewidth=0.5, zorder=0, rasterized=True)


def _over_median(runs: Sequence[Run], times_s: Callable[[Run], Sequence[float]]) -> list[list[float]]:
    """Give the times of each run as multiples of the median of its instance, over good runs where there are any."""
    medians: dict[str, float] = {}
    for instance in {run.instance for run in runs}:
        own = [run for run in runs if run.instance == instance]
        good = [run for run in own if run.outcome is Outcome.OK] or own
        if values := [one for run in good for one in times_s(run)]:
            medians[instance] = float(np.median(values))
    return [[one / medians[run.instance] for one in times_s(run) if run.instance in medians] for run in runs]


def _beside(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Give a place for the label of each mark, right of it, higher where it would cover another; shares of the axes."""
    width, height, gap = _LABEL_SHARES

    def is_covering(x: float, y: float) -> bool:
        on_label = any(abs(x - other_x) < width and abs(y - other_y) < height for other_x, other_y in found)
        return on_label or any(x < mark_x < x + width and abs(y - mark_y) < height / 2 for mark_x, mark_y in marks)

    found: list[tuple[float, float]] = []
    for mark_x, mark_y in marks:
        x, y = mark_x + gap, mark_y
        while is_covering(x, y):
            y += height / 4
        found.append((x, y))
    return found
