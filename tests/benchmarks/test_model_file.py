"""Model files: right shape, same bytes for the same seed, never half a file under the final name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import pytest

from benchmarks.errors import ModelWriteFailed, ShapeUnknown
from benchmarks.model_file import (
    DEFAULT_SHAPE,
    SHAPES,
    Shape,
    cache_folder,
    ensure_model,
    kv_bytes,
    named_shape,
    weights_bytes,
    write_model,
)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny_shape: Shape, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    write_model(first, tiny_shape, seed=1)
    write_model(again, tiny_shape, seed=1)
    write_model(other, tiny_shape, seed=2)

    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_file_holds_the_shape_and_four_bit_weights(tiny_shape: Shape, tiny_model: Path) -> None:
    reader = gguf.GGUFReader(tiny_model)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    assert reader.fields["llama.block_count"].contents() == tiny_shape.layers
    assert reader.fields["llama.attention.head_count_kv"].contents() == tiny_shape.kv_heads
    assert tensors["blk.1.ffn_down.weight"].shape.tolist() == [tiny_shape.ffn, tiny_shape.hidden]
    assert tensors["blk.1.attn_k.weight"].tensor_type == gguf.GGMLQuantizationType.Q4_0
    assert tensors["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert "output.weight" not in tensors


def test_progress_rises_to_all_bytes(tiny_shape: Shape, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_model(tmp_path / "model", tiny_shape, progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1] == (weights_bytes(tiny_shape), weights_bytes(tiny_shape))


def test_a_cached_model_is_reused_and_a_cut_one_is_written_again(tiny_shape: Shape, tmp_path: Path) -> None:
    path = ensure_model(tiny_shape, folder=tmp_path)
    whole = path.read_bytes()
    written = path.stat().st_mtime_ns

    assert ensure_model(tiny_shape, folder=tmp_path).stat().st_mtime_ns == written

    path.write_bytes(whole[: len(whole) // 2])

    assert ensure_model(tiny_shape, folder=tmp_path).read_bytes() == whole


def test_a_failed_write_leaves_nothing_and_says_where(tiny_shape: Shape, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelWriteFailed, match=r"'tiny'.*No space left.*XDG_CACHE_HOME"):
        write_model(tmp_path / "model", tiny_shape, progress=interrupt)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tiny_shape: Shape, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ModelWriteFailed, match="file"):
        ensure_model(tiny_shape, folder=tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "parameters_million"),
    [
        ("SmolLM2-135M", 135),
        ("TinyMistral-248M", 248),
        ("SmolLM2-360M", 362),
        ("Qwen2.5-0.5B", 494),
        ("TinyLlama-1.1B", 1100),
        ("Llama-3.2-1B", 1236),
    ],
)
def test_shapes_have_the_published_number_of_parameters(name: str, parameters_million: int) -> None:
    weights = weights_bytes(named_shape(name)) / 18 * 32  # norms, kept wider, are below one in a thousand

    assert weights / 1e6 == pytest.approx(parameters_million, rel=0.01)


def test_kv_bytes_follow_the_formula() -> None:
    shape = SHAPES[DEFAULT_SHAPE]

    assert kv_bytes(shape, 100) == 2 * 12 * 8 * 32 * 2 * 100
    assert kv_bytes(shape, 0) == 0


def test_an_unknown_shape_is_named_beside_the_known() -> None:
    with pytest.raises(ShapeUnknown, match=r"'GPT-9' is not one of SmolLM2-135M, "):
        named_shape("GPT-9")


def test_a_shape_that_cannot_be_quantised_is_refused(tiny_shape: Shape) -> None:
    with pytest.raises(ShapeUnknown, match=r"ffn 250"):
        dataclasses.replace(tiny_shape, ffn=250)


def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert cache_folder() == tmp_path / "cotenant" / "models"
