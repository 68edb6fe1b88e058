"""The text of a resctrl group's schemata file as a value: parse, format, compare. Knows no files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from isolation.errors import ResctrlInvalid
from isolation.resctrl_mask import WayMask

Amount = WayMask | int  #: ways of a cache, or bandwidth in the unit of its control

_CACHE = re.compile(r"L[0-9](CODE|DATA)?")
_BANDWIDTH = frozenset({"MB", "SMBA"})
_ENTRY = re.compile(r"\s*([0-9]{1,5})\s*=\s*([0-9a-zA-Z]{1,16})\s*", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Schemata:
    """What a group may use, by resource and cache domain: ways of L2 and L3, bandwidth of MB and SMBA.

    Sorted, so that equal wishes are equal values whatever the kernel's padding and order of lines; hashable, so that
    workloads with equal wishes can share a group.
    """

    entries: tuple[tuple[str, int, Amount], ...] = ()  #: resource, domain id, amount
    unknown: tuple[str, ...] = ()  #: lines this code cannot read, such as "L3:uninitialized"; never written

    def __post_init__(self) -> None:
        keys = [entry[:2] for entry in self.entries]
        if keys != sorted(set(keys)):
            raise ResctrlInvalid(f"schemata entries {keys} must be sorted, each domain once; use Schemata.of")
        for resource, domain, amount in self.entries:
            if domain < 0 or isinstance(amount, WayMask) != _is_cache(resource) or (not _is_known(resource)):
                raise ResctrlInvalid(
                    f"schemata cannot hold {amount!r} for domain {domain} of {resource!r};"
                    " caches take a WayMask, MB and SMBA a whole number"
                )
            if isinstance(amount, int) and amount < 0:
                raise ResctrlInvalid(f"bandwidth {amount} for domain {domain} of {resource!r} must not be negative")

    @classmethod
    def of(cls, amounts: Mapping[str, Mapping[int, Amount]]) -> Self:
        """Collect amounts by resource and domain; raises ResctrlInvalid."""
        found = ((name, domain, amount) for name, own in amounts.items() for domain, amount in own.items())
        return cls(tuple(sorted(found, key=lambda entry: entry[:2])))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what the kernel prints; raises ResctrlInvalid naming the part that is wrong.

        Names and numbers may be padded, domain ids may have gaps. Masks are hexadecimal, bandwidth is decimal.
        """
        amounts: dict[str, dict[int, Amount]] = {}
        unknown = []
        for line in filter(None, (line.strip() for line in text.splitlines())):
            name, colon, rest = line.partition(":")
            name = name.strip()
            if not colon or not _is_known(name) or rest.strip() == "uninitialized":
                unknown.append(line)
                continue
            if name in amounts:
                raise ResctrlInvalid(f"schemata line {line[:80]!r} is the second for {name!r}")
            amounts[name] = _parse_line(name, rest)
        whole = cls.of(amounts)
        return cls(whole.entries, tuple(unknown))

    def __str__(self) -> str:
        """Format as the kernel takes it: a line per resource, each ended, for it refuses a text that is not."""
        return "".join(
            f"{name}:{';'.join(f'{domain}={amount}' for domain, amount in self.domains(name).items())}\n"
            for name in self.resources
        )

    @property
    def resources(self) -> tuple[str, ...]:
        """Names such as "L3", "L3CODE", "MB", sorted; none that could not be read."""
        return tuple(dict.fromkeys(name for name, _, _ in self.entries))

    def domains(self, resource: str) -> dict[int, Amount]:
        """Return the amounts of one resource by domain id, rising; empty if it is not named."""
        return {domain: amount for name, domain, amount in self.entries if name == resource}

    def updated(self, other: Schemata) -> Schemata:
        """Return this with the other's entries in place of its own, as the kernel merges what is written."""
        merged = {entry[:2]: entry for entry in (*self.entries, *other.entries)}
        return Schemata(tuple(merged[key] for key in sorted(merged)), self.unknown)

    def changes_from(self, earlier: Schemata) -> Schemata:
        """Return only what differs from the earlier: what has to be written."""
        return Schemata(tuple(entry for entry in self.entries if entry not in earlier.entries))

    def rounded(self, rounding: Mapping[str, Callable[[int], int]]) -> Schemata:
        """Return what the kernel keeps of this: bandwidth is rounded by the rule of its resource."""
        return Schemata(
            tuple(
                (name, domain, rounding[name](amount) if isinstance(amount, int) and name in rounding else amount)
                for name, domain, amount in self.entries
            ),
            self.unknown,
        )

    def missing_in(self, kernel: Schemata, rounding: Mapping[str, Callable[[int], int]]) -> tuple[str, ...]:
        """Say which entries the kernel does not hold as wished, after its own rounding; empty = all hold.

        What the kernel holds beyond the wish does not matter: it prints every resource and domain.
        """
        held = {entry[:2]: entry[2] for entry in kernel.entries}
        return tuple(
            f"{name} of domain {domain}: wished {amount}, is {held.get((name, domain), 'absent')}"
            for name, domain, amount in self.rounded(rounding).entries
            if held.get((name, domain)) != amount
        )


def _is_cache(resource: str) -> bool:
    return _CACHE.fullmatch(resource) is not None


def _is_known(resource: str) -> bool:
    return resource in _BANDWIDTH or _is_cache(resource)


def _parse_line(resource: str, text: str) -> dict[int, Amount]:
    amounts: dict[int, Amount] = {}
    for part in text.split(";"):
        found = _ENTRY.fullmatch(part)
        if found is None:
            raise ResctrlInvalid(f"{part[:40]!r} in the schemata of {resource!r} is not such as '0=ff'")
        domain = int(found[1])
        if domain in amounts:
            raise ResctrlInvalid(f"domain {domain} stands twice in the schemata of {resource!r}")
        amounts[domain] = WayMask.parse(found[2]) if _is_cache(resource) else _bandwidth(resource, found[2])
    return amounts


def _bandwidth(resource: str, text: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise ResctrlInvalid(f"bandwidth {text!r} in the schemata of {resource!r} is not a decimal number")
    return int(text)
