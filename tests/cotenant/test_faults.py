"""docs/FAULTS.md tells the truth about which tests there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.vm.suites import SUITES

ROOT = Path(__file__).parents[2]
FIRST, LAST = 25, 63


def table() -> dict[int, list[set[str]]]:
    """Return by fault the files of each cell: the fake, this machine, the virtual machine."""
    rows = {}
    for line in (ROOT / "docs/FAULTS.md").read_text(encoding="utf-8").splitlines():
        if (found := re.match(r"\| (\d+) ", line)) and FIRST <= int(found[1]) <= LAST:
            cells = line.strip("| ").split("|")[2:]
            rows[int(found[1])] = [{f"tests/{one}.py" for one in re.findall(r"`([^`]+)`", cell)} for cell in cells]
    return rows


def named() -> dict[int, set[str]]:
    """Return by fault the files that hold a test of that name."""
    found: dict[int, set[str]] = {number: set() for number in range(FIRST, LAST + 1)}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for number in re.findall(r"^def test_fault_(\d+)_", path.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(int(number), set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_fault_has_a_row_and_every_row_names_the_files_that_hold_its_tests() -> None:
    assert named() == {number: set().union(*cells) for number, cells in table().items()}


def test_rows_of_the_other_faults_name_tests_that_exist() -> None:
    numbers = []
    for line in (ROOT / "docs/FAULTS.md").read_text(encoding="utf-8").splitlines():
        if (row := re.match(r"\| (\d+) ", line)) and not FIRST <= int(row[1]) <= LAST:
            numbers.append(int(row[1]))
            for file, name in re.findall(r"`([^`:]+)::([^`]+)`", line):
                assert f"\ndef {name}(" in (ROOT / f"tests/{file}.py").read_text(encoding="utf-8"), f"{file}::{name}"

    assert numbers == [*range(1, FIRST), *range(LAST + 1, 89)]


def test_every_cell_names_a_file_or_a_reason() -> None:
    lines = (ROOT / "docs/FAULTS.md").read_text(encoding="utf-8").splitlines()

    assert [] == [line for line in lines if re.match(r"\| \d+ ", line) and re.search(r"\|\s*\|", line)]


def test_what_is_said_to_run_in_the_virtual_machine_runs_there() -> None:
    run = {file for suite in SUITES for file in suite.files}

    assert set() == set().union(*(cells[2] for cells in table().values())) - run
