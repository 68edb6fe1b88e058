"""Crowded hosts, and a short way to ask the planner about a newcomer."""

from __future__ import annotations

from hypothesis import strategies as st

from isolation.cpuset import CpuSet
from profiler.records import WorkloadProfile
from scheduler.ledger import Ledger
from scheduler.placement import Decision, PredictedSlowdown, Resident, Slo, SloClass, WorkloadRequest
from scheduler.planner import plan
from scheduler.predictor import Predictor
from tests.fakes.machines import make_topology
from tests.fakes.predictions import HOST, PriorPairs, hog, idler, streamer

PROFILES: dict[str, WorkloadProfile | None] = {
    "hog": hog(),
    "streamer": streamer(),
    "idler": idler(),
    "unknown": None,
}
SLOS = st.builds(
    Slo, slo_class=st.sampled_from(SloClass), max_slowdown=st.none() | st.floats(min_value=1.0, max_value=4.0)
)


@st.composite
def crowds(draw: st.DrawFn) -> Ledger:
    topology = draw(
        st.builds(
            make_topology,
            packages=st.integers(1, 2),
            llcs_per_node=st.integers(1, 2),
            cores_per_llc=st.integers(1, 3),
            threads_per_core=st.integers(1, 2),
        )
    )
    residents = draw(
        st.lists(
            st.tuples(st.integers(1, topology.usable.mask), st.sampled_from(list(PROFILES)), SLOS, st.just(1.0)),
            max_size=5,
        )
    )
    return Ledger(
        topology,
        tuple(
            Resident(name=f"r{number}", cpus=CpuSet(mask), profile=PROFILES[kind], slo=slo, weight=weight)
            for number, (mask, kind, slo, weight) in enumerate(residents)
        ),
    )


def predictor(*, width: float = 1.2) -> Predictor:
    return Predictor(PriorPairs(width=width), "model-1", "", HOST.fingerprint)


def seat(ledger: Ledger, name: str, cpus: str, profile: WorkloadProfile | None, **slo: object) -> Ledger:
    promised = Slo(**slo)  # type: ignore[arg-type]
    return ledger.with_resident(Resident(name=name, cpus=CpuSet.parse(cpus), profile=profile, slo=promised))


def put(
    ledger: Ledger,
    profile: WorkloadProfile | None,
    *,
    cpus: int = 1,
    best_effort: bool = False,
    width: float = 1.2,
    whole_cores: bool = False,
    memory_bytes: int | None = None,
    **slo: object,
) -> Decision:
    request = WorkloadRequest(
        name="new",
        cpus=cpus,
        whole_cores=whole_cores,
        memory_bytes=memory_bytes,
        slo=Slo(**slo),  # type: ignore[arg-type]
    )
    return plan(request, profile, ledger, predictor(width=width), allow_best_effort=best_effort)


def of(decision: Decision, workload: str) -> PredictedSlowdown:
    return next(one for one in decision.predictions if one.workload == workload)


TWO_CPUS = Ledger(make_topology(cores_per_llc=2))
TWO_PACKAGES = Ledger(make_topology(packages=2, cores_per_llc=2))
