"""The hook inside llama-cpp-python, and the client against its own server, both with a tiny model of random weights."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import numpy as np
import pytest

from benchmarks.model_file import Shape, kv_bytes, write_model
from profiler.progress import ProgressEvent, ProgressLog, ProgressWriter
from profiler.staging import free_port
from profiler.token_hook import TokenHook, kv_token_bytes
from profiler.token_stream import CompletionEndpoint

SHAPE = Shape(name="words", layers=2, hidden=128, heads=4, kv_heads=2, ffn=256, vocab=600, tied=True, context=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "words.gguf"
    write_model(path, SHAPE, words=True)
    return path


@pytest.fixture
def llama(model: Path) -> Iterator[Any]:
    opened = llama_cpp.Llama(str(model), n_ctx=256, n_batch=64, n_threads=1, n_threads_batch=1, verbose=False)
    yield opened
    opened.close()


@pytest.fixture
def log(tmp_path: Path) -> ProgressLog:
    return ProgressLog(tmp_path / "progress")


@pytest.fixture
def hook(llama: Any, tmp_path: Path) -> TokenHook:
    return TokenHook(llama, ProgressWriter(str(tmp_path / "progress")))


def events(log: ProgressLog, kind: str) -> list[ProgressEvent]:
    log.poll()
    return [one for one in log.events if one.kind == kind]


def test_a_completion_has_one_event_for_each_token(llama: Any, hook: TokenHook, log: ProgressLog) -> None:
    with hook.turn():
        answer = llama.create_completion([1, 300, 301], max_tokens=7, stopping_criteria=hook.on_token)
    kinds = [one.kind for one in log.events] if events(log, "turn") else []

    assert answer["usage"]["completion_tokens"] == 7
    assert len(events(log, "token")) == 7
    assert kinds[:3] == ["turn", "prefill", "token"]
    assert events(log, "prefill")[0].tokens == 3


def test_a_chat_is_heard_through_its_logits_and_not_changed_by_it(
    llama: Any, hook: TokenHook, log: ProgressLog
) -> None:
    question = [{"role": "user", "content": "why"}]
    plain = llama.create_chat_completion(question, max_tokens=5, temperature=0)
    llama.reset()
    with hook.turn():
        heard = llama.create_chat_completion(question, max_tokens=5, temperature=0, logits_processor=[hook.on_logits])

    assert len(events(log, "token")) == 5
    assert heard["choices"][0]["message"] == plain["choices"][0]["message"]


def test_only_what_is_new_in_a_prompt_is_prefill(llama: Any, hook: TokenHook, log: ProgressLog) -> None:
    """llama-cpp-python keeps the longest common prefix; the last token of a prompt is always computed."""
    for prompt in ([1, 300, 301, 302], [1, 300, 400, 401, 402], [1, 300]):
        with hook.turn():
            list(islice(llama.generate(prompt, temp=0, stopping_criteria=hook.on_token), 3))

    assert [one.tokens for one in events(log, "prefill")] == [4, 3, 1]


def test_the_cache_is_as_large_as_the_tokens_it_holds(llama: Any, hook: TokenHook, log: ProgressLog) -> None:
    with hook.turn():
        list(islice(llama.generate(range(260, 300), stopping_criteria=hook.on_token), 40))
    held = [one.bytes for one in events(log, "kv")]

    assert held == [kv_bytes(SHAPE, tokens) for tokens in (40, 72, 79)], "at the first and 33rd token, and at the end"


def test_a_tool_call_is_as_long_as_it_took(hook: TokenHook, log: ProgressLog) -> None:
    with hook.tool():
        time.sleep(0.05)

    assert events(log, "tool")[0].seconds >= 0.05


@pytest.mark.parametrize(
    ("metadata", "type_v", "expected"),
    [
        ({"llama.attention.head_count_kv": "2", "llama.attention.key_length": "64"}, 1, 3 * 2 * (64 + 16) * 2),
        ({}, 1, 3 * 8 * (16 + 16) * 2),
        ({"llama.attention.head_count_kv": "[2, 4, 2]"}, 1, None),
        ({}, 8, None),
        ({"llama.block_count": "?"}, 1, None),
    ],
)
def test_bytes_per_token_follow_the_formula_or_are_unknown(
    metadata: dict[str, str], type_v: int, expected: int | None
) -> None:
    shape = {"block_count": "3", "attention.head_count": "8", "embedding_length": "128"}
    told = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in shape.items()}, **metadata}
    llama = SimpleNamespace(
        n_tokens=0,
        input_ids=np.zeros(4, dtype=np.intc),
        metadata=told,
        context_params=SimpleNamespace(type_k=1, type_v=type_v),
    )

    assert kv_token_bytes(llama) == expected


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_server_of_llama_cpp_is_measured(path: str, model: Path, log: ProgressLog, tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn", "sse_starlette", "starlette_context"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'llama-cpp-python[server]'")
    port = free_port()
    options = ["--model", str(model), "--port", str(port), "--n_ctx", "256", "--n_threads", "1", "--verbose", "false"]
    with subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", *options, "--n_threads_batch", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", server)
            endpoint = CompletionEndpoint(f"http://127.0.0.1:{port}{path}", timeout_s=30.0)
            progress = ProgressWriter(str(tmp_path / "progress"))
            answer = endpoint.ask("w300 w301", output_tokens=12, progress=progress)
        finally:
            server.terminate()

    assert answer.whole
    assert 1 <= answer.chunks <= 12
    assert len(events(log, "token")) == answer.chunks


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    limit_s = time.monotonic() + 30
    while time.monotonic() < limit_s and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - ours
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the server does not answer: {server.poll()}")
