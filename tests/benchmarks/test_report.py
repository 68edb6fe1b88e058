"""The report of simulated records: it tells what the analysis found, stands alone, and is the same twice."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from benchmarks.analysis import Analysis, analyse
from benchmarks.design import Cell, Isolation, Member
from benchmarks.drawing import factor_ticks
from benchmarks.errors import ReportUnwritable, RunsMissing
from benchmarks.experiment_cli import app
from benchmarks.host_class import Host, HostClass
from benchmarks.report import SIMULATED
from benchmarks.report_folder import read_predictions, write_report
from benchmarks.runs import Outcome, Run, RunLog
from benchmarks.slowdown import slowdown
from profiler.registry import ModelRegistry
from profiler.training import train
from tests.benchmarks.simulated_runs import AGENTS, NOT_HERE, breadth_cells, factorial_cells, simulated_runs
from tests.fakes.measurements import made_up_observations, made_up_profiles
from tests.fakes.profiles import HOST

HOSTILE = "<script>alert('now')</script> & \"$x^{$\" \x1b[31m"


def shared(cell: Cell, member: Member) -> float:
    """Plant: memory slows agents by 1.3; without isolation all are slowed by 1.5 besides."""
    beside_memory = 1.3 if cell.members[0].workload == "memory" and member.workload in AGENTS else 1.0
    return beside_memory * (1.5 if cell.isolation is Isolation.NONE else 1.0)


def record() -> list[Run]:
    cells = [
        *factorial_cells(
            traditional=("cpu", "memory"),
            agents=("single", "multi-4"),
            isolation=(Isolation.NONE, Isolation.PINNING, Isolation.CAT),
            concurrency=(1,),
        ),
        *breadth_cells(("simple-1", "chase-8m"), ("cpu",), (Isolation.PINNING,)),
    ]
    good = [
        dataclasses.replace(run, steal_ratio=0.001, others_ratio=0.01, cpu_probe_s=(0.01, 0.011))
        for run in simulated_runs(cells, repetitions=7, truth=shared)
    ]
    disturbed = [
        dataclasses.replace(
            good[place],
            attempt=2,
            outcome=Outcome.DISTURBED,
            reason=f"{stolen} of CPU time stolen (limit 2%); single alone: its two windows differ by a factor of 1.4",
        )
        for place, stolen in ((0, "3.1%"), (1, "4.7%"))
    ]
    failed = dataclasses.replace(good[2], attempt=3, outcome=Outcome.FAILED, reason=HOSTILE, readings=())
    return [*good, *disturbed, failed]


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def read(page: Path) -> ET.Element:
    """Read a page as XML, which fails where a text was not escaped or a tag not closed."""
    return ET.fromstring(page.read_text())  # noqa: S314 - our own page


def rows(page: ET.Element, table: str) -> list[dict[str, str]]:
    found = next(one for one in page.iter("table") if one.get("id") == f"table-{table}")
    headings = ["".join(one.itertext()) for one in found.iter("th")]
    return [
        dict(zip(headings, ("".join(field.itertext()) for field in row.iter("td")), strict=True))
        for row in found.findall("tbody/tr")
    ]


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return record()


@pytest.fixture(scope="module")
def source(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    RunLog(folder, runs=runs).pack(folder)
    return folder


@pytest.fixture(scope="module")
def written(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(source, source, out, is_simulated=True)
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> ET.Element:
    return read(written / "report.html")


@pytest.fixture(scope="module")
def found(runs: list[Run]) -> Analysis:
    return analyse(runs)


def test_the_medians_printed_are_those_of_the_runs(page: ET.Element, runs: list[Run]) -> None:
    printed = {(one["cell"], one["member"]): one["SF"] for one in rows(page, "cells")}

    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for member in run.members if run.outcome is Outcome.OK else ():
            values.setdefault((run.cell, str(member)), []).append(slowdown(run, member.workload))
    assert {key: f"{statistics.median(group):.2f}" for key, group in values.items()} == printed
    assert len(printed) == 20


def test_the_matrix_figure_tells_the_medians_of_its_cells(written: Path, found: Analysis) -> None:
    drawn = (written / "slowdown_matrix.svg").read_text()  # texts are kept as comments beside their outlines

    medians = [f"<!-- {one.slowdown.estimate:.2f} -->" for one in found.effects if one.factors]
    assert len(medians) == 16
    assert {one: drawn.count(one) for one in medians} == {one: medians.count(one) for one in medians}


def test_csv_files_hold_every_digit_and_leave_the_unknown_empty(written: Path, found: Analysis) -> None:
    with (written / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))

    assert [float(one["sf"]) for one in lines] == [one.slowdown.estimate for one in found.effects]
    assert [float(one["d_z_upper"]) for one in lines] == [one.effect.upper for one in found.effects]
    assert {one["if"] for one in lines} == {""}
    assert {one["if_reason"] for one in lines} == {
        "told by no run; the limits say where there are no hardware counters"
    }


def test_verdicts_come_first_and_match_the_analysis(page: ET.Element, found: Analysis) -> None:
    first = next(one for one in page.iter("section"))

    told = ["".join(one.find("p/b").itertext()) for one in first.iter("div")]  # type: ignore[union-attr]
    claims = ["".join(one.findall("p")[1].itertext()) for one in first.iter("div")]
    assert told[:3] == [str(one.verdict) for one in found.hypotheses]
    assert told[3:] == ["answered" if one.answered else "open" for one in found.questions]
    assert claims[3:] == [one.question for one in found.questions]


def test_readers_meet_one_word_for_ordinary_work(page: ET.Element, written: Path) -> None:
    sections = [one for one in page.iter("section") if one.get("id") != "words"]

    shown = " ".join("".join(one.itertext()) for one in sections)
    assert "On the ordinary side it " in shown
    assert {one["term"] for one in rows(page, "anova")} >= {"ordinary", "ordinary:agent"}
    assert "traditional" not in shown
    assert "\ntraditional,traditional:agent," in (written / "anova.csv").read_text()


def test_grades_match_the_analysis(page: ET.Element, found: Analysis) -> None:
    tables = [one for one in page.iter("table") if one.get("class") == "grades"]

    printed = [
        ("".join(row.find("th").itertext()), field.find("b").text)  # type: ignore[union-attr]
        for one in tables
        for row in one.findall("tbody/tr")
        for field in row.findall("td")
    ]
    shown = [(one.row, str(one.grade or "-")) for one in found.matrix]
    assert [one for one in shown if one in printed] == printed
    assert {grade for _, grade in printed} > {"-"}


def test_the_page_needs_no_network_and_no_script(page: ET.Element) -> None:
    links = [value for one in page.iter() for name, value in one.items() if name in {"src", "href"}]
    styles = "".join("".join(one.itertext()) for one in page.iter("style"))

    assert {one.split(",", 1)[0] for one in links if not one.startswith("#")} == {"data:image/svg+xml;base64"}
    assert not any(word in styles for word in ("url(", "@import", "http"))
    assert not {one.tag for one in page.iter()} & {"script", "link", "iframe", "object", "embed"}
    assert not [name for one in page.iter() for name, _ in one.items() if name.startswith("on")]


def test_every_figure_of_the_page_is_beside_it(page: ET.Element, written: Path) -> None:
    named = {str(one.get("id")).removeprefix("figure-") for one in page.iter("figure")}

    assert {one.stem for one in written.glob("*.svg")} == named == {one.stem for one in written.glob("*.png")}
    assert {"slowdown_matrix", "effect_sizes", "distributions_factorial", "relief", "noise"} <= named


def test_hostile_text_is_text(page: ET.Element) -> None:
    told = [one["reason"] for one in rows(page, "reasons") if one["outcome"] == "failed"]

    assert told == [HOSTILE.replace("\x1b", "\ufffd")]


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    odd = Cell(
        part=factorial_cells()[0].part,
        members=(Member(workload="$\\frac{"), Member(workload="<b>ü")),
        isolation=Isolation.NONE,
    )
    RunLog(tmp_path, runs=simulated_runs([odd], repetitions=1)).pack(tmp_path)

    told = read(write_report(tmp_path, tmp_path, tmp_path / "out"))

    assert {one["member"] for one in rows(told, "cells")} == {"$\\frac{", "<b>ü"}


def test_runs_that_do_not_count_are_counted_by_cause(page: ET.Element) -> None:
    counts = {(one["outcome"], one["reason"]): one["runs"] for one in rows(page, "reasons")}

    assert counts["disturbed", "CPU time stolen by the hypervisor"] == "2"
    assert counts["disturbed", "single alone: its two windows differ"] == "2"
    assert counts["not applicable", NOT_HERE] == "28"


def test_what_the_design_lacks_is_told(page: ET.Element) -> None:
    factorial = next(one for one in rows(page, "coverage") if one["part"] == "factorial")

    assert (factorial["cells planned"], factorial["runs planned"]) == ("108", "2808")
    assert (factorial["good runs of them"], factorial["cells begun"]) == ("56", "8")
    assert (factorial["cells not applicable here"], factorial["cells without good run"]) == ("4", "96")


def test_simulated_is_said_when_told_and_only_then(written: Path, source: Path, tmp_path: Path) -> None:
    other = write_report(source, source, tmp_path)

    assert SIMULATED in (written / "report.html").read_text()
    assert SIMULATED not in other.read_text()
    assert all("(simulated) -->" in one.read_text() for one in written.glob("*.svg"))
    assert not any("(simulated) -->" in one.read_text() for one in tmp_path.glob("*.svg"))


def test_the_same_runs_give_the_same_bytes(written: Path, source: Path, tmp_path: Path) -> None:
    write_report(source, source, tmp_path / "again", is_simulated=True)

    assert files(written) == files(tmp_path / "again")


def test_one_run_makes_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    RunLog(tmp_path, runs=simulated_runs(factorial_cells()[:1], repetitions=1)).pack(tmp_path)
    out = tmp_path / "out"

    told = read(write_report(tmp_path, tmp_path, out))

    shown = " ".join("".join(told.itertext()).split())
    assert len(rows(told, "cells")) == 2
    assert "is not drawn: no factorial cell has two good runs" in shown
    assert "1 value to resample: an interval of 95% needs at least 6" in shown
    assert not (out / "prediction.svg").exists()
    assert (out / "slowdown_matrix.svg").exists()


def test_an_earlier_report_goes_and_files_of_others_stay(written: Path, tmp_path: Path) -> None:
    RunLog(tmp_path, runs=simulated_runs(factorial_cells()[:1], repetitions=1)).pack(tmp_path)
    out, outside = tmp_path / "out", tmp_path / "outside.csv"
    shutil.copytree(written, out)
    outside.write_text("of others")
    digest = hashlib.sha256(b"of others").hexdigest()
    for name in ("pairs_none.svg", "notes.txt"):
        (out / name).write_text("of others")
    (out / "relief.png").write_text("drawn anew by hand")
    with (out / "report.sha256").open("a") as file:
        file.write(f"{digest}  ../outside.csv\n{digest}  notes.txt\nof others\n")

    write_report(tmp_path, tmp_path, out)

    listed = {line.split("  ")[1] for line in (out / "report.sha256").read_text().splitlines()}
    assert {"pairs_pinning.svg", "pairs_pinning.png", "relief.svg"} <= {one.name for one in written.iterdir()} - listed
    assert set(files(out)) - listed == {"report.sha256", "pairs_none.svg", "notes.txt", "relief.png"}
    assert outside.exists()


def test_the_list_names_every_file_with_its_sum(written: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "report.sha256"], cwd=written, capture_output=True, text=True, check=True
    )

    told = {line.removesuffix(": OK") for line in checked.stdout.splitlines()}
    assert told == {one.name for one in written.iterdir()} - {"report.sha256"}


def test_damaged_predictions_are_told_without_their_path(tmp_path: Path) -> None:
    profiles = made_up_profiles()
    registry = ModelRegistry(tmp_path / "models")
    model_id = registry.save(train(made_up_observations(profiles)[:12], profiles, HOST, created_unix_s=1e9))
    registry.activate(model_id)
    (tmp_path / "models" / model_id / "held_out.json").write_text("no JSON")
    host = Host(
        kind=HostClass(processor="p", cpus=2, caches=(), kernel_series="6.18"),
        instance="i",
        topology=HOST.fingerprint,
        kernel="6.18",
        memory_gib=1,
        mechanism="cgroup_v2",
        without=(),
        versions=(),
    )

    found, reason = read_predictions(RunLog(tmp_path, hosts={"i": host}), tmp_path)

    assert not found
    assert reason.startswith(f"STATE/models/{model_id}/held_out.json cannot be read")


def test_an_empty_folder_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(RunsMissing, match=r"no runs in '.*experiment run"):
        write_report(tmp_path, tmp_path, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ReportUnwritable, match=r"'.*/file': File exists; name another folder with --out"):
        write_report(source, source, tmp_path / "file")


def test_without_matplotlib_the_command_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from benchmarks.report_cli import print_report\n"
        f"folder = Path({str(tmp_path)!r}); print_report(folder, folder, folder, is_simulated=False)"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 1
    assert "MatplotlibMissing: the report's figures are drawn by Matplotlib, which is not installed" in ended.stderr


def test_the_command_writes_the_report(tmp_path: Path) -> None:
    RunLog(tmp_path, runs=simulated_runs(factorial_cells()[:1], repetitions=1)).pack(tmp_path)
    options = ["--data", str(tmp_path), "--state", str(tmp_path), "--out", str(tmp_path / "out"), "--simulated"]

    ended = CliRunner().invoke(app, ["experiment", "report", *options])

    assert ended.exit_code == 0
    assert "report.html" in ended.output
    assert SIMULATED in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("low", "high"), [(0.87, 1.34), (0.5, 40.0), (0.99, 1.01), (0.01, 0.02), (2.0, 900.0)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = factor_ticks(low, high, 7)

    assert all(low <= one <= high for one in ticks)
    assert 1 <= len(ticks) <= 8
    assert list(ticks) == sorted(set(ticks))
    assert (1.0 in ticks) == (low <= 1 <= high)
