"""Services that can be profiled by name, each described by a short TOML file.

    description = "what it does"
    packages = ["redis-server"]             Debian packages that hold its programs
    programs = ["wrk"]                      needed besides the first words of the commands; those in an `sh -c`
    metric = 'regex:rps=([0-9.]+)'          as after --metric; read from the load's output if there is a load
    path = ["/usr/lib/postgresql/*/bin"]    folders to look in besides $PATH, the last one first
    [workload]                              what is measured
    command = [...]; cpus = 1; user = "nobody" (if we are root); prepare = [[...], ...]
    ready = [...] (a command that ends with 0) or "http://..."
    [load]                                  what drives it, from other CPUs
    command = [...]; cpus = 1; prepare = [[...], ...] (once the workload is ready)
    [files]                                 written before anything starts
    "nginx.conf" = "..."

In commands and files {folder} is a temporary folder, {port} a free port of the loopback, {cpus} how many CPUs it has.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiler.errors import RecordInvalid
from profiler.files import name_checked
from profiler.metric import parse_metric

SHIPPED = Path(__file__).with_name("entries")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
PLACEHOLDERS = ("folder", "port", "cpus")
_LIMIT_BYTES = 1 << 18

Argv = tuple[str, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkloadPart(_Strict):
    """What is measured."""

    command: Argv = Field(min_length=1)
    cpus: int = Field(default=1, ge=1, le=8192)
    user: str = ""
    prepare: tuple[Argv, ...] = ()
    ready: Argv | str = ()


class LoadPart(_Strict):
    """What drives it."""

    command: Argv = Field(min_length=1)
    cpus: int = Field(default=1, ge=1, le=8192)
    prepare: tuple[Argv, ...] = ()


class Entry(_Strict):
    """One service."""

    name: str
    description: str = Field(min_length=1)
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    metric: str
    path: tuple[str, ...] = ()
    workload: WorkloadPart
    load: LoadPart | None = None
    files: dict[str, str] = {}

    def missing(self) -> list[str]:
        """List programs it needs that are not here."""
        first = [argv[0] for argv in self._commands() if argv[0] != "sh"]
        return sorted({one for one in (*first, *self.programs) if self.program(one) is None})

    def program(self, name: str) -> str | None:
        """Find one of its programs: on $PATH first, then in its own folders."""
        folders = [found for pattern in self.path for found in sorted(glob.glob(pattern), reverse=True)]  # noqa: PTH207
        return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *folders]))

    def require(self) -> None:
        """Raise RecordInvalid naming what to install if it cannot be run here."""
        if missing := self.missing():
            install = f"apt-get install {' '.join(self.packages)}" if self.packages else "install them"
            raise RecordInvalid(f"catalogue entry {self.name!r} needs {', '.join(missing)}, not found here: {install}")

    def filled(self, argv: Argv, values: dict[str, str]) -> Argv:
        """Put values into a command, and its program's full path in front."""
        words = tuple(fill(word, values) for word in argv)
        return (self.program(words[0]) or words[0], *words[1:])

    def _commands(self) -> Iterable[Argv]:
        yield self.workload.command
        yield from self.workload.prepare
        if not isinstance(self.workload.ready, str) and self.workload.ready:
            yield self.workload.ready
        if self.load is not None:
            yield self.load.command
            yield from self.load.prepare


def fill(text: str, values: dict[str, str]) -> str:
    """Replace {folder}, {port} and {cpus}; other braces stay, since programs' own files are full of them."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def read_entry(path: Path) -> Entry:
    """Read one file; raises RecordInvalid naming file and field."""
    try:
        data = path.read_bytes()
        if len(data) > _LIMIT_BYTES:
            raise RecordInvalid(f"catalogue entry {str(path)!r} is larger than {_LIMIT_BYTES} bytes")
        fields = tomllib.loads(data.decode())
    except OSError as error:
        raise RecordInvalid(f"catalogue entry {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"catalogue entry {str(path)!r} is no TOML: {error}") from error
    try:
        entry = Entry.model_validate({"name": name_checked(path.stem), **fields})
        _check(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordInvalid(f"catalogue entry {str(path)!r}: {where}: {first['msg']}") from error
    except RecordInvalid as error:
        raise RecordInvalid(f"catalogue entry {str(path)!r}: {error}") from error
    return entry


def _check(entry: Entry) -> None:
    parse_metric(entry.metric)
    ready = entry.workload.ready
    if isinstance(ready, str) and not ready.startswith("http://"):
        raise RecordInvalid(f"workload.ready is {ready!r}: give a command as a list, or an address with http://")
    if entry.load is not None and not ready:
        raise RecordInvalid("workload.ready is missing: the load must not start before the workload can take it")
    for argv in entry._commands():  # noqa: SLF001 - of the same file
        unknown = [one for word in argv for one in _PLACEHOLDER.findall(word) if one not in PLACEHOLDERS]
        if argv == () or unknown:
            raise RecordInvalid(
                f"command {list(argv)} is empty or holds {{{', '.join(unknown)}}}: known are {', '.join(PLACEHOLDERS)}"
            )
    for name in entry.files:
        if Path(name).name != name or name in {"", ".", ".."}:
            raise RecordInvalid(f"files.{name!r} must be a plain file name")


def read_catalogue(
    own: Path | None = None, *, on_damaged: Callable[[RecordInvalid], None] | None = None
) -> dict[str, Entry]:
    """Read the shipped entries and those in the given folder, which win; a bad one is handed over, or raised."""
    found: dict[str, Entry] = {}
    for folder in (SHIPPED,) if own is None else (SHIPPED, own):
        for path in sorted(folder.glob("*.toml")):
            try:
                found[path.stem] = read_entry(path)
            except RecordInvalid as error:
                if on_damaged is None:
                    raise
                on_damaged(error)
    return found
