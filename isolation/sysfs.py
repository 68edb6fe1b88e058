"""Read kernel files that may be absent, empty or damaged: what cannot be read is None. Knows no file by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from isolation.cpuset import CpuSet
from isolation.errors import CpuSetInvalid

_MAP = re.compile(r"(?:0x)?([0-9a-fA-F]{1,2048})")  # 8192 bits, the most that any kernel knows


def read_text(path: Path) -> str | None:
    """Return the content without the white space around it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # absent, or a file the kernel refuses to read out (an attribute without a value)
        return None


def read_number(path: Path) -> int | None:
    """Return a decimal number, negative ones too."""
    text = read_text(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None


def read_field(path: Path, name: str) -> str | None:
    """Return the value of the first line "NAME : VALUE"."""
    found = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", read_text(path) or "", re.MULTILINE)
    return found[1].strip() if found else None


def read_cpus(*paths: Path) -> CpuSet | None:
    """Return the first set that can be read; a file named ...list holds "0-3,8", any other a bit map.

    Callers name the map first: every kernel has it, the list came with 2.6.25, and they tell the same.
    """
    for path in paths:
        text = read_text(path)
        found = None if text is None else _parse_list(text) if path.name.endswith("list") else _parse_map(text)
        if found is not None:
            return found
    return None


def read_list(path: Path) -> CpuSet | None:
    """Return the set in a file that holds a list whatever its name."""
    text = read_text(path)
    return None if text is None else _parse_list(text)


def numbered(folder: Path, stem: str) -> Iterator[tuple[int, Path]]:
    """Yield what is named STEM and a number, lowest first."""
    found = ((path.name.removeprefix(stem), path) for path in folder.glob(f"{stem}[0-9]*"))
    yield from sorted((int(digits), path) for digits, path in found if re.fullmatch(r"[0-9]{1,6}", digits))


def _parse_list(text: str) -> CpuSet | None:
    try:
        return CpuSet.parse(text.replace("\0", ""))  # some kernels since 4.x print a NUL for an empty list
    except CpuSetInvalid:
        return None


def _parse_map(text: str) -> CpuSet | None:
    """Read "00000000,0000000f"."""
    found = _MAP.fullmatch(text.replace(",", ""))
    return CpuSet(int(found[1], 16)) if found else None
