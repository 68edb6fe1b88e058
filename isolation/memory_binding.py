"""Whether a workload may be bound to memory nodes now: a pure function of where its pages are and what is free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from isolation.cpuset import NodeSet
from isolation.errors import MemoryShort
from isolation.node_memory import NodeBytes, NodeMemory, size_text

AT_ONCE_BYTES = 64 << 20  #: the kernel moves so much within a write to cpuset.mems in tens of milliseconds


class BindingStep(StrEnum):
    """What comes next on the way to a workload bound to its nodes."""

    BIND = "bind"
    MIGRATE = "migrate"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingDecision:
    """The next step, and a sentence for the placement's notes; empty = nothing worth a note."""

    step: BindingStep
    note: str = ""


def check_room(
    wanted_bytes: int, nodes: NodeSet, memory: Iterable[NodeMemory], *, margin_bytes: int | None = None
) -> None:
    """Raise MemoryShort unless so much more memory fits on the nodes together and a margin stays free on each.

    margin_bytes is for each node; None = `NodeMemory.margin_bytes`. A node that is not in `memory` has none. The nodes
    count together, since what one cannot take the kernel gives to the next.
    """
    found = [one for one in memory if one.node in nodes]
    margins = sum(one.margin_bytes if margin_bytes is None else margin_bytes for one in found)
    free = sum(one.free_bytes for one in found)
    if wanted_bytes + margins > free:
        which = f"memory node {nodes}" if len(nodes) == 1 else f"memory nodes {nodes}"
        wanted = size_text(wanted_bytes) if wanted_bytes else "any"
        raise MemoryShort(
            f"{which} cannot take {wanted} more: {size_text(free)} are free, of which"
            f" {size_text(margins)} are to stay free; end or move something there, or name another node"
        )


def room_note(nodes: NodeSet, memory: Iterable[NodeMemory]) -> str:
    """Say why a workload is not to be bound to nodes although that moves nothing; "" = they have room for what comes.

    For cgroup v1 without migration: a workload that is bound to a full node ends at its next page, by an OOM kill.
    """
    try:
        check_room(0, nodes, memory)
    except MemoryShort as short:
        return _unbound(str(short))
    return ""


def decide_binding(
    pages: NodeBytes | None,
    nodes: NodeSet,
    memory: Iterable[NodeMemory],
    *,
    migration_bytes_per_s: int | None = None,
    stuck_bytes: int = 0,
    refused: Sequence[str] = (),
) -> BindingDecision:
    """Decide what to do before cpuset.mems is set to `nodes` on cgroup v2.

    There the write itself moves all present pages of the group's processes, mapped files and shared ones included,
    and returns only then; nothing can switch that off (v1: only if cpuset.memory_migrate is 1). The rule, in order:

    1. Nothing is known of nodes (`pages` is None: a kernel without NUMA): BIND, there is nothing to move.
    2. The pages outside do not fit into the wished nodes with a margin: LEAVE, whatever the budget.
    3. At most 64 MiB are outside: BIND.
    4. Migration is off (`migration_bytes_per_s` is None or 0): LEAVE.
    5. Migration was tried and may not touch a process (`refused`), or a pass is through and more than 64 MiB of it
       could not be moved (`stuck_bytes`): LEAVE, or the workload would be migrated for ever.
    6. Else MIGRATE.

    BIND: the caller sets cpuset.mems. LEAVE: it leaves cpuset.mems as it is and puts the note into the placement.
    MIGRATE: it leaves cpuset.mems as it is (it must hold the wished nodes already, or the kernel refuses), calls
    `PageMigrator.migrate` each turn, and asks again with fresh values and the report's `stuck_bytes` and `refused`
    when a pass is complete. It asks only before it changes cpuset.mems: a workload bound already stays so when its
    node fills up.
    """
    if pages is None:
        return BindingDecision(step=BindingStep.BIND)
    outside = pages.outside(nodes)
    where = f"{size_text(outside)} of its memory are outside node {nodes} ({pages})"
    why: str | None = None
    try:
        check_room(outside, nodes, memory)
    except MemoryShort as short:
        why = str(short)
    if why is None and outside <= AT_ONCE_BYTES:
        return BindingDecision(step=BindingStep.BIND)
    if why is None and migration_bytes_per_s and not refused and stuck_bytes <= AT_ONCE_BYTES:
        seconds = outside / migration_bytes_per_s
        return BindingDecision(
            step=BindingStep.MIGRATE,
            note=f"{where}; they are moved at {size_text(migration_bytes_per_s)}/s, which takes about {seconds:.0f} s,"
            " and it is bound then",
        )
    if why is None:
        why = f"{where}, {_hindrance(migration_bytes_per_s, stuck_bytes, refused)}"
    return BindingDecision(step=BindingStep.LEAVE, note=_unbound(why))


def _unbound(why: str) -> str:
    return f"not bound to its memory nodes: {why}"


def _hindrance(migration_bytes_per_s: int | None, stuck_bytes: int, refused: Sequence[str]) -> str:
    """Say why they are not migrated."""
    if not migration_bytes_per_s:
        return "binding would move them at once and hold it up meanwhile; allow migration, or restart it as placed"
    if refused:
        return f"and migration was refused: {'; '.join(refused)}"
    return f"and {size_text(stuck_bytes)} could not be migrated (shared with other processes, or in use by the kernel)"
