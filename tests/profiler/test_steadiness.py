"""When a run counts as steady, and who disturbs it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from isolation.cpuset import CpuSet
from isolation.topology import read_topology
from profiler.cli import app
from profiler.collector import collect
from profiler.errors import HostBusy
from profiler.idleness import Company, Solitude
from profiler.steadiness import Slice, halves_differ, settled

TOPOLOGY = read_topology()
ONE_CPU = CpuSet.of(list(TOPOLOGY.usable)[-1:])
MIB = float(1 << 20)


def slices(*rates: float | None, cores: float = 1.0, rss_mib: tuple[float, ...] = (100, 100, 100, 100)) -> list[Slice]:
    return [
        Slice(rate_per_s=rate, cpu_cores=cores, rss_bytes=rss * MIB)
        for rate, rss in zip(rates, rss_mib[: len(rates)], strict=True)
    ]


@pytest.mark.parametrize(
    ("seen", "expected", "steady"),
    [
        (slices(100, 101), True, False),  # too few
        (slices(50, 100, 101, 99), True, True),
        (slices(100, 101, 120), True, False),
        (slices(0, 0, 0), True, False),  # standing still is not steady
        (slices(None, None, None), True, False),  # it will tell, and has not yet
        (slices(None, None, None), False, True),
        (slices(None, None, None, rss_mib=(100, 200, 300)), False, False),  # still loading
        (slices(100, 100, 100, rss_mib=(100, 200, 300)), True, True),  # a growing cache of one that tells its rate
        (slices(None, None, None, cores=0.0), False, True),
    ],
)
def test_slices_that_agree_are_steady(seen: list[Slice], expected: bool, steady: bool) -> None:  # noqa: FBT001
    assert bool(settled(seen, rate_expected=expected)) == steady


def test_cpu_use_that_still_moves_is_not_steady() -> None:
    moving = [Slice(rate_per_s=None, cpu_cores=cores, rss_bytes=MIB) for cores in (0.5, 0.7, 0.9)]

    assert settled(moving, rate_expected=False) == ""


def test_halves_are_compared_with_their_mean() -> None:
    assert halves_differ(100, 120)
    assert not halves_differ(100, 110)


def test_whoever_else_computes_is_named_with_its_share() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            # on the very CPU, so that it is seen even if the rest of the machine is busy
            subprocess.run(["taskset", "-pc", str(ONE_CPU), str(busy.pid)], check=True, capture_output=True)
            solitude = Solitude(ONE_CPU, TOPOLOGY)
            first = solitude.now()
            time.sleep(1.0)
            alone = solitude.company(first, solitude.now(), ours={busy.pid})
            company = solitude.company(first, solitude.now())
            with pytest.raises(HostBusy, match=f"CPUs {ONE_CPU} are not alone: .*others used"):
                collect("x", ["sleep", "987"], cpus=ONE_CPU, refuse_busy=True)
        finally:
            busy.kill()

    assert company.is_too_much
    assert company.on_ratio > 0.5
    assert f" {busy.pid}: " in company.who
    assert f" {busy.pid}: " not in alone.who


def test_company_below_both_limits_is_none() -> None:
    assert not Company(on_ratio=0.05, beside_cpus=0.3, who="").is_too_much
    assert "kept 0.9 CPUs busy" in str(Company(on_ratio=0.05, beside_cpus=0.9, who="x 1: 90%"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "no command given, and 'x' is in no catalogue: .*redis"),
        (["x", "--pid", "1", "--", "true"], "a command and --pid were given"),
        (["x", "--entry", "redis", "--cgroup", "/x"], "--entry and --cgroup were given"),
        (["x", "--entry", "nosuch"], "'nosuch' is in no catalogue"),
        (["x", "--entry", "/no/such.toml"], "such.toml' cannot be read: No such file"),
        (["x", "--cpus", "0", "--", "true"], "--cpus 0 is how many CPUs, 1 to"),
        (["x", "--cpus", "9999", "--", "true"], "--cpus 9999 is how many CPUs"),
        (["x", "--cpus", "8190-8191", "--", "true"], "CPUs '8190-8191' cannot be used"),
        (["x", "--cgroup", "/no/such"], "'/no/such' is no cgroup"),
        (["x", "--pid", "999999999"], "no such process: 999999999"),
    ],
)
def test_wishes_of_the_command_line_that_make_no_sense(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str], message: str
) -> None:
    state = str(tmp_path_factory.mktemp("state"))

    done = CliRunner().invoke(app, ["profile", *arguments[:1], "--state", state, *arguments[1:]])

    assert done.exception is not None
    with pytest.raises(type(done.exception), match=message):
        raise done.exception
