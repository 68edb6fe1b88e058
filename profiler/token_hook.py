"""Records the tokens of llama-cpp-python in the same process, through its own hooks; knows it only by its attributes.

    hook = TokenHook(llama, ProgressWriter.from_environment())
    with hook.turn():
        llama.create_completion(prompt, stopping_criteria=hook.on_token)

`create_chat_completion` takes no stopping criteria: give it `logits_processor=[hook.on_logits]`, which sees each token
just before it is drawn and costs a copy of the logits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from profiler.progress import ProgressWriter

_FP16 = 1  # GGML_TYPE_F16, what llama.cpp keeps keys and values as unless told otherwise
_FP16_BYTES = 2
_KV_EVERY_TOKENS = 32

Ids = NDArray[np.intc]  #: token ids, intc [tokens so far]
Logits = NDArray[np.single]  #: float32 [vocabulary]


class LlamaObject(Protocol):
    """What the hook reads of a `llama_cpp.Llama`."""

    n_tokens: int  #: in the KV cache
    input_ids: Ids  #: intc [context]
    metadata: dict[str, str]
    context_params: Any


class TokenHook:
    """Writes the events of one Llama object; one turn at a time."""

    def __init__(self, llama: LlamaObject, progress: ProgressWriter, *, stream: int = 0) -> None:
        self._llama = llama
        self._progress = progress
        self._stream = stream
        self._kv_token_bytes = kv_token_bytes(llama)
        self._held: Ids = llama.input_ids[:0]
        self._start_s = 0.0
        self._seen = 0  # length of the sequence at the last token
        self._made = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Frame one request."""
        self._held = self._llama.input_ids[: self._llama.n_tokens].copy()
        self._seen = self._made = 0
        self._progress.event("turn", stream=self._stream)
        self._start_s = time.monotonic()
        try:
            yield
        finally:
            self._kv()

    @contextmanager
    def tool(self) -> Iterator[None]:
        """Frame one tool call."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            self._progress.event("tool", stream=self._stream, seconds=time.monotonic() - start_s)

    def on_token(self, ids: Ids, _logits: Logits) -> bool:
        """Take note of a token, as a stopping criterion that never stops."""
        self._take(ids)
        return False

    def on_logits(self, ids: Ids, logits: Logits) -> Logits:
        """Take note of a token, as a logits processor that changes nothing."""
        self._take(ids)
        return logits

    def _take(self, ids: Ids) -> None:
        if len(ids) <= self._seen:
            return  # create_completion asks its stopping criteria once more at the end
        if not self._made:
            evaluated = len(ids) - _common(self._held, ids)
            seconds = time.monotonic() - self._start_s
            self._progress.event("prefill", stream=self._stream, tokens=evaluated, seconds=seconds)
        self._seen = len(ids)
        self._progress.event("token", stream=self._stream)
        if self._made % _KV_EVERY_TOKENS == 0:
            self._kv()
        self._made += 1

    def _kv(self) -> None:
        if self._kv_token_bytes is not None:
            self._progress.event("kv", stream=self._stream, bytes=self._kv_token_bytes * self._llama.n_tokens)


def kv_token_bytes(llama: LlamaObject) -> int | None:
    """Give 2 * layers * kv_heads * head_dim * 2 bytes; None where layers differ or the cache is not fp16."""
    parameters = llama.context_params
    if {getattr(parameters, name, None) for name in ("type_k", "type_v")} != {_FP16}:
        return None
    prefix = llama.metadata.get("general.architecture", "")

    def number(name: str) -> int | None:
        text = llama.metadata.get(f"{prefix}.{name}", "")
        return int(text) if text.isascii() and text.isdigit() else None

    layers, heads, width = (number(name) for name in ("block_count", "attention.head_count", "embedding_length"))
    if layers is None or not heads or width is None:
        return None
    kv_heads = number("attention.head_count_kv")
    if kv_heads is None and f"{prefix}.attention.head_count_kv" in llama.metadata:
        return None  # one number per layer
    keys = number("attention.key_length") or width // heads
    values = number("attention.value_length") or width // heads
    return layers * (heads if kv_heads is None else kv_heads) * (keys + values) * _FP16_BYTES


def _common(held: Ids, ids: Ids) -> int:
    """Give how many leading tokens the cache held already; the last of a prompt is always computed anew."""
    most = min(len(held), len(ids) - 1)
    differing = np.flatnonzero(held[:most] != ids[:most])
    return int(differing[0]) if len(differing) else max(0, most)
