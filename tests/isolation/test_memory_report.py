"""The command that tells where memory lives."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isolation.cli import app
from isolation.node_memory import read_node_memory
from isolation.numa_maps import memory_of
from tests.fakes.memory_processes import memory_process

RUNNER = CliRunner()
_MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x" * (80 * _MIB))
    return path


def test_memory_of_a_process_and_its_model_is_told_by_node(file: Path) -> None:
    if memory_of([os.getpid()]) is None:
        pytest.skip("this kernel has no NUMA: no numa_maps")
    node = read_node_memory()[0].node
    with memory_process(32 * _MIB, node, path=str(file)) as process:
        lines = RUNNER.invoke(app, ["memory", str(process.pid), "--file", str(file)]).output.splitlines()
        record = json.loads(RUNNER.invoke(app, ["memory", str(process.pid), "--json"]).output)

    told = f"80.0 MiB of model.gguf are cached on node {node}"
    assert lines[0].startswith(f"node {node}: ")
    assert lines[-2:] == [f"  {file}: {told}", f"{file}: {told}"]
    assert any(line.startswith(f"process {process.pid}: private memory 3") for line in lines)
    (found,) = record["processes"]
    assert found["anonymous_bytes"][str(node)] > 31 * _MIB
    assert found["files"][0]["path"] == str(file)
    assert found["files"][0]["cache"]["cached"] == {str(node): 80 * _MIB}
    assert record["nodes"][0]["free_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["999999999"], "process 999999999 does not exist"),
        (["--file", "/absent/model.gguf"], "what of '/absent/model.gguf' is cached cannot be told: No such file"),
    ],
)
def test_what_cannot_be_told_is_an_error_that_names_it(arguments: list[str], told: str) -> None:
    result = RUNNER.invoke(app, ["memory", *arguments])

    assert result.exit_code == 1
    assert f"cotenant memory: {told}" in result.stderr
