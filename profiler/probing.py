"""Tells what a workload takes from caches and memory and what it suffers there, without a hardware counter.

A reporter of ours runs on another CPU of the workload's last-level cache; what it loses beside the workload is compared
with what it loses beside programs of known behaviour. Then such programs press on the workload, and its own progress
says what that costs. Alone and together alternate by stopping one side, and each slice together is compared with those
alone before and after it, so slow drift of the host cancels. The reporter counts its own CPU time: whoever else uses
its CPU costs it little. These are estimates, not counters.

    cache_pressure_ratio    loss of a reader over half the cache beside the workload / beside the copier, 0 to 2
    memory_bytes_per_s      how much streaming, in bytes read, costs a streaming reporter as much as the workload does
    llc_footprint_bytes     pages the workload touches within a tenth of a second (profiler/touched_memory.py)
    cache_sensitivity_sf    rate of the workload alone / beside the copier; the others of SENSITIVITY: beside lesser
                            pressure, random reads over parts of the cache and copying for parts of the time
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isolation.cpuset import CpuSet
from profiler.command import PinnedCommand
from profiler.host_costs import pinned
from profiler.memory_kernels import Kernel, RandomReads, Streaming
from profiler.probes import Probe
from profiler.progress import WorkLog
from profiler.records import PROFILE_FEATURES, Feature, Source
from profiler.sensitivity import SENSITIVITY
from profiler.tokens import RateBasis, rate_basis, steady_rate
from profiler.touched_memory import touched

_STREAM_SHARES = (0.25, 0.5, 1.0)
_ROUNDS = 3
_CURVE_ROUNDS = 2  # of all levels but the last, which is what models and prediction stand on
_SETTLE_S = 0.05  # after stopping or continuing one side: refilling a cache takes a few milliseconds
_REPORTER_SLICE_RATIO, _WORKLOAD_SLICE_RATIO = 0.4, 0.8
_LEAST_FULL_LOSS = 0.03  # if full pressure costs the reporter less, there is nothing here to measure with
_TELLING_RATIO = 3.0  # and it must cost so much more than nobody at all seems to
_NOBODY = "nobody"
_WORKLOAD = "workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What was found, and in notes why something was not."""

    features: tuple[Feature, ...]
    notes: tuple[str, ...]
    rate_per_s: float = math.nan  #: what the workload did beside the streaming reporter; NaN = it did not tell


@dataclass(slots=True)
class _Probing:
    slice_s: float
    slices: int
    on_progress: Callable[[float], None]
    basis: RateBasis
    deadline_s: float
    features: list[Feature] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: int = 0

    def next_slice(self) -> None:
        self.on_progress(min(1.0, self.done / self.slices))
        self.done += 1
        time.sleep(_SETTLE_S)

    def add(self, name: str, value: float, spread: float, samples: int, window_s: float) -> None:
        low, high = PROFILE_FEATURES[name]
        self.features.append(
            Feature(
                name=name,
                value=min(high, max(low, value)),
                spread=spread,
                source=Source.PROBE,
                window_s=window_s,
                samples=samples,
            )
        )


def measure(
    workload: PinnedCommand,
    *,
    cpus: CpuSet,
    probe_cpu: int,
    llc_bytes: int,
    folder: Path,
    slice_s: float = 0.5,
    pids: Collection[int] = (),
    curve: bool = True,
    limit_s: float = math.inf,
    on_progress: Callable[[float], None] | None = None,
) -> ProbeResult:
    """Probe a running workload of ours from another CPU of its LLC; it is paused now and then and left running.

    Until now it ran alone: that decides what its rate is. pids: all its processes, if there are more than the one that
    was started. curve: all of SENSITIVITY, some fifteen seconds more than only full pressure; left out, with a note,
    if limit_s would be exceeded by it.
    """
    reporter_slices = 1 + 2 * _ROUNDS * 3 + 1 + 2 * _ROUNDS * (2 + len(_STREAM_SHARES))
    levels = _levels(curve=curve)
    slices = reporter_slices + 1 + 2 * sum(map(len, levels))
    now_s = time.monotonic()
    state = _Probing(
        slice_s=slice_s,
        slices=slices,
        on_progress=on_progress or (lambda _share: None),
        basis=_basis(workload.progress, now_s, _WORKLOAD_SLICE_RATIO * slice_s),
        deadline_s=now_s + limit_s,
    )
    _footprint(pids or (workload.pid,), state)
    press_cpu = next(iter(cpus))
    workload.pause()
    try:
        with ExitStack() as stack, pinned(probe_cpu):

            def start(kind: str, share: float) -> Probe:
                probe = Probe(kind, press_cpu, 4 * llc_bytes, folder / f"{kind}-{share:g}", share=share)
                stack.enter_context(probe)
                probe.pause()
                return probe

            started_s = time.monotonic()
            streams = {f"stream-{share:g}": start("stream", share) for share in _STREAM_SHARES}
            copier = start("pressure", 1.0)
            each_start_s = (time.monotonic() - started_s) / (len(streams) + 1)
            reads = _beside(RandomReads(llc_bytes // 2), {"copier": copier, _WORKLOAD: workload}, state)
            _pressure(reads.factors, state)
            found = _beside(Streaming(4 * llc_bytes), {**streams, _WORKLOAD: workload}, state)
            _bandwidth(found, state)
            rate = statistics.median(found.rates[_WORKLOAD]) if found.rates[_WORKLOAD] else math.nan
    finally:
        workload.resume()
    time.sleep(_SETTLE_S)
    if workload.poll() and workload.progress.covered_s is not None:
        if curve and time.monotonic() + _sensitivity_s(levels, state, each_start_s) > state.deadline_s:
            levels = _levels(curve=False)
            state.notes.append(
                f"only full pressure was tried: the whole curve would not have fitted into {limit_s:g} s"
            )
        _sensitivity(workload, levels, state, cpu=probe_cpu, llc_bytes=llc_bytes, folder=folder)
    else:
        state.notes.append("cache sensitivity unknown: the workload reports no progress while it runs")
    return ProbeResult(features=tuple(state.features), notes=tuple(state.notes), rate_per_s=rate)


def _footprint(pids: Collection[int], state: _Probing) -> None:
    found = touched(pids)
    if isinstance(found, str):
        state.notes.append(f"footprint unknown: {found}")
        return
    # of pages touched here and there only parts are used: from the dense part alone to all, half of the rest assumed
    half = max(0.0, found.bytes - found.dense_bytes) / 2
    state.add("llc_footprint_bytes", found.bytes - half, half + found.spread_bytes, samples=5, window_s=0.1)


@dataclass(slots=True)
class _Beside:
    """Slowdown factors of the reporter by side, and what each side did meanwhile in work per second."""

    factors: dict[str, list[float]]
    rates: dict[str, list[float]]


def _beside(kernel: Kernel, sides: Mapping[str, PinnedCommand], state: _Probing) -> _Beside:
    """Run the reporter beside each of the stopped sides in turn; a factor is cost beside / mean of before and after.

    "nobody" is a side as well: it tells how far equal slices differ.
    """
    found = _Beside({name: [] for name in (_NOBODY, *sides)}, {name: [] for name in sides})
    slice_s = _REPORTER_SLICE_RATIO * state.slice_s
    state.next_slice()
    _cost(kernel, slice_s)  # fills the caches
    before = _cost(kernel, slice_s)
    for _ in range(_ROUNDS):
        for name in found.factors:
            side = sides.get(name)
            if side is not None:
                side.resume()
            state.next_slice()
            started_s = time.monotonic()
            during = _cost(kernel, slice_s)
            if side is not None:
                side.pause()
                basis = state.basis if name == _WORKLOAD else RateBasis.WORK
                rate = slice_rate(side.progress, basis, started_s, time.monotonic())
                if rate is not None:
                    found.rates[name].append(rate)
            state.next_slice()
            after = _cost(kernel, slice_s)
            found.factors[name].append(during / ((before + after) / 2))
            before = after
    return found


def _cost(kernel: Kernel, seconds: float) -> float:
    """Give CPU seconds per unit over a slice: its mean, for the other side may have pauses."""
    started_ns, units, until_s = time.thread_time_ns(), 0, time.monotonic() + seconds
    while units == 0 or time.monotonic() < until_s:
        units += kernel.step()
    return (time.thread_time_ns() - started_ns) / 1e9 / units


def _full_loss(factors: Mapping[str, Sequence[float]]) -> float | str:
    """Give the reporter's loss beside the copier, or why it tells nothing."""
    loss = statistics.median(factors["copier"]) - 1
    noise = statistics.stdev(factors[_NOBODY])
    if loss < _LEAST_FULL_LOSS or loss < _TELLING_RATIO * noise:
        return f"even full pressure costs the reporter only {loss:.1%} on this host, where nobody costs it {noise:.1%}"
    return loss


def _pressure(factors: Mapping[str, Sequence[float]], state: _Probing) -> None:
    full = _full_loss(factors)
    if isinstance(full, str):
        state.notes.append(f"cache pressure unknown: {full}")
        return
    share = 1 - 1 / (1 + full)
    losses = [min(2.0, max(0.0, (1 - 1 / one) / share)) for one in factors[_WORKLOAD]]
    window_s = _REPORTER_SLICE_RATIO * state.slice_s * len(losses)
    state.add("cache_pressure_ratio", statistics.median(losses), statistics.stdev(losses), len(losses), window_s)


def _bandwidth(found: _Beside, state: _Probing) -> None:
    names = [f"stream-{share:g}" for share in _STREAM_SHARES]
    # by slice, not by share: a stream that somebody interrupted gave less, and cost less
    known = [(0.0, one - 1) for one in found.factors[_NOBODY]]
    for name in names:
        known += zip(found.rates[name], (one - 1 for one in found.factors[name]), strict=False)
    own = [one - 1 for one in found.factors[_WORKLOAD]]
    if len(known) < _ROUNDS * (1 + len(names)):
        state.notes.append("memory bandwidth unknown: the streams of known bandwidth did not run steadily")
        return
    curve = LossCurve.fitted(known)
    full = curve.loss(curve.most_bytes_per_s)
    error = curve.error / math.sqrt(_ROUNDS)
    if full < _LEAST_FULL_LOSS or full < _TELLING_RATIO * error:
        state.notes.append(
            f"memory bandwidth unknown: {curve.most_bytes_per_s / 1e9:.1f} GB/s cost the reporter only {full:.1%} on"
            f" this host, uncertain by {error:.1%}"
        )
        return
    middle = statistics.median(own)
    value = curve.bytes_per_s(middle)
    error = max(error, statistics.stdev(own) / math.sqrt(_ROUNDS))
    spread = (curve.bytes_per_s(middle + 2 * error) - curve.bytes_per_s(middle - 2 * error)) / 2
    if value > curve.most_bytes_per_s:
        state.notes.append(
            f"memory bandwidth is extrapolated: beyond the {curve.most_bytes_per_s / 1e9:.1f} GB/s of one stream"
        )
        spread = max(spread, value - curve.most_bytes_per_s)
    window_s = _REPORTER_SLICE_RATIO * state.slice_s * len(own)
    state.add("memory_bytes_per_s", value, spread, len(own), window_s)


@dataclass(frozen=True, slots=True)
class LossCurve:
    """What streaming costs the reporter: loss = linear x + square x^2 at x bytes per second; neither is below 0."""

    linear: float
    square: float
    error: float  #: standard deviation of the measured losses around the curve
    most_bytes_per_s: float

    @classmethod
    def fitted(cls, known: Sequence[tuple[float, float]]) -> LossCurve:
        """Fit (bytes per second, loss) pairs by least squares."""
        most = max(rate for rate, _ in known) or 1.0
        x, y = np.array([rate / most for rate, _ in known]), np.array([loss for _, loss in known])
        both = np.linalg.lstsq(np.stack([x, x * x], axis=1), y, rcond=None)[0]
        candidates = [
            (float(both[0]), float(both[1])),
            (float(x @ y / (x @ x)) if x.any() else 0.0, 0.0),
            (0.0, float((x * x) @ y / ((x * x) @ (x * x))) if x.any() else 0.0),
            (0.0, 0.0),
        ]
        allowed = [(a, b) for a, b in candidates if a >= 0 and b >= 0]
        a, b = min(allowed, key=lambda one: float(np.square(y - one[0] * x - one[1] * x * x).sum()))
        return cls(a / most, b / most**2, float(np.std(y - a * x - b * x * x)), most)

    def loss(self, bytes_per_s: float) -> float:
        """Give what so much streaming costs."""
        return self.linear * bytes_per_s + self.square * bytes_per_s**2

    def bytes_per_s(self, loss: float) -> float:
        """Give how much streaming costs so much; a gain counts as none."""
        if loss <= 0:
            return 0.0
        if self.square <= 0:
            return loss / self.linear
        return (math.sqrt(self.linear**2 + 4 * self.square * loss) - self.linear) / (2 * self.square)


def _levels(*, curve: bool) -> list[tuple[str, ...]]:
    """Give which levels of pressure each round tries."""
    last = tuple(SENSITIVITY)[-1:]
    return [tuple(SENSITIVITY) if curve and number < _CURVE_ROUNDS else last for number in range(_ROUNDS)]


def _sensitivity(
    workload: PinnedCommand,
    levels: Sequence[Sequence[str]],
    state: _Probing,
    *,
    cpu: int,
    llc_bytes: int,
    folder: Path,
) -> None:
    slice_s = _WORKLOAD_SLICE_RATIO * state.slice_s
    with ExitStack() as stack:
        probes: dict[str, Probe] = {}
        for name in levels[0]:
            level = SENSITIVITY[name]
            probes[name] = Probe(level.kind, cpu, level.size_bytes(llc_bytes), folder / name, share=level.time_ratio)
            stack.enter_context(probes[name])
            probes[name].pause()
        slowdowns: dict[str, list[float]] = {name: [] for name in probes}
        before = _slice(workload.progress, slice_s, state)
        for names in levels:
            for name in names:
                probes[name].resume()
                during = _slice(workload.progress, slice_s, state)
                probes[name].pause()
                after = _slice(workload.progress, slice_s, state)
                if before and during and after:
                    slowdowns[name].append((before + after) / 2 / during)
                before = after
    for name, factors in slowdowns.items():
        if len(factors) > 1:
            state.add(name, statistics.median(factors), statistics.stdev(factors), len(factors), slice_s * len(factors))
    if unknown := [name for name, factors in slowdowns.items() if len(factors) < 2]:
        state.notes.append(
            f"cache sensitivity unknown ({', '.join(unknown)}): the workload made too little progress in the slices"
        )


def _slice(log: WorkLog, seconds: float, state: _Probing) -> float | None:
    state.next_slice()
    started_s = time.monotonic()
    time.sleep(seconds)
    return slice_rate(log, state.basis, started_s, time.monotonic())


def _sensitivity_s(levels: Sequence[Sequence[str]], state: _Probing, each_start_s: float) -> float:
    """Say how long these levels take."""
    slices = 1 + 2 * sum(map(len, levels))
    return len(levels[0]) * each_start_s + slices * (_WORKLOAD_SLICE_RATIO * state.slice_s + _SETTLE_S)


def _basis(log: WorkLog, now_s: float, slice_s: float) -> RateBasis:
    """Decide once what this workload's slices compare: speed of decoding, or work."""
    log.poll()
    return RateBasis.WORK if log.covered_s is None else rate_basis(log.events, log.covered_s[0], now_s, slice_s)


def slice_rate(log: WorkLog, basis: RateBasis, start_s: float, end_s: float) -> float | None:
    """Give the rate over a slice, always of the same kind; None = too little to say.

    Work per second is that of the part that progress lines cover.
    """
    log.poll()
    if basis is RateBasis.DECODING:
        return steady_rate(log.events, start_s, end_s)
    if log.covered_s is None:
        return None
    end_s = min(end_s, log.covered_s[1])
    if end_s < start_s + 0.05:
        return None
    rate = log.rate_per_s(start_s, end_s)
    return rate if rate > 0 else None  # NaN compares false
