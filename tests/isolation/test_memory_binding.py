"""Whether to bind, to migrate first or to leave a workload: pure decisions."""

from __future__ import annotations

import pytest

from isolation.cpuset import NodeSet
from isolation.errors import MemoryShort
from isolation.memory_binding import BindingDecision, BindingStep, check_room, decide_binding
from isolation.node_memory import NodeBytes, NodeMemory

_MIB, _GIB = 1 << 20, 1 << 30
_ONE = NodeSet.parse("1")


def memory(*free_bytes: int) -> tuple[NodeMemory, ...]:
    return tuple(NodeMemory(node=node, total_bytes=2 * _GIB, free_bytes=free) for node, free in enumerate(free_bytes))


def test_fault_60_what_does_not_fit_with_its_margin_is_refused_with_all_figures() -> None:
    with pytest.raises(
        MemoryShort, match=r"^memory node 1 cannot take 500\.0 MiB more: 512\.0 MiB are free, of which 64\.0 MiB are"
    ) as caught:
        check_room(500 * _MIB, _ONE, memory(2 * _GIB, 512 * _MIB))

    assert caught.value.retryable
    check_room(448 * _MIB, _ONE, memory(0, 512 * _MIB))
    check_room(500 * _MIB, _ONE, memory(0, 512 * _MIB), margin_bytes=0)


def test_fault_60_a_node_that_is_offline_or_unknown_has_no_room() -> None:
    with pytest.raises(MemoryShort, match="memory nodes 2-3 cannot take 1 bytes more: 0 bytes are free"):
        check_room(1, NodeSet.parse("2-3"), memory(_GIB, _GIB))


def test_several_nodes_take_it_together_each_with_its_margin() -> None:
    both = NodeSet.parse("0-1")

    check_room(896 * _MIB, both, memory(512 * _MIB, 512 * _MIB))
    with pytest.raises(MemoryShort, match=r"memory nodes 0-1 .* of which 128\.0 MiB are to stay free"):
        check_room(897 * _MIB, both, memory(512 * _MIB, 512 * _MIB))


def decide(
    outside_bytes: int, *, free: int = _GIB, rate: int | None = None, stuck: int = 0, inside_bytes: int = _GIB
) -> BindingDecision:
    pages = NodeBytes.of({0: outside_bytes, 1: inside_bytes})
    return decide_binding(pages, _ONE, memory(_GIB, free), migration_bytes_per_s=rate, stuck_bytes=stuck)


@pytest.mark.parametrize("rate", [None, 0, 100 * _MIB])
def test_little_to_move_is_bound_at_once(rate: int | None) -> None:
    assert decide(64 * _MIB, rate=rate) == BindingDecision(step=BindingStep.BIND)
    assert decide(0, rate=rate).step is BindingStep.BIND


def test_much_to_move_is_left_with_a_note_unless_migration_is_on() -> None:
    for rate in (None, 0):
        left = decide(65 * _MIB, rate=rate)

        assert left.step is BindingStep.LEAVE
        assert left.note.startswith(
            "not bound to its memory nodes: 65.0 MiB of its memory are outside node 1 (65.0 MiB on node 0, 1.0 GiB on"
        )
        assert "allow migration" in left.note


def test_much_to_move_is_migrated_first_when_allowed_and_the_note_says_how_long() -> None:
    decision = decide(800 * _MIB, rate=100 * _MIB)

    assert decision.step is BindingStep.MIGRATE
    assert "at 100.0 MiB/s, which takes about 8 s" in decision.note


@pytest.mark.parametrize("outside_mib", [0, 10, 800])
def test_fault_60_a_full_node_is_left_alone_whatever_there_is_to_move(outside_mib: int) -> None:
    decision = decide(outside_mib * _MIB, free=10 * _MIB, rate=100 * _MIB)

    assert decision.step is BindingStep.LEAVE
    assert "memory node 1 cannot take" in decision.note


def test_what_migration_could_not_move_ends_it() -> None:
    assert decide(800 * _MIB, rate=_MIB, stuck=64 * _MIB).step is BindingStep.MIGRATE
    stuck = decide(800 * _MIB, rate=_MIB, stuck=700 * _MIB)

    assert stuck.step is BindingStep.LEAVE
    assert "700.0 MiB could not be migrated" in stuck.note


def test_a_process_that_may_not_be_touched_ends_migration_with_its_reason() -> None:
    pages = NodeBytes.of({0: _GIB})
    found = decide_binding(
        pages, _ONE, memory(0, 2 * _GIB), migration_bytes_per_s=_MIB, refused=("pages of process 7 may not be moved",)
    )

    assert found.step is BindingStep.LEAVE
    assert found.note.endswith("and migration was refused: pages of process 7 may not be moved")


def test_without_numa_there_is_nothing_to_move() -> None:
    assert decide_binding(None, NodeSet.parse("0"), ()) == BindingDecision(step=BindingStep.BIND)
