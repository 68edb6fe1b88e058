"""What is asked for of a design: the cells, which of them this host can do, and how long they take."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from rich.table import Table

from benchmarks.design import Cell, Design, Isolation, Part, parse_design
from benchmarks.errors import DesignInvalid
from benchmarks.runner import Setting
from benchmarks.service import found_entry

_SETTLE_S = 0.35  #: of each window, besides the seconds that count
_OWN_S = 0.15  #: of each run: probes, confining, releasing


def read_design(path: Path | None) -> Design:
    """Read a design file, the project's own without a path; raises DesignInvalid."""
    try:
        text = path.read_text() if path else resources.files("benchmarks").joinpath("factorial.toml").read_text()
        return parse_design(tomllib.loads(text))
    except OSError as error:
        raise DesignInvalid(f"design {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DesignInvalid(f"design {str(path)!r} is no TOML: {error}") from error


def extended(design: Design, extra: str) -> Design:
    """Add services by name; raises DesignInvalid, or RecordInvalid for one that cannot be run here."""
    names = [name.strip() for name in extra.split(",") if name.strip()]
    for name in names:
        found_entry(name)
    return design.with_services(names) if names else design


def chosen_cells(
    setting: Setting, parts: list[Part] | None, cells: str | None, reps: int | None, extra: str = ""
) -> Design:
    """Leave of the design what the options ask for; raises DesignInvalid when that is nothing.

    Without a part: the cells of the services that `extra` added, if it did, else the factorial part.
    """
    design = setting.design
    wanted = parts or [Part.FACTORIAL]
    if extra and not parts:
        design, wanted = design.only(design.beside_services()), [Part.BREADTH]
    if cells is None or not cells.isdecimal():
        return design.chosen(wanted, cells=cells, repetitions=reps)
    if int(cells) == 0:
        raise DesignInvalid("--cells '0' leaves nothing to measure: give a number from 1, or a pattern")
    chosen = design.chosen(wanted, repetitions=reps)
    return chosen.some(int(cells), (cell for cell in chosen.repetitions if not setting.infeasible(cell)))


def run_s(design: Design, cell: Cell) -> float:
    """Estimate one run of a cell, to the millisecond."""
    alone_s = 2 * sum(design.solo_s(member) + _SETTLE_S for member in cell.members)
    return round(alone_s + design.together_s(cell) + _SETTLE_S + _OWN_S, 3)


def plan_table(rows: list[tuple[Cell, int, str]], design: Design) -> Table:
    """Draw cells, their repetitions and why not: a line a set of members, a column an isolation."""
    isolations = [one for one in Isolation if any(cell.isolation is one for cell, *_ in rows)]
    table = Table("part", "members", *map(str, isolations), "s a run")
    lines: dict[tuple[str, str], dict[Isolation, str]] = {}
    seconds: dict[tuple[str, str], set[float]] = {}
    for cell, count, reason in rows:
        key = str(cell.part), " + ".join(map(str, cell.members))
        lines.setdefault(key, {})[cell.isolation] = "-" if reason else str(count)
        seconds.setdefault(key, set()).add(run_s(design, cell))
    for key, found in lines.items():
        table.add_row(
            *key,
            *(found.get(one, "") for one in isolations),
            " to ".join(f"{one:.1f}" for one in (min(seconds[key]), max(seconds[key]))[: len(seconds[key])]),
        )
    return table
