"""Errors of the benchmarks layer.

BenchmarkError
├── WorkloadInvalid        an argument of a workload outside what it can do
├── WorkloadSilent         a workload ended early or reported nothing
├── DaemonSilent           the demonstration's own daemon did not start or ended
├── ScratchUnusable        the folder for a scratch file cannot be written
├── ShapeUnknown           no model shape of that name
├── ModelUnusable          a model file that is missing, damaged, or of a kind that cannot decode
│   └── DecodeFailed       llama.cpp gave up in the middle, or its logits are not finite
├── ModelWriteFailed       the model file could not be written
├── HostUnreadable         a kernel file about the host is missing or has another form
├── DesignInvalid          an experiment's design that cannot be read, or a choice that leaves nothing of it
├── MemberUnconfined       a member of a run that could not be put where the isolation wants it, or was moved away
├── CampaignMismatch       runs of another class of host or another schema
├── CampaignStuck          one run after the other fails
├── RunsMissing            nothing was measured that could be analysed
├── RunsDamaged            a record of runs that cannot be read
├── RunsLocked             another campaign writes to this record
├── RunsUnwritable         a run could not be recorded
├── MatplotlibMissing      figures cannot be drawn: the library is not installed
└── ReportUnwritable       the report's folder cannot be written
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base of this layer; `retryable` says whether the same call may succeed later without a change."""

    retryable = False


class WorkloadInvalid(BenchmarkError, ValueError):
    """An argument of a workload outside what it can do."""


class WorkloadSilent(BenchmarkError):
    """A workload ended early or reported nothing."""


class DaemonSilent(BenchmarkError):
    """The daemon started by a demonstration or benchmark did not start, or ended."""


class ScratchUnusable(BenchmarkError):
    """The folder for a scratch file cannot be written."""


class ShapeUnknown(BenchmarkError, ValueError):
    """No model shape of that name."""


class ModelUnusable(BenchmarkError):
    """A model file that is missing, damaged, or of a kind that cannot decode."""


class DecodeFailed(ModelUnusable):
    """llama.cpp gave up in the middle, or its logits are not finite."""


class ModelWriteFailed(BenchmarkError):
    """The model file could not be written."""

    retryable = True


class HostUnreadable(BenchmarkError):
    """A kernel file about the host is missing or has another form."""


class DesignInvalid(BenchmarkError, ValueError):
    """An experiment's design that cannot be read, or a choice that leaves nothing of it."""


class MemberUnconfined(BenchmarkError):
    """A member of a run that could not be put where the isolation wants it, or was moved away."""


class CampaignMismatch(BenchmarkError):
    """Runs of another class of host or another schema."""


class CampaignStuck(BenchmarkError):
    """One run after the other fails: going on would only use up their attempts."""

    retryable = True


class RunsMissing(BenchmarkError):
    """Nothing was measured that could be analysed."""


class RunsDamaged(BenchmarkError):
    """A record of runs that cannot be read."""


class RunsLocked(BenchmarkError):
    """Another campaign writes to this record."""

    retryable = True


class RunsUnwritable(BenchmarkError):
    """A run could not be recorded."""

    retryable = True


class MatplotlibMissing(BenchmarkError):
    """Figures cannot be drawn: the library is not installed."""


class ReportUnwritable(BenchmarkError):
    """The report's folder cannot be written."""

    retryable = True
