"""A model small enough to write and run in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.model_file import Shape, ensure_model


@pytest.fixture(scope="session")
def tiny_shape() -> Shape:
    return Shape(name="tiny", layers=2, hidden=128, heads=4, kv_heads=2, ffn=256, vocab=1000, tied=True, context=4096)


@pytest.fixture(scope="session")
def tiny_model(tiny_shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model(tiny_shape, folder=tmp_path_factory.mktemp("models"))
