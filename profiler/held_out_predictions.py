"""What a model said of observations that were held out, one row each: kept beside the model, read by reports only.

Nothing that serves predictions reads this. JSON, one document for each model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from profiler.errors import RecordInvalid
from profiler.records import Relation

SCHEMA_VERSION = 1  # 1: first version


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPrediction:
    """An observation beside the prediction of a model that had seen nothing of one of its two workloads."""

    held_out: str  #: the workload left out of training: victim or aggressor. A pair has a row for each
    victim: str
    aggressor: str
    relation: Relation
    measured: float  #: SF, median of the repetitions
    spread: float | None  #: standard deviation of log SF over repetitions; None = one repetition
    repetitions: int
    predicted: float  #: SF
    prior: float  #: SF that the prior alone says
    lower: float | None = None  #: interval of `predicted`; None = has none
    upper: float | None = None

    def __post_init__(self) -> None:
        for name in ("measured", "predicted", "prior", "lower", "upper"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise RecordInvalid(f"{name} slowdown {value} of {self.victim!r} must be finite and above 0")
        if self.spread is not None and not (math.isfinite(self.spread) and self.spread >= 0):
            raise RecordInvalid(f"spread {self.spread} of {self.victim!r} must be finite and at least 0, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema_version: int
    model: str
    predictions: tuple[HeldOutPrediction, ...]


_DOCUMENT = TypeAdapter(_Document)


def predictions_to_json(predictions: tuple[HeldOutPrediction, ...], model_id: str) -> bytes:
    """Write the rows of one model."""
    document = _Document(schema_version=SCHEMA_VERSION, model=model_id, predictions=predictions)
    return _DOCUMENT.dump_json(document)


def predictions_from_json(data: bytes, model_id: str) -> tuple[HeldOutPrediction, ...]:
    """Read what predictions_to_json wrote; raises RecordInvalid for anything else, or rows of another model."""
    try:
        document = _DOCUMENT.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecordInvalid(f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
    if document.schema_version != SCHEMA_VERSION:
        raise RecordInvalid(f"schema_version is {document.schema_version}, this version reads {SCHEMA_VERSION}")
    if document.model != model_id:
        raise RecordInvalid(f"the predictions are of model {document.model!r}, not of {model_id!r}")
    return document.predictions
