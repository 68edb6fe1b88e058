"""The engine against real llama.cpp with a tiny model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from benchmarks.engine import BATCH_TOKENS, Engine
from benchmarks.errors import DecodeFailed, ModelUnusable
from benchmarks.model_file import Shape, kv_bytes, write_model


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    engine = Engine(tiny_model, threads=1, context_tokens=512)
    yield engine
    engine.close()


def test_decoding_gives_finite_logits_and_tokens_of_the_vocabulary(engine: Engine, tiny_shape: Shape) -> None:
    token = engine.feed(range(BATCH_TOKENS + 5))
    for _ in range(20):
        token = engine.feed([token])

        assert 0 <= token < tiny_shape.vocab
        assert np.isfinite(engine.logits()).all()
    assert engine.logits().std() > 0.1


def test_the_same_tokens_give_the_same_answer_after_clearing(engine: Engine) -> None:
    engine.feed([1, 2, 3])
    first = engine.logits().copy()
    engine.clear()

    assert engine.tokens == 0

    engine.feed([1, 2, 3])

    np.testing.assert_array_equal(engine.logits(), first)


def test_earlier_tokens_change_the_logits(engine: Engine) -> None:
    engine.feed([1, 2, 3])
    first = engine.logits().copy()
    engine.clear()
    engine.feed([7, 8, 3])

    assert not np.array_equal(engine.logits(), first)


def test_kv_bytes_grow_as_llama_cpp_itself_says(engine: Engine, tiny_shape: Shape) -> None:
    def stored() -> int:
        return int(llama.llama_state_seq_get_size(engine._context, 0))

    engine.feed(range(50))
    before = stored()
    engine.feed(range(100))
    per_token = (stored() - before) / 100

    assert engine.kv_bytes == kv_bytes(tiny_shape, 150)
    assert 0 <= per_token - kv_bytes(tiny_shape, 1) <= 32  # position and sequence of the cell come on top


@pytest.fixture
def team(tiny_model: Path) -> Iterator[Engine]:
    engine = Engine(tiny_model, threads=1, context_tokens=256, agents=2, prefix_tokens=100)
    yield engine
    engine.close()


def test_a_shared_prefix_is_held_once_and_read_by_every_agent(team: Engine, tiny_shape: Shape) -> None:
    team.feed([*range(100), 7, 8])
    alone = team.logits().copy()
    team.share(range(100))

    assert team.kv_bytes == kv_bytes(tiny_shape, 100)
    for agent in range(2):
        team.feed([7, 8], agent=agent)

        np.testing.assert_allclose(team.logits(), alone, rtol=0, atol=0.02)
    assert team.kv_bytes == kv_bytes(tiny_shape, 104), "the prefix counts once"


def test_agents_do_not_hear_each_other(team: Engine) -> None:
    team.share(range(20))
    team.feed([7, 8], agent=0)
    alone = team.logits().copy()
    team.share(range(20))
    team.feed([500, 600, 700], agent=1)
    team.feed([7, 8], agent=0)

    np.testing.assert_allclose(team.logits(), alone, rtol=0, atol=0.02)
    assert not np.allclose(team.logits(), 0)


def test_a_batch_of_several_agents_gives_what_each_would_get_alone(team: Engine) -> None:
    team.share(range(20))
    alone = [team.feed(ids, agent=agent) for agent, ids in enumerate(([5, 6, 7], [9]))]
    team.share(range(20))

    assert team.step([(0, [5, 6, 7]), (1, [9])]) == alone


def test_an_agent_that_begins_anew_forgets_all_but_the_prefix(team: Engine, tiny_shape: Shape) -> None:
    team.share(range(20))
    first = team.feed([7, 8])
    logits = team.logits().copy()
    team.feed([1, 2, 3], agent=1)
    team.begin(0)

    assert team.kv_bytes == kv_bytes(tiny_shape, 20 + 3)
    assert team.feed([7, 8]) == first

    np.testing.assert_allclose(team.logits(), logits, rtol=0, atol=0.02)


def test_an_agent_can_begin_anew_as_often_as_it_likes(team: Engine) -> None:
    """Cells of forgotten episodes are used again: 30 times 200 tokens, room for 612."""
    team.share(range(100))
    for _ in range(30):
        team.begin(1)
        team.feed(range(200), agent=1)

    assert team.tokens == 300


@pytest.mark.parametrize("parts", [[], [(0, [])], [(0, [1] * 40), (1, [1] * 40)]])
def test_a_batch_of_no_or_too_many_tokens_is_a_bug(team: Engine, parts: list[tuple[int, list[int]]]) -> None:
    with pytest.raises(ValueError, match="BUG: a batch takes 1 to 64 tokens"):
        team.step(parts)


def test_more_tokens_than_the_context_holds_fail_with_the_number(engine: Engine) -> None:
    with pytest.raises(DecodeFailed, match=r"after 512 failed with code 1"):
        engine.feed([5] * 600)


def test_qwen_shapes_load_too(tiny_shape: Shape, tmp_path: Path) -> None:
    shape = dataclasses.replace(tiny_shape, architecture="qwen2", qkv_bias=True, tied=False)
    write_model(tmp_path / "qwen.gguf", shape)
    engine = Engine(tmp_path / "qwen.gguf", threads=1, context_tokens=256)
    engine.feed([1])

    assert engine.kv_bytes == kv_bytes(shape, 1)
    engine.close()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"absent.gguf' does not exist"):
        Engine(tmp_path / "absent.gguf", threads=1, context_tokens=256)


@pytest.mark.parametrize("damage", ["cut", "magic", "empty"])
def test_a_damaged_model_is_refused_in_the_words_of_llama_cpp(damage: str, tiny_model: Path, tmp_path: Path) -> None:
    data = tiny_model.read_bytes()
    damaged = {"cut": data[: len(data) // 2], "magic": b"XXXX" + data[4:], "empty": b""}[damage]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged)

    with pytest.raises(ModelUnusable, match=r"damaged.gguf' cannot be loaded: (?!llama.cpp gave no reason)"):
        Engine(path, threads=1, context_tokens=256)


def test_weights_that_are_no_numbers_are_found_at_load(tiny_model: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[-512:] = np.full(128, np.nan, dtype=np.float32).tobytes()  # the last tensor: output_norm.weight
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)

    with pytest.raises(DecodeFailed, match="not finite"):
        Engine(path, threads=1, context_tokens=256)
