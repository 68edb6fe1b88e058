"""Rules of the tree that no linter knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("benchmarks", "scheduler", "profiler", "isolation", "cotenant")
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "base", "constants"}


def sources() -> list[Path]:
    return [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py") if "v1" not in path.parts]


def test_no_file_is_longer_than_400_lines_without_a_reason() -> None:
    decisions = (ROOT / "DECISIONS.md").read_text()
    long = [path.relative_to(ROOT) for path in sources() if len(path.read_text().splitlines()) > 400]

    assert [] == [str(path) for path in long if str(path) not in decisions]


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [] == [str(path) for path in sources() if path.stem in FORBIDDEN_NAMES]


def test_layers_point_down() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert 0 == done.returncode, done.stdout
