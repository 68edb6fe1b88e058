"""An agent on real llama.cpp: turns of prefill, decode and tool call, told through the progress hook.

    python -m benchmarks.agents [--kind simple|chain|plan] [--model PATH | --shape NAME] [--threads N]

Token ids are random and decoding is greedy: only the amount of work matters here, not the text.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine import Engine
from benchmarks.errors import BenchmarkError
from benchmarks.model_file import DEFAULT_SHAPE, SHAPES, ensure_model, named_shape
from benchmarks.stopping import Stop, positive_seconds
from profiler.progress import ProgressWriter

_KV_EVERY_TOKENS = 32
_TOOL_SLICE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The rhythm of one kind of task; draws lie within `spread` around the middle values."""

    name: str
    prompt_tokens: int  #: new tokens a turn puts into the context
    output_tokens: int
    tools_s: tuple[float, ...]  #: durations a tool call is drawn from
    tool_cpu_ratio: float  #: share of a tool call spent computing
    context_tokens: int  #: the episode ends, and the KV cache is cleared, when the next turn does not fit
    spread: float  #: 0.25 = plus and minus a quarter


# Figures from eunomia-bpf/agentcgroup: per turn of its 109 llama.cpp runs (5,644 turns, 6,527 tool calls) the median
# output is 144 tokens (75th percentile 341) and the prompt grows by 409 tokens; over all 227 runs a tool takes 0.04 s
# (10th percentile 0.01 s), a shell command, half of all calls, 2.97 s, and the container uses up to 13 % of a CPU
# (90th percentile). The model is 100 times smaller than theirs, so tokens and seconds are divided as each line says.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(  # one question, one long answer: output 75th percentile; prompt / 32; tool 10th percentile
            name="simple",
            prompt_tokens=13,
            output_tokens=341,
            tools_s=(0.01,),
            tool_cpu_ratio=0.0,
            context_tokens=512,
            spread=0.1,
        ),
        Kind(  # thought in steps, a look-up after each: output and tool medians; prompt / 8
            name="chain",
            prompt_tokens=51,
            output_tokens=144,
            tools_s=(0.04,),
            tool_cpu_ratio=0.0,
            context_tokens=1024,
            spread=0.25,
        ),
        Kind(  # every other call a shell command: output / 2; prompt / 8; tool median, shell / 4
            name="plan",
            prompt_tokens=51,
            output_tokens=72,
            tools_s=(0.04, 0.74),
            tool_cpu_ratio=0.13,
            context_tokens=1024,
            spread=0.25,
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
    new_episode: bool  #: the KV cache is cleared before it


def turns(kind: Kind, *, seed: int) -> Iterator[Turn]:
    """Yield turns without end; the same for the same seed, never more tokens than the context holds."""
    draw = random.Random(seed)  # noqa: S311 - a rhythm, not a secret
    held = 0
    new_episode = True
    while True:
        prompt, output = (
            max(1, round(middle * draw.uniform(1 - kind.spread, 1 + kind.spread)))
            for middle in (kind.prompt_tokens, kind.output_tokens)
        )
        tool_s = draw.choice(kind.tools_s) * draw.uniform(1 - kind.spread, 1 + kind.spread)
        if held + prompt + output > kind.context_tokens:
            held, new_episode = 0, True
        yield Turn(
            prompt_tokens=prompt,
            output_tokens=output,
            tool_s=tool_s,
            tool_cpu_ratio=kind.tool_cpu_ratio,
            new_episode=new_episode,
        )
        held += prompt + output
        new_episode = False


def run_agent(engine: Engine, kind: Kind, *, seed: int, stop: Stop, progress: ProgressWriter) -> None:
    """Work through turns until told to stop."""
    ids = random.Random(seed)  # noqa: S311 - any ids do
    for turn in turns(kind, seed=seed):
        if turn.new_episode:
            engine.clear()
        progress.event("turn")
        started_s = time.monotonic()
        token = engine.feed([ids.randrange(engine.vocab) for _ in range(turn.prompt_tokens)])
        progress.event("prefill", tokens=turn.prompt_tokens, seconds=time.monotonic() - started_s)
        for count in range(turn.output_tokens):
            progress.event("token")
            if count % _KV_EVERY_TOKENS == 0:
                progress.event("kv", bytes=engine.kv_bytes)
            if stop.reached():
                return
            token = engine.feed([token])
        started_s = time.monotonic()
        _call_tool(turn, stop)
        progress.event("tool", seconds=time.monotonic() - started_s)
        if stop.reached():
            return


def _call_tool(turn: Turn, stop: Stop) -> None:
    """Spend the time of a tool: compute for its share of each slice, wait for the rest."""
    data = bytes(4096)
    end_s = time.monotonic() + turn.tool_s
    while (now_s := time.monotonic()) < end_s and not stop.reached():
        slice_s = min(_TOOL_SLICE_S, end_s - now_s)
        while time.monotonic() < now_s + slice_s * turn.tool_cpu_ratio:
            hashlib.sha256(data).digest()
        stop.pause(now_s + slice_s - time.monotonic())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one agent; 0 = ended by time or signal, 2 = the model or an argument cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description="One llama.cpp agent.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, help="any GGUF file")
    source.add_argument("--shape", default=DEFAULT_SHAPE, help=f"random weights, one of {', '.join(SHAPES)}")
    parser.add_argument("--kind", choices=KINDS, default="simple")
    parser.add_argument("--threads", type=_thread_count, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=positive_seconds, default=math.inf)
    given = parser.parse_args(arguments)
    kind = KINDS[given.kind]
    stop = Stop(given.seconds)
    stop.install()  # before the model is written: a signal must not leave half a file
    try:
        model = given.model or ensure_model(named_shape(given.shape))
        engine = Engine(model, threads=given.threads, context_tokens=kind.context_tokens)
        stop.begin()
        try:
            run_agent(engine, kind, seed=given.seed, stop=stop, progress=ProgressWriter.from_environment())
        finally:
            engine.close()
    except BenchmarkError as error:
        sys.stderr.write(f"agent: {error}\n")
        return 2
    return 0


def _thread_count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 1024")
    return count


if __name__ == "__main__":
    sys.exit(main())
