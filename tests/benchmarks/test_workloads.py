"""Workloads: each as a real process, its progress, its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.errors import WorkloadInvalid
from benchmarks.workloads import catalogue, llc_bytes, parse_size
from tests.fakes.processes import finished, running

SMALL = {"cpu": [], "memory": ["--bytes", "64MiB"], "latency": ["--bytes", "8MiB"], "io": ["--bytes", "1MiB"]}


@pytest.mark.parametrize("kind", SMALL)
def test_each_workload_reports_rising_work_and_ends_at_sigterm(kind: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with running("benchmarks.workloads", [kind, *SMALL[kind], "--folder", str(scratch)], tmp_path) as workload:
        workload.wait_for_work(0.6)
        files_meanwhile = list(scratch.iterdir())
        code, seconds, errors = workload.terminate()
    covered = workload.log.covered_s
    assert covered is not None
    middle_s = (covered[0] + covered[1]) / 2

    assert (code, errors) == (0, "")
    assert seconds < 2
    assert workload.log.malformed_lines == 0
    assert len(workload.log._times_s) >= 20 * 0.6
    assert workload.log.rate_per_s(covered[0], middle_s) > 0
    assert workload.log.rate_per_s(middle_s, covered[1]) > 0
    assert files_meanwhile == list(scratch.iterdir()) == []


def test_a_killed_io_workload_leaves_no_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with running("benchmarks.workloads", ["io", "--folder", str(scratch)], tmp_path) as workload:
        workload.wait_for_work(0.1)
        workload.process.kill()
        workload.process.wait()

    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("kind", ["cpu", "memory"])
def test_a_workload_has_one_thread(kind: str, tmp_path: Path) -> None:
    with running("benchmarks.workloads", [kind, *SMALL[kind]], tmp_path) as workload:
        workload.wait_for_work(0.1)
        threads = len(list(Path(f"/proc/{workload.process.pid}/task").iterdir()))

    assert threads == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gpu"], "invalid choice: 'gpu'"),
        (["cpu", "--bytes", "-1"], "--bytes"),
        (["cpu", "--bytes", "1.5G"], "size '1.5G' is not a number of bytes"),
        (["cpu", "--seconds", "0"], "'0' is not a number of seconds above 0"),
        (["memory", "--bytes", "900T"], "more than half of the"),
        (["latency", "--bytes", "64"], "below two cache lines"),
        (["io", "--bytes", "4096"], "below one block"),
        (["io", "--folder", "/nowhere/at/all"], "'/nowhere/at/all' failed: [Errno 2]"),
    ],
)
def test_bad_arguments_end_with_code_2_and_the_value(arguments: list[str], complaint: str) -> None:
    ended = finished("benchmarks.workloads", arguments)

    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("1", 1), ("64K", 65536), ("64 KiB", 65536), ("32768K", 32 << 20), ("2g", 2 << 30)]
)
def test_sizes_are_read_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "-4", "4 apples", "1e6", "9999999T", "٣"])
def test_other_sizes_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(WorkloadInvalid) as caught:
        parse_size(text)

    assert repr(text) in str(caught.value)


def test_the_catalogue_names_five_workloads_that_this_python_can_start() -> None:
    workloads = catalogue()

    assert [workload.name for workload in workloads] == ["cpu", "memory", "latency", "io", "agent"]
    assert all(workload.argv[:3] == (sys.executable, "-P", "-m") for workload in workloads)
    for module in {workload.argv[3] for workload in workloads}:
        assert finished(module, ["--help"]).returncode == 0


def test_a_workload_takes_no_module_from_the_folder_it_is_called_in(tmp_path: Path) -> None:
    (tmp_path / "isolation.py").write_text("raise SystemExit('a stranger ran')")
    argv = next(one for one in catalogue() if one.name == "cpu").argv

    done = subprocess.run([*argv, "--seconds", "0.01"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def test_the_last_level_cache_has_a_plausible_size() -> None:
    assert 256 << 10 <= llc_bytes() <= 4 << 30
