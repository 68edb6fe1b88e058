"""Failures are tried again after 1, 2, 4 ... 60 turns."""

from __future__ import annotations

from scheduler.backoff import Backoff


def tried(backoff: Backoff, key: object, count: int) -> list[int]:
    """Let so many turns pass with an attempt that always fails; give the turns of the attempts."""
    found = []
    for number in range(count):
        if backoff.due("web", key):
            found.append(number)
            backoff.failed("web", key)
            backoff.failed("web", key)  # a second pass of the same turn
        backoff.turn()
    return found


def test_the_waits_double_up_to_sixty_turns() -> None:
    assert [0, 1, 3, 7, 15, 31, 63, 123, 183] == tried(Backoff(), "key", 200)


def test_another_key_is_due_at_once_and_begins_anew() -> None:
    backoff = Backoff()
    tried(backoff, "key", 10)

    assert not backoff.due("web", "key")
    assert [0, 1, 3] == tried(backoff, "other", 4)


def test_when_the_world_changed_everything_is_due_but_the_next_wait_is_longer() -> None:
    backoff = Backoff()
    tried(backoff, "key", 8)
    backoff.hurry()

    assert [0, 16] == tried(backoff, "key", 17)


def test_what_succeeded_and_who_is_gone_waits_for_nothing() -> None:
    backoff = Backoff()
    for name in ("web", "db", "old"):
        backoff.failed(name, "key")
    backoff.succeeded("web")
    backoff.keep({"web", "db"})

    assert backoff.due("web", "key")
    assert not backoff.due("db", "key")
    assert backoff.due("old", "key")
    assert backoff.waiting
    backoff.succeeded("db")
    assert not backoff.waiting
