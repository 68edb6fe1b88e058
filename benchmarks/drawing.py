"""One figure of the report as SVG and PNG, drawn by Matplotlib (extra `bench`). The same marks, the same bytes.

No display, no global state: figures are drawn on Matplotlib's own canvases; no file of the user changes their style.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.cells import Side
from benchmarks.design import Isolation

# Okabe and Ito: told apart by the colour-blind, and by their lightness in print. Shapes tell the same as colours.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
DARK, GREY = "#404040", "#666666"
ISOLATION_COLOURS = {
    Isolation.NONE: VERMILLION,
    Isolation.PINNING: BLUE,
    Isolation.CAT: GREEN,
    Isolation.COMBINED: PURPLE,
    Isolation.STACKED: DARK,
}
ISOLATION_MARKERS = {
    Isolation.NONE: "o",
    Isolation.PINNING: "s",
    Isolation.CAT: "^",
    Isolation.COMBINED: "D",
    Isolation.STACKED: "v",
}
SIDE_NAMES = {Side.TRADITIONAL: "ordinary side", Side.AGENT: "agent side"}
WIDTH_IN = 10.0

_PNG_DPI = 130
_LABEL_CHARACTERS = 48
_STEPS = (  # of a decade, from coarse to fine
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 8.5, 9.0, 9.5),
)
_STYLE = {
    "axes.edgecolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",  # Matplotlib brings it
    "font.size": 9,
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "cotenant",
    "text.parse_math": False,  # names from a record are no formulas
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure; asked for, drawn, or missing with the reason."""

    name: str  #: of its files, without ending
    title: str
    caption: str  #: what is drawn, and how to read it
    svg: bytes = b""
    png: bytes = b""
    missing: str = ""


def drawn(asked: Drawing, draw: Callable[[Figure], None], *, height_in: float, note: str = "") -> Drawing:
    """Let `draw` fill the figure asked for; `note` stands beside its title, as in "simulated"."""
    svg, png = io.BytesIO(), io.BytesIO()
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        title = f"{asked.title} ({note})" if note else asked.title
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        draw(figure)
        figure.savefig(svg, format="svg", dpi=_PNG_DPI, metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return replace(asked, svg=svg.getvalue(), png=png.getvalue())


def label(text: str) -> str:
    """Give a text that every font can draw, cut off where it is too long."""
    plain = "".join(one if one.isascii() and one.isprintable() else "?" for one in text)
    return plain if len(plain) <= _LABEL_CHARACTERS else plain[: _LABEL_CHARACTERS - 3] + "..."


def factor_scale(axes: Axes, low: float, high: float, *, vertical: bool = False, ticks: int = 9) -> None:
    """Make an axis logarithmic from low to high (above 0), with ticks such as 0.5, 1, 2."""
    axis = axes.yaxis if vertical else axes.xaxis
    if vertical:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    else:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    axis.set_major_locator(FixedLocator(factor_ticks(low, high, ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axis.set_minor_locator(NullLocator())


def factor_ticks(low: float, high: float, count: int) -> Sequence[float]:
    """Give at most so many round factors from low to high, 1 among them if it is inside; none if there is none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for steps in _STEPS:
        inside = [one for power in powers for step in steps if low <= (one := step * 10.0**power) <= high]
        if len(inside) > count:
            break
        best = inside
    return best


def stripes(axes: Axes, groups: Sequence[str]) -> None:
    """Shade every other group of rows that belong together; row 0 is on top."""
    shaded, last = True, None
    for row, group in enumerate(groups):
        shaded = shaded if group == last else not shaded
        last = group
        if shaded:
            axes.axhspan(row - 0.5, row + 0.5, color="#f2f2f2", zorder=0, linewidth=0)
    axes.set_ylim(len(groups) - 0.5, -0.5)
