"""The record of runs: nothing lost, nothing half, nothing of another kind of machine."""

from __future__ import annotations

import dataclasses
import gzip
import resource
import signal
from pathlib import Path

import pytest

from benchmarks.errors import CampaignMismatch, RunsDamaged, RunsLocked, RunsUnwritable
from benchmarks.runs import HOSTS, PACKED, RUNS, Phase, RunLog
from tests.fakes.campaigns import HOST, bracketed, simulated_run


def test_what_was_appended_is_read_back_whole(tmp_path: Path) -> None:
    run = simulated_run(
        readings=bracketed("single", {"token_times_s": ((0.1,), (), (0.2, 0.3)), "rate_per_s": (None, 1.5, 2.0)}),
        cpu_probe_s=(0.1, 0.2),
    )
    log = RunLog.load(tmp_path)
    with log.locked():
        log.join(HOST)
        log.append(run)
    again = RunLog.load(tmp_path)

    assert again.runs == [run]
    assert again.hosts == {HOST.instance: HOST}
    assert again.runs[0].reading("single", Phase.AFTER) == run.readings[2]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_was_never_finished_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    log = RunLog.load(tmp_path)
    for repetition in range(2):
        log.append(simulated_run(repetition=repetition))
    path = tmp_path / RUNS
    path.write_bytes(path.read_bytes()[:-cut])

    assert [run.repetition for run in RunLog.load(tmp_path).runs] == [0]
    RunLog.load(tmp_path).append(simulated_run(repetition=5))
    assert [run.repetition for run in RunLog.load(tmp_path).runs] == [0, 5]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    RunLog.load(tmp_path).append(simulated_run())
    with (tmp_path / RUNS).open("a") as file:
        file.write('{"schema": 1, "part": "else"}\n')

    with pytest.raises(RunsDamaged, match=r"runs\.jsonl', line 2: part"):
        RunLog.load(tmp_path)


def test_another_class_of_host_is_refused_with_both_named(tmp_path: Path) -> None:
    log = RunLog.load(tmp_path)
    log.join(HOST)
    log.append(simulated_run())
    other = dataclasses.replace(HOST, instance="b2", kind=dataclasses.replace(HOST.kind, kernel_series="6.1"))

    with pytest.raises(CampaignMismatch) as refusal:
        RunLog.load(tmp_path).join(other)
    assert HOST.kind.fingerprint in str(refusal.value)
    assert other.kind.fingerprint in str(refusal.value)


def test_another_instance_of_the_same_class_joins(tmp_path: Path) -> None:
    log = RunLog.load(tmp_path)
    log.join(HOST)
    log.append(simulated_run())
    log.join(dataclasses.replace(HOST, instance="b2"))

    assert set(RunLog.load(tmp_path).hosts) == {HOST.instance, "b2"}


def test_runs_of_two_classes_or_another_schema_are_not_read_together(tmp_path: Path) -> None:
    log = RunLog.load(tmp_path)
    log.append(simulated_run())
    log.append(simulated_run(repetition=1, host="f" * 16))
    with pytest.raises(CampaignMismatch, match=f"{'f' * 16}"):
        RunLog.load(tmp_path)

    (tmp_path / RUNS).unlink()
    RunLog.load(tmp_path).append(simulated_run(schema=2))
    with pytest.raises(CampaignMismatch, match="schema 2"):
        RunLog.load(tmp_path)


def test_a_row_of_another_schema_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / RUNS).write_text('{"schema": 2, "where": "in a form that does not exist yet"}\n')

    with pytest.raises(CampaignMismatch, match="line 1, has schema 2, this program reads schema 1"):
        RunLog.load(tmp_path)

    (tmp_path / RUNS).write_text('{"schema": [1]}\n')
    with pytest.raises(CampaignMismatch, match="schema"):
        RunLog.load(tmp_path)
    (tmp_path / RUNS).write_text('{"schema": 1}\n')
    with pytest.raises(RunsDamaged, match="line 1"):
        RunLog.load(tmp_path)


def test_runs_of_other_windows_or_workloads_are_not_gone_on_with(tmp_path: Path) -> None:
    log = RunLog.load(tmp_path)
    log.append(simulated_run(design="aaaaaaaaaaaa"))
    log.append(simulated_run(repetition=1, design=""))  # recorded before there was one
    (cell,) = {run.cell for run in RunLog.load(tmp_path).runs}

    log.refuse_other_designs({cell: "aaaaaaaaaaaa"})
    log.refuse_other_designs({"another cell": "bbbbbbbbbbbb"})
    with pytest.raises(CampaignMismatch, match=r"aaaaaaaaaaaa, now bbbbbbbbbbbb.*--data"):
        log.refuse_other_designs({cell: "bbbbbbbbbbbb"})
    log.append(simulated_run(repetition=2, design="bbbbbbbbbbbb"))  # of another machine, by `cat`
    with pytest.raises(CampaignMismatch, match="two designs, aaaaaaaaaaaa and bbbbbbbbbbbb"):
        RunLog.load(tmp_path)


def test_only_one_campaign_writes(tmp_path: Path) -> None:
    with RunLog.load(tmp_path).locked(), pytest.raises(RunsLocked), RunLog.load(tmp_path).locked():
        pass
    with RunLog.load(tmp_path).locked():
        pass  # the first let go


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunsUnwritable, match="file"), RunLog(tmp_path / "file" / "below").locked():
        pass


def test_a_full_disk_is_an_error_and_keeps_what_was() -> None:
    full = Path("/dev/full")  # any write to it fails with ENOSPC
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    from benchmarks.runs import _RUN, _Rows  # noqa: PLC0415 - the file's name is not to be chosen otherwise

    with pytest.raises(RunsUnwritable, match="No space left"):
        _Rows(full, _RUN).append(simulated_run())


def test_a_run_of_which_only_a_part_fits_is_taken_back(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.append(simulated_run())
    whole = (tmp_path / RUNS).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the limit would end us
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, before[1]))
        with pytest.raises(RunsUnwritable, match="No space left"):
            log.append(simulated_run(repetition=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    assert (tmp_path / RUNS).read_bytes() == whole
    assert len(log.runs) == 1


def test_records_of_two_machines_of_one_class_are_appended_to_each_other(tmp_path: Path) -> None:
    other = dataclasses.replace(HOST, instance="b2")
    for name, host in (("one", HOST), ("two", other)):
        log = RunLog(tmp_path / name)
        log.folder.mkdir()
        log.join(host)
        log.append(simulated_run(instance=host.instance))
    for name in (RUNS, HOSTS):
        with (tmp_path / "one" / name).open("ab") as file:
            file.write((tmp_path / "two" / name).read_bytes())

    joined = RunLog.load(tmp_path / "one")

    assert [run.instance for run in joined.runs] == ["a1", "b2"]
    assert set(joined.hosts) == {"a1", "b2"}


def test_packing_gives_the_same_bytes_and_the_same_runs(tmp_path: Path) -> None:
    log = RunLog.load(tmp_path / "from")
    log.folder.mkdir()
    log.join(HOST)
    log.append(simulated_run())
    first = log.pack(tmp_path / "one").read_bytes()
    second = log.pack(tmp_path / "two").read_bytes()

    assert first == second
    assert gzip.decompress(first) == (log.folder / RUNS).read_bytes()
    assert RunLog.load(tmp_path / "one").runs == log.runs
    assert (tmp_path / "one" / HOSTS).read_bytes() == (log.folder / HOSTS).read_bytes()


def test_a_campaign_goes_on_from_a_dataset(tmp_path: Path) -> None:
    earlier = RunLog(tmp_path / "from", runs=[simulated_run(), simulated_run(repetition=1)])
    earlier.pack(tmp_path)
    log = RunLog.load(tmp_path)
    log.append(simulated_run(repetition=2))
    log.append(simulated_run())  # as a pack that was killed before the old file was removed leaves it

    assert [run.repetition for run in RunLog.load(tmp_path).runs] == [0, 1, 2]


def test_a_packed_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    log = RunLog(tmp_path, runs=[simulated_run()])
    path = log.pack(tmp_path / "one")
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(RunsDamaged, match=PACKED):
        RunLog.load(tmp_path / "one")
