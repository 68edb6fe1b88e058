"""How a workload's speed is told: the text after --metric, checked. Pure.

auto                    progress lines if it writes any, its run time if it ends by itself, else nothing
progress                insists on progress lines (profiler/progress.py)
exit-time               insists on its run time: 1 / seconds, again and again
regex:PATTERN           a number in what it prints. One group: a rate per second, `([0-9.]+) req/s`. Named groups say
                        otherwise: (?P<total>...) work done so far, (?P<work>...) work done since the last match
count:PATTERN           each match in what it prints is one piece of work
prometheus:URL#NAME     NAME or NAME{label="value"} there: a counter gives its rate, a gauge is taken as a rate. Told
                        apart by its TYPE line; without one, names that end with _total, _count or _sum are counters.
                        Several series are added up
tokens:URL              an OpenAI-compatible endpoint, which we ask again and again as its only client
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, urlsplit

from profiler.errors import RecordInvalid

_MEANINGS = ("rate", "total", "work")
_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"([^"]*)"\s*(?:,|$)')
_CHOICES = "auto, progress, exit-time, regex:PATTERN, count:PATTERN, prometheus:URL#NAME, tokens:URL"


class MetricKind(StrEnum):
    """Where the speed comes from."""

    AUTO = "auto"
    PROGRESS = "progress"
    EXIT_TIME = "exit-time"
    REGEX = "regex"
    COUNT = "count"
    PROMETHEUS = "prometheus"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One way to know a workload's speed; the fields of other kinds are empty."""

    kind: MetricKind
    pattern: str = ""
    group: int | str = 1
    meaning: str = "rate"
    url: str = ""
    series: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def reads_output(self) -> bool:
        """Whether it needs what the command prints."""
        return self.kind in {MetricKind.REGEX, MetricKind.COUNT}

    @property
    def tells_while_running(self) -> bool:
        """Whether a number must come before the command ends."""
        return self.kind not in {MetricKind.AUTO, MetricKind.EXIT_TIME}


def parse_metric(text: str) -> Metric:
    """Read the text after --metric; raises RecordInvalid saying what is wrong with it."""
    kind, _, rest = text.partition(":")
    if kind in {"auto", "progress", "exit-time"} and text == kind:
        return Metric(kind=MetricKind(kind))
    if kind in {"regex", "count"}:
        return _output_metric(MetricKind(kind), rest)
    if kind == "prometheus":
        return _prometheus_metric(rest)
    if kind == "tokens":
        _check_url(rest, "tokens:http://127.0.0.1:8080")
        return Metric(kind=MetricKind.TOKENS, url=rest)
    raise RecordInvalid(f"metric {text!r} is not one of {_CHOICES}")


def _output_metric(kind: MetricKind, pattern: str) -> Metric:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RecordInvalid(f"metric {kind}:{pattern!r} is no regular expression: {error}") from error
    if not pattern or compiled.match(""):
        raise RecordInvalid(f"metric {kind}:{pattern!r} matches the empty string: it would match anywhere")
    if kind is MetricKind.COUNT:
        return Metric(kind=kind, pattern=pattern)
    named = [one for one in _MEANINGS if one in compiled.groupindex]
    if len(named) > 1 or set(compiled.groupindex) - set(_MEANINGS):
        raise RecordInvalid(
            f"metric regex:{pattern!r} names the groups {', '.join(compiled.groupindex)}: name one, rate, total or work"
        )
    if not named and compiled.groups != 1:
        raise RecordInvalid(
            f"metric regex:{pattern!r} has {compiled.groups} groups: put one around the number, as in "
            "'([0-9.]+) req/s', name it (?P<total>...) or (?P<work>...), or count matches with count:PATTERN"
        )
    meaning = named[0] if named else "rate"
    return Metric(kind=kind, pattern=pattern, group=named[0] if named else 1, meaning=meaning)


def _prometheus_metric(text: str) -> Metric:
    url, mark, series = text.partition("#")
    example = 'prometheus:http://127.0.0.1:9121/metrics#redis_commands_total{cmd="get"}'
    _check_url(url, example)
    found = _SERIES.fullmatch(series.strip())
    if not mark or found is None:
        raise RecordInvalid(f"metric 'prometheus:{text}' names no series after '#', as in {example}")
    labels, rest = {}, (found[2] or "").strip()
    while rest:
        label = _LABEL.match(rest)
        if label is None:
            raise RecordInvalid(f"labels {{{found[2]}}} of {found[1]!r} are not of the form {example}")
        labels[label[1]] = label[2]
        rest = rest[label.end() :]
    return Metric(kind=MetricKind.PROMETHEUS, url=url, series=found[1], labels=labels)


def _check_url(url: str, example: str) -> None:
    if web_address(url) is None:
        raise RecordInvalid(f"{url!r} is no address, such as {example}")


def web_address(url: str) -> SplitResult | None:
    """Take an http or https address apart; None = it is none."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if valid else None
