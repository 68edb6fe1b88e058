"""The report of an experiment for readers who were not there: what was done, what came out, how sure it is. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.analysis import Analysis
from benchmarks.cell_effects import CellEffect
from benchmarks.cells import Side, told_term
from benchmarks.design import Design, Part
from benchmarks.drawing import SIDE_NAMES, Drawing
from benchmarks.glossary import GLOSSARY
from benchmarks.host_class import Host
from benchmarks.matrix import AGENTS, ISOLATIONS, NEIGHBOURS
from benchmarks.page import definitions, figure, grades, heading, listing, page, paragraph, table, verdict
from benchmarks.relief import SLOWED
from benchmarks.runs import Run
from benchmarks.sensitivity_scale import GRADE_ENDS_SF
from benchmarks.statistical_power import ALPHA
from benchmarks.table import Column, Table, shown
from benchmarks.verdict import Verdict

TITLE = "Ordinary work and agents on one machine: what they do to each other"
SIMULATED = "Simulated: nothing in this report was measured."

_KINDS = {Verdict.SUPPORTED: "yes", Verdict.NOT_SUPPORTED: "no", Verdict.NOT_TESTABLE: "open"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that the report tells of."""

    analysis: Analysis
    runs: Sequence[Run]
    hosts: Mapping[str, Host]  #: by instance
    design: Design  #: of this version
    drawings: Sequence[Drawing]
    tables: Mapping[str, Table]
    is_simulated: bool = False


def document(given: Material) -> str:
    """Write the report as one page of HTML."""
    sections = (
        ("short", "Questions and hypotheses, answered", _short(given)),
        ("done", "What was done", _done(given)),
        ("host", "On which host", _host(given)),
        ("runs", "Which runs there are, and why not the others", _record(given)),
        ("slowdown", "How much everybody was slowed", _slowdown(given)),
        ("factors", "What the slowdown depends on", _factors(given)),
        ("isolation", "What isolation changes", _isolation(given)),
        ("sensitivity", "What agents are sensitive to, from 1 to 5", _sensitivity(given)),
        ("burstiness", "Burstiness and sensitivity", _figures(given, "burstiness") + table(given.tables["burstiness"])),
        ("composition", "Three and four at once, from pairs", _composition(given)),
        ("prediction", "Prediction against measurement", _prediction(given)),
        ("noise", "Noise, and what the repetitions can find", _noise(given)),
        ("limits", "Limits", listing(_limits(given))),
        ("words", "Words", definitions(GLOSSARY)),
        ("numbers", "All numbers", _numbers(given)),
    )
    return page(TITLE, sections, lead=paragraph(_lead(given), "lead"), banner=SIMULATED if given.is_simulated else "")


def _lead(given: Material) -> str:
    found = given.analysis
    verdicts = Counter(str(one.verdict) for one in found.hypotheses)
    answered = sum(one.answered for one in found.questions)
    return (
        f"{_counted(found.runs, 'run')} recorded on "
        f"{_counted(len({run.instance for run in given.runs}), 'host instance')} of one class, {_span(given.runs)}; "
        f"{found.good_runs} good ones are analysed. Of {_counted(len(found.questions), 'question')} {answered} can be "
        f"answered; of {_counted(len(found.hypotheses), 'hypothesis', 'hypotheses')} "
        + ", ".join(f"{verdicts[str(one)]} {'is' if verdicts[str(one)] == 1 else 'are'} {one}" for one in Verdict)
        + "."
    )


def _short(given: Material) -> str:
    rule = (
        "A hypothesis is supported only if the whole 95 % interval of its estimate lies beyond the threshold that it "
        "names and the test against no effect is significant. What lacks measurements is not testable here; it is "
        "never “not supported”."
    )
    return "\n".join(
        (
            heading("Hypotheses"),
            paragraph(rule),
            *(
                verdict(
                    str(one.verdict), f"{one.claim}.", f"{one.reason}.", f"Rule: {one.rule}.", kind=_KINDS[one.verdict]
                )
                for one in given.analysis.hypotheses
            ),
            heading("Questions"),
            *(
                verdict(
                    "answered" if one.answered else "open",
                    one.question,
                    one.answer,
                    kind="yes" if one.answered else "open",
                )
                for one in given.analysis.questions
            ),
        )
    )


def _done(given: Material) -> str:
    windows = given.design.windows
    used = dict.fromkeys(member.workload for run in given.runs for member in run.members)
    lines = given.design.workloads
    workloads = Table(
        name="workloads",
        title="Workloads of this record, as the design of this version describes them",
        columns=(
            Column(key="workload", heading="workload"),
            Column(key="kind", heading="kind"),
            Column(key="about", heading="what it does"),
        ),
        rows=tuple(
            (name, "agent" if lines[name].is_agent else "ordinary", lines[name].about)
            if name in lines
            else (name, "?", "not in the design of this version")
            for name in sorted(used, key=lambda name: (name in lines and lines[name].is_agent, name))
        ),
    )
    return "\n".join(
        (
            paragraph(
                "Ordinary workloads and agents, all real processes, ran alone and side by side on the same machine, "
                "kept apart in different ways. Agents run on llama.cpp with a small model whose weights are random: "
                "they cost the same arithmetic and memory traffic as real ones."
            ),
            paragraph(
                "One run: every member alone, all together, every member alone again in reverse order, confined the "
                "same way throughout; who does not take part stands still. In the design of this version windows "
                f"count {windows.solo_s:g} s for ordinary work alone, {windows.solo_agents_s:g} s for agents alone, "
                f"{windows.together_s:g} s together and {windows.crowd_together_s:g} s together where "
                f"{windows.crowd_processes} or more processes share CPUs. What counts is the time for the same work "
                "together over the time alone: the slowdown factor SF. Each run carries its own comparison, so that "
                "machines and hours that differ do not mix with the effect."
            ),
            paragraph(
                "Part factorial crosses ordinary work, agents, isolation and the number of ordinary processes; part "
                "composition puts three or four workloads together; part breadth pairs many kinds of workload, for "
                "training. Every cell was repeated in blocks, each in random order."
            ),
            table(workloads),
        )
    )


def _host(given: Material) -> str:
    parts = []
    kinds = list(dict.fromkeys(host.kind for host in given.hosts.values()))
    if not kinds:
        named = ", ".join(given.analysis.hosts)
        parts.append(
            paragraph(f"The record does not describe its host (no hosts.jsonl); its class is {named}.", "missing")
        )
    parts += [
        paragraph(
            f"Class of host {kind.fingerprint}: {kind.processor}, {kind.cpus} CPUs, {', '.join(kind.caches)}, Linux "
            f"{kind.kernel_series}."
        )
        for kind in kinds
    ]
    good = Counter(dict(given.analysis.instances))
    hosts = Table(
        name="hosts",
        title="Host instances",
        columns=(
            Column(key="instance", heading="instance"),
            Column(key="kernel", heading="kernel"),
            Column(key="memory_gib", heading="memory, GiB", form="d"),
            Column(key="mechanism", heading="confined by"),
            Column(key="versions", heading="versions"),
            Column(key="good", heading="good runs", form="d"),
        ),
        rows=tuple(
            (
                host.instance,
                host.kernel,
                host.memory_gib,
                host.mechanism,
                ", ".join(f"{name} {version}" for name, version in host.versions),
                good[host.instance],
            )
            for host in given.hosts.values()
        ),
    )
    revisions = ", ".join(f"{name} ({_counted(count, 'good run')})" for name, count in given.analysis.revisions)
    told = f"Revision of the programs (“+” = with changes): {revisions or 'of no good run'}."
    return "\n".join((*parts, table(hosts), paragraph(told)))


def _record(given: Material) -> str:
    spent_h = sum(run.took_s for run in given.runs) / 3600
    return "\n".join(
        (
            paragraph(
                f"{_counted(len(given.runs), 'recorded run')}, {spent_h:.1f} h of measuring. Nothing is left out "
                "silently: what is not among the good runs is counted here with its reason."
            ),
            *(table(given.tables[name]) for name in ("coverage", "outcomes", "reasons")),
        )
    )


def _slowdown(given: Material) -> str:
    effects = given.analysis.effects
    told = [_extremes([one for one in effects if one.side is side and one.n], side) for side in Side]
    return (
        listing(one for one in told if one)
        + _figures(given, "slowdown_matrix", "distributions_", "effect_sizes", "pairs_")
        + paragraph("The table of all cells is at the end.")
    )


def _extremes(effects: Sequence[CellEffect], side: Side) -> str:
    if not effects:
        return f"{SIDE_NAMES[side].capitalize()}: no good run."
    ordered = sorted(effects, key=lambda one: one.slowdown.estimate)
    least, most = ordered[0], ordered[-1]
    tested = [one for one in effects if math.isfinite(one.t_p_holm)]
    beyond = sum(one.t_p_holm < ALPHA and one.effect.d > 0 for one in tested)
    return (
        f"{SIDE_NAMES[side].capitalize()}: the median SF is largest for {most.member} in {most.cell} "
        f"({most.slowdown.estimate:.2f}) and least for {least.member} in {least.cell} "
        f"({least.slowdown.estimate:.2f}); slowed beyond chance (Holm, {ALPHA:g}) in {beyond} of {len(tested)} "
        f"members of cells tested ({len(effects)} measured)."
    )


def _factors(given: Material) -> str:
    notes = []
    for one in given.analysis.factors:
        levels = "; ".join(f"{told_term(name)}: {', '.join(values)}" for name, values in one.levels.items())
        if one.order:
            notes.append(f"{SIDE_NAMES[one.side]}: interactions of up to {one.order} factors; {levels}")
        if one.table.reason:
            notes.append(f"{SIDE_NAMES[one.side]}: {one.table.reason}")
        if one.levene.p < ALPHA:  # NaN compares false
            notes.append(
                f"{SIDE_NAMES[one.side]}: cells differ in spread (Levene p = {one.levene.p:.2g}), so p is approximate"
            )
        if math.isfinite(one.combinations.p):
            notes.append(
                f"{SIDE_NAMES[one.side]}: the combinations of ordinary work and agents, by ranks: p = "
                f"{one.combinations.p:.2g}"
            )
    notes += dict.fromkeys(f"left out: {line}" for one in given.analysis.factors for line in one.left_out)
    return paragraph("Host instances enter as a block.") + table(given.tables["anova"]) + listing(map(_sentence, notes))


def _isolation(given: Material) -> str:
    told = (
        "Relief is the share of a slowdown that isolation takes away, told where the interval of the median SF without "
        f"isolation lies above {SLOWED}. SF compares with the same member alone under the same isolation, so what "
        "isolation itself takes away (fewer CPUs, less cache) is told by time: for the same work, with isolation over "
        "without it, in runs of one repetition; alone it is the price, together what is left of the gain."
    )
    return (
        paragraph(told)
        + table(given.tables["relief_summary"])
        + listing(map(_sentence, given.analysis.not_relieving))
        + _figures(given, "relief")
    )


def _sensitivity(given: Material) -> str:
    ends = ", ".join(f"from {end:g} on {number}" for number, end in enumerate(GRADE_ENDS_SF, 2))
    pooled = "; ".join(f"{row} = {', '.join(names)}" for row, names in AGENTS.items())
    pressures = "; ".join(f"{column} = beside {' or '.join(names)}" for column, names in NEIGHBOURS.items())
    rule = (
        f"A grade is the median, over cells, of the cell's median SF of the agent: below {GRADE_ENDS_SF[0]:g} it is "
        f"1, {ends}. Rows: {pooled}; below them every agent workload for itself. Columns: {pressures}. Under pinning "
        "the agent has CPUs of its own, and what it suffers is memory, cache and disk; under none it shares CPUs "
        "besides. A dash = not measured."
    )
    parts = [paragraph(rule)]
    for isolation in ISOLATIONS:
        entries = [one for one in given.analysis.matrix if one.isolation is isolation]
        rows = [
            (
                row,
                [
                    (
                        one.grade,
                        f"SF {one.median_slowdown:.3f}, TLS {shown(one.median_tail_sensitivity, '.2f')}"
                        if one.grade is not None
                        else "not measured",
                    )
                    for one in entries
                    if one.row == row
                ],
            )
            for row in dict.fromkeys(one.row for one in entries if one.row in AGENTS or one.cells)
        ]
        parts.append(grades(f"Sensitivity under {isolation}", list(NEIGHBOURS), rows))
    return "\n".join(parts)


def _composition(given: Material) -> str:
    found, told = given.analysis.composition, _figures(given, "composition") + table(given.tables["composition"])
    reasons = Counter(reason for one in found.left_out for reason in one.reasons)
    gaps = (f"{_counted(count, 'member')} of cells left out: {reason}." for reason, count in reasons.items())
    return paragraph(found.conclusion) + told + listing(gaps)


def _prediction(given: Material) -> str:
    (answer,) = (one.answer for one in given.analysis.questions if one.name == "prediction")
    placed = table(given.tables["placed"]) if given.analysis.placed else paragraph(given.analysis.not_placed)
    return paragraph(answer) + _figures(given, "prediction", "prediction_points") + placed


def _noise(given: Material) -> str:
    return table(given.tables["noise"]) + _figures(given, "noise") + table(given.tables["power"])


def _limits(given: Material) -> Iterable[str]:
    found = given.analysis
    yield "One class of host: the numbers hold for it, and say nothing about other processors or CPU counts."
    lacking = (*(reason for host in given.hosts.values() for reason in host.without), *found.not_relieving)
    yield from dict.fromkeys(map(_sentence, lacking))
    for part, cells, _, _, _, begun, not_here, missing in given.tables["coverage"].rows:
        lacks = (
            (begun, "have fewer good runs than planned"),
            (not_here, "cannot be measured here"),
            (missing, "have none"),
        )
        if told := [f"{count} {what}" for count, what in lacks if count]:
            yield f"Part {part}: of {cells} cells {', '.join(told)}."
    for (what, reason), count in _gaps(found.effects).items():
        yield f"{what} unknown for {_counted(count, 'member')} of cells: {reason}."
    if untold := sum(one.unknown for one in found.effects):
        yield f"{_counted(untold, 'slowdown')} of good runs unknown: nothing to count beside others, so slow ones."
    if len(found.instances) > 1:
        yield "Intervals of medians take all runs as of one host instance; the analysis of variance tells them apart."
    yield "Windows last seconds: what happens less often, such as long pauses of agents, is not seen."
    yield "Runs of one block share the hour, so they are not fully independent of each other."
    if not any(one.part is Part.BREADTH for one in found.effects):
        yield "Nothing of part breadth was measured: burstiness and cache contention rest on few workloads, or on none."


def _gaps(effects: Sequence[CellEffect]) -> Mapping[tuple[str, str], int]:
    """Count what is unknown of agents and of ordinary work, by reason; that ordinary work makes no tokens is no gap."""
    found: Counter[tuple[str, str]] = Counter()
    for one in effects:
        parts = {"Interval of SF": one.slowdown, "IF": one.interference_factor, "CIS": one.cache_interference}
        if one.side is Side.AGENT:
            parts |= {"TLS": one.tail_sensitivity, "TTFT": one.ttft_ratio, "TTLT": one.ttlt_ratio, "TBT": one.tbt_ratio}
        for name, interval in parts.items():
            is_unknown = math.isnan(interval.lower if name == "Interval of SF" else interval.estimate)
            if is_unknown and interval.reason:
                found[name, interval.reason] += 1
    return found


def _numbers(given: Material) -> str:
    names = [f"{one.name}.svg, {one.name}.png: {one.title}" for one in given.drawings if not one.missing]
    names += [f"{one.name}.csv: {one.title}" for one in given.tables.values()]
    return "\n".join(
        (
            table(given.tables["answers"]),
            table(given.tables["relief"], is_small=True),
            table(given.tables["cells"], is_small=True),
            heading("Files beside this page"),
            listing(names),
            paragraph(f"Seed of all resampling: {given.analysis.seed}. The same runs give the same report."),
        )
    )


def _figures(given: Material, *names: str) -> str:
    """Give the figures of these names, or whose names begin so where the name ends in "_"."""
    return "\n".join(
        figure(one)
        for name in names
        for one in given.drawings
        if one.name == name or (name.endswith("_") and one.name.startswith(name))
    )


def _span(runs: Sequence[Run]) -> str:
    starts = [run.started_unix_s for run in runs]
    first, last = datetime.fromtimestamp(min(starts), UTC), datetime.fromtimestamp(max(starts), UTC)
    return f"from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def _sentence(told: str) -> str:
    return f"{told[:1].upper()}{told[1:]}."


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
