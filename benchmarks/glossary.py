"""The words of the report, for readers who were not there."""

from __future__ import annotations

_TEXT = """
agent
    A program that works in turns: it reads a prompt with a language model (prefill), writes an answer token by
    token (decode), calls a tool, and begins again. Here the model runs on the CPU.

ordinary work, traditional workload
    What servers run besides: computation, memory traffic, files. No tokens.

member
    One workload of a run. "memory:4" is four processes of the workload "memory", taken together.

cell
    What is run side by side, and how it is kept apart: part/members/isolation, as in
    "factorial/memory:4+multi-2/pinning".

run, repetition
    One measurement of one cell: each member alone, all together, each alone again. A cell is repeated to tell
    its effect from chance.

block
    One repetition of every cell, in random order, so that whatever changes from hour to hour meets all cells.

good run
    A run with outcome "ok". Of a cell and repetition the first one counts. A disturbed run was measured while
    the host was not quiet; a failed one lost a member; what is not applicable cannot be done on this host.

isolation
    What is done to keep members apart. none: nothing, the kernel balances. pinning: CPUs of their own. cat:
    ways of the last-level cache of their own (Cache Allocation Technology). combined: both. stacked: the
    opposite, all on one CPU.

concurrency
    How many processes of the ordinary workload run: 1, 4 or 16.

SF, slowdown factor
    Time for the same work together / alone, "alone" being the mean of the windows before and after. 1 = not
    slowed, 2 = takes twice as long. For agents: time until the n-th token of the same turns.

slowdown
    SF - 1: 0.5 = takes half as long again.

relief
    The share of a slowdown that an isolation takes away: 1 - (SF with - 1) / (SF without - 1), of medians. 100
    % = all of it, 0 % = nothing, below 0 = it made matters worse. What the isolation itself costs is not in it.

time, with / without
    For the same work under an isolation over the same under none, in runs of one repetition. Alone it is the
    price of the isolation (fewer CPUs, less cache); together what it gains (below 1) or loses in all.

composition, rule
    How slowdowns beside one neighbour at a time make the slowdown beside all of them. Sum of excesses: 1 + the
    sum of SF - 1 over the neighbours, which is the scheduler's rule; product: of the SF; largest: of the SF. An
    SF below 1 makes up for no other. Error: |composed / measured - 1|; bias: the same with its sign, below 0 =
    composed too low.

IF, interference factor
    (IPC alone - IPC together) / IPC alone; IPC = instructions per clock cycle of the CPU.

CIS, cache interference
    Misses of the last-level cache per unit of work, together / alone - 1.

TLS, tail-latency sensitivity
    (P99 together - P99 alone) / P99 alone of the time between tokens; P99 = 99th percentile. 1 = the slowest
    hundredth of tokens takes twice as long. Of few tokens P99 is nearly the slowest, and windows together are
    longer than those alone: it tells of tails, not of the same work as SF does.

TTFT
    Time to the first token of a turn; in tables as the ratio together / alone.

TBT
    Time between two tokens that follow each other, median of a window; in tables as the ratio together / alone.

TTLT
    Time to the last token of a turn: the whole answer; in tables as the ratio together / alone. TTFT and TTLT
    are medians of the turns that each window saw, which are not the same turns; only SF compares the same work.

burstiness index
    Spread of the time between tokens of one stream over its mean, sigma / mu, pauses included; the mean over
    the windows alone. 0 = like clockwork, 1 = like chance, more = in bursts.

95 % interval
    Where the true value lies, by a procedure that is right in 95 of 100 cases. Medians by resampling the runs
    (bootstrap); fewer than six runs give none.

d, d_z (Cohen)
    Size of a difference in units of its spread. d: between two groups of runs. d_z: of repetitions of one cell
    against no slowdown. 0.2 is small, 0.5 medium, 0.8 large. Both are of log SF.

p, Holm
    How often chance alone would show at least such a difference. With many tests some are small by chance;
    Holm's correction makes up for it. Below 0.05 is called beyond chance.

t test, Wilcoxon, Welch
    Tests of a difference: by the mean of pairs, by ranks of pairs, and by means of two groups with spreads of
    their own.

ANOVA, partial eta², omega²
    Analysis of variance: which factors, and which of their combinations (written a:b), move log SF. Partial
    eta²: share of what a factor and the noise make up; omega²: its share of all variance, without bias.

power
    Probability that an effect of a given size is found, by one test alone at alpha 0.05; Holm's correction
    makes it less.

noise
    In the table of cells: robust coefficient of variation between repetitions, 1.4826 x median distance from
    the median / median.

steal
    CPU time that the hypervisor gave to other virtual machines.

drift alone
    Factor between the two windows in which a member ran alone, before and after; it should be 1.

host instance
    One machine since it was started.

held out
    A prediction for a workload none of whose measurements the model was trained on.

r (Pearson), rho (Spearman)
    Correlation from -1 to 1, of values or of ranks.

?
    Unknown: not measured, or too few runs. The CSV files hold the reason beside it.
"""


def _entry(block: str) -> tuple[str, str]:
    word, meaning = block.split("\n", 1)
    return word, " ".join(meaning.split())


#: word and what it means, in the order in which one needs the other
GLOSSARY = tuple(_entry(block) for block in _TEXT.strip().split("\n\n"))
