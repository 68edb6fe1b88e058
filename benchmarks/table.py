"""A table of the report: one definition for the HTML, rounded, and for the CSV file, every digit. Pure."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from benchmarks.cells import told_term
from benchmarks.interval import Interval

Ends = tuple[float, float]
Value = str | int | float | Ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column."""

    key: str  #: in the CSV file; of two ends KEY_lower and KEY_upper
    heading: str = ""  #: in the HTML; empty = in the CSV file only
    form: str = ""  #: format of numbers; "p" for p values; "term" for keys told otherwise; empty = text
    has_ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns."""

    name: str  #: of its file, without ending
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def csv(self) -> bytes:
        """Give all columns as CSV; unknown numbers are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([key for column in self.columns for key in _keys(column)])
        for row in self.rows:
            values = [part for value in row for part in (value if isinstance(value, tuple) else (value,))]
            writer.writerow([_plain(one) for one in values])
        return text.getvalue().encode()


def shown(value: Value, form: str) -> str:
    """Write a value for readers; unknown numbers as "?"."""
    if isinstance(value, tuple):
        lower, upper = value
        return f"{shown(lower, form)} to {shown(upper, form)}" if math.isfinite(lower) else "?"
    if isinstance(value, str):
        return told_term(value) if form == "term" else value
    if math.isnan(value):
        return "?"
    if form == "p":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    return format(value, f"z{form}" if form[-1:] in {"f", "%"} else form)  # z: no -0.00


def interval_columns(key: str, heading: str, form: str, *, with_ends: bool = True) -> tuple[Column, ...]:
    """Give the columns of an interval; without a heading in the CSV file only."""
    return (
        Column(key=key, heading=heading, form=form),
        Column(key=key, heading="95 %" if heading and with_ends else "", form=form, has_ends=True),
        Column(key=f"{key}_reason"),
    )


def interval_values(one: Interval) -> tuple[Value, ...]:
    """Give the values of those columns."""
    return one.estimate, (one.lower, one.upper), one.reason


def _keys(column: Column) -> tuple[str, ...]:
    return (f"{column.key}_lower", f"{column.key}_upper") if column.has_ends else (column.key,)


def _plain(value: str | float) -> str | float:
    if isinstance(value, float):  # NumPy's too, whose repr is another
        return "" if math.isnan(value) else float(value)
    return value
