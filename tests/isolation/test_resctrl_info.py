"""What resctrl offers, read from eight captured trees and from written ones; what the report says of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isolation.capabilities import read_capabilities
from isolation.cli import app
from isolation.errors import ResctrlUnreadable
from isolation.resctrl_info import BandwidthUnit, find_resctrl, read_resctrl
from isolation.resctrl_mask import WayMask
from isolation.resctrl_monitor import MonitorReading, read_monitor
from isolation.resctrl_schemata import Schemata
from tests.fakes.captured import RESCTRL

_LINES = ("resctrl", "L3 cache ways", "L2 cache ways", "code and data ways (CDP)", "memory bandwidth limits")
_MONITORED = "llc_occupancy, mbm_total_bytes, mbm_local_bytes"
_L3 = "20 ways, 1 or more a mask, gaps not told, ways 18-19 shared with I/O, domains 0-3"
_PERCENT = "10 to 100 percent in steps of 10"
_NO = "not offered"

#: Variant: groups beside the default, L3, L2, CDP, bandwidth, monitoring.
REPORTS = {
    "resctrl.full": (7, f"16 CLOSIDs, {_L3}", _NO, "off", f"MB: 8 CLOSIDs, {_PERCENT}, domains 0-3", 192),
    "resctrl.l2": (
        *(3, _NO, "4 CLOSIDs, 8 ways, 1 or more a mask, gaps not told, none shared with I/O, domains 0-1"),
        *("off", _NO, None),
    ),
    "resctrl.l2cdp": (
        *(3, "4 CLOSIDs, 12 ways, 1 or more a mask, gaps not told, ways 10 shared with I/O, domains 0"),
        "4 CLOSIDs, 20 ways, 1 or more a mask, gaps not told, none shared with I/O, domains 0-3",
        *("on for L2, which halves the CLOSIDs", _NO, None),
    ),
    "resctrl.l2l3mb": (
        *(7, "15 CLOSIDs, 20 ways, 1 or more a mask, no gaps, ways 0,18-19 shared with I/O, domains 0-1"),
        "8 CLOSIDs, 16 ways, 1 or more a mask, no gaps, none shared with I/O, domains 0-39",
        *("off", f"MB: 15 CLOSIDs, {_PERCENT}, threads of a core: max, domains 0-1", 512),
    ),
    "resctrl.nol3": (7, _NO, _NO, "off", f"MB: 8 CLOSIDs, {_PERCENT}, domains 0-3", 192),
    "resctrl.nol3.mbps": (
        *(7, _NO, _NO, "off"),
        "MB: 8 CLOSIDs, in MiB/s, steered by the kernel in steps of 10 percent from 10, domains 0-3",
        160,
    ),
    "resctrl.nomb": (15, f"16 CLOSIDs, {_L3.replace('1 or', '2 or')}", _NO, "off", _NO, 192),
    "resctrl.nomb.cdp": (7, f"8 CLOSIDs, {_L3}", _NO, "on for L3, which halves the CLOSIDs", _NO, 176),
}


def write_resctrl(root: Path, files: Mapping[str, str]) -> Path:
    """Write a tree with an L3 of 12 ways in domains 0 and 2, and percentages of bandwidth; files replace its own."""
    default = {
        "schemata": "L3:0=fff;2=fff\nMB:0=100;2=100",
        "info/L3/num_closids": "16",
        "info/L3/cbm_mask": "fff",
        "info/L3/min_cbm_bits": "2",
        "info/L3/shareable_bits": "c00",
        "info/L3/bit_usage": "0=XXSSSSSSSSSS;2=XXSSSSEEEPSS",
        "info/L3/sparse_masks": "0",
        "info/MB/num_closids": "8",
        "info/MB/min_bandwidth": "10",
        "info/MB/bandwidth_gran": "10",
        "info/MB/delay_linear": "1",
    }
    for name, text in (default | dict(files)).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


@pytest.mark.skipif(not RESCTRL.is_dir(), reason="the captured resctrl trees are not beside the project")
@pytest.mark.parametrize("variant", sorted(REPORTS))
def test_check_says_of_a_captured_tree_exactly_what_it_offers(variant: str) -> None:
    result = CliRunner().invoke(app, ["check", "--resctrl", str(RESCTRL / variant), "--json"])
    found = {one["name"]: one for one in json.loads(result.output)}
    groups, l3, l2, cdp, bandwidth, rmids = REPORTS[variant]

    assert [found[name]["detail"] for name in _LINES] == [
        f"captured at {RESCTRL / variant}; {groups} groups beside the default",
        *(l3, l2, cdp, bandwidth),
    ]
    assert found["cache and bandwidth monitoring"]["detail"] == (f"L3: {rmids} RMIDs, {_MONITORED}" if rmids else _NO)
    assert [found[name]["available"] for name in _LINES] == [
        *(True, l3 != _NO, l2 != _NO, cdp != "off", bandwidth != _NO)
    ]
    assert found["cache and bandwidth monitoring"]["available"] == bool(rmids)


@pytest.mark.skipif(not RESCTRL.is_dir(), reason="the captured resctrl trees are not beside the project")
def test_all_captured_trees_are_reported_and_the_default_group_fits_its_own_limits() -> None:
    trees = {path.name: path for path in RESCTRL.iterdir() if path.is_dir()}

    assert set(trees) == set(REPORTS)
    for tree in trees.values():
        schemata = Schemata.parse((tree / "schemata").read_text(encoding="utf-8"))
        info = read_resctrl(tree)

        assert not schemata.unknown
        assert Schemata.parse(str(schemata)) == schemata
        assert info.misfits(schemata) == ()
        assert schemata.missing_in(schemata, info.rounding) == ()


@pytest.mark.skipif(not RESCTRL.is_dir(), reason="the captured resctrl trees are not beside the project")
def test_captured_readings_of_groups_are_read() -> None:
    readings = read_monitor(RESCTRL / "resctrl.nol3")

    assert [one.domain for one in readings] == [0, 1, 2, 3]
    assert all(one.llc_occupancy_bytes and one.mbm_total_bytes and one.mbm_local_bytes for one in readings)
    assert read_monitor(RESCTRL / "resctrl.l2") == ()


def test_readings_that_are_missing_stay_missing(tmp_path: Path) -> None:
    for name, text in (("mon_L3_00/llc_occupancy", "4096"), ("mon_L3_12/mbm_total_bytes", "Unavailable")):
        path = tmp_path / "mon_data" / name
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n", encoding="utf-8")
    (tmp_path / "mon_data/mon_L3_00/mon_sub_L3_01").mkdir()
    nothing = {"llc_occupancy_bytes": None, "mbm_total_bytes": None, "mbm_local_bytes": None}

    assert read_monitor(tmp_path) == (
        MonitorReading(resource="L3", domain=0, **(nothing | {"llc_occupancy_bytes": 4096})),
        MonitorReading(resource="L3", domain=12, **nothing),
    )


@pytest.mark.parametrize(
    ("mask", "domain", "why"),
    [
        (0x3, 0, []),
        (0xC00, None, []),
        (0x0, None, ["gives no way"]),
        (0x1, None, ["has 1 ways, L3 takes 2 or more"]),
        (0x5, None, ["has gaps"]),
        (0x3000, None, ["has ways 12-13 beyond the 12 of L3"]),
        (0x3, 1, ["L3 has no domain 1, only 0,2"]),
        (0x3, 2, []),
        (0x3C, 2, ["another group holds ways 2-5 of domain 2 for itself"]),
        (0x5001, 2, ["ways 12,14 beyond", "has gaps"]),
    ],
)
def test_a_mask_is_judged_before_the_kernel_does(tmp_path: Path, mask: int, domain: int | None, why: list[str]) -> None:
    control = read_resctrl(write_resctrl(tmp_path, {})).cache("L3")

    assert control is not None
    reasons = control.misfits(WayMask(mask), domain)
    assert len(reasons) == len(why)
    assert all(part in reason for part, reason in zip(why, reasons, strict=True))


def test_gaps_are_allowed_where_the_kernel_says_so(tmp_path: Path) -> None:
    control = read_resctrl(write_resctrl(tmp_path, {"info/L3/sparse_masks": "1"})).cache("L3")

    assert control is not None
    assert control.sparse_masks is True
    assert control.misfits(WayMask(0x5)) == ()


@pytest.mark.parametrize(
    ("files", "options", "unit", "rounded"),
    [
        ({}, None, BandwidthUnit.PERCENT, 40),
        ({}, frozenset({"rw"}), BandwidthUnit.PERCENT, 40),
        ({}, frozenset({"rw", "mba_MBps"}), BandwidthUnit.MIB_PER_S, 33),
        ({"schemata": "MB:0=4294967295;2=4294967295"}, None, BandwidthUnit.MIB_PER_S, 33),
        ({"mba_MBps_event": "mbm_local_bytes"}, None, BandwidthUnit.MIB_PER_S, 33),
        (
            {
                "schemata": "MB:0=2048;2=  16",
                "info/MB/delay_linear": "0",
                "info/MB/min_bandwidth": "0",
                "info/MB/bandwidth_gran": "1",
            },
            None,
            BandwidthUnit.EIGHTH_GB_PER_S,
            33,
        ),
    ],
)
def test_fault_50_the_unit_of_bandwidth_is_told_and_so_is_its_rounding(
    tmp_path: Path, files: dict[str, str], options: frozenset[str] | None, unit: BandwidthUnit, rounded: int
) -> None:
    control = read_resctrl(write_resctrl(tmp_path, files), options).bandwidth()

    assert control is not None
    assert control.unit is unit
    assert control.rounded(33) == rounded
    assert control.misfits(50, 2) == ()
    assert len(control.misfits(-1, 1)) == 2
    assert bool(control.misfits(101)) == (unit is BandwidthUnit.PERCENT)


def test_a_whole_wish_is_judged(tmp_path: Path) -> None:
    info = read_resctrl(write_resctrl(tmp_path, {}))
    wish = Schemata.of({"L2": {0: WayMask(1)}, "L3": {0: WayMask(1)}, "MB": {0: 5, 1: 50}})

    assert info.closids == 8
    assert info.misfits(wish) == (
        "this resctrl has no L2",
        "way mask '1' has 1 ways, L3 takes 2 or more",
        "bandwidth 5 is outside the 10 to 100 percent of MB",
        "MB has no domain 1, only 0,2",
    )


def test_assignable_counters_and_slow_memory_are_read(tmp_path: Path) -> None:
    files = {f"info/SMBA/{name}": text for name, text in (("num_closids", "16"), ("min_bandwidth", "0"))}
    files |= {"info/SMBA/bandwidth_gran": "1", "info/SMBA/delay_linear": "0", "info/L3_MON/num_rmids": "256"}
    files |= {
        "schemata": "L3:0=fff;2=fff\nMB:0=100;2=100\nSMBA:0=2048;2=2048",
        "info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes",
        "info/L3_MON/mbm_assign_mode": "[mbm_event]\ndefault",
        "info/L3_MON/num_mbm_cntrs": "0=32;2=32",
    }
    info = read_resctrl(write_resctrl(tmp_path, files))
    slow = info.bandwidth("SMBA")

    assert slow is not None
    assert (slow.unit, slow.domains) == (BandwidthUnit.EIGHTH_GB_PER_S, (0, 2))
    assert [(one.rmids, one.mbm_assign_mode, one.mbm_counters) for one in info.monitoring] == [
        (256, "mbm_event", {0: 32, 2: 32})
    ]
    lines = {one.name: one.detail for one in read_capabilities(resctrl=tmp_path)}
    assert lines["memory bandwidth limits"].endswith("SMBA: 16 CLOSIDs, from 0 in steps of 1 x 1/8 GB/s, domains 0,2")
    assert lines["cache and bandwidth monitoring"].endswith("mbm_total_bytes, 64 assignable counters")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"info/L3/num_closids": "many"}, "num_closids' says 'many', not a number"),
        ({"info/L3/cbm_mask": ""}, "cbm_mask' says ''"),
        ({"schemata": "L3:0=zz"}, "schemata' is not understood: way mask 'zz'"),
    ],
)
def test_damaged_files_are_refused_by_name_and_said_in_the_report(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    write_resctrl(tmp_path, files)
    with pytest.raises(ResctrlUnreadable, match=why):
        read_resctrl(tmp_path)
    lines = {one.name: one for one in read_capabilities(resctrl=tmp_path)}

    assert lines["resctrl"].available is False
    assert why in lines["resctrl"].detail
    assert lines["L3 cache ways"].detail == "no resctrl to ask"


def test_a_folder_without_resctrl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResctrlUnreadable, match="is resctrl mounted at"):
        read_resctrl(tmp_path)
    (tmp_path / "info").mkdir()
    with pytest.raises(ResctrlUnreadable, match="schemata' cannot be read"):
        read_resctrl(tmp_path)


def test_a_mount_is_found_with_its_options_and_reported(tmp_path: Path) -> None:
    write_resctrl(tmp_path / "sys/fs/resctrl", {})
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/mounts").write_text(
        "proc /proc proc rw 0 0\nresctrl /sys/fs/resctrl resctrl rw,relatime,mba_MBps 0 0\n", encoding="utf-8"
    )
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: cat_l3 mba fpu\n", encoding="utf-8")
    mount = find_resctrl(tmp_path)
    lines = {one.name: one for one in read_capabilities(tmp_path)}

    assert mount is not None
    assert mount.options == {"rw", "relatime", "mba_MBps"}
    assert lines["resctrl"].detail == (
        f"CPU flags: cat_l3, mba; kernel support: no; mounted: {tmp_path / 'sys/fs/resctrl'};"
        " 7 groups beside the default"
    )
    assert "in MiB/s" in lines["memory bandwidth limits"].detail
    assert find_resctrl(tmp_path / "sys") is None
