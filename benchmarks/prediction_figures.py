"""Figures of how well a model predicts workloads that it has not seen: its scores, and each single prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.analysis import Analysis
from benchmarks.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, Drawing, drawn, factor_scale
from profiler.held_out_predictions import HeldOutPrediction


def prediction(found: Analysis, note: str) -> Drawing:
    """Draw the scores of the model in use on workloads that it has not seen."""
    name, title = "prediction", "Prediction of workloads the model has not seen"
    caption = (
        "Errors over observations whose workloads were left out of training whole; shorter is better. Dark: median of "
        "|predicted / measured - 1|; light: mean, exp(mean |log(predicted / measured)|) - 1, in which what is far off "
        "counts, too. Below it: the same where all workloads that are variants of one program were left out "
        "together; the analytic prior without training; a linear model (ridge) and a random forest in the place of the "
        "trees, from the same prior; what the most similar observation measured; always the same constant; and the "
        "error that even a perfect prediction of one single repetition would show; an observation is "
        "the median of several, so less than that is possible."
    )
    asked = Drawing(name=name, title=title, caption=caption)
    question = next(one for one in found.questions if one.name == "prediction")
    if not question.answered:
        return replace(asked, missing="no model has a score here")
    numbers = question.numbers
    bars = [
        (text, numbers[f"{key}, median"], numbers[f"{key}, mean"], colour)
        for text, key, colour in (
            ("model, held out", "held-out error", BLUE),
            ("model, all of a program held out", "held-out error, programs", BLUE),
            ("prior alone", "prior", ORANGE),
            ("linear model in its place", "ridge", GREY),
            ("random forest in its place", "random forest", GREY),
            ("most similar observation", "nearest", PURPLE),
            ("constant", "constant", VERMILLION),
        )
    ]
    bars.append(("noise of one repetition", numbers["noise"], math.nan, GREEN))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        widest = 0.01
        for row, (_, *values, colour) in enumerate(bars):
            for value, apart, strength in zip(values, (-0.19, 0.19), (1.0, 0.45), strict=True):
                if strength < 1.0 and row == len(bars) - 1:
                    continue  # noise has a median only
                width = value if math.isfinite(value) else 0.0
                widest = max(widest, width)
                axes.barh(row + apart, width, color=colour, height=0.36, alpha=strength)
                told = f" {value:.1%}" if math.isfinite(value) else " unknown"
                axes.text(width, row + apart, told, va="center", fontsize="small")
        axes.set_yticks(range(len(bars)), [text for text, *_ in bars])
        axes.invert_yaxis()
        axes.set_xlim(0.0, widest * 1.15)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("error of the slowdown factor: median (dark), mean (light)")

    return drawn(asked, draw, height_in=4.2, note=note)


def predicted_against_measured(
    found: Analysis, predictions: Sequence[HeldOutPrediction], reason: str, note: str
) -> Drawing:
    """Draw every held-out prediction against what was measured; `reason` = why there are none."""
    inside = [one.lower <= one.measured <= one.upper for one in predictions if one.lower and one.upper]
    told = (
        f" ({np.mean(inside):.0%} of {len(inside)} hold what was measured; the width was set on these points)"
        if inside
        else ""
    )
    asked = Drawing(
        name="prediction_points",
        title="Predicted against measured slowdown, workloads held out",
        caption=(
            "One point a prediction for an observation (the median slowdown of a victim beside one neighbour) while "
            "one of the two workloads was left out of training whole; so an observation is there twice, once for each "
            "of the two. To the right: measured; up: predicted; on the diagonal: right. Blue points: the model, with "
            f"its interval as a thin line{told}. Orange triangles: the analytic prior, same observations. Green band: "
            "where half of all single repetitions fall even if the prediction is right. Both axes are logarithmic."
        ),
    )
    if not predictions:
        return replace(asked, missing=reason or "no model has held-out predictions here")
    noise = next(one for one in found.questions if one.name == "prediction").numbers.get("noise", math.nan)
    measured = [one.measured for one in predictions]
    values = [*measured, *(one.predicted for one in predictions), *(one.prior for one in predictions), 1.0]
    low, high = min(values) / 1.08, max(values) * 1.08

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        ends = np.array([low, high])
        if math.isfinite(noise):
            axes.fill_between(
                ends,
                ends / (1 + noise),
                ends * (1 + noise),
                color=GREEN,
                alpha=0.25,
                linewidth=0,
                label="noise of one repetition",
            )
        axes.plot(ends, ends, color=GREY, linewidth=0.8)
        for one in predictions:
            if one.lower and one.upper:
                axes.plot([one.measured] * 2, [one.lower, one.upper], color=BLUE, alpha=0.12, linewidth=0.7)
        priors = [one.prior for one in predictions]
        axes.plot(measured, priors, "^", color=ORANGE, markersize=4.5, fillstyle="none", label="prior alone")
        models = [one.predicted for one in predictions]
        axes.plot(measured, models, ".", color=BLUE, markersize=5, alpha=0.7, label="model, workload held out")
        factor_scale(axes, low, high, ticks=9)
        factor_scale(axes, low, high, vertical=True, ticks=9)
        axes.set_aspect("equal")
        axes.set_xlabel("measured SF")
        axes.set_ylabel("predicted SF")
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))

    return drawn(asked, draw, height_in=6.5, note=note)
