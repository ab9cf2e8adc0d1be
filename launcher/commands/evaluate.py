"""`adaptrun evaluate` and `adaptrun predict`: ranks for one model folder and one data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.data.sources import count_rows, files_left_out
from launcher.errors import DataError, RequestError
from launcher.job.home import DEFAULT_CACHE, usable_cache
from launcher.job.places import beside, is_there, may_be_on_the_hub, not_there
from launcher.job.pretrained import check_model_files, find_pretrained, own_code
from launcher.job.requests import EvaluationRequest
from launcher.job.schema import Model
from launcher.job.sections.data import Source
from launcher.job.splits import likely, splits_of
from launcher.job.trust import told_of_code
from launcher.plan.hardware import find_hardware
from launcher.run.folder import temporary_folder
from launcher.supervise.processes import run_ranks

OUTPUTS = (".csv", ".jsonl", ".parquet")
ROWS_WORTH_A_PROCESS = 200
"""Below this a second process costs more to start than it saves."""


def evaluate_model(model: Model, source: Source, batch_size: int, processes: int | None, as_json: bool) -> None:
    """Print the metrics of a model folder on labelled data. Raises RequestError and RunFailed."""
    result = evaluation_of(model, source, batch_size, processes)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['samples']} samples, each counted once, in {result['seconds']:.1f} s")
    for metric, value in result["metrics"].items():
        low, high = result["intervals"][metric]
        print(f"{metric:18} {value:.4f}  (95 %: {low:.4f} to {high:.4f})")


def evaluation_of(model: Model, source: Source, batch_size: int, processes: int | None) -> dict[str, Any]:
    """The metrics of a model folder on labelled data, as plain values. Raises RequestError and RunFailed."""
    return _run(model, source, None, batch_size, processes)


def predict_with_model(model: Model, source: Source, output: Path, batch_size: int, processes: int | None) -> None:
    """Write one row of predictions for each row of the data. Raises RequestError and RunFailed."""
    if output.suffix not in OUTPUTS:
        raise RequestError(f"predictions go to a file that ends in {', '.join(OUTPUTS)}, not {output.name}")
    if not output.resolve().parent.is_dir():
        raise RequestError(f"there is no folder {output.resolve().parent} to write {output.name} into; make it first")
    result = _run(model, source, output, batch_size, processes)
    print(f"{result['rows']} rows in {output}")


def _run(model: Model, source: Source, output: Path | None, batch_size: int, processes: int | None) -> dict[str, Any]:
    hardware = find_hardware()
    check_places(source)
    model = checked_model(model)
    rows = count_rows(source)
    for line in files_left_out(source):
        print(line, file=sys.stderr)
    ranks = processes or max(1, len(hardware.gpus) or worthwhile(hardware.cores, rows))
    request = EvaluationRequest(
        model=model,
        data=source.model_copy(update={"source": tuple(_place(place) for place in source.files)}),
        output=None if output is None else str(output.resolve()),
        batch_size=batch_size,
        device="cuda" if hardware.gpus else "cpu",
        cache=usable_cache(DEFAULT_CACHE, None),
    )
    with temporary_folder() as folder:
        (folder.path / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
        run_ranks(
            "launcher.worker.requests.evaluate",
            [str(folder.path)],
            processes=ranks,
            threads=max(1, hardware.cores // ranks),
            folder=folder,
            watch=lambda: None,
        )
        result: dict[str, Any] = json.loads(folder.result_file.read_text(encoding="utf-8"))
    for note in result.pop("notes"):
        print(note, file=sys.stderr)
    return result


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
    """What `--trust-code` names, as paths from anywhere, told with their hashes. Raises RequestError for no file."""
    trusted = tuple(str(beside(file, None).resolve()) for file in files)
    missing = next((file for file in trusted if not Path(file).is_file()), None)
    if missing is not None:
        raise RequestError(f"there is no {missing} to trust; --trust-code names a Python file of your own")
    for told in told_of_code(trusted):
        print(told, file=sys.stderr)
    return trusted


def check_places(source: Source, naming: str = "--split") -> None:
    """Raises DataError for what is not there, and for a folder of several splits of which none is named.

    naming: how one is named
    """
    for place in source.files:
        if not is_there(beside(place, None)) and not may_be_on_the_hub(place, Path.cwd()):
            raise DataError(place, f"there is no such file; {not_there(place, Path.cwd(), 'check the path')[1]}")
        splits = splits_of(place)
        if splits and source.split is None:
            raise DataError(place, f"holds the splits {', '.join(splits)}; name one: {naming} {likely(splits, False)}")


def worthwhile(cores: int, rows: int | None) -> int:
    """Processes without GPUs, so that none costs more to start than it saves."""
    return cores if rows is None else min(cores, 1 + rows // ROWS_WORTH_A_PROCESS)


def _place(name: str) -> str:
    """A path as seen from anywhere; a hub id or an alias as it is."""
    path = beside(name, None)
    return str(path.resolve()) if is_there(path) else name
