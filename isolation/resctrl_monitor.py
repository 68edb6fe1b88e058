"""What resctrl measured of a group: occupancy and bandwidth by cache domain. Reads mon_data below a group's folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from isolation.sysfs import read_text

_DOMAIN = re.compile(r"mon_(L[0-9])_([0-9]{1,5})", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorReading:
    """One domain's values; None = missing, never 0."""

    resource: str
    domain: int
    llc_occupancy_bytes: int | None
    mbm_total_bytes: int | None  #: since the group was made, local and remote
    mbm_local_bytes: int | None


def read_monitor(group: Path) -> tuple[MonitorReading, ...]:
    """Return the readings of a control or monitoring group, lowest domain first; empty = nothing is monitored."""
    folders = ((_DOMAIN.fullmatch(folder.name), folder) for folder in (group / "mon_data").glob("mon_*"))
    found = [_reading(told[1], int(told[2]), folder) for told, folder in folders if told]
    return tuple(sorted(found, key=lambda one: (one.resource, one.domain)))


def _reading(resource: str, domain: int, folder: Path) -> MonitorReading:
    return MonitorReading(
        resource=resource,
        domain=domain,
        llc_occupancy_bytes=parse_count(read_text(folder / "llc_occupancy")),
        mbm_total_bytes=parse_count(read_text(folder / "mbm_total_bytes")),
        mbm_local_bytes=parse_count(read_text(folder / "mbm_local_bytes")),
    )


def parse_count(text: str | None) -> int | None:
    """Read one value; the kernel may say "Unavailable", "Error" or "Unassigned" instead: missing."""
    return int(text) if text is not None and _COUNT.fullmatch(text) else None


def counted_between(before: int | None, after: int | None) -> int | None:
    """Return how far a counter went; missing where either is, or where it fell (AMD resets what is not loaded)."""
    if before is None or after is None or after < before:
        return None
    return after - before
