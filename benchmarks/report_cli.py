"""`experiment report`: the report of a record of runs as a folder of files. Loads Matplotlib only when it is called."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import typer

from benchmarks.errors import MatplotlibMissing


def print_report(folder: Path, state: Path, out: Path, *, is_simulated: bool) -> None:
    """Write the report and tell where it is; raises MatplotlibMissing, and what write_report raises."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MatplotlibMissing(
            "the report's figures are drawn by Matplotlib, which is not installed (extra `bench`: `pip install "
            "'cotenant[bench]'`); `cotenant experiment analyze` tells the same numbers without it"
        )
    from benchmarks.report_folder import write_report  # noqa: PLC0415 - Matplotlib and SciPy take seconds to load

    page = write_report(folder, state, out, is_simulated=is_simulated)
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB; its figures and tables are beside it")
