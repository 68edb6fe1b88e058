"""What the demonstration prints: numbers with their ranges, and a plain word on whether anything was gained."""

from __future__ import annotations

import math
from statistics import geometric_mean
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from benchmarks.colocation import Ratio
from benchmarks.demo import KINDS, PROMISE, Outcome
from cotenant.v1 import model_pb2
from isolation.cpuset import CpuSet
from isolation.drawing import draw_host
from isolation.topology import Topology
from profiler.records import WorkloadProfile
from scheduler.cli import explain_to

_LEAST_ROUNDS = 3  # fewer agree by luck
_SHOWN = (
    ("CPU", "cpu_cores", "{:.2f} cores"),
    ("pressure on the cache", "cache_pressure_ratio", "{:.2f}"),
    ("slowed by full pressure", "cache_sensitivity_sf", "{:.2f} x"),
    ("time between tokens", "tbt_s", "{:.4f} s"),
    ("burstiness", "burstiness_index", "{:.2f}"),
)


def print_profiles(console: Console, profiles: dict[str, WorkloadProfile]) -> None:
    """Show what each workload does alone; unknown stays unknown."""
    table = Table("alone", *(title for title, _, _ in _SHOWN), "quality", box=None)
    for name, profile in profiles.items():
        values = [(profile.value(feature), form) for _, feature, form in _SHOWN]
        cells = [form.format(value) if math.isfinite(value) else "unknown" for value, form in values]
        table.add_row(name, *cells, str(profile.quality))
    console.print(table)


def print_model(console: Console, model: model_pb2.Model | None) -> None:
    """Show the honest score of the model beside the prior and the noise of its labels."""
    if model is None:
        console.print("no model is active: predictions come from the analytic prior")
        return

    def said(name: str) -> str:
        return f"{getattr(model, name):.0%}" if model.HasField(name) else "unknown"  # type: ignore[arg-type]

    def both(held_out: str) -> str:
        return f"{said(f'mean_error_{held_out}')} ({said(f'mape_{held_out}')})"

    console.print(
        f"model {model.id}: {model.observations} observations of {model.workloads} workloads; mean error (median) on "
        f"workloads held out of training: {both('lowo')}, prior alone: {both('prior')}, on pairs held out: "
        f"{both('pairs')}; noise of the labels: {said('noise_floor')}"
    )


def print_outcome(console: Console, topology: Topology, outcome: Outcome) -> None:
    """Draw the host, compare predicted and measured, explain one decision, say what was gained."""
    occupants: dict[int, list[str]] = {}
    for name, placed in outcome.placements.items():
        for cpu in CpuSet.parse(placed.cpus):
            occupants.setdefault(cpu, []).append(name)
    console.print("\nWhere they sat:", draw_host(topology, occupants, width=console.width - 2), sep="\n", markup=False)

    table = Table(
        "workload",
        "CPUs",
        "predicted",
        "measured, placed by cotenant",
        "measured, kernel's own placement",
        title="Slowdown factors (1 = as fast as alone; median and range of the rounds, interval of the prediction)",
        title_justify="left",
        box=None,
    )
    for name in KINDS:
        told = outcome.predicted.get(name)
        table.add_row(
            name,
            outcome.placements[name].cpus if name in outcome.placements else "refused",
            f"{told.slowdown:.2f} ({told.lower:.2f}-{told.upper:.2f})" if told else "-",
            str(outcome.measured["cotenant"][name]),
            str(outcome.measured["kernel"][name]),
        )
    console.print(table)
    for name, why in outcome.refused.items():
        console.print(f"{name} was refused and stayed where the kernel put it: {why}")

    chosen = "memory" if "memory" in outcome.placements else next(iter(outcome.placements), None)
    if chosen is not None:
        console.print(f"\nWhy {chosen} went where it went:")
        explain_to(console, outcome.placements[chosen])

    console.print("\nWhat came of it:")
    for line in verdict(outcome):
        console.print(f"  {line}")
    console.print(
        f"released: {outcome.compared} compared with those before: "
        + ("all as before" if not outcome.differences else f"{len(outcome.differences)} DIFFER")
    )
    for line in outcome.differences[:10]:
        console.print(f"  {line}", markup=False)


def gain(outcome: Outcome, name: str) -> Ratio:
    """Give SF under the kernel / SF placed, one per round (both share the round's solo windows); above 1 is a gain."""
    pairs = zip(outcome.measured["kernel"][name].rounds, outcome.measured["cotenant"][name].rounds, strict=True)
    return Ratio(rounds=tuple(kernel / placed for kernel, placed in pairs))


def verdict(outcome: Outcome) -> list[str]:
    """Say in plain words what the placement changed, and when it changed nothing."""
    return [*(_change(name, gain(outcome, name)) for name in KINDS), _overall(outcome), *_promise(outcome)]


def _change(name: str, found: Ratio) -> str:
    counted, than = f"{len(found.values)} of {len(found.rounds)}", "than under the kernel's own placement"
    if not found.values:
        return f"{name}: not measurable in this run"
    if len(found.values) < _LEAST_ROUNDS:
        return f"{name}: {found} times faster {than}, but only {counted} rounds measured: too few to tell"
    if min(found.values) > 1:
        return f"{name}: {found} times faster {than}, in every round measured ({counted})"
    if max(found.values) < 1:
        return f"{name}: slower {than}, {found} of its speed, in every round measured ({counted})"
    return f"{name}: no difference beyond the noise, {found}, {counted} rounds measured"


def _overall(outcome: Outcome) -> str:
    placed, kernel = outcome.measured["cotenant"], outcome.measured["kernel"]
    both = [name for name in KINDS if placed[name].values and kernel[name].values]
    if not both:
        return "geometric mean of the slowdowns: not measurable, no workload was measured under both placements"
    means = [geometric_mean([setting[name].slowdown for name in both]) for setting in (placed, kernel)]
    return (
        f"geometric mean of the slowdowns of {len(both)} of {len(KINDS)} workloads, those measured under both "
        f"placements: {means[0]:.2f} placed, {means[1]:.2f} under the kernel's own placement"
    )


def _promise(outcome: Outcome) -> list[str]:
    if math.isnan(outcome.bound_tbt_ms):
        return ["agent's promise: none was made, its time between tokens alone is unknown"]
    lines = []
    if outcome.withdrawn:
        lines.append(
            f"agent's promise was taken back so that all four could be placed; with it the daemon refused: "
            f"{outcome.withdrawn}"
        )
    for setting, title in (("cotenant", "placed"), ("kernel", "kernel's own placement")):
        middle, tail = outcome.tbt_ms.get(setting, (math.nan, math.nan))
        found = "not measurable"
        if math.isfinite(middle):
            found = f"{middle:.1f} ms, p99 {tail:.1f} ms: {'kept' if middle <= outcome.bound_tbt_ms else 'BROKEN'}"
        lines.append(
            f"agent's promise (median time between tokens at most {outcome.bound_tbt_ms:.1f} ms = {PROMISE:g} x solo), "
            f"{title}: {found}"
        )
    return lines


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Give everything as plain values; what is unknown is None."""

    def plain(ratio: Ratio) -> dict[str, Any]:
        return {"rounds": [_known(one) for one in ratio.rounds], "median": _known(ratio.slowdown)}

    return {
        "placements": {
            name: MessageToDict(one, preserving_proto_field_name=True) for name, one in outcome.placements.items()
        },
        "measured_slowdown": {
            setting: {name: plain(one) for name, one in found.items()} for setting, found in outcome.measured.items()
        },
        "gain": {name: plain(gain(outcome, name)) for name in KINDS},
        "time_between_tokens_ms": {
            setting: {"median": _known(one[0]), "p99": _known(one[1])} for setting, one in outcome.tbt_ms.items()
        },
        "promised_median_time_between_tokens_ms": _known(outcome.bound_tbt_ms),
        "refused": outcome.refused,
        "promise_taken_back_because": outcome.withdrawn or None,
        "verdict": verdict(outcome),
        "differences_after_release": outcome.differences,
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
