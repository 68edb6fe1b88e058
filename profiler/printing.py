"""Numbers and JSON as all commands print them."""

from __future__ import annotations

import json
import math
from typing import Any

import typer


def print_json(value: Any) -> None:
    """Print strict JSON: an unknown number is null."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def number(value: float) -> str:
    """Write a number in four digits."""
    return "?" if math.isnan(value) else f"{value:.4g}"


def percent(value: float | None) -> str:
    """Write a share."""
    return "?" if value is None else f"{value:.1%}"
