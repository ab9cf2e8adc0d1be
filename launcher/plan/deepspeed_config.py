"""DeepSpeed's JSON, rendered from the job: a template or the user's own file, with every `auto` filled in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import JobError, Problem
from launcher.job.pretrained import find_pretrained, read_config
from launcher.job.reading.positions import Document, places_in_json, read_document
from launcher.job.schema import DEEPSPEED_TEMPLATES, Job
from launcher.plan.model_size import hidden_size
from launcher.plan.split import Split

TEMPLATES = Path(__file__).resolve().parent.parent / "ds_configs"
NOT_FOR_DEEPSPEED = ("optimizer", "scheduler", "train_batch_size")
"""Checked, and not passed to DeepSpeed: adaptrun has its own optimizer and schedule, and a last batch may be short."""
FROM_THE_SPLIT = (("train_micro_batch_size_per_gpu",), ("gradient_accumulation_steps",))
"""Keys that depend on the number of processes, which the plan decides."""
SCHEDULERS = {"constant": "WarmupLR", "linear": "WarmupDecayLR", "cosine": "WarmupCosineLR"}
"""DeepSpeed's name for each schedule that it supports too."""
WHAT_IS_NEEDED = 'the shortest valid file is {"zero_optimization": {"stage": 2}}'


@dataclass(frozen=True)
class Wanted:
    """A value of DeepSpeed's JSON that the job decides.

    value: the value passed to DeepSpeed; None omits the key, so that DeepSpeed's own default applies
    field: the field of the job file that decides it; empty if the key affects only speed, and a file may set any value
    agreeing: other values of a file that mean the same as the job's
    fix: how to correct a file that disagrees
    """

    path: tuple[str, ...]
    value: Any
    field: str
    agreeing: tuple[Any, ...] = ()
    fix: str = 'write "auto", or change the job file'


def check_deepspeed(job: Job, job_file: Path) -> None:
    """Check the file of `engine.deepspeed` as far as possible before the plan is made.

    Raises JobError for a file that is missing or no JSON, or that disagrees with the job, naming both places.
    """
    document = read_deepspeed(job)
    wanted = list(_wanted(job, None, job.train.precision))
    _check(document, wanted, job, job_file)
    for path in FROM_THE_SPLIT:
        _fill(document.values, Wanted(path, 1, ""))
    _finish(document, wanted)


def render_deepspeed(job: Job, job_file: Path, split: Split, precision: str) -> dict[str, Any]:
    """The configuration passed to DeepSpeed.

    precision: as planned, if the job has `auto`
    Raises JobError for a file that is missing, or that disagrees with the job, naming both places.
    """
    document = read_deepspeed(job)
    wanted = list(_wanted(job, split, precision))
    _check(document, wanted, job, job_file)
    return _finish(document, wanted)


def _check(document: Document, wanted: Sequence[Wanted], job: Job, job_file: Path) -> None:
    problems = [*_disagreements(document, wanted, job_file), *_unusable(document), *_out_of_reach(document, job)]
    if problems:
        raise JobError(problems)


def _finish(document: Document, wanted: Sequence[Wanted]) -> dict[str, Any]:
    """Fill the job's values into a file that agrees with it. Raises JobError for a remaining `auto`."""
    config = document.values
    for name in NOT_FOR_DEEPSPEED:
        config.pop(name, None)
    for want in wanted:
        _fill(config, want)
    config.setdefault("zero_allow_untested_optimizer", True)
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    left = [
        Problem(document.where(path), ".".join(path), "auto is not supported for this key", _fix(path))
        for path in _autos(config)
    ]
    if left:
        raise JobError(left)
    return config


def read_deepspeed(job: Job) -> Document:
    """The template, or the user's own file, unchanged. Raises JobError for a file that is not JSON."""
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
    except (RecursionError, ValueError):  # for integers too long for Python
        message = "too deeply nested, or too long a number"
        raise JobError([Problem(f"{file}:1:1", "", message, WHAT_IS_NEEDED)]) from None
    places = places_in_json(file, text)
    if not isinstance(values, dict) or not isinstance(values.get("zero_optimization", {}), dict):
        message = "a DeepSpeed file must be a JSON object, and so must its zero_optimization"
        raise JobError([Problem(f"{file}:1:1", "", message, WHAT_IS_NEEDED)])
    return Document(file, values, places)


def _wanted(job: Job, split: Split | None, precision: str) -> Iterator[Wanted]:
    train, optimizer = job.train, job.train.optimizer
    yield Wanted(("train_batch_size",), train.global_batch_size, "train.global_batch_size")
    if split is not None:
        for path, share in zip(FROM_THE_SPLIT, (split.micro_batch, split.accumulation), strict=True):
            yield Wanted(path, share, "train.micro_batch_size")
    yield Wanted(("gradient_clipping",), train.clip_norm or 0.0, "train.clip_norm")
    yield from _precisions(precision)
    yield Wanted(("optimizer", "type"), {"adamw": "AdamW", "sgd": "SGD"}[optimizer.name], "train.optimizer.name")
    for name in ("lr", "weight_decay", *(("betas", "eps") if optimizer.name == "adamw" else ("momentum",))):
        value = getattr(optimizer, name)
        value = list(value) if isinstance(value, tuple) else value
        yield Wanted(("optimizer", "params", name), value, f"train.optimizer.{name}")
    for section in ("offload_optimizer", "offload_param"):
        if job.engine.nvme_path is not None:
            yield Wanted(("zero_optimization", section, "nvme_path"), job.engine.nvme_path, "engine.nvme_path")
    schedule = SCHEDULERS.get(train.schedule.name, train.schedule.name)
    yield Wanted(("scheduler", "type"), schedule, "train.schedule.name", fix="remove scheduler")
    hidden = _hidden_size(job)
    for bucket, size in (  # as in DeepSpeed's integration in transformers
        ("reduce_bucket_size", hidden and hidden**2),
        ("stage3_prefetch_bucket_size", hidden and int(0.9 * hidden**2)),
        ("stage3_param_persistence_threshold", hidden and 10 * hidden),
    ):
        yield Wanted(("zero_optimization", bucket), size, "")


def _precisions(precision: str) -> Iterator[Wanted]:
    """DeepSpeed's precision sections are disabled, since weights stay fp32 and the engine uses its own autocast.

    precision: `auto` agrees with any of them
    """
    for section in ("bf16", "fp16", "torch_autocast"):
        is_meant = precision in ("auto", section) or (section == "torch_autocast" and precision != "fp32")
        agreeing = (True,) if is_meant else ()
        fix = f'train.precision: {section if section in ("bf16", "fp16") else "bf16"}, or write "auto"'
        yield Wanted((section, "enabled"), False, "train.precision", agreeing, fix)
    fix = 'write "auto" or remove it: gradients are added up in fp32 whatever train.precision is'
    for path in (("communication_data_type",), ("data_types", "grad_accum_dtype")):
        yield Wanted(path, "fp32", "train.precision", fix=fix)
    for what in ("weights", "gradients"):
        yield Wanted(("zero_optimization", f"zero_quantized_{what}"), False, "train.precision", fix="remove it")


def _hidden_size(job: Job) -> int | None:
    config = read_config(find_pretrained(job.model))
    return None if config is None else hidden_size(config) or None


def _disagreements(document: Document, wanted: Sequence[Wanted], job_file: Path) -> Iterator[Problem]:
    ours = read_document(job_file) if job_file.is_file() else None
    for want in wanted:
        found = _at(document.values, want.path)
        if found in (None, "auto", want.value, *want.agreeing) or not want.field:
            continue
        place = ours.where(tuple(want.field.split("."))) if ours is not None else str(job_file)
        message = f"{found!r} contradicts {want.value!r}, which follows from {want.field} ({place})"
        yield Problem(document.where(want.path), ".".join(want.path), message, want.fix)


def _unusable(document: Document) -> Iterator[Problem]:
    for name, value in _section(document.values, "scheduler", "params").items():
        if value != "auto":
            path = ("scheduler", "params", name)
            message = "the schedule is the job's: train.schedule"
            yield Problem(document.where(path), ".".join(path), message, 'write "auto", or remove scheduler')
    stage = _at(document.values, ("zero_optimization", "stage"))
    if stage not in (1, 2, 3):
        where = document.where(("zero_optimization", "stage"))
        message = f"found {stage!r}; allowed is 1, 2 or 3"
        yield Problem(where, "zero_optimization.stage", message, "engine.name: ddp shards nothing")


def _out_of_reach(document: Document, job: Job) -> Iterator[Problem]:
    """Offloading to disk does not work with options that keep copies of the weights in memory."""
    path = ("zero_optimization", "offload_optimizer", "device")
    if job.adapt.kept_beside is not None and _at(document.values, path) == "nvme":
        message = (
            f"adapt.{job.adapt.kept_beside} keeps copies of the weights in memory, and this keeps the weights on a disk"
        )
        yield Problem(document.where(path), ".".join(path), message, '"device": "cpu"')


def _fix(path: tuple[str, ...]) -> str:
    return "engine.nvme_path: a folder on a fast local disk" if path[-1] == "nvme_path" else "write a value"


def _section(values: Any, *path: str) -> dict[str, Any]:
    found = _at(values, path)
    return found if isinstance(found, dict) else {}


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _fill(config: dict[str, Any], want: Wanted) -> None:
    """Fill in the job's value if the file has `auto` or an equivalent value; omitted keys stay omitted."""
    section, name = _at(config, want.path[:-1]), want.path[-1]
    if not isinstance(section, dict) or section.get(name) not in ("auto", *want.agreeing):
        return
    if want.value is None:
        del section[name]
    else:
        section[name] = want.value


def _autos(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _autos(value, (*path, name))
    elif values == "auto":
        yield path
