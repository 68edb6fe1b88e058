"""Errors of the profiler layer.

ProfilerError
├── RecordInvalid          a value outside its definition
├── ProfileMissing         no profile of that name
├── ProfileDamaged         a stored profile that cannot be read
├── ObservationsDamaged    a stored observation that cannot be read
├── CalibrationMissing     this host was not calibrated
├── CalibrationDamaged     a stored calibration that cannot be read
├── StoreFailed            writing a profile, observation, calibration or model failed
├── WorkloadFailed         the profiled command could not start, ended early, or reported nothing
├── HostBusy               others use the CPUs, and a profile was wished for only if not
├── CountersUnavailable    the kernel or the CPU gives no such counter
├── TrainingImpossible     too little data
└── ModelMissing           no model, or none active
    └── ModelDamaged       hash, size or schema differ from the manifest
"""

from __future__ import annotations


class ProfilerError(Exception):
    """Base of this layer; `retryable` says whether the same call may succeed later without a change."""

    retryable = False


class RecordInvalid(ProfilerError, ValueError):
    """A value outside its definition."""


class ProfileMissing(ProfilerError, KeyError):
    """No profile of that name."""

    def __str__(self) -> str:
        return str(self.args[0])


class ProfileDamaged(ProfilerError):
    """A stored profile that cannot be read."""


class ObservationsDamaged(ProfilerError):
    """A stored observation that cannot be read."""


class CalibrationMissing(ProfilerError):
    """This host was not calibrated."""


class CalibrationDamaged(ProfilerError):
    """A stored calibration that cannot be read."""


class StoreFailed(ProfilerError):
    """Writing a profile, observation or model failed."""

    retryable = True


class WorkloadFailed(ProfilerError):
    """The profiled command could not start, ended early, or reported nothing."""


class HostBusy(ProfilerError):
    """Others use the CPUs or the caches, and a profile was wished for only if not."""

    retryable = True


class CountersUnavailable(ProfilerError):
    """The kernel or the CPU gives no such counter; the features that need it stay unknown."""


class TrainingImpossible(ProfilerError):
    """Too little data to fit anything."""


class ModelMissing(ProfilerError):
    """No such model, or none active."""


class ModelDamaged(ModelMissing):
    """A model whose hash, size or schema differ from its manifest."""
