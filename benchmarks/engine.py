"""llama.cpp below its Python conveniences: token ids in, next token id out, size of the KV cache."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from benchmarks.errors import DecodeFailed, ModelUnusable
from benchmarks.model_file import KV_ELEMENT_BYTES

BATCH_TOKENS = 64  # short, so that a signal is seen soon even with a large model
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR


class Engine:
    """One model with one sequence; greedy decoding."""

    def __init__(self, path: Path, *, threads: int, context_tokens: int) -> None:
        """Load the model; raises ModelUnusable with llama.cpp's own sentence."""
        self._complaints: list[str] = []
        self._model: Any = None
        self._context: Any = None
        # llama.cpp keeps the pointer: it must live as long as we do
        self._log = llama.llama_log_callback(self._on_log)
        llama.llama_log_set(self._log, ctypes.c_void_p(0))
        llama.llama_backend_init()
        if not path.is_file():
            raise ModelUnusable(
                f"model {str(path)!r} does not exist or is no file; leave --model out to have one written"
            )
        self._path = path
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self._model:
            raise ModelUnusable(
                f"model {str(path)!r} cannot be loaded: {self._complaint()}; delete it to have it written again, "
                "or name another GGUF file with --model"
            )
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = context_tokens
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        # plain attention: with narrow heads the fused kernel was up to 1.4 times slower here, with wider ones the same
        parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.no_perf = True
        self._context = llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise ModelUnusable(
                f"model {str(path)!r} loads but cannot run with {context_tokens} tokens: {self._complaint()}"
            )
        self.vocab: int = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._kv_token_bytes = 2 * self._kv_elements() * KV_ELEMENT_BYTES
        self.tokens = 0
        self._check_logits()

    @property
    def kv_bytes(self) -> int:
        """Size of keys and values held now."""
        return self._kv_token_bytes * self.tokens

    def feed(self, ids: Sequence[int]) -> int:
        """Append tokens, in batches, and give the most likely next one."""
        for start in range(0, len(ids), BATCH_TOKENS):
            part = ids[start : start + BATCH_TOKENS]
            tokens = (llama.llama_token * len(part))(*part)  # the batch only points to it
            code = llama.llama_decode(self._context, llama.llama_batch_get_one(tokens, len(part)))
            if code != 0:
                raise DecodeFailed(
                    f"model {str(self._path)!r}: decoding {len(part)} tokens after {self.tokens} failed with code "
                    f"{code}: {self._complaint()}"
                )
            self.tokens += len(part)
        return int(np.argmax(self.logits()))

    def logits(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """View the logits of the last token, float32 [vocab]; valid until the next `feed`."""
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, -1), shape=(self.vocab,))

    def clear(self) -> None:
        """Forget the sequence."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        self.tokens = 0

    def close(self) -> None:
        """Free model and context."""
        if self._context:
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

    def _complaint(self) -> str:
        return "; ".join(self._complaints[-2:]) or "llama.cpp gave no reason"

    def _on_log(self, level: int, text: bytes, _data: Any) -> None:
        if level == _ERROR_LEVEL:
            self._complaints.append(text.decode(errors="replace").strip())
