"""What `adaptrun evaluate` and `adaptrun predict` ask of the ranks."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from launcher.job.schema import Model, Section, Source


class EvaluationRequest(Section):
    """Evaluate or predict with a model folder on one data set.

    output: absolute path of the file of predictions (csv, jsonl or parquet); None evaluates
    max_length: None takes what the model folder was trained with
    """

    model: Model
    data: Source
    output: str | None = None
    batch_size: PositiveInt = 32
    max_length: PositiveInt | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    cache: str
