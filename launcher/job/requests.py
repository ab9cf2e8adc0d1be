"""What `adaptrun evaluate` and `adaptrun predict` ask of the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import PositiveInt

from launcher.errors import RequestError
from launcher.job.schema import Model
from launcher.job.sections.data import COLUMNS, Source
from launcher.job.sections.section import Section


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


def source_of(data: str, named: Mapping[str, str], pairs: Sequence[str], **options: Any) -> Source:
    """The data of a command line.

    named: columns by role; pairs: more of them, as `ROLE=NAME`
    Raises RequestError for a pair that is none.
    """
    columns, own = dict(named), dict[str, str]()
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not (role and equals and name):
            raise RequestError(f"--column {pair}: not of the form ROLE=NAME, such as prompt=question")
        (columns if role in COLUMNS else own)[role] = name
    return Source(source=data, **columns, columns=own, **options)
