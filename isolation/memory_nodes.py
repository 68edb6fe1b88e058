"""The part of a placement that is about memory: bound to nodes where that is safe, moved there in slices if allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from isolation.cpuset import NodeSet
from isolation.kernelfs import KernelFiles
from isolation.memory_binding import BindingStep, decide_binding, room_note
from isolation.node_memory import read_node_memory
from isolation.numa_maps import memory_of
from isolation.page_calls import HOST_PAGES, PageCalls
from isolation.page_migration import MigrationReport, PageMigrator
from isolation.process import ProcessIdentity, read_status
from isolation.spec import IsolationSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """Pages of one workload on their way to its nodes."""

    leader: ProcessIdentity
    nodes: NodeSet
    migrator: PageMigrator


class MemoryNodes:
    """Decides with memory_binding before anything is bound, and drives one migration at a time."""

    def __init__(
        self,
        *,
        files: KernelFiles,
        binding_moves_pages: bool,
        migration_bytes_per_s: int = 0,
        pages: PageCalls = HOST_PAGES,
        proc_root: str = "/proc",
    ) -> None:
        """`binding_moves_pages`: cgroup v2 moves all pages at once when it binds, v1 none. Rate 0: nothing migrates."""
        self._files = files
        self._moves = binding_moves_pages
        self.migration_bytes_per_s = migration_bytes_per_s
        self._pages = pages
        self._proc = proc_root
        self._pass: _Pass | None = None
        self._stuck: dict[ProcessIdentity, int] = {}  # by leader: what a whole pass could not move

    def bound(
        self, processes: Sequence[ProcessIdentity], pids: Sequence[int], spec: IsolationSpec
    ) -> tuple[IsolationSpec, str]:
        """Return what can be wished now, without memory nodes if they must wait, and why then.

        `pids` are all processes of the workload, `processes` those it was named by.
        """
        if spec.mems is None or all(self._is_bound(pid, spec.mems) for pid in pids):
            return spec, ""
        if not (self._moves or self.migration_bytes_per_s):  # what is there stays there; what comes needs room
            note = room_note(spec.mems, read_node_memory(files=self._files))
            return (replace(spec, mems=None), note) if note else (spec, "")
        found = memory_of(pids, files=self._files, proc_root=self._proc)
        decision = decide_binding(
            None if found is None else found.all,
            spec.mems,
            read_node_memory(files=self._files),
            migration_bytes_per_s=self.migration_bytes_per_s,
            stuck_bytes=max((self._stuck.get(one, 0) for one in processes), default=0),
        )
        return (spec, "") if decision.step is BindingStep.BIND else (replace(spec, mems=None), decision.note)

    def migrate(self, processes: Sequence[ProcessIdentity], nodes: NodeSet, budget_bytes: int) -> MigrationReport:
        """Move some pages of a workload; the first process stands for it. Raises MemoryShort."""
        leader = processes[0]
        if self._pass is None or (self._pass.leader, self._pass.nodes) != (leader, nodes):
            migrator = PageMigrator(files=self._files, pages=self._pages, proc_root=self._proc)
            self._pass = _Pass(leader=leader, nodes=nodes, migrator=migrator)
        report = self._pass.migrator.migrate(processes, nodes, budget_bytes=budget_bytes)
        self._stuck[leader] = report.stuck_bytes
        return report

    def _is_bound(self, pid: int, nodes: NodeSet) -> bool:
        try:
            status = read_status(f"{self._proc}/{pid}/status", files=self._files)
        except (FileNotFoundError, ProcessLookupError):
            return True  # it ended and holds nothing
        return status.get("Mems_allowed_list") == str(nodes)
