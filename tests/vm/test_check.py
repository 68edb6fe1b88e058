"""`cotenant check` on a kernel whose resctrl we know: what make test-vm boots, each way to mount it."""

from __future__ import annotations

import os

import pytest

from isolation.capabilities import Capability, read_capabilities

_MOUNTED = os.environ.get("COTENANT_VM_RESCTRL")

pytestmark = pytest.mark.skipif(_MOUNTED is None, reason="needs a guest of make test-vm, which says what it mounted")


@pytest.fixture(scope="module")
def told() -> dict[str, Capability]:
    return {one.name: one for one in read_capabilities()}


def test_check_tells_whether_resctrl_is_here_and_why_not(told: dict[str, Capability]) -> None:
    found = told["resctrl"]

    if _MOUNTED == "ABSENT":
        assert found.available is False
        assert found.detail == "CPU flags: none; kernel support: no; mounted: no"
        assert "needs a CPU with RDT" in found.remedy
    else:
        assert found.available
        assert "cat_l3" in found.detail
        assert "mounted: /sys/fs/resctrl" in found.detail
        assert found.detail.endswith("7 groups beside the default")


def test_check_tells_ways_code_and_data_and_the_unit_of_bandwidth(told: dict[str, Capability]) -> None:
    ways, cdp = told["L3 cache ways"], told["code and data ways (CDP)"]
    bandwidth, monitoring = told["memory bandwidth limits"], told["cache and bandwidth monitoring"]
    here = _MOUNTED != "ABSENT"

    assert (ways.available, bandwidth.available, monitoring.available) == (here, here, here)
    assert cdp.available is (_MOUNTED == "CDP")
    assert ways.detail.startswith(
        {"CDP": "8 CLOSIDs, 11 ways", "ABSENT": "no resctrl"}.get(_MOUNTED or "", "16 CLOSIDs")
    )
    assert ("in MiB/s, steered by the kernel" in bandwidth.detail) is (_MOUNTED == "MBPS")
    assert ("10 to 100 percent in steps of 10" in bandwidth.detail) is (_MOUNTED in {"DEFAULT", "CDP"})
    assert ("32 RMIDs" in monitoring.detail) is here
