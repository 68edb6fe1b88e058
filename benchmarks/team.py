"""One to four agents on one engine: what is ready is decoded in one batch, as a server with slots does it.

Each agent reads its prompt, writes, calls a tool. They cooperate by messages: the end of an agent's answer goes into
the next prompt of every other. Where the kind says so they wait for each other after every turn, else they read what
came meanwhile. Tools run in threads of their own, beside the decoding of the others.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from benchmarks.engine import BATCH_TOKENS, Engine
from benchmarks.rhythm import Kind, Turn, by_one_agent, turns
from benchmarks.stopping import Stop
from profiler.progress import ProgressWriter

_KV_EVERY_TOKENS = 32
_TOOL_SLICE_S = 0.05
_BESIDE_TOKENS = 16  # of a prompt in a batch in which others write: reading it at once would stall them for its length


class Phase(Enum):
    """What an agent does."""

    READING = auto()
    WRITING = auto()
    TOOL = auto()
    WAITING = auto()  #: for the others
    DONE = auto()


@dataclass(slots=True, kw_only=True)
class _Agent:
    number: int
    script: Iterator[Turn]
    ids: random.Random
    phase: Phase = Phase.WAITING
    turn: Turn | None = None
    unread: list[int] = field(default_factory=list)  # ids of the prompt that are not in the cache yet
    mail: list[int] = field(default_factory=list)  # ids from the others for the next prompt
    written: list[int] = field(default_factory=list)
    fed: int = 0  # of written, how many are in the cache
    reading_s: float = 0.0  # when the prompt was begun
    prompt_tokens: int = 0
    tool: Future[float] | None = None


class Team:
    """Works through the turns of its agents until they are over or it is told to stop."""

    def __init__(
        self,
        engine: Engine,
        kind: Kind,
        scripts: Sequence[Iterable[Turn]],
        *,
        seed: int,
        stop: Stop,
        progress: ProgressWriter,
    ) -> None:
        """Give each agent its turns; reads the shared prefix unless the engine holds it already."""
        self._engine = engine
        self._kind = kind
        self._stop = stop
        self._progress = progress
        self._agents = [
            _Agent(number=number, script=iter(script), ids=random.Random(f"{seed}/{number}"))  # noqa: S311 - any ids do
            for number, script in enumerate(scripts)
        ]
        prefix = random.Random(seed)  # noqa: S311 - any ids do
        engine.share([prefix.randrange(engine.vocab) for _ in range(kind.prefix_tokens)])

    def run(self) -> float:
        """Work; give the seconds it took."""
        started_s = time.monotonic()
        with ThreadPoolExecutor(len(self._agents), thread_name_prefix="tool") as tools:
            while not self._stop.reached() and any(agent.phase is not Phase.DONE for agent in self._agents):
                self._end_tools()
                self._begin_turns()
                parts = self._batch()
                if parts:
                    tokens = self._engine.step([(agent.number, ids) for agent, ids in parts])
                    for (agent, ids), token in zip(parts, tokens, strict=True):
                        self._advance(agent, len(ids), token, tools)
                else:
                    running = [agent.tool for agent in self._agents if agent.tool is not None]
                    wait(running, timeout=_TOOL_SLICE_S, return_when=FIRST_COMPLETED)
        return time.monotonic() - started_s

    def _end_tools(self) -> None:
        for agent in self._agents:
            if agent.tool is not None and agent.tool.done():
                self._event(agent, "tool", seconds=agent.tool.result())
                agent.tool = None
                agent.phase = Phase.WAITING

    def _begin_turns(self) -> None:
        """Let those go on who wait for nobody; all at once where agents wait for each other."""
        busy = any(agent.phase not in (Phase.WAITING, Phase.DONE) for agent in self._agents)
        if self._kind.waits and busy:
            return
        for agent in self._agents:
            if agent.phase is Phase.WAITING:
                self._begin_turn(agent)

    def _begin_turn(self, agent: _Agent) -> None:
        agent.turn = next(agent.script, None)
        if agent.turn is None:
            agent.phase = Phase.DONE
            return
        if agent.turn.new_episode:
            self._engine.begin(agent.number)
        asked = [agent.ids.randrange(self._engine.vocab) for _ in range(agent.turn.prompt_tokens)]
        agent.unread = agent.mail + asked
        agent.prompt_tokens = len(agent.unread)
        agent.mail, agent.written, agent.fed = [], [], 0
        agent.phase = Phase.READING
        agent.reading_s = time.monotonic()
        self._event(agent, "turn")

    def _batch(self) -> list[tuple[_Agent, list[int]]]:
        """Give one token of each that writes, and as much of the prompts as fits."""
        parts = [(agent, [agent.written[-1]]) for agent in self._agents if agent.phase is Phase.WRITING]
        left = min(BATCH_TOKENS - len(parts), _BESIDE_TOKENS) if parts else BATCH_TOKENS
        for agent in self._agents:
            if agent.phase is Phase.READING and left:
                parts.append((agent, agent.unread[:left]))
                left -= len(parts[-1][1])
        return parts

    def _advance(self, agent: _Agent, fed: int, token: int, tools: ThreadPoolExecutor) -> None:
        """Take in what one agent's part of a batch gave."""
        if agent.phase is Phase.READING:
            del agent.unread[:fed]
            if agent.unread:
                return
            self._event(agent, "prefill", tokens=agent.prompt_tokens, seconds=time.monotonic() - agent.reading_s)
            agent.phase = Phase.WRITING
        else:
            agent.fed += 1
        if agent.turn is not None and agent.fed == agent.turn.output_tokens:
            self._send(agent)
            agent.tool = tools.submit(call_tool, agent.turn, self._stop)
            agent.phase = Phase.TOOL
            return
        agent.written.append(token)
        self._event(agent, "token")
        if agent.fed % _KV_EVERY_TOKENS == 0:
            self._event(agent, "kv", bytes=self._engine.kv_bytes)

    def _send(self, agent: _Agent) -> None:
        """Pass the end of an answer on; of two from the same agent the newer is read."""
        words = agent.written[-self._kind.message_tokens :]
        most = (len(self._agents) - 1) * self._kind.message_tokens
        for other in self._agents:
            if other is not agent:
                other.mail = (other.mail + words)[-most:]

    def _event(self, agent: _Agent, kind: str, **values: float) -> None:
        self._progress.event(kind, stream=agent.number, **values)


def call_tool(turn: Turn, stop: Stop) -> float:
    """Spend the time of a tool: compute for its share of each slice, wait for the rest; give the seconds."""
    data = bytes(4096)
    started_s = time.monotonic()
    end_s = started_s + turn.tool_s
    while (now_s := time.monotonic()) < end_s and not stop.reached():
        slice_s = min(_TOOL_SLICE_S, end_s - now_s)
        while time.monotonic() < now_s + slice_s * turn.tool_cpu_ratio:
            hashlib.sha256(data).digest()  # lets go of the interpreter lock, as another program would
        stop.pause(now_s + slice_s - time.monotonic())
    return time.monotonic() - started_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordination:
    """The same steps done by a team and by one agent."""

    agents: int
    turns: int
    team_s: float
    alone_s: float  #: mean of one run before the team's and one after it, so that a drift of the host cancels

    @property
    def overhead_ratio(self) -> float:
        """Wall time of the team / that of one agent - 1: below 0 where batching and waiting at the same time win."""
        return self.team_s / self.alone_s - 1


def coordination(
    engine: Engine, kind: Kind, *, agents: int, rounds: int, seed: int, stop: Stop, progress: ProgressWriter
) -> Coordination | None:
    """Measure a team of `agents` over so many turns each, and one agent over the same; None if stopped before."""
    scripts = [list(islice(turns(kind, seed=seed, agent=number, agents=agents), rounds)) for number in range(agents)]
    alone = [by_one_agent(kind, scripts)]
    before_s, team_s, after_s = (
        Team(engine, kind, steps, seed=seed, stop=stop, progress=progress).run() for steps in (alone, scripts, alone)
    )
    if stop.reached():
        return None
    return Coordination(agents=agents, turns=agents * rounds, team_s=team_s, alone_s=(before_s + after_s) / 2)
