"""The client of completion endpoints against a server on a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import RecordInvalid, WorkloadFailed
from profiler.progress import ENVIRONMENT, ProgressEvent, ProgressLog, ProgressWriter
from profiler.token_stream import Answer, CompletionEndpoint
from profiler.tokens import token_features
from tests.fakes.completion_server import DONE, Reply, completion_server, event, finish, said, text

GAP_S = 0.02


@pytest.fixture
def log(tmp_path: Path) -> ProgressLog:
    return ProgressLog(tmp_path / "progress")


@pytest.fixture
def progress(tmp_path: Path) -> ProgressWriter:
    return ProgressWriter(str(tmp_path / "progress"))


def ask(url: str, progress: ProgressWriter, *, timeout_s: float = 5.0, kv_token_bytes: float | None = None) -> Answer:
    endpoint = CompletionEndpoint(url, timeout_s=timeout_s, kv_token_bytes=kv_token_bytes)
    return endpoint.ask("why", output_tokens=8, progress=progress)


def events(log: ProgressLog, kind: str) -> list[ProgressEvent]:
    log.poll()
    assert log.malformed_lines == 0
    return [one for one in log.events if one.kind == kind]


def test_tokens_are_written_at_the_moments_they_came(progress: ProgressWriter, log: ProgressLog) -> None:
    parts = [(0.1, text()), (GAP_S, text()), (3 * GAP_S, text()), (GAP_S, text()), (0.0, finish()), (0.0, DONE)]
    with completion_server(Reply(parts=parts)) as server:
        answer = ask(server.url, progress)
    came = [one.t_s for one in events(log, "token")]
    turn = events(log, "turn")[0]

    assert (answer.tokens, answer.chunks, answer.counted_by_server, answer.whole) == (4, 4, False, True)
    assert answer.ttft_s >= 0.1, "the server waited that long"
    assert answer.ttlt_s >= 0.1 + 5 * GAP_S
    assert came[0] - turn.t_s >= 0.1
    assert came[2] - came[1] >= 2 * GAP_S
    assert came == sorted(came)
    assert events(log, "prefill") == [], "nobody told how long the prompt was"


def test_the_request_is_that_of_the_protocol(progress: ProgressWriter) -> None:
    with completion_server(Reply(parts=[(0.0, text() + finish() + DONE)])) as server:
        CompletionEndpoint(server.url, model="tiny", key="secret").ask("why", output_tokens=8, progress=progress)
        ask(f"{server.url}/v1", progress)
        ask(f"{server.url}/v1/chat/completions/", progress)
        (path, body, headers), (second, *_), (chat, asked, bare) = server.requests

    assert (path, second, chat) == ("/v1/completions", "/v1/completions", "/v1/chat/completions")
    assert body == {
        "model": "tiny",
        "prompt": "why",
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    assert asked["messages"] == [{"role": "user", "content": "why"}]
    assert "prompt" not in asked
    assert headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in bare


def test_a_chat_counts_what_is_said_thought_or_called_but_no_role(progress: ProgressWriter, log: ProgressLog) -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None},
        {"reasoning_content": "hm"},
        {"content": "yes"},
        {"tool_calls": [{"index": 0}]},
        {},
    ]
    parts = [(0.0, b": ping\n\n"), *((0.0, said(delta)) for delta in deltas), (0.0, finish()), (0.0, DONE)]
    with completion_server(Reply(parts=parts)) as server:
        answer = ask(f"{server.url}/v1/chat/completions", progress)

    assert answer.chunks == len(events(log, "token")) == 3


def test_the_count_of_the_server_at_the_end_stands(progress: ProgressWriter, log: ProgressLog) -> None:
    """Three chunks of nine tokens; usage in a chunk without choices, as the protocol has it."""
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 40}}
    last = event({"choices": [], "usage": usage})
    parts = [(GAP_S, text(usage=None)), (GAP_S, text("a b c")), (GAP_S, text()), (0.0, finish() + last + DONE)]
    with completion_server(Reply(parts=parts)) as server:
        answer = ask(server.url, progress, kv_token_bytes=100)
    (prefill,) = events(log, "prefill")
    found = {one.name: one.value for one in token_features(log.events, 0.0, time.monotonic())}

    assert (answer.tokens, answer.chunks, answer.counted_by_server) == (9, 3, True)
    assert events(log, "usage")[0].tokens == 9
    assert prefill.tokens == 10, "forty of the fifty were kept from earlier"
    assert prefill.seconds == answer.ttft_s
    assert events(log, "kv")[0].bytes == 100 * (50 + 9)
    came = [one.t_s for one in events(log, "token")]
    assert found["decode_tokens_per_s"] == pytest.approx(6 / (came[-1] - came[0]))


def test_a_count_beside_each_chunk_tells_how_many_came_at_once(progress: ProgressWriter, log: ProgressLog) -> None:
    """As llama-server with timings_per_token; its prefill is its own time, without queue and network."""
    timings = {"prompt_n": 12, "prompt_ms": 6.0, "cache_n": 30}
    parts = [
        *((0.0, text(timings={**timings, "predicted_n": made})) for made in (1, 4, 4, 6)),
        (0.0, finish(timings={**timings, "predicted_n": 7}) + DONE),
    ]
    with completion_server(Reply(parts=parts)) as server:
        answer = ask(server.url, progress, kv_token_bytes=1)
    (prefill,) = events(log, "prefill")

    assert [one.tokens if one.tokens > 0 else 1 for one in events(log, "token")] == [1, 3, 1, 1]
    assert answer.tokens == 7
    assert (prefill.tokens, prefill.seconds) == (12, 0.006)
    assert events(log, "kv")[0].bytes == 30 + 12 + 7


def test_several_requests_at_a_time_have_streams_of_their_own(progress: ProgressWriter, log: ProgressLog) -> None:
    with completion_server(Reply(parts=[(0.0, text() + finish() + DONE)])) as server:
        endpoint = CompletionEndpoint(server.url)
        for stream in (0, 1):
            endpoint.ask("why", output_tokens=8, progress=progress, stream=stream)
    log.poll()

    assert [(one.kind, one.stream) for one in log.events] == [("turn", 0), ("token", 0), ("turn", 1), ("token", 1)]


def test_whoever_wants_no_more_stops_after_the_next_chunk(progress: ProgressWriter, log: ProgressLog) -> None:
    endless = [(GAP_S, text())] * 500
    with completion_server(Reply(parts=endless)) as server:
        answer = CompletionEndpoint(server.url).ask(
            "why", output_tokens=500, progress=progress, stop=lambda: len(events(log, "token")) >= 3
        )

    assert (answer.chunks, answer.whole) == (3, False)


def test_a_stream_that_ends_without_done_but_with_a_reason_is_whole(progress: ProgressWriter) -> None:
    with completion_server(Reply(parts=[(0.0, text() + finish())])) as server:
        assert ask(server.url, progress).whole


def test_windows_line_ends_and_split_packets_are_understood(progress: ProgressWriter) -> None:
    stream = (text() + text() + finish() + DONE).replace(b"\n", b"\r\n")
    parts = [(0.0, stream[start : start + 7]) for start in range(0, len(stream), 7)]
    with completion_server(Reply(parts=parts)) as server:
        assert ask(server.url, progress).chunks == 2


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (
            Reply(parts=[(0.0, b'{"error":"no slot\x1b[2J"}')], status=500, content_type="application/json"),
            r"answered 500 Internal Server Error: '\{\"error\":\"no slot\?\[2J\"\}'",
        ),
        (Reply(parts=[(0.0, b"moved")], status=307), "answered 307 Temporary Redirect"),
        (
            Reply(parts=[(0.0, b'{"choices":[]}')], content_type="application/json"),
            r"'application/json' instead of a stream.*only endpoints that take stream=true",
        ),
        (Reply(parts=[(0.0, text() + b"data: {broken\n\n")]), r"no JSON \(.*\): '\{broken'"),
        (Reply(parts=[(0.0, b"data: [1]\n\n")]), r"no JSON object: '\[1\]'"),
        (Reply(parts=[(0.0, event({"error": {"message": "context full"}}))]), "reported an error: .*context full"),
        (Reply(parts=[(0.0, text() + text())]), "broke off after 2 tokens, without a finish_reason"),
        (Reply(parts=[(0.0, text() + b'data: {"cho')]), "broke off after 1 tokens"),
        (Reply(parts=[(0.0, text())], breaks=True), r"(broke off|failed) after 1 tokens"),
        (Reply(parts=[(0.0, finish() + DONE)]), "without a single token"),
        (Reply(parts=[(0.0, b"data: " + b"x" * (1 << 20) + b"\n\n")]), "line of 1048576 bytes or more"),
    ],
)
def test_a_bad_answer_is_told_with_its_words(reply: Reply, complaint: str, progress: ProgressWriter) -> None:
    with completion_server(reply) as server, pytest.raises(WorkloadFailed, match=complaint) as raised:
        ask(server.url, progress)

    assert "\x1b" not in str(raised.value)


def test_a_server_that_falls_silent_is_given_up(progress: ProgressWriter) -> None:
    silent = Reply(parts=[(0.0, text()), (30.0, text())])
    with completion_server(silent) as server, pytest.raises(WorkloadFailed, match=r"nothing for 0.2 s after 1 tokens"):
        ask(server.url, progress, timeout_s=0.2)


def test_a_server_that_is_down_is_named(progress: ProgressWriter) -> None:
    with socket.socket() as taken:  # bound, never listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(WorkloadFailed, match=rf"'{url}' failed after 0 tokens: .*refused; is the server running"):
            ask(url, progress)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host/", "http://", "http://host:99999", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RecordInvalid, match="is no address of a server"):
        CompletionEndpoint(url)


def command(url: str, *more: str, progress: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment.pop(ENVIRONMENT, None)
    if progress is not None:
        environment[ENVIRONMENT] = str(progress)
    arguments = [sys.executable, "-m", "profiler.token_stream", url, *more]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False, env=environment)


def test_the_command_prints_what_the_client_saw_and_who_counted(tmp_path: Path) -> None:
    parts = [(0.0, text())] + [(GAP_S, text())] * 5 + [(0.0, finish() + DONE)]
    with completion_server(Reply(parts=parts)) as server:
        ended = command(server.url, "--turns", "2", progress=tmp_path / "progress")
    printed = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()}

    assert (ended.returncode, ended.stderr) == (0, "")
    assert float(printed["tbt_s"][0]) >= GAP_S / 2
    assert printed["tbt_s"][1] == "10"
    assert printed["ttlt_s"][1] == "2"
    assert "tokens counted by chunks: the server tells no count" in ended.stdout
    assert (tmp_path / "progress").read_text().count('"token"') == 12


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    ended = command("http://127.0.0.1:1")

    assert ended.returncode == 2
    assert ended.stderr.startswith("token-stream: 'http://127.0.0.1:1' failed after 0 tokens")
    assert ended.stderr.count("\n") == 1
