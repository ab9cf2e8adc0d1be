"""Relative paths of a job file, which mean places relative to the file."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from launcher.errors import ModelError, RequestError
from launcher.job.methods import Own
from launcher.job.pretrained import find_pretrained, longest_input, read_config
from launcher.job.schema import DEEPSPEED_TEMPLATES, Adapt, Engine, Finetune, Job, Source
from launcher.job.tasks import FAMILIES, find_family

Found = tuple[tuple[str, ...], str, str]
"""Path of the field, what is wrong, and the fix."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".conll")


def resolve_paths(job: Job, folder: Path) -> tuple[Job, list[Found]]:
    """The job with absolute paths, and which of them lead nowhere."""
    found: list[Found] = []
    data: dict[str, Any] = {}
    data["train"] = {
        name: _source(source, folder, job.data.place_in_train(name), found) for name, source in job.data.train.items()
    }
    data["validation"] = {
        name: _source(source, folder, ("data", "validation", name), found)
        for name, source in job.data.validation.items()
    }
    if job.data.target is not None:
        data["target"] = _source(job.data.target, folder, ("data", "target"), found)
    data["cache"] = str(_absolute(job.data.cache, folder))
    model: dict[str, Any] = {}
    try:
        place = find_pretrained(job.model, folder)
        if place.kind != "hub" and job.model.pretrained != place.location and _is_path(job.model.pretrained, folder):
            model["pretrained"] = str(_absolute(job.model.pretrained, folder))
        for name in ("config", "tokenizer"):
            value = getattr(job.model, name)
            if value is not None and (folder / value).exists():
                model[name] = str(_absolute(value, folder))
        longest = longest_input(read_config(place) or {})
        if longest is not None and job.train.max_length > longest:
            found.append(too_long(job, longest))
    except ModelError as error:
        found.append((("model", "pretrained"), str(error), ""))
    launch = {"runs": str(_absolute(job.launch.runs, folder))}
    resolved = job.model_copy(
        update={
            "task": _task(job, folder, found),
            "adapt": _adapt(job, folder, found),
            "engine": _engine(job, folder, found),
            "data": job.data.model_copy(update=data),
            "model": job.model.model_copy(update=model),
            "launch": job.launch.model_copy(update=launch),
        }
    )
    return resolved, found


def too_long(job: Job, longest: int) -> Found:
    """The problem of samples that may be longer than the model's positions."""
    return (
        ("train", "max_length"),
        f"{job.train.max_length} tokens are more than the {longest} that {job.model.pretrained} has positions for",
        f"train.max_length: {longest}",
    )


def _task(job: Job, folder: Path, found: list[Found]) -> str:
    """The task, with the absolute path of an own file."""
    try:
        family = find_family(job.task, folder)
    except RequestError as error:
        message, _, fix = str(error).partition("; ")
        found.append((("task",), message, fix))
        return job.task
    return job.task if job.task in FAMILIES else f"{family.place[0]}:{family.place[1]}"


def _adapt(job: Job, folder: Path, found: list[Found]) -> Adapt:
    """The method, with the absolute paths of what is rehearsed and of own code."""
    adapt = job.adapt
    if isinstance(adapt, Finetune) and adapt.rehearsal is not None:
        source = _source(adapt.rehearsal.source, folder, ("adapt", "rehearsal", "source"), found)
        return adapt.model_copy(update={"rehearsal": adapt.rehearsal.model_copy(update={"source": source})})
    if isinstance(adapt, Own):
        file, _, name = adapt.code.rpartition(":")
        path = _absolute(file, folder)
        if not file or not path.is_file():
            message = f"there is no {path}" if file else f"say which class of {name} is the method: {name}:MyMethod"
            found.append((("adapt", "code"), message, "paths are relative to the job file"))
        return adapt.model_copy(update={"code": f"{path}:{name}"})
    return adapt


def _engine(job: Job, folder: Path, found: list[Found]) -> Engine:
    """The engine with the absolute path of an own DeepSpeed file."""
    name = job.engine.deepspeed
    if name in DEEPSPEED_TEMPLATES:
        return job.engine
    file = _absolute(name, folder)
    if not file.is_file():
        near = get_close_matches(name, DEEPSPEED_TEMPLATES, n=1)
        fix = f"did you mean {near[0]}?" if near else f"the templates are {', '.join(DEEPSPEED_TEMPLATES)}"
        found.append((("engine", "deepspeed"), f"there is no template and no file {name!r}", fix))
    return job.engine.model_copy(update={"deepspeed": str(file)})


def _source(source: Source, folder: Path, path: tuple[str, ...], found: list[Found]) -> Source:
    places = []
    for place in source.files:
        full = _absolute(place, folder)
        if full.exists():
            places.append(str(full))
            continue
        places.append(place)
        if Path(place).suffix.lower() in SUFFIXES or place.startswith((".", "/", "~")):
            near = get_close_matches(full.name, [p.name for p in full.parent.glob("*")], n=1)
            fix = f"did you mean {Path(place).with_name(near[0])}?" if near else "paths are relative to the job file"
            found.append(((*path, "source"), f"there is no {full}", fix))
    return source.model_copy(update={"source": places[0] if isinstance(source.source, str) else tuple(places)})


def _is_path(value: str, folder: Path) -> bool:
    return (folder / value.rpartition(":")[0]).is_file() or _absolute(value, folder).exists()


def _absolute(value: str, folder: Path) -> Path:
    """Against the job file's folder; links are kept, since `runs/<name>` may lead elsewhere tomorrow."""
    return Path(value).expanduser() if Path(value).expanduser().is_absolute() else folder / value
