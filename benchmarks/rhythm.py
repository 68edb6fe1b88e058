"""The rhythm of agents: how long they read, write and wait, drawn from real agent runs. Pure.

Figures: eunomia-bpf/agentcgroup (GPL-2.0), its 111 runs of a coding agent on llama.cpp (GLM-4.7-Flash, Q4_K_M): 5,641
turns with 6,473 tool calls, of which 3,264 (50 %) are shell commands. All 227 runs: 70,245 one-second samples of the
CPU that a container used, 7 % of one CPU at the median, 13 % at the third quartile, 26 % at the 90th percentile.

Scaling: a median turn there takes 3.7 s and a shell command 6.6 s, so a window of ten seconds would see one of each.
Here seconds and tokens are divided by TIME_FACTOR. One thread of a server core makes a token of the default model in 12
to 20 ms and reads one in 3 to 5 ms, so a turn takes about half a second and a window of ten seconds sees ten or more.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TIME_FACTOR = 8
PREFIX_FACTOR = 64  # of the shared prefix alone: it is read once, before anything is measured

#: The runs' first prompt (instructions and tools, the same for all of them): median, in tokens.
_FIRST_PROMPT_TOKENS = 13_385

_SHARES = (0.10, 0.25, 0.50, 0.75, 0.90)
_OUTPUT_TOKENS = (53.0, 72.0, 144.0, 341.0, 601.0)  # of 5,641 turns
_ANSWER_TOKENS = (54.0, 214.0, 423.0, 590.0, 736.0)  # of the last turn of each run
_PROMPT_TOKENS = (44.0, 126.0, 305.0, 677.0, 1472.0)  # growth beyond the answer before it, 4,123 turns where it grew
_SHELL_S = (0.022, 0.052, 6.616, 8.702, 10.791)  # of 3,264 shell commands
_LOOK_UP_S = (0.011, 0.013, 0.019, 0.030, 0.045)  # of 3,209 other tool calls: read, edit, search
_SHELL_RATIO = 0.50
_TOOL_CPU_RATIO = 0.13  # third quartile: while a tool runs, it is what uses the CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Values at rising shares of a sample; between them they are interpolated in the logarithm, beyond them unknown."""

    shares: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, share: float) -> float:
        """Give the value that this share of the sample stays below; the outer shares stand for what lies beyond."""
        share = min(max(share, self.shares[0]), self.shares[-1])
        after = min(max(1, bisect_right(self.shares, share)), len(self.shares) - 1)
        low, high = self.shares[after - 1 : after + 1]
        least, most = (math.log(one) for one in self.values[after - 1 : after + 1])
        return math.exp(least + (most - least) * (share - low) / (high - low))


def _scaled(values: tuple[float, ...]) -> Distribution:
    return Distribution(shares=_SHARES, values=tuple(one / TIME_FACTOR for one in values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The rhythm of one kind of task."""

    name: str
    prompt_tokens: Distribution  #: new tokens that a turn puts into the context
    output_tokens: Distribution
    look_up_s: Distribution
    shell_s: Distribution
    shell_ratio: float  #: share of the tool calls that are shell commands
    tool_cpu_ratio: float  #: share of a shell command spent computing
    draws: tuple[float, float]  #: the part of each distribution that is drawn from
    prefix_tokens: int  #: instructions that all agents and episodes share; read once
    context_tokens: int  #: of an episode, without the prefix; the next turn that does not fit begins a new one
    message_tokens: int  #: of its answer that an agent passes on to each of the others
    waits: bool  #: whether agents wait for each other after every turn, or read what came meanwhile


_PREFIX_TOKENS = round(_FIRST_PROMPT_TOKENS / PREFIX_FACTOR)

#: Outside 10 to 90 % the recorded tails (a shell command of 308 s, an answer of 8,977 tokens) would fill whole windows.
_MOST = (0.10, 0.90)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(  # question and answer: tokens of the final answers as they are, the smallest prompts, no shell
            name="simple",
            prompt_tokens=Distribution(shares=(0.0, 1.0), values=(5.0, 8.0)),  # growth at 1 % (39) and 5 % (66), / 8
            output_tokens=Distribution(shares=_SHARES, values=_ANSWER_TOKENS),
            look_up_s=_scaled(_LOOK_UP_S),
            shell_s=_scaled(_SHELL_S),
            shell_ratio=0.0,
            tool_cpu_ratio=0.0,
            draws=(0.25, 0.75),
            prefix_tokens=_PREFIX_TOKENS,
            context_tokens=640,
            message_tokens=1,  # a vote
            waits=False,
        ),
        Kind(  # thought in steps, a look-up after each
            name="chain",
            prompt_tokens=_scaled(_PROMPT_TOKENS),
            output_tokens=_scaled(_OUTPUT_TOKENS),
            look_up_s=_scaled(_LOOK_UP_S),
            shell_s=_scaled(_SHELL_S),
            shell_ratio=0.0,
            tool_cpu_ratio=0.0,
            draws=_MOST,
            prefix_tokens=_PREFIX_TOKENS,
            context_tokens=1024,
            message_tokens=8,
            waits=True,
        ),
        Kind(  # plan and act: half of the tool calls are shell commands
            name="plan",
            prompt_tokens=_scaled(_PROMPT_TOKENS),
            output_tokens=_scaled(_OUTPUT_TOKENS),
            look_up_s=_scaled(_LOOK_UP_S),
            shell_s=_scaled(_SHELL_S),
            shell_ratio=_SHELL_RATIO,
            tool_cpu_ratio=_TOOL_CPU_RATIO,
            draws=_MOST,
            prefix_tokens=_PREFIX_TOKENS,
            context_tokens=1024,
            message_tokens=16,
            waits=True,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn: read the prompt, answer, call a tool."""

    prompt_tokens: int
    output_tokens: int
    tool_s: float
    tool_cpu_ratio: float
    new_episode: bool  #: all but the shared prefix is forgotten before it


def turns(kind: Kind, *, seed: int, agent: int = 0, agents: int = 1) -> Iterator[Turn]:
    """Yield turns without end; the same for the same seed, never more tokens than an episode's context holds.

    Room is left for the messages of `agents` - 1 others in every prompt.
    """
    draw = random.Random(f"{seed}/{agent}")  # noqa: S311 - a rhythm, not a secret
    prompts, outputs, tools, seconds = (_evenly(draw.random(), step) for step in _STEPS)
    low, high = kind.draws
    held = 0
    new_episode = True
    while True:
        prompt, output = (
            max(1, round(sample.at(low + (high - low) * next(shares))))
            for sample, shares in ((kind.prompt_tokens, prompts), (kind.output_tokens, outputs))
        )
        is_shell = next(tools) < kind.shell_ratio
        tool_s = (kind.shell_s if is_shell else kind.look_up_s).at(low + (high - low) * next(seconds))
        read = prompt + (agents - 1) * kind.message_tokens
        if held + read + output > kind.context_tokens:
            held, new_episode = 0, True
        yield Turn(
            prompt_tokens=prompt,
            output_tokens=output,
            tool_s=tool_s,
            tool_cpu_ratio=kind.tool_cpu_ratio if is_shell else 0.0,
            new_episode=new_episode,
        )
        held += read + output
        new_episode = False


def by_one_agent(kind: Kind, scripts: Sequence[Sequence[Turn]]) -> list[Turn]:
    """Give the same turns for a single agent, one after the other, round by round; it needs no messages."""
    told: list[Turn] = []
    held = 0
    for turn in (one for step in itertools.zip_longest(*scripts) for one in step if one is not None):
        tokens = turn.prompt_tokens + turn.output_tokens
        new_episode = not told or held + tokens > kind.context_tokens
        held = tokens if new_episode else held + tokens
        told.append(dataclasses.replace(turn, new_episode=new_episode))
    return told


#: Fractions of irrational numbers: their multiples, modulo 1, cover 0 to 1 evenly after a few draws already, so that
#: two windows of ten turns are alike, which independent draws from such wide distributions would not be.
_STEPS = tuple(math.modf(math.sqrt(number))[0] for number in (2, 3, 5, 7))


def _evenly(start: float, step: float) -> Iterator[float]:
    while True:
        yield start
        start = (start + step) % 1.0
