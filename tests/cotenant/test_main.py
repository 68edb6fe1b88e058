"""The door: instant, complete, and clear about what is wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from cotenant.main import SUMMARIES, main

LAYERS = ("isolation", "profiler", "scheduler", "benchmarks", "grpc", "numpy", "typer")


def test_every_command_has_a_summary_and_an_entry_point() -> None:
    assert set(SUMMARIES) == {one.name for one in entry_points(group="cotenant.commands")}


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])

    assert 0 == ended.value.code
    assert f"cotenant {name}" in capsys.readouterr().out


def test_help_loads_no_layer() -> None:
    code = (
        "import sys\nfrom cotenant.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([one for one in {LAYERS!r} if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.splitlines()[-1]
    assert "cotenant serve" in done.stdout


def test_an_unknown_command_names_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["relese"])

    assert 2 == ended.value.code
    assert "did you mean 'release'?" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["list", "--socket", str(tmp_path / "none.sock")])

    assert 1 == ended.value.code
    told = capsys.readouterr().err
    assert told.startswith("cotenant: no daemon answers")
    assert "Traceback" not in told
