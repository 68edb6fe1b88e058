"""Small state files, written so that a crash or a full disk leaves the old one or the new one, never half."""

from __future__ import annotations

import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from profiler.errors import ProfilerError, RecordInvalid, StoreFailed

_TEMPORARY = ".tmp-"
_STALE_S = 3600.0  # nobody writes a small file for so long: who began it was killed
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def is_name(text: str) -> bool:
    """Tell whether this may be the name of a profile or model, and so of a file."""
    return _NAME.fullmatch(text) is not None


def name_checked(name: str) -> str:
    """Give the name back if it may be a file name; raises RecordInvalid otherwise."""
    if not is_name(name):
        raise RecordInvalid(
            f"name {name[:80]!r} must be 1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
        )
    return name


def make_folder(path: Path) -> None:
    """Make a folder and its parents; raises StoreFailed with the kernel's reason."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise _failed("make folder", path, error) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: temporary file, fsync, rename, fsync of folder; raises StoreFailed and leaves the old one."""
    temporary = None
    try:
        _remove_stale(path.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)  # noqa: PTH104 - the temporary name is text already
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise _failed("write", path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Remove what writers that were killed left behind."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):  # gone by now, or not ours
            if time.time() - left.lstat().st_mtime > _STALE_S:
                left.unlink()


def sync_folder(path: Path) -> None:
    """Make a rename or deletion in this folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_limited(path: Path, limit_bytes: int, *, missing: type[ProfilerError], damaged: type[ProfilerError]) -> bytes:
    """Read a whole file of at most limit_bytes; raises the given classes when it is absent or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError as error:
        raise missing(f"{path} does not exist") from error
    except OSError as error:
        raise damaged(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise damaged(f"{path} is larger than the {limit_bytes} bytes such a file may have: remove it")
    return data


def _failed(what: str, path: Path, error: OSError) -> StoreFailed:
    return StoreFailed(
        f"cannot {what} {str(path)!r}: {error.strerror}. Choose a state folder you may write to with --state DIR "
        f"or $COTENANT_STATE, with free space"
    )
