"""The record of the experiment: one line of JSON a run, appended and forced to the disk before the next one begins.

A folder holds runs.jsonl and hosts.jsonl, one line a machine. A dataset holds runs.jsonl.gz instead; where both are,
runs.jsonl goes on from it.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from benchmarks.design import Isolation, Member, Part
from benchmarks.errors import CampaignMismatch, RunsDamaged, RunsLocked, RunsUnwritable
from benchmarks.host_class import Host
from profiler.files import make_folder, write_atomically

SCHEMA = 1
RUNS, HOSTS, PACKED = "runs.jsonl", "hosts.jsonl", "runs.jsonl.gz"
PROFILES_FOLDER = "profiles"  #: of the workloads alone, beside the runs
_LINE_LIMIT_BYTES = 1 << 20


class Outcome(StrEnum):
    """How a run ended."""

    OK = "ok"
    FAILED = "failed"  #: a workload ended or could not be confined
    DISTURBED = "disturbed"  #: measured, but the host was not quiet
    NOT_APPLICABLE = "not applicable"  #: this host cannot do it


class Phase(StrEnum):
    """When a member was measured: alone, with all others, alone again."""

    BEFORE = "before"
    TOGETHER = "together"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One member in one window; None = not measured here, or nothing of the kind happened in the window."""

    member: str  #: name of the workload; its instances are taken together
    phase: Phase
    seconds: float
    rate_per_s: float | None  #: work per second of all instances; of agents 1 / mean time between tokens
    cpu_s: float | None  #: CPU time of all its threads
    token_times_s: tuple[float, ...] = ()  #: of agents, since they began their turns anew; all streams together
    ttft_s: float | None = None  #: medians of the window
    ttlt_s: float | None = None
    tbt_s: float | None = None
    tbt_p99_s: float | None = None
    burstiness_index: float | None = None
    ipc: float | None = None
    llc_misses_per_s: float | None = None
    llc_occupancy_bytes: float | None = None
    memory_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row."""

    schema: int = SCHEMA
    part: Part
    cell: str  #: Cell.name
    members: tuple[Member, ...]
    isolation: Isolation
    cpus: tuple[str, ...] = ()  #: of each member, as in "0-3,8"; empty = left to the kernel
    repetition: int  #: from 0
    attempt: int  #: from 1; a disturbed or failed run is tried again, and what was not applicable when it can be done
    block: int
    seed: int
    design: str = ""  #: Design.digest of the cell; empty = recorded before there was one
    revision: str  #: of the source; "+" = with changes
    host: str  #: HostClass.fingerprint
    instance: str
    started_unix_s: float
    took_s: float
    outcome: Outcome
    reason: str = ""  #: of every outcome but ok
    readings: tuple[Reading, ...] = ()
    steal_ratio: float | None = None  #: of all CPU time of the run
    others_ratio: float | None = None  #: CPU time of programs that are no part of the run, as a share of all CPUs
    cpu_probe_s: tuple[float, ...] = ()  #: fixed computation while all members stood still, before and after
    memory_probe_s: tuple[float, ...] = ()  #: fixed copy, likewise

    @property
    def key(self) -> tuple[str, int]:
        """Name what it is a run of (Step.key)."""
        return self.cell, self.repetition

    @property
    def factorial(self) -> tuple[str, str, str, int]:
        """Give traditional, agent, isolation, concurrency; of part "factorial" only."""
        traditional, agent = self.members
        return traditional.workload, agent.workload, str(self.isolation), traditional.instances

    def reading(self, member: str, phase: Phase) -> Reading | None:
        """Find one reading."""
        return next((one for one in self.readings if one.member == member and one.phase is phase), None)


_Row = TypeVar("_Row", Run, Host)


@dataclass(slots=True)
class _Rows(Generic[_Row]):
    """One file of rows."""

    path: Path
    adapter: TypeAdapter[_Row]

    def read(self) -> Iterator[_Row]:
        """Yield all rows; raises RunsDamaged naming the line, or CampaignMismatch for one of another schema.

        A last line without its end was never finished.
        """
        try:
            data = gzip.decompress(self.path.read_bytes()) if self.path.suffix == ".gz" else self.path.read_bytes()
        except FileNotFoundError:
            return
        except (OSError, EOFError, zlib.error) as error:
            raise RunsDamaged(
                f"{str(self.path)!r} cannot be read: {error}; restore it, or name another folder with --data"
            ) from error
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                yield self.adapter.validate_json(line)
            except ValidationError as error:
                if (schema := _schema_of(line)) not in (None, SCHEMA):  # a tuple: it may be a list
                    raise _other_schema(f"{str(self.path)!r}, line {number},", schema) from error
                first = error.errors()[0]
                raise RunsDamaged(
                    f"{str(self.path)!r}, line {number}: {'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}; "
                    "repair or remove that line, the others are kept"
                ) from error

    def append(self, row: _Row) -> None:
        """Add one row and force it to the disk; raises RunsUnwritable, and then the file ends as before."""
        line = self.adapter.dump_json(row) + b"\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                end = self._whole(handle)
                if os.pwrite(handle, line, end) != len(line):
                    os.ftruncate(handle, end)
                    raise OSError(28, "No space left on device")  # ENOSPC: the only reason for a short write here
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise RunsUnwritable(
                f"{str(self.path)!r} cannot be written: {error.strerror}; all earlier runs are kept"
            ) from error

    def _whole(self, handle: int) -> int:
        """Cut off a line that was never finished (we were killed while writing it); give the file's length."""
        end = os.fstat(handle).st_size
        start = max(0, end - _LINE_LIMIT_BYTES)
        with self.path.open("rb") as file:
            file.seek(start)
            tail = file.read(end - start)
        if tail and not tail.endswith(b"\n"):
            end = start + tail.rfind(b"\n") + 1
            os.ftruncate(handle, end)
        return end


@dataclass(slots=True)
class RunLog:
    """The runs of one campaign in a folder."""

    folder: Path
    runs: list[Run] = field(default_factory=list)
    hosts: dict[str, Host] = field(default_factory=dict)  #: by instance

    @classmethod
    def load(cls, folder: Path) -> RunLog:
        """Read a folder, empty or absent ones too; raises RunsDamaged, or CampaignMismatch for another schema."""
        log = cls(folder)
        rows = [run for name in (PACKED, RUNS) for run in _Rows(folder / name, _RUN).read()]
        # packed and not removed yet: once; of two machines both
        log.runs = list({(run.key, run.attempt, run.instance): run for run in rows}.values())
        log.hosts = {host.instance: host for host in _Rows(folder / HOSTS, _HOST).read()}
        designs: dict[str, str] = {}
        for run in log.runs:
            if run.schema != SCHEMA:
                raise _other_schema(f"{str(folder)!r}: run {run.cell}#{run.repetition}", run.schema)
            if run.design and designs.setdefault(run.cell, run.design) != run.design:
                raise CampaignMismatch(
                    f"{str(folder)!r} holds runs of {run.cell} with two designs, {designs[run.cell]} and {run.design}: "
                    "other windows or workloads; keep each in a folder of its own"
                )
        classes = sorted({run.host for run in log.runs})
        if len(classes) > 1:
            raise CampaignMismatch(
                f"{str(folder)!r} holds runs of two classes of host, {classes[0]} and {classes[1]}; their slowdowns "
                "cannot be pooled: keep each class in a folder of its own"
            )
        return log

    @property
    def topologies(self) -> set[str]:
        """Give the fingerprints of the topologies that it was measured on."""
        return {host.topology for host in self.hosts.values()}

    def join(self, host: Host) -> None:
        """Take up work on a host; raises CampaignMismatch when the runs are of another class of host."""
        other = next((run for run in self.runs if run.host != host.kind.fingerprint), None)
        if other is not None:
            known = self.hosts.get(other.instance)
            theirs = known.kind if known else other.host
            raise CampaignMismatch(
                f"the runs in {str(self.folder)!r} are of host class {theirs}, this host is {host.kind}; "
                "start a folder of its own with --data"
            )
        if self.hosts.get(host.instance) != host:
            _Rows(self.folder / HOSTS, _HOST).append(host)
            self.hosts[host.instance] = host

    def refuse_other_designs(self, digests: Mapping[str, str]) -> None:
        """Check what is to be measured, cell name -> Design.digest; raises CampaignMismatch where it was another."""
        for run in self.runs:
            if run.design and run.design != digests.get(run.cell, run.design):
                raise CampaignMismatch(
                    f"{run.cell} was measured in {str(self.folder)!r} with other windows or workloads (design "
                    f"{run.design}, now {digests[run.cell]}); such runs cannot be pooled: start a folder of its own "
                    "with --data"
                )

    def append(self, run: Run) -> None:
        """Keep a run; on the disk when this returns. Raises RunsUnwritable."""
        _Rows(self.folder / RUNS, _RUN).append(run)
        self.runs.append(run)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else append; raises RunsLocked, RunsUnwritable for a folder that cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RunsUnwritable(f"folder {str(self.folder)!r} cannot be used: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunsLocked(f"another campaign writes to {str(self.folder)!r}; wait for it or end it") from None
            yield
        finally:
            os.close(handle)

    def pack(self, folder: Path) -> Path:
        """Write all runs compressed into another folder, the same bytes for the same runs; gives the file.

        Raises StoreFailed; what was there before stays then.
        """
        make_folder(folder)
        lines = b"".join(_RUN.dump_json(run) + b"\n" for run in self.runs)
        write_atomically(folder / HOSTS, b"".join(_HOST.dump_json(host) + b"\n" for host in self.hosts.values()))
        write_atomically(folder / PACKED, gzip.compress(lines, mtime=0))
        return folder / PACKED


def _schema_of(line: bytes) -> object:
    """Give the schema that a row of any version says it has; None when it says nothing."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("schema") if isinstance(found, dict) else None


def _other_schema(where: str, schema: object) -> CampaignMismatch:
    return CampaignMismatch(f"{where} has schema {schema}, this program reads schema {SCHEMA}")


_RUN = TypeAdapter(Run)
_HOST = TypeAdapter(Host)
