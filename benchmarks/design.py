"""The experiment's design: cells, their repetitions, and the order in which they are run. Pure.

A cell is some workloads under one isolation. Part "factorial" is traditional x agents x isolation x concurrency;
"composition" are three and four workloads at once; "breadth" are pairs for training.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.errors import DesignInvalid

SCHEMA = 1
SERVICE = "benchmarks.service"  #: module that runs a service of the catalogue
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)


class Isolation(StrEnum):
    """What is done to keep the members of a cell apart."""

    NONE = "none"  #: nothing; the kernel balances
    PINNING = "pinning"  #: CPUs of their own
    CAT = "cat"  #: cache ways of their own
    COMBINED = "combined"  #: CPUs and cache ways of their own
    STACKED = "stacked"  #: the opposite: all on one CPU


class Part(StrEnum):
    """What a cell is measured for."""

    FACTORIAL = "factorial"
    COMPOSITION = "composition"
    BREADTH = "breadth"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Member:
    """Some processes of one workload."""

    workload: str
    instances: int = 1

    def __str__(self) -> str:
        return self.workload if self.instances == 1 else f"{self.workload}:{self.instances}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """What is run side by side, and how it is kept apart."""

    part: Part
    members: tuple[Member, ...]
    isolation: Isolation

    @property
    def name(self) -> str:
        """Name it, as in "factorial/memory:4+multi-2/pinning"."""
        return f"{self.part}/{'+'.join(map(str, self.members))}/{self.isolation}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One repetition of one cell at its place in the order."""

    cell: Cell
    repetition: int  #: from 0

    @property
    def block(self) -> int:
        """Number its block: one repetition of all cells of a part, for which the workloads are started anew."""
        return self.repetition

    @property
    def key(self) -> tuple[str, int]:
        """Name it; there is one such run."""
        return self.cell.name, self.repetition


class CommandLine(BaseModel):
    """How a workload is started: a Python module of this project, with arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str
    arguments: tuple[str, ...] = ()
    unit: str
    about: str

    @property
    def is_agent(self) -> bool:
        """Whether it makes tokens."""
        return self.unit == "tokens"

    @property
    def is_service(self) -> bool:
        """Whether it is a service of the catalogue with its load: several processes."""
        return self.module == SERVICE


_Seconds = Annotated[float, Field(gt=0.1, le=60)]


class Windows(BaseModel):
    """Seconds that count of each window."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    solo_s: _Seconds
    solo_agents_s: _Seconds
    together_s: _Seconds
    crowd_processes: Annotated[int, Field(ge=2)]
    crowd_together_s: _Seconds


_Repetitions = Annotated[int, Field(ge=1, le=1000)]


class _Factorial(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    traditional: tuple[str, ...]
    agents: tuple[str, ...]
    isolation: tuple[Isolation, ...]
    concurrency: tuple[Annotated[int, Field(ge=1, le=256)], ...]
    repetitions: _Repetitions


class _Composition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    isolation: tuple[Isolation, ...]
    groups: tuple[tuple[str, ...], ...]
    repetitions: _Repetitions


class _Breadth(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    left: tuple[str, ...]
    right: tuple[str, ...]
    isolation: tuple[Isolation, ...]
    repetitions: _Repetitions


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_: Annotated[int, Field(alias="schema")]
    seed: int
    windows: Windows
    workloads: dict[str, CommandLine]
    factorial: _Factorial | None = None
    composition: _Composition | None = None
    breadth: tuple[_Breadth, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """All cells with their repetitions."""

    seed: int
    windows: Windows
    workloads: Mapping[str, CommandLine]
    repetitions: Mapping[Cell, int]  #: in the design's own order

    def agents_of(self, cell: Cell) -> tuple[Member, ...]:
        """Give the members that make tokens."""
        return tuple(member for member in cell.members if self.workloads[member.workload].is_agent)

    def solo_s(self, member: Member) -> float:
        """Give the seconds that count of a window in which the member is alone."""
        return self.windows.solo_agents_s if self.workloads[member.workload].is_agent else self.windows.solo_s

    def together_s(self, cell: Cell) -> float:
        """Give the seconds that count of the window in which all run: longer where many share few CPUs."""
        is_crowd = sum(member.instances for member in cell.members) >= self.windows.crowd_processes
        shares = cell.isolation not in {Isolation.PINNING, Isolation.COMBINED}
        return self.windows.crowd_together_s if is_crowd and shares else self.windows.together_s

    def digest(self, cell: Cell) -> str:
        """Name all that a run of the cell depends on beside the cell itself: windows, and how members are started."""
        names = sorted({member.workload for member in cell.members})
        lines = {name: self.workloads[name].model_dump(exclude={"about"}) for name in names}
        text = json.dumps([self.windows.model_dump(), lines], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def chosen(self, parts: Iterable[Part], *, cells: str | None = None, repetitions: int | None = None) -> Design:
        """Keep some parts; of them cells whose name holds a shell pattern; at most so many repetitions of each.

        Raises DesignInvalid when nothing is left.
        """
        wanted = set(parts)
        pattern = f"*{cells}*" if cells is not None else "*"
        kept = {
            cell: min(count, repetitions) if repetitions is not None else count
            for cell, count in self.repetitions.items()
            if cell.part in wanted and fnmatch.fnmatchcase(cell.name, pattern)
        }
        if not kept:
            some = ", ".join(repr(cell.name) for cell in list(self.repetitions)[:3])
            raise DesignInvalid(f"no cell matches {cells!r}; cells are named such as {some}")
        return self.only(kept)

    def some(self, count: int, among: Iterable[Cell]) -> Design:
        """Keep that many of these cells, drawn by the design's seed; all of them if there are fewer."""
        cells = list(among)
        drawn = set(random.Random(f"{self.seed}/some").sample(cells, min(count, len(cells))))  # noqa: S311 - a draw
        return self.only({cell: count for cell, count in self.repetitions.items() if cell in drawn})

    def with_services(self, names: Sequence[str], repetitions: int = 4) -> Design:
        """Add services of the catalogue to the breadth part: each beside what the factorial part is made of."""
        lines = {
            name: CommandLine(module=SERVICE, arguments=(name,), unit="operations", about=f"catalogue entry {name}")
            for name in names
        }
        if known := sorted(set(lines) & set(self.workloads)):
            raise DesignInvalid(f"{', '.join(known)}: the design has workloads of these names already")
        beside = dict.fromkeys(
            member.workload for cell in self.repetitions if cell.part is Part.FACTORIAL for member in cell.members
        )
        cells = {
            _beside(Part.BREADTH, (name, other), isolation): repetitions
            for name, other, isolation in product(names, beside, (Isolation.PINNING, Isolation.STACKED))
        }
        return Design(
            seed=self.seed,
            windows=self.windows,
            workloads={**self.workloads, **lines},
            repetitions={**self.repetitions, **cells},
        )

    def beside_services(self) -> dict[Cell, int]:
        """Give the cells that have a service among their members, with their repetitions."""
        return {
            cell: count
            for cell, count in self.repetitions.items()
            if any(self.workloads[member.workload].is_service for member in cell.members)
        }

    def only(self, repetitions: Mapping[Cell, int]) -> Design:
        """Replace the cells."""
        return Design(
            seed=self.seed,
            windows=self.windows,
            workloads=self.workloads,
            repetitions=repetitions,
        )

    def steps(self) -> list[Step]:
        """Give every run in its order: block after block holds each cell of a part once, shuffled by the seed.

        Whatever changes from hour to hour thus meets all cells alike. Neither the block of a run nor its place in it
        depends on which others were chosen, so a short campaign and the whole one agree.
        """
        found: list[Step] = []
        for part in Part:
            cells = [cell for cell in self.repetitions if cell.part is part]
            for repetition in range(max((self.repetitions[cell] for cell in cells), default=0)):
                due = [cell for cell in cells if self.repetitions[cell] > repetition]
                due.sort(key=lambda cell: self._place(cell, repetition))
                found += [Step(cell=cell, repetition=repetition) for cell in due]
        return found

    def _place(self, cell: Cell, repetition: int) -> float:
        return random.Random(f"{self.seed}/{cell.name}/{repetition}").random()  # noqa: S311 - an order, not a secret


def parse_design(document: Mapping[str, Any]) -> Design:
    """Check a design; raises DesignInvalid naming the entry, the value and what is allowed."""
    try:
        read = _Document.model_validate(document)
    except ValidationError as error:
        lines = (
            f"{'.'.join(map(str, one['loc']))}: {one['msg']} (is {str(one.get('input'))[:60]!r})"
            for one in error.errors()
        )
        raise DesignInvalid(f"the design cannot be read: {'; '.join(lines)}") from error
    if read.schema_ != SCHEMA:
        raise DesignInvalid(f"the design has schema {read.schema_}, this program reads schema {SCHEMA}")
    for name in read.workloads:
        if not _NAME.fullmatch(name):
            raise DesignInvalid(f"workloads: name {name!r} must be 1 to 32 of a-z, 0-9 and '-'")
    cells: dict[Cell, int] = {}
    for cell, repetitions in _cells(read):
        if _is_new(cell, cells, read.workloads):
            cells[cell] = repetitions
    if not cells:
        raise DesignInvalid("the design has no cell: give it a [factorial], a [composition] or a [[breadth]]")
    return Design(
        seed=read.seed,
        windows=read.windows,
        workloads=read.workloads,
        repetitions=cells,
    )


def _is_new(cell: Cell, cells: Mapping[Cell, int], workloads: Mapping[str, CommandLine]) -> bool:
    """Check a cell's members; False for what a table of pairs holds besides: its diagonal and what it mirrors."""
    for member in cell.members:
        if member.workload not in workloads:
            raise DesignInvalid(f"{cell.part}: {member.workload!r} is no workload; there are {', '.join(workloads)}")
    if len({member.workload for member in cell.members}) < len(cell.members):
        if cell.part is Part.BREADTH:
            return False
        raise DesignInvalid(f"{cell.part}: {cell.name!r} names a workload twice")
    return cell not in cells and Cell(part=cell.part, members=cell.members[::-1], isolation=cell.isolation) not in cells


def _cells(read: _Document) -> Iterable[tuple[Cell, int]]:
    if (whole := read.factorial) is not None:
        for traditional, agents, isolation, count in product(
            whole.traditional, whole.agents, whole.isolation, whole.concurrency
        ):
            members = (Member(workload=traditional, instances=count), Member(workload=agents))
            yield Cell(part=Part.FACTORIAL, members=members, isolation=isolation), whole.repetitions
    if (several := read.composition) is not None:
        for group, isolation in product(several.groups, several.isolation):
            yield _beside(Part.COMPOSITION, group, isolation), several.repetitions
    for table in read.breadth:
        for left, right, isolation in product(table.left, table.right, table.isolation):
            yield _beside(Part.BREADTH, (left, right), isolation), table.repetitions


def _beside(part: Part, names: Sequence[str], isolation: Isolation) -> Cell:
    return Cell(part=part, members=tuple(Member(workload=name) for name in names), isolation=isolation)
