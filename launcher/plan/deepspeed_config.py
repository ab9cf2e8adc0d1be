"""DeepSpeed's JSON, rendered from the job: a template or the user's own file, in which the job decides every `auto`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import JobError, Problem
from launcher.job.positions import Document, places_in_json, read_document
from launcher.job.pretrained import find_pretrained, read_config
from launcher.job.schema import DEEPSPEED_TEMPLATES, Job
from launcher.plan.split import Split

TEMPLATES = Path(__file__).resolve().parent.parent / "ds_configs"
NOT_FOR_DEEPSPEED = ("optimizer", "scheduler", "train_batch_size")
"""Checked, and left out of what DeepSpeed gets: optimizer and schedule are ours, and a last batch may be short."""
WHAT_IS_NEEDED = 'the least there can be is {"zero_optimization": {"stage": 2}}'


@dataclass(frozen=True)
class Wanted:
    """A value of DeepSpeed's JSON that the job decides.

    field: the field of the job file that says so
    """

    path: tuple[str, ...]
    value: Any
    field: str


def render_deepspeed(job: Job, job_file: Path, split: Split) -> dict[str, Any]:
    """What DeepSpeed gets.

    Raises JobError for a file that is missing, or that disagrees with the job, naming both places.
    """
    document = read_deepspeed(job)
    wanted = list(_wanted(job, split))
    problems = [*_disagreements(document, wanted, job_file), *_unusable(document), *_out_of_reach(document, job)]
    if problems:
        raise JobError(problems)
    config = document.values
    for want in wanted:
        _fill(config, want)
    for name in NOT_FOR_DEEPSPEED:
        config.pop(name, None)
    config.setdefault("zero_allow_untested_optimizer", True)
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    left = [
        Problem(document.where(path), ".".join(path), "auto is not known here", _fix(path)) for path in _autos(config)
    ]
    if left:
        raise JobError(left)
    return config


def read_deepspeed(job: Job) -> Document:
    """The template, or the user's own file, as it stands. Raises JobError for a file that is no JSON."""
    name = job.engine.deepspeed
    file = TEMPLATES / f"{name}.json" if name in DEEPSPEED_TEMPLATES else Path(name)
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise JobError([Problem(str(file), "", f"cannot be read as UTF-8 text: {error}")]) from None
    except json.JSONDecodeError as error:
        where = f"{file}:{error.lineno}:{error.colno}"
        raise JobError([Problem(where, "", f"not valid JSON: {error.msg}", "DeepSpeed reads plain JSON")]) from None
    places = places_in_json(file, text)
    if not isinstance(values, dict) or not isinstance(values.get("zero_optimization", {}), dict):
        message = "a DeepSpeed file is an object, and so is its zero_optimization"
        raise JobError([Problem(f"{file}:1:1", "", message, WHAT_IS_NEEDED)])
    return Document(file, values, places)


def _wanted(job: Job, split: Split) -> Iterator[Wanted]:
    train, optimizer = job.train, job.train.optimizer
    yield Wanted(("train_batch_size",), train.global_batch_size, "train.global_batch_size")
    yield Wanted(("train_micro_batch_size_per_gpu",), split.micro_batch, "train.micro_batch_size")
    yield Wanted(("gradient_accumulation_steps",), split.accumulation, "train.micro_batch_size")
    yield Wanted(("gradient_clipping",), train.clip_norm or 0.0, "train.clip_norm")
    for section in ("bf16", "fp16", "torch_autocast"):  # weights stay fp32, and the engine's own autocast does the rest
        yield Wanted((section, "enabled"), False, "train.precision")
    for path in (("communication_data_type",), ("data_types", "grad_accum_dtype")):
        yield Wanted(path, "fp32", "train.precision")
    for what in ("weights", "gradients"):
        yield Wanted(("zero_optimization", f"zero_quantized_{what}"), False, "train.precision")
    yield Wanted(("optimizer", "type"), {"adamw": "AdamW", "sgd": "SGD"}[optimizer.name], "train.optimizer.name")
    for name in ("lr", "weight_decay", *(("betas", "eps") if optimizer.name == "adamw" else ("momentum",))):
        value = getattr(optimizer, name)
        value = list(value) if isinstance(value, tuple) else value
        yield Wanted(("optimizer", "params", name), value, f"train.optimizer.{name}")
    for section in ("offload_optimizer", "offload_param"):
        if job.engine.nvme_path is not None:
            yield Wanted(("zero_optimization", section, "nvme_path"), job.engine.nvme_path, "engine.nvme_path")
    hidden = _hidden_size(job)
    if hidden is not None:  # the sizes that DeepSpeed's integration in transformers takes
        for name, size in (
            ("reduce_bucket_size", hidden**2),
            ("stage3_prefetch_bucket_size", int(0.9 * hidden**2)),
            ("stage3_param_persistence_threshold", 10 * hidden),
        ):
            yield Wanted(("zero_optimization", name), size, "")


def _hidden_size(job: Job) -> int | None:
    size = (read_config(find_pretrained(job.model)) or {}).get("hidden_size")
    return size if isinstance(size, int) else None


def _disagreements(document: Document, wanted: list[Wanted], job_file: Path) -> Iterator[Problem]:
    ours = read_document(job_file) if job_file.is_file() else None
    for want in wanted:
        found = _at(document.values, want.path)
        if found in (None, "auto", want.value) or not want.field:
            continue
        place = ours.where(tuple(want.field.split("."))) if ours is not None else str(job_file)
        message = f"{found!r} disagrees with {want.value!r}, which follows from {want.field} ({place})"
        yield Problem(document.where(want.path), ".".join(want.path), message, 'write "auto", or change the job file')


def _unusable(document: Document) -> Iterator[Problem]:
    if "scheduler" in document.values:
        message = "the schedule is the job's: train.schedule"
        yield Problem(document.where(("scheduler",)), "scheduler", message, "remove it")
    stage = _at(document.values, ("zero_optimization", "stage"))
    if stage not in (1, 2, 3):
        where = document.where(("zero_optimization", "stage"))
        message = f"found {stage!r}; allowed is 1, 2 or 3"
        yield Problem(where, "zero_optimization.stage", message, "engine.name: ddp shards nothing")


def _out_of_reach(document: Document, job: Job) -> Iterator[Problem]:
    """Copies of weights are kept beside them, in memory."""
    path = ("zero_optimization", "offload_optimizer", "device")
    if job.adapt.kept_beside is not None and _at(document.values, path) == "nvme":
        message = f"adapt.{job.adapt.kept_beside} keeps copies of weights, and this has the weights on a disk"
        yield Problem(document.where(path), ".".join(path), message, '"device": "cpu"')


def _fix(path: tuple[str, ...]) -> str:
    return "engine.nvme_path: a folder on a fast local disk" if path[-1] == "nvme_path" else "write a value"


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _fill(config: dict[str, Any], want: Wanted) -> None:
    """Put the job's value where the file says `auto`; what the file leaves out stays out."""
    section = _at(config, want.path[:-1]) if want.path[1:] else config
    if isinstance(section, dict) and section.get(want.path[-1]) == "auto":
        section[want.path[-1]] = want.value


def _autos(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _autos(value, (*path, name))
    elif values == "auto":
        yield path
