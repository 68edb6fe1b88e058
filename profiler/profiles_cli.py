"""Commands `profiles` with show, compare, export and import, and `catalogue`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from cotenant.paths import default_state
from profiler.catalogue import read_catalogue
from profiler.comparison import REPEATABLE_RATIO, compare, median_difference
from profiler.errors import ProfileDamaged, RecordInvalid, StoreFailed
from profiler.exchange import LIMIT_BYTES, import_profiles, profiles_from_json, profiles_to_json
from profiler.files import read_limited, write_atomically
from profiler.picture import draw_profile
from profiler.printing import number, print_json
from profiler.records import WorkloadProfile
from profiler.sensitivity import ProbeEstimate, amounts, bars, sensitivity_curve, told_amount, told_slowdown
from profiler.store import ProfileStore

profiles_app = typer.Typer(
    invoke_without_command=True, help="List stored profiles; show, compare, export or import them."
)

_State = Annotated[Path | None, typer.Option("--state", help="State folder; default $COTENANT_STATE.", metavar="DIR")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
_Replace = Annotated[bool, typer.Option("--replace", help="Allow it to overwrite what exists.")]
_STREAM = "-"
_FEATURE_COLUMNS = ("feature", "value", "spread", "samples", "from", "window s")


@profiles_app.callback()
def profiles(context: typer.Context, *, state: _State = None, as_json: _Json = False) -> None:
    """List stored profiles; `profiles show NAME` shows one."""
    if context.invoked_subcommand is not None:
        context.obj = state
        return
    damaged: list[ProfileDamaged] = []
    stored = _store(state, context).load_all(on_damaged=damaged.append)
    if as_json:
        print_json([asdict(one) for one in stored.values()])
    elif stored:
        table = Table("name", "CPUs", "quality", "rate/s", "CPU", "sensitivity", "pressure", "features")
        for one in stored.values():
            numbers = ("rate_per_s", "cpu_utilisation_ratio", "cache_sensitivity_sf", "cache_pressure_ratio")
            shown = [number(one.value(key)) for key in numbers]
            table.add_row(one.name, str(one.cpus), one.quality.value, *shown, str(len(one.features)))
        Console().print(table)
    else:
        typer.echo("no profiles yet: make one with `cotenant profile NAME -- COMMAND`")
    for error in damaged:
        typer.echo(f"cotenant: {error}", err=True)


@profiles_app.command()
def show(context: typer.Context, name: str, *, state: _State = None, as_json: _Json = False) -> None:
    """Show one profile: every feature with its spread, source and window, and bars."""
    print_profile(_store(state, context).load(name), as_json=as_json)


@profiles_app.command("compare")
def compare_two(
    context: typer.Context, first: str, second: str, *, state: _State = None, as_json: _Json = False
) -> None:
    """Compare two profiles: ratio of each feature, and whether the difference exceeds their spread."""
    store = _store(state, context)
    one, other = store.load(first), store.load(second)
    found = compare(one, other)
    apart = median_difference(one.features, other.features)
    if as_json:
        known = None if apart != apart else apart  # noqa: PLR0124 - NaN
        print_json({"features": [asdict(row) for row in found], "median_difference": known})
        return
    table = Table(Column("feature", no_wrap=True), first, second, "ratio", "beyond spread")
    for row in found:
        beyond = {None: "?", True: "yes", False: "no"}[row.beyond_spread]
        values = [("unknown" if value is None else number(value)) for value in (row.first, row.second)]
        table.add_row(row.name, *values, "" if row.ratio is None else f"{row.ratio:.3g}", beyond)
    Console().print(table)
    if one.cpus != other.cpus or one.host_fingerprint != other.host_fingerprint:
        typer.echo(
            f"not alike: {one.cpus} and {other.cpus} CPUs, hosts {one.host_fingerprint}, {other.host_fingerprint}"
        )
    if apart == apart:  # noqa: PLR0124 - NaN
        verdict = "repeatable" if apart <= REPEATABLE_RATIO else "different workloads, or a noisy host"
        typer.echo(f"the median feature differs by {apart:.1%}: {verdict}")


@profiles_app.command("export")
def export(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Which; default: all.")] = None,
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; - = standard output.")] = _STREAM,
    replace: _Replace = False,
    state: _State = None,
) -> None:
    """Write profiles as JSON."""
    store = _store(state, context)
    found = [store.load(name) for name in names] if names else list(store.load_all().values())
    data = profiles_to_json(found)
    if output == _STREAM:
        sys.stdout.write(data.decode())
        return
    path = Path(output)
    if path.exists() and not replace:
        raise RecordInvalid(f"{output!r} exists already: name another file, or allow it with --replace")
    if not path.parent.is_dir():
        raise StoreFailed(f"cannot write {output!r}: there is no folder {str(path.parent)!r}")
    write_atomically(path, data)
    typer.echo(f"{len(found)} profiles written to {output}")


@profiles_app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="File made by export; - = standard input.")],
    *,
    replace: _Replace = False,
    state: _State = None,
    as_json: _Json = False,
) -> None:
    """Store the profiles of a file: all of them, or none if one is bad or its name is taken."""
    if file == _STREAM:
        data = sys.stdin.buffer.read(LIMIT_BYTES)
    else:
        data = read_limited(Path(file), LIMIT_BYTES, missing=RecordInvalid, damaged=RecordInvalid)
    try:
        found = profiles_from_json(data)
    except RecordInvalid as error:
        raise RecordInvalid(f"{file!r} was not imported: {error}") from error
    import_profiles(_store(state, context), found, replace=replace)
    names = [one.name for one in found]
    if as_json:
        print_json({"imported": names})
    else:
        typer.echo(f"{len(names)} profiles imported: {', '.join(names) or 'none in the file'}")


def catalogue(*, state: _State = None, as_json: _Json = False) -> None:
    """List services that `cotenant profile NAME` runs by itself, and what to install for those that cannot run here."""
    damaged: list[RecordInvalid] = []
    entries = read_catalogue((state or default_state()) / "catalogue", on_damaged=damaged.append)
    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "description": one.description,
            "usable": not (missing := one.missing()),
            "missing": missing,
            "packages": list(one.packages),
            "cpus": one.workload.cpus,
            "load_cpus": one.load.cpus if one.load else 0,
        }
        for one in entries.values()
    ]
    if as_json:
        print_json(rows)
    else:
        table = Table("name", "CPUs", "load", "here", "what")
        for row in rows:
            here = "yes" if row["usable"] else f"apt-get install {' '.join(row['packages'])}"
            table.add_row(row["name"], str(row["cpus"]), str(row["load_cpus"] or ""), here, row["description"])
        Console().print(table)
    for error in damaged:
        typer.echo(f"cotenant: {error}", err=True)


def print_profile(found: WorkloadProfile, *, as_json: bool) -> None:
    """Print one profile with everything that is known of it."""
    curve, estimated = sensitivity_curve(found), amounts(found)
    if as_json:
        told = {"sensitivity_curve": [asdict(one) for one in curve], "amounts": [asdict(one) for one in estimated]}
        print_json(asdict(found) | told)
        return
    typer.echo(f"{found.name}: {found.cpus} CPUs, {found.quality.value}")
    if found.window is not None:
        typer.echo(
            f"window: {found.window.length_s:.3g} s from {found.window.start_s:.3g} s after the start; "
            f"{found.window.decided_by}"
        )
    # whole numbers within 80 columns
    table = Table(*(Column(name, no_wrap=True) for name in _FEATURE_COLUMNS), box=None)
    for one in found.features:
        spread = "" if one.spread is None else number(one.spread)
        row = (number(one.value), spread, str(one.samples), one.source.value, f"{one.window_s:.3g}")
        table.add_row(one.name, *row)
    Console().print(table)
    typer.echo(draw_profile(found))
    _print_estimates(curve, estimated)
    if found.note:
        typer.echo(f"note: {found.note}")


def _print_estimates(curve: tuple[ProbeEstimate, ...], estimated: tuple[ProbeEstimate, ...]) -> None:
    """Print what probes estimated, with intervals; nothing of what was not probed."""
    if curve:
        full, drawn = bars(curve)
        table = Table(Column("suffers beside", no_wrap=True), "times", "interval", f"1 to {full:g} times", box=None)
        for one, drawing in zip(curve, drawn, strict=True):
            table.add_row(one.what, *told_slowdown(one), drawing)
        Console().print(table)
    if estimated:
        table = Table(Column("takes", no_wrap=True), "about", "interval", box=None)
        for one in estimated:
            table.add_row(one.what, *told_amount(one))
        Console().print(table)


def _store(state: Path | None, context: typer.Context) -> ProfileStore:
    return ProfileStore((state or context.obj or default_state()) / "profiles")
