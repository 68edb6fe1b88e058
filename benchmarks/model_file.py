"""Writes a GGUF with random weights in a published shape, once, into the user's cache folder.

Weights do not change memory traffic or arithmetic, so random ones measure like the real ones and need no
download. Knows no llama.cpp; benchmarks/engine.py loads what this writes.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from benchmarks.errors import ModelWriteFailed, ShapeUnknown

_Q4_0 = gguf.GGMLQuantizationType.Q4_0
_BLOCK_WEIGHTS, _BLOCK_BYTES = gguf.GGML_QUANT_SIZES[_Q4_0]  # 32 weights: one fp16 scale, 16 bytes of nibbles
_NIBBLE_DEVIATION = 4.6  # of a nibble - 8 drawn evenly from -8 to 7
_FORMAT = 1  # 1: first layout; a cached file of another number is not reused
KV_ELEMENT_BYTES = 2  # llama.cpp keeps keys and values as fp16 unless told otherwise

Progress = Callable[[int, int], None]  #: bytes done, bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Dimensions of a decoder-only transformer, as in its published config.json."""

    name: str
    layers: int  #: num_hidden_layers
    hidden: int  #: hidden_size
    heads: int  #: num_attention_heads
    kv_heads: int  #: num_key_value_heads
    ffn: int  #: intermediate_size
    vocab: int  #: vocab_size
    tied: bool  #: tie_word_embeddings
    context: int  #: max_position_embeddings
    rope_base: float = 10_000.0  #: rope_theta
    architecture: str = "llama"  #: general.architecture of llama.cpp; Mistral without a window is "llama" too
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        rows = (self.hidden, self.ffn)
        if self.hidden % self.heads or self.heads % self.kv_heads or any(width % _BLOCK_WEIGHTS for width in rows):
            raise ShapeUnknown(
                f"shape {self.name!r}: hidden {self.hidden} must divide by heads {self.heads}, heads by kv_heads "
                f"{self.kv_heads}, hidden and ffn {self.ffn} by {_BLOCK_WEIGHTS}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


DEFAULT_SHAPE = "TinyMistral-248M"

#: Published shapes, smallest first. Source: config.json of each model card on Hugging Face.
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(  # HuggingFaceTB/SmolLM2-135M
            name="SmolLM2-135M",
            layers=30,
            hidden=576,
            heads=9,
            kv_heads=3,
            ffn=1536,
            vocab=49_152,
            tied=True,
            context=8192,
            rope_base=100_000.0,
        ),
        Shape(  # Locutusque/TinyMistral-248M; its sliding window of 32 is left out
            name="TinyMistral-248M",
            layers=12,
            hidden=1024,
            heads=32,
            kv_heads=8,
            ffn=4096,
            vocab=32_005,
            tied=False,
            context=32_768,
        ),
        Shape(  # HuggingFaceTB/SmolLM2-360M
            name="SmolLM2-360M",
            layers=32,
            hidden=960,
            heads=15,
            kv_heads=5,
            ffn=2560,
            vocab=49_152,
            tied=True,
            context=8192,
            rope_base=100_000.0,
        ),
        Shape(  # Qwen/Qwen2.5-0.5B
            name="Qwen2.5-0.5B",
            layers=24,
            hidden=896,
            heads=14,
            kv_heads=2,
            ffn=4864,
            vocab=151_936,
            tied=True,
            context=32_768,
            rope_base=1_000_000.0,
            architecture="qwen2",
            qkv_bias=True,
        ),
        Shape(  # TinyLlama/TinyLlama-1.1B-Chat-v1.0
            name="TinyLlama-1.1B",
            layers=22,
            hidden=2048,
            heads=32,
            kv_heads=4,
            ffn=5632,
            vocab=32_000,
            tied=False,
            context=2048,
        ),
        Shape(  # meta-llama/Llama-3.2-1B; its scaling of rotary frequencies for long contexts is left out
            name="Llama-3.2-1B",
            layers=16,
            hidden=2048,
            heads=32,
            kv_heads=8,
            ffn=8192,
            vocab=128_256,
            tied=True,
            context=131_072,
            rope_base=500_000.0,
        ),
    )
}


def named_shape(name: str) -> Shape:
    """Give the published shape of that name."""
    try:
        return SHAPES[name]
    except KeyError:
        raise ShapeUnknown(f"model shape {name!r} is not one of {', '.join(SHAPES)}") from None


def kv_bytes(shape: Shape, tokens: int) -> int:
    """Give the size of the KV cache: 2 * layers * kv_heads * head_dim * bytes per element * tokens."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * KV_ELEMENT_BYTES * tokens


def cache_folder() -> Path:
    """Give $XDG_CACHE_HOME/cotenant/models, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotenant" / "models"


def ensure_model(shape: Shape, *, seed: int = 0, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """Give the model file of that shape and seed, writing it first if it is not cached whole."""
    folder = cache_folder() if folder is None else folder
    path = folder / f"{shape.name}-Q4_0-seed{seed}-v{_FORMAT}.gguf"
    if path.is_file() and path.stat().st_size > weights_bytes(shape):
        return path
    write_model(path, shape, seed=seed, progress=progress)
    return path


def write_model(
    path: Path, shape: Shape, *, seed: int = 0, words: bool = False, progress: Progress | None = None
) -> None:
    """Write the model under a temporary name and rename it when whole; same shape and seed, same bytes.

    words: with a vocabulary of bytes and made-up words, for engines that read text, such as llama-server.
    Raises ModelWriteFailed; nothing is left behind then.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        part = Path(name)
        _write(part, shape, seed, words, progress)
        part.replace(path)
        part = None
    except OSError as error:
        raise ModelWriteFailed(
            f"writing model {shape.name!r} ({weights_bytes(shape) / 1e6:.0f} MB) to {str(path)!r} failed: {error}; "
            "make room there or point XDG_CACHE_HOME to another folder"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def weights_bytes(shape: Shape) -> int:
    """Give the size of all tensors; the file is larger by its header."""
    return sum(_tensor_bytes(rows, columns) for _, rows, columns in _tensors(shape))


def _tensor_bytes(rows: int, columns: int) -> int:
    return 4 * columns if rows == 1 else rows * columns // _BLOCK_WEIGHTS * _BLOCK_BYTES


def _tensors(shape: Shape) -> Iterator[tuple[str, int, int]]:
    """Yield name, rows, columns in file order; one row = a vector kept as float32."""
    kv_width = shape.kv_heads * shape.head_dim
    yield "token_embd.weight", shape.vocab, shape.hidden
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", 1, shape.hidden
        for part, width in (("q", shape.hidden), ("k", kv_width), ("v", kv_width)):
            yield f"{block}attn_{part}.weight", width, shape.hidden
            if shape.qkv_bias:
                yield f"{block}attn_{part}.bias", 1, width
        yield block + "attn_output.weight", shape.hidden, shape.hidden
        yield block + "ffn_norm.weight", 1, shape.hidden
        yield block + "ffn_gate.weight", shape.ffn, shape.hidden
        yield block + "ffn_up.weight", shape.ffn, shape.hidden
        yield block + "ffn_down.weight", shape.hidden, shape.ffn
    yield "output_norm.weight", 1, shape.hidden
    if not shape.tied:
        yield "output.weight", shape.vocab, shape.hidden


def _write(path: Path, shape: Shape, seed: int, words: bool, progress: Progress | None) -> None:  # noqa: FBT001
    writer = gguf.GGUFWriter(path, shape.architecture)
    try:
        writer.add_name(f"{shape.name} with random weights, seed {seed}")
        writer.add_context_length(shape.context)
        writer.add_embedding_length(shape.hidden)
        writer.add_block_count(shape.layers)
        writer.add_feed_forward_length(shape.ffn)
        writer.add_head_count(shape.heads)
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(shape.head_dim)
        writer.add_rope_freq_base(shape.rope_base)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
        if words:
            _add_words(writer, shape.vocab)
        else:
            writer.add_tokenizer_model("none")  # we feed token ids, so no vocabulary is needed ...
        writer.add_vocab_size(shape.vocab)  # ... but its size is
        for name, rows, columns in _tensors(shape):
            size = _tensor_bytes(rows, columns)
            if rows == 1:
                writer.add_tensor_info(name, (columns,), np.dtype(np.float32), size)
            else:
                byte_shape = (rows, size // rows)
                writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), size, raw_dtype=_Q4_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        random = np.random.Generator(np.random.SFC64(seed))
        total, done = weights_bytes(shape), 0
        for name, rows, columns in _tensors(shape):
            tensor = _q4_0(random, rows, columns) if rows > 1 else _vector(name, columns)
            writer.write_tensor_data(tensor)
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)
    finally:
        writer.close()


def _add_words(writer: gguf.GGUFWriter, vocab: int) -> None:
    """Add a SentencePiece vocabulary: unknown, begin, end, every byte, then words that say their number."""
    kinds = gguf.TokenType
    special = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens = [*special, *((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256))]
    tokens += [(f"\u2581w{number}", kinds.NORMAL) for number in range(len(tokens), vocab)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _vector(name: str, columns: int) -> npt.NDArray[np.float32]:
    """Norms are ones, biases zeros."""
    return np.full(columns, 0.0 if name.endswith(".bias") else 1.0, dtype=np.float32)


def _q4_0(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Draw Q4_0 blocks, uint8 [rows, columns / 32 * 18]; scaled so that a product keeps its input's deviation."""
    blocks = rows * columns // _BLOCK_WEIGHTS
    data = np.frombuffer(random.bytes(blocks * _BLOCK_BYTES), dtype=np.uint8).reshape(blocks, _BLOCK_BYTES).copy()
    scales = (random.random(blocks, dtype=np.float32) + 0.5) / (_NIBBLE_DEVIATION * math.sqrt(columns))
    data[:, :2] = scales.astype("<f2").view(np.uint8).reshape(blocks, 2)
    return data.reshape(rows, -1)
