"""`adaptrun evaluate` and `adaptrun predict`: ranks for one model folder and one data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from launcher.data.sources import count_rows, files_left_out
from launcher.errors import DataError, RequestError
from launcher.job.home import DEFAULT_CACHE, usable_cache
from launcher.job.places import is_there, may_be_on_the_hub, not_there, resolve_from
from launcher.job.pretrained import check_model_files, find_pretrained, own_code
from launcher.job.requests import (
    EvaluationAnswer,
    EvaluationRequest,
    InferenceRequest,
    PredictionAnswer,
    PredictionRequest,
)
from launcher.job.schema import Model
from launcher.job.sections.data import Source
from launcher.job.splits import likely, splits_of
from launcher.job.trust import notices_of_code
from launcher.plan.hardware import find_hardware
from launcher.supervise.requests import ask_ranks

AnyInference = TypeVar("AnyInference", EvaluationAnswer, PredictionAnswer)
OUTPUTS = (".csv", ".jsonl", ".parquet")
ROWS_WORTH_A_PROCESS = 200
"""Below this a second process costs more to start than it saves."""


def evaluate_model(model: Model, source: Source, batch_size: int, processes: int | None, as_json: bool) -> None:
    """Print the metrics of a model folder on labelled data. Raises RequestError and RunFailed."""
    found = evaluation_of(model, source, batch_size, processes)
    if as_json:
        print(json.dumps(found.model_dump(mode="json", exclude={"notes"}), indent=2))
        return
    print(f"{found.samples} samples, each counted once, in {found.seconds:.1f} s")
    for metric, value in found.metrics.items():
        low, high = found.intervals[metric]
        print(f"{metric:18} {value:.4f}  (95 %: {low:.4f} to {high:.4f})")


def evaluation_of(model: Model, source: Source, batch_size: int, processes: int | None) -> EvaluationAnswer:
    """The metrics of a model folder on labelled data. Raises RequestError and RunFailed."""
    asked = _checked(model, source, batch_size, processes)
    return _answered(EvaluationRequest(**asked.fields), asked)


def predict_with_model(model: Model, source: Source, output: Path, batch_size: int, processes: int | None) -> None:
    """Write one row of predictions for each row of the data. Raises RequestError and RunFailed."""
    if output.suffix not in OUTPUTS:
        raise RequestError(f"predictions are written to {', '.join(OUTPUTS)}, not to {output.name}")
    if not output.resolve().parent.is_dir():
        raise RequestError(f"there is no folder {output.resolve().parent} to write {output.name} into; create it first")
    asked = _checked(model, source, batch_size, processes)
    answer = _answered(PredictionRequest(output=str(output.resolve()), **asked.fields), asked)
    print(f"{answer.rows} rows in {output}")


class _Checked(NamedTuple):
    """What is asked of a model folder and a data set that were looked at, and of how many ranks."""

    fields: dict[str, Any]
    ranks: int
    threads: int


def _checked(model: Model, source: Source, batch_size: int, processes: int | None) -> _Checked:
    hardware = find_hardware()
    check_places(source)
    model = checked_model(model)
    rows = count_rows(source)
    for line in files_left_out(source):
        print(line, file=sys.stderr)
    ranks = processes or max(1, len(hardware.gpus) or worthwhile(hardware.cores, rows))
    fields = {
        "model": model,
        "data": source.model_copy(update={"source": tuple(_place(place) for place in source.files)}),
        "batch_size": batch_size,
        "device": "cuda" if hardware.gpus else "cpu",
        "cache": usable_cache(DEFAULT_CACHE, None),
    }
    return _Checked(fields, ranks, max(1, hardware.cores // ranks))


def _answered(request: InferenceRequest[AnyInference], asked: _Checked) -> AnyInference:
    """What the ranks answer; their notes are told."""
    answer = ask_ranks(request, processes=asked.ranks, threads=asked.threads)
    for note in answer.notes:
        print(note, file=sys.stderr)
    return answer


def checked_model(model: Model) -> Model:
    """The model with paths from anywhere, its files looked at; tells which code of the user's own may run.

    Raises ModelError where it is not there, is damaged, or names code that the user does not.
    """
    update = {"pretrained": _place(model.pretrained), "trust_code": trusted_files(model.trust_code)}
    model = model.model_copy(update=update)
    pretrained = find_pretrained(model, Path.cwd())
    check_model_files(pretrained, model)
    own_code(pretrained, model)
    return model


def trusted_files(files: Sequence[str]) -> tuple[str, ...]:
    """What `--trust-code` names, as absolute paths, reported with their hashes. Raises RequestError for no file."""
    trusted = tuple(str(resolve_from(file, None).resolve()) for file in files)
    missing = next((file for file in trusted if not Path(file).is_file()), None)
    if missing is not None:
        raise RequestError(f"there is no file {missing} to trust; give --trust-code a Python file of your own")
    for notice in notices_of_code(trusted):
        print(notice, file=sys.stderr)
    return trusted


def check_places(source: Source, naming: str = "--split") -> None:
    """Raises DataError for what is not there, and for a folder of several splits of which none is named.

    naming: how one is named
    """
    for place in source.files:
        if not is_there(resolve_from(place, None)) and not may_be_on_the_hub(place, Path.cwd()):
            raise DataError(place, f"there is no such file; {not_there(place, Path.cwd(), 'check the path')[1]}")
        splits = splits_of(place)
        if splits and source.split is None:
            raise DataError(place, f"holds the splits {', '.join(splits)}; name one: {naming} {likely(splits, False)}")


def worthwhile(cores: int, rows: int | None) -> int:
    """Processes without GPUs, so that none costs more to start than it saves."""
    return cores if rows is None else min(cores, 1 + rows // ROWS_WORTH_A_PROCESS)


def _place(name: str) -> str:
    """A path as seen from anywhere; a hub id or an alias as it is."""
    path = resolve_from(name, None)
    return str(path.resolve()) if is_there(path) else name
