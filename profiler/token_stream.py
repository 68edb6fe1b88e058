"""Measures any OpenAI-compatible endpoint as its client: asks, reads the stream, writes progress events.

    python -m profiler.token_stream http://127.0.0.1:8080 [--turns N] [--output-tokens N] [--prompt TEXT]

Speaks /v1/completions and /v1/chat/completions with server-sent events, as llama-server, vLLM and llama_cpp.server do.
Times are those of the client: network and queue are part of them. A chunk is one token unless the server says, beside
each chunk, how many tokens it has made so far (`timings.predicted_n` or `usage.completion_tokens`); what it says at the
end of a turn is written as a "usage" event, and profiler/tokens.py lets the turn's chunks share those tokens.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from profiler.errors import ProfilerError, RecordInvalid, WorkloadFailed
from profiler.metric import web_address
from profiler.progress import ENVIRONMENT, MOST_TOKENS_AT_ONCE, ProgressLog, ProgressWriter
from profiler.tokens import token_features

_LINE_LIMIT_BYTES = 1 << 20
_QUOTE_CHARACTERS = 200
_END = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One turn as its client saw it."""

    tokens: float  #: as counted by the server where it says so, else chunks
    chunks: int
    counted_by_server: bool  #: False: every chunk was taken for one token
    ttft_s: float
    ttlt_s: float
    whole: bool  #: False: we stopped listening


class CompletionEndpoint:
    """One server; every `ask` is a request of its own."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "default",
        timeout_s: float = 60.0,
        kv_token_bytes: float | None = None,
        key: str | None = None,
    ) -> None:
        """Take the server's address, with or without the path; raises RecordInvalid if it is none.

        timeout_s bounds every single wait for bytes; kv_token_bytes = 2 * layers * kv_heads * head_dim * bytes per
        element of the model served, None = the KV cache stays unknown; key = bearer token.
        """
        self._parts = _address(url)
        self._url = url
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise RecordInvalid(f"timeout {timeout_s} s must be finite and above 0")
        self._model = model
        self._timeout_s = timeout_s
        self._kv_token_bytes = kv_token_bytes
        self._key = key

    def ask(
        self,
        prompt: str,
        *,
        output_tokens: int,
        progress: ProgressWriter,
        stream: int = 0,
        stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Send one prompt and write its events as they happen; `stop` is asked after every chunk.

        Raises WorkloadFailed if the server is down, slow, refuses, does not stream, breaks off, or makes no token.
        """
        turn = _Turn(progress, stream)
        secure = self._parts.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        with closing(connect(str(self._parts.hostname), self._parts.port, timeout=self._timeout_s)) as connection:
            try:
                connection.request("POST", self._parts.path, self._body(prompt, output_tokens), self._headers())
                with connection.getresponse() as response:
                    self._require_stream(response)
                    whole = self._listen(response, turn, stop)
            except TimeoutError as error:
                raise WorkloadFailed(
                    f"{self._url!r} sent nothing for {self._timeout_s:g} s after {turn.chunks} tokens: look at the "
                    "server's log, or allow more time"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                raise WorkloadFailed(
                    f"{self._url!r} failed after {turn.chunks} tokens: {reason}; is the server running, and its "
                    "address right?"
                ) from error
        answer = turn.end(whole=whole, kv_token_bytes=self._kv_token_bytes)
        if not answer.chunks and whole:
            raise WorkloadFailed(f"{self._url!r} answered without a single token: give another prompt")
        return answer

    def _body(self, prompt: str, output_tokens: int) -> bytes:
        chat = self._parts.path.endswith("/chat/completions")
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        options = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
        return json.dumps({"model": self._model, **asked, "max_tokens": output_tokens, **options}).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return headers if self._key is None else {**headers, "Authorization": f"Bearer {self._key}"}

    def _require_stream(self, response: http.client.HTTPResponse) -> None:
        kind = response.headers.get_content_type()
        if response.status == http.HTTPStatus.OK and kind == "text/event-stream":
            return
        words = _quoted(response.read(4 * _QUOTE_CHARACTERS).decode(errors="replace"))
        if response.status != http.HTTPStatus.OK:
            raise WorkloadFailed(f"{self._url!r} answered {response.status} {response.reason}: {words}")
        raise WorkloadFailed(
            f"{self._url!r} answered with {kind!r} instead of a stream (text/event-stream): {words}; only endpoints "
            "that take stream=true can be measured"
        )

    def _listen(self, response: http.client.HTTPResponse, turn: _Turn, stop: Callable[[], bool]) -> bool:
        """Take in the stream; tell whether it was heard to its end."""
        for text in _payloads(response):
            if text == _END:
                return True
            turn.take(self._chunk(text))
            if stop():
                return False
        if turn.finished:  # a few servers leave [DONE] out
            return True
        raise WorkloadFailed(
            f"{self._url!r} broke off after {turn.chunks} tokens, without a finish_reason: look at the server's log"
        )

    def _chunk(self, text: str) -> dict[str, Any]:
        try:
            chunk = json.loads(text)
        except ValueError as error:
            raise WorkloadFailed(f"{self._url!r} sent a chunk that is no JSON ({error}): {_quoted(text)}") from error
        if not isinstance(chunk, dict):
            raise WorkloadFailed(f"{self._url!r} sent a chunk that is no JSON object: {_quoted(text)}")
        if "error" in chunk:
            raise WorkloadFailed(f"{self._url!r} reported an error: {_quoted(json.dumps(chunk['error']))}")
        return chunk


class _Turn:
    """One request: counts tokens and writes events as chunks arrive."""

    def __init__(self, progress: ProgressWriter, stream: int) -> None:
        self._progress = progress
        self._stream = stream
        self._counted = 0.0
        self._told: float | None = None  # tokens made so far, in the server's own count
        self._prompt: float | None = None
        self._cached = 0.0  # tokens of the prompt that the server kept from earlier turns
        self._prefill: tuple[float, float] | None = None  # tokens and seconds, in the server's own count
        self.chunks = 0
        self.finished = False
        self._start_s = time.monotonic()
        self._first_s = self._last_s = math.nan
        progress.event("turn", stream=stream)

    def take(self, chunk: dict[str, Any]) -> None:
        """Count a chunk; roles, pings and usage alone are no tokens."""
        now_s = time.monotonic()
        made = self._numbers(chunk)
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.finished = self.finished or choice.get("finish_reason") is not None
        if not _says_something(choice):
            return
        came = min(made - self._counted, MOST_TOKENS_AT_ONCE) if made is not None and made > self._counted else 1.0
        self._counted += came
        self.chunks += 1
        if self.chunks == 1:
            self._first_s = now_s
        self._last_s = now_s
        several = {"tokens": came} if came != 1 else {}
        self._progress.event("token", stream=self._stream, **several)

    def end(self, *, whole: bool, kv_token_bytes: float | None) -> Answer:
        """Write what is known only now: the server's count, the prefill and the KV cache."""
        by_server = self._told is not None and whole
        tokens = self._told if self._told is not None and whole else self._counted
        if by_server:
            self._progress.event("usage", stream=self._stream, tokens=tokens)
        prefill = self._prefill
        if prefill is None and self._prompt and self.chunks:
            # queue and network are in these seconds
            prefill = (max(0.0, self._prompt - self._cached), self._first_s - self._start_s)
        if prefill is not None:
            self._progress.event("prefill", stream=self._stream, tokens=prefill[0], seconds=prefill[1])
        if kv_token_bytes is not None and self._prompt is not None:
            self._progress.event("kv", stream=self._stream, bytes=kv_token_bytes * (self._prompt + tokens))
        return Answer(
            tokens=tokens,
            chunks=self.chunks,
            counted_by_server=by_server,
            ttft_s=self._first_s - self._start_s,
            ttlt_s=self._last_s - self._start_s,
            whole=whole,
        )

    def _numbers(self, chunk: dict[str, Any]) -> float | None:
        """Remember what the server counts; give tokens made so far if this chunk says."""
        usage, timings = (one if isinstance(one := chunk.get(name), dict) else {} for name in ("usage", "timings"))
        made = _number(usage.get("completion_tokens"))
        if made is None:
            made = _number(timings.get("predicted_n"))
        if made is not None:
            self._told = made
        evaluated, took_ms = _number(timings.get("prompt_n")), _number(timings.get("prompt_ms"))
        if evaluated and took_ms:
            self._prefill = (evaluated, took_ms / 1e3)
        prompt = _number(usage.get("prompt_tokens"))
        if prompt is None and evaluated is not None:
            prompt = evaluated + (_number(timings.get("cache_n")) or 0.0)
        if prompt is not None:
            self._prompt = prompt
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            self._cached = _number(details.get("cached_tokens")) or 0.0
        return made


def _address(url: str) -> SplitResult:
    """Complete the path of an address: nothing and /v1 mean /v1/completions."""
    parts = web_address(url)
    if parts is None:
        raise RecordInvalid(f"{url!r} is no address of a server, such as http://127.0.0.1:8080/v1/completions")
    path = parts.path.rstrip("/")
    if not path.endswith("/completions"):
        path += "/completions" if path.endswith("/v1") else "/v1/completions"
    return parts._replace(path=path)


def _payloads(response: http.client.HTTPResponse) -> Iterator[str]:
    """Yield the data of each server-sent event; comments, other fields and an unfinished last event are left out."""
    lines: list[str] = []
    while line := response.readline(_LINE_LIMIT_BYTES):
        if len(line) >= _LINE_LIMIT_BYTES:  # in a chunked body readline may give more than the limit
            raise WorkloadFailed(f"the stream holds a line of {_LINE_LIMIT_BYTES} bytes or more: {_quoted(str(line))}")
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.startswith("data:"):
            lines.append(text[len("data:") :].removeprefix(" "))
        elif not text and lines:
            yield "\n".join(lines)
            lines = []


def _says_something(choice: dict[str, Any]) -> bool:
    """Tell whether a chunk holds text, thought or a tool call; the first chunk of a chat holds but a role."""
    delta = choice.get("delta")
    said = delta if isinstance(delta, dict) else {}
    return bool(choice.get("text") or any(said.get(key) for key in ("content", "reasoning_content", "tool_calls")))


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _quoted(text: str) -> str:
    printable = "".join(one if one.isprintable() else "?" for one in text.strip())
    return repr(printable[:_QUOTE_CHARACTERS])


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask a few times and print what the client saw; 0 = measured, 2 = the endpoint or an argument cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m profiler.token_stream", description="Measure a token stream.")
    parser.add_argument("url", help="http://HOST:PORT, /v1/completions unless another path is given")
    parser.add_argument("--model", default="default", help="name the server knows its model by")
    parser.add_argument("--prompt", default="Explain in detail how a computer works.")
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the next bytes")
    given = parser.parse_args(arguments)
    told = os.environ.get(ENVIRONMENT)
    # whoever names a file also ends us by a signal, after which a folder would stay
    with nullcontext("") if told else tempfile.TemporaryDirectory(prefix="cotenant-") as folder:
        path = Path(told or Path(folder) / "progress")
        progress = ProgressWriter(str(path))
        start_s = time.monotonic()
        try:
            endpoint = CompletionEndpoint(given.url, model=given.model, timeout_s=given.timeout)
            answers = [
                endpoint.ask(given.prompt, output_tokens=given.output_tokens, progress=progress)
                for _ in range(given.turns)
            ]
        except ProfilerError as error:
            sys.stderr.write(f"token-stream: {error}\n")
            return 2
        progress.event("turn")  # ends the last one, so that its time to last token counts
        log = ProgressLog(path)
        log.poll()
        for feature in token_features(log.events, start_s, time.monotonic()):
            sys.stdout.write(f"{feature.name:<24}{feature.value:>14.6g}   {feature.samples} samples\n")
        counted = "the server" if all(one.counted_by_server for one in answers) else "chunks: the server tells no count"
        sys.stdout.write(f"tokens counted by {counted}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
