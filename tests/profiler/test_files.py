"""Small files on a real file system."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from profiler.errors import StoreFailed
from profiler.files import write_atomically


def test_what_a_killed_writer_left_is_removed_by_a_later_one(tmp_path: Path) -> None:
    left, recent, other = tmp_path / ".tmp-killed", tmp_path / ".tmp-at-work", tmp_path / "old"
    for one in (left, recent, other):
        one.write_bytes(b"half")
    for one in (left, other):
        os.utime(one, times=(time.time() - 7200,) * 2)

    write_atomically(tmp_path / "new", b"whole")

    assert {".tmp-at-work", "old", "new"} == {one.name for one in tmp_path.iterdir()}
    assert b"whole" == (tmp_path / "new").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()

    with pytest.raises(StoreFailed, match="taken"):
        write_atomically(tmp_path / "taken", b"new")

    assert ["taken"] == [one.name for one in tmp_path.iterdir()]
    with pytest.raises(StoreFailed, match="No such file"):
        write_atomically(tmp_path / "absent" / "file", b"new")
