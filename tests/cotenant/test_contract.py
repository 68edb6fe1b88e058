"""The committed stubs are those of the committed protos."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "proto" / "cotenant" / "v1").glob("*.proto"))


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{sysconfig.get_path('purelib')}"]
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*command, *outputs, *map(str, PROTOS)], check=True, timeout=60)

    made = sorted((tmp_path / "cotenant" / "v1").glob("*.py"))
    stale = [one.name for one in made if one.read_text() != (ROOT / "cotenant" / "v1" / one.name).read_text()]
    assert [] == stale, "run `make proto`"
    assert len(made) == 2 * len(PROTOS)


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_every_rpc_has_messages_of_its_own(proto: Path) -> None:
    for line in proto.read_text().splitlines():
        if line.strip().startswith("rpc "):
            name = line.split()[1].split("(")[0]
            assert f"rpc {name}({name}Request) returns ({name}Response);" == line.strip()
