"""When to try again what failed: soon at first, then ever more rarely. Pure; counts turns, knows no clock."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

_LONGEST_TURNS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    key: Hashable
    delay_turns: int
    due_turn: int


class Backoff:
    """Waits 1, 2, 4 ... at most 60 turns after a failure; another key means another matter, which is due at once."""

    def __init__(self) -> None:
        self._turn = 0
        self._tries: dict[str, _Try] = {}

    @property
    def waiting(self) -> bool:
        """Tell whether anything is to be tried again."""
        return bool(self._tries)

    def turn(self) -> None:
        """Let one turn pass."""
        self._turn += 1

    def hurry(self) -> None:
        """Make everything due now, because the world changed; what fails again waits longer all the same."""
        self._tries = {
            name: _Try(key=one.key, delay_turns=one.delay_turns, due_turn=self._turn)
            for name, one in self._tries.items()
        }

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        self._tries = {name: one for name, one in self._tries.items() if name in names}

    def due(self, name: str, key: Hashable) -> bool:
        """Tell whether it may be tried now."""
        known = self._tries.get(name)
        return known is None or known.key != key or self._turn >= known.due_turn

    def failed(self, name: str, key: Hashable) -> None:
        """Note a failure of now; the same one twice in a turn counts once."""
        known = self._tries.get(name)
        delay = 1 if known is None or known.key != key else min(2 * known.delay_turns, _LONGEST_TURNS)
        if known is not None and known.key == key and known.due_turn > self._turn:
            return
        self._tries[name] = _Try(key=key, delay_turns=delay, due_turn=self._turn + delay)

    def succeeded(self, name: str) -> None:
        """Note that nothing is to be tried again."""
        self._tries.pop(name, None)
