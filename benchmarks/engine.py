"""llama.cpp below its Python conveniences: token ids in, next token ids out, size of the KV cache.

Several agents are sequences of one context. One more sequence holds the prefix that they share; an agent that begins
anew is given its cells without a copy, as llama.cpp does for any common prefix.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from benchmarks.errors import DecodeFailed, ModelUnusable
from benchmarks.model_file import KV_ELEMENT_BYTES

BATCH_TOKENS = 64  # short, so that a signal is seen soon even with a large model
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR


_COMPLAINTS: deque[str] = deque(maxlen=2)


def _on_log(level: int, text: bytes, _data: Any) -> None:
    if level == _ERROR_LEVEL:
        _COMPLAINTS.append(text.decode(errors="replace").strip())


_ON_LOG = llama.llama_log_callback(_on_log)  # llama.cpp keeps the pointer: it must outlive every engine


def _complaint() -> str:
    return "; ".join(_COMPLAINTS) or "llama.cpp gave no reason"


class Engine:
    """One model, one sequence for each agent; greedy decoding."""

    def __init__(
        self, path: Path, *, threads: int, context_tokens: int, agents: int = 1, prefix_tokens: int = 0
    ) -> None:
        """Load the model; raises ModelUnusable with llama.cpp's own sentence.

        context_tokens: of each agent, beside the prefix that all share.
        """
        _COMPLAINTS.clear()
        self._model: Any = None
        self._context: Any = None
        llama.llama_log_set(_ON_LOG, ctypes.c_void_p(0))
        llama.llama_backend_init()
        if not path.is_file():
            raise ModelUnusable(
                f"model {str(path)!r} does not exist or is no file; leave --model out to have one written"
            )
        self._path = path
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self._model:
            raise ModelUnusable(
                f"model {str(path)!r} cannot be loaded: {_complaint()}; delete it to have it written again, "
                "or name another GGUF file with --model"
            )
        parameters = llama.llama_context_default_params()
        cells = prefix_tokens + agents * context_tokens
        parameters.n_ctx = cells
        parameters.n_seq_max = agents + 1
        parameters.kv_unified = True  # one pool of cells, or a shared prefix would be copied
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        # plain attention: with narrow heads the fused kernel was up to 1.4 times slower here, with wider ones the same
        parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.no_perf = True
        self._context = llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise ModelUnusable(f"model {str(path)!r} loads but cannot run with {cells} tokens: {_complaint()}")
        self.vocab: int = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._kv_token_bytes = 2 * self._kv_elements() * KV_ELEMENT_BYTES
        self.agents = agents
        self._prefix = agents  # the sequence after those of the agents
        self._held = [0] * (agents + 1)  # positions of each sequence, the prefix included
        self._shared = [0] * (agents + 1)  # those of them that are the prefix's cells
        self._prefix_ids: tuple[int, ...] | None = None  # what is held as prefix
        self._batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._check_logits()

    @property
    def tokens(self) -> int:
        """Tokens held now; those of a shared prefix count once."""
        return sum(self._held) - sum(self._shared)

    @property
    def kv_bytes(self) -> int:
        """Size of keys and values held now."""
        return self._kv_token_bytes * self.tokens

    def share(self, ids: Sequence[int]) -> None:
        """Read the prefix that every agent begins with from now on, unless it is held already; clears all agents."""
        if self._prefix_ids != tuple(ids):
            self.clear()
            self.feed(ids, agent=self._prefix)
            self._prefix_ids = tuple(ids)
        for agent in range(self.agents):
            self.begin(agent)

    def begin(self, agent: int) -> None:
        """Forget what one agent said and read, all but the shared prefix."""
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_seq_rm(memory, agent, -1, -1)
        llama.llama_memory_seq_cp(memory, self._prefix, agent, -1, -1)
        self._held[agent] = self._shared[agent] = self._held[self._prefix]

    def feed(self, ids: Sequence[int], agent: int = 0) -> int:
        """Append tokens to one sequence, in batches, and give the most likely next one."""
        token = 0
        for start in range(0, len(ids), BATCH_TOKENS):
            (token,) = self.step([(agent, ids[start : start + BATCH_TOKENS])])
        return token

    def step(self, parts: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
        """Append tokens to several agents in one batch of at most BATCH_TOKENS; give the most likely next one of each.

        Raises DecodeFailed, for instance when the context is full.
        """
        if not 0 < sum(len(ids) for _, ids in parts) <= BATCH_TOKENS:
            raise ValueError(f"BUG: a batch takes 1 to {BATCH_TOKENS} tokens, not {[len(ids) for _, ids in parts]}")
        batch = self._batch
        count = 0
        last: list[int] = []
        for agent, ids in parts:
            for offset, token in enumerate(ids):
                batch.token[count] = token
                batch.pos[count] = self._held[agent] + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = agent
                batch.logits[count] = offset == len(ids) - 1
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        code = llama.llama_decode(self._context, batch)
        if code != 0:
            raise DecodeFailed(
                f"model {str(self._path)!r}: decoding {count} tokens after {self.tokens} failed with code "
                f"{code}: {_complaint()}"
            )
        for agent, ids in parts:
            self._held[agent] += len(ids)
        return [int(np.argmax(self.logits(place))) for place in last]

    def logits(self, place: int = -1) -> np.ndarray[Any, np.dtype[np.float32]]:
        """View the logits of a token of the last batch, float32 [vocab]; valid until the next one."""
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, place), shape=(self.vocab,))

    def clear(self) -> None:
        """Forget all sequences and the prefix."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        self._held = [0] * (self.agents + 1)
        self._shared = [0] * (self.agents + 1)
        self._prefix_ids = None

    def close(self) -> None:
        """Free model and context."""
        if self._context:
            llama.llama_batch_free(self._batch)
            llama.llama_free(self._context)
        if self._model:
            llama.llama_model_free(self._model)
        self._context = self._model = None

    def _check_logits(self) -> None:
        """Damage in the weights leaves the header valid; it shows in the first logits."""
        self.feed([0])
        if not np.isfinite(self.logits()).all():
            raise DecodeFailed(f"model {str(self._path)!r} gives logits that are not finite: its weights are damaged")
        self.clear()

    def _kv_elements(self) -> int:
        """Give keys per token over all layers: layers * kv_heads * head_dim."""
        architecture = self._meta("general.architecture")
        length = self._meta(f"{architecture}.attention.key_length")
        model = self._model
        head_dim = int(length) if length else llama.llama_model_n_embd(model) // llama.llama_model_n_head(model)
        return int(llama.llama_model_n_layer(model) * llama.llama_model_n_head_kv(model) * head_dim)

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(128)
        found = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode() if found > 0 else ""
