"""Agents on real llama.cpp: turns of prefill, decode and tool call, told through the progress hook.

    python -m benchmarks.agents [--agents 1|2|4] [--kind simple|chain|plan] [--model PATH | --shape NAME] [--threads N]
    python -m benchmarks.agents --agents 4 --kind plan --coordination 3      prints what working together costs

Token ids are random and decoding is greedy: only the amount of work matters here, not the text.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine import Engine
from benchmarks.errors import BenchmarkError
from benchmarks.model_file import DEFAULT_SHAPE, SHAPES, ensure_model, named_shape
from benchmarks.rhythm import KINDS, turns
from benchmarks.stopping import Stop, positive_seconds
from benchmarks.team import Team, coordination
from profiler.progress import ProgressWriter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run agents; 0 = ended by time or signal, 2 = the model or an argument cannot be used."""
    given = _arguments(arguments)
    kind = KINDS[given.kind]
    stop = Stop(given.seconds)
    stop.install()  # before the model is written: a signal must not leave half a file
    progress = ProgressWriter.from_environment()
    try:
        model = given.model or ensure_model(named_shape(given.shape))
        engine = Engine(
            model,
            threads=given.threads,
            context_tokens=kind.context_tokens,
            agents=given.agents,
            prefix_tokens=kind.prefix_tokens,
        )
        try:
            if given.coordination is not None:
                _print_coordination(engine, given, stop, progress)
            else:
                _work(engine, given, stop, progress)
        finally:
            engine.close()
    except BenchmarkError as error:
        sys.stderr.write(f"agent: {error}\n")
        return 2
    return 0


def _work(engine: Engine, given: argparse.Namespace, stop: Stop, progress: ProgressWriter) -> None:
    """Run turns until told to end; whenever told to stand still, begin with the first one again."""
    kind = KINDS[given.kind]
    if given.replay:
        stop.install_parking()
    is_first = True
    while is_first or stop.park():
        scripts = [turns(kind, seed=given.seed, agent=one, agents=given.agents) for one in range(given.agents)]
        team = Team(engine, kind, scripts, seed=given.seed, stop=stop, progress=progress)
        if is_first:
            stop.begin()
            is_first = False
        team.run()


def _print_coordination(engine: Engine, given: argparse.Namespace, stop: Stop, progress: ProgressWriter) -> None:
    stop.begin()
    found = coordination(
        engine,
        KINDS[given.kind],
        agents=given.agents,
        rounds=given.coordination,
        seed=given.seed,
        stop=stop,
        progress=progress,
    )
    if found is None:
        sys.stderr.write("agent: stopped before all runs were over: no coordination overhead\n")
        return
    record = {"kind": given.kind, "agents": found.agents, "turns": found.turns, "team_s": found.team_s}
    record |= {"alone_s": found.alone_s, "coordination_overhead_ratio": found.overhead_ratio}
    sys.stdout.write(json.dumps(record) + "\n")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description="llama.cpp agents.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, help="any GGUF file")
    source.add_argument("--shape", default=DEFAULT_SHAPE, help=f"random weights, one of {', '.join(SHAPES)}")
    parser.add_argument("--agents", type=int, choices=(1, 2, 4), default=1, help="that work together on one engine")
    parser.add_argument("--kind", choices=KINDS, default="simple")
    parser.add_argument("--threads", type=_whole_number, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=positive_seconds, default=math.inf)
    parser.add_argument("--replay", action="store_true", help="at SIGTSTP stand still; when continued, begin again")
    parser.add_argument(
        "--coordination",
        type=_whole_number,
        metavar="TURNS",
        help="so many turns by each agent, and the same turns by one alone; prints both times as JSON",
    )
    return parser.parse_args(arguments)


def _whole_number(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return count


if __name__ == "__main__":
    sys.exit(main())
