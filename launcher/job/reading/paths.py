"""Relative paths of a job file, which mean places relative to the file."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from launcher.errors import ModelError, RequestError
from launcher.job.home import usable_cache
from launcher.job.places import is_file, is_there, may_be_on_the_hub, not_there, resolve_from, why_unusable
from launcher.job.pretrained import (
    ALIASES,
    Pretrained,
    check_model_files,
    find_pretrained,
    longest_input,
    own_code,
    read_config,
    task_of,
)
from launcher.job.rules.rule import Violation
from launcher.job.schema import DEEPSPEED_TEMPLATES, Engine, Job, Model, Tracker
from launcher.job.sections.data import Source
from launcher.job.sections.methods import Adapt
from launcher.job.sections.tasks import FAMILIES, defined_class, find_family
from launcher.job.trust import file_of

SQLITE = "sqlite:///"


def resolve_paths(job: Job, folder: Path) -> tuple[Job, list[Violation]]:
    """The job with absolute paths, and which of them lead nowhere."""
    found: list[Violation] = []
    data: dict[str, Any] = {}
    data["train"] = {
        name: _source(source, folder, job.data.place_in_train(name), found) for name, source in job.data.train.items()
    }
    data["validation"] = {
        name: _source(source, folder, job.data.place_in_validation(name), found)
        for name, source in job.data.validation.items()
    }
    if job.data.target is not None:
        data["target"] = _source(job.data.target, folder, ("data", "target"), found)
    data["cache"] = str(resolve_from(usable_cache(job.data.cache, resolve_from(job.launch.runs, folder)), folder))
    task, adapt = _task(job, folder, found), _adapt(job, folder, found)
    model: dict[str, Any] = {"trust_code": _trusted(job, task, adapt, folder, found)}
    job = job.model_copy(update={"model": job.model.model_copy(update=model)})
    try:
        place = find_pretrained(job.model, folder)
        found += _processor(job, place, folder)
        if place.kind != "hub" and job.model.pretrained != place.location and _is_path(job.model.pretrained, folder):
            model["pretrained"] = str(resolve_from(job.model.pretrained, folder))
        for name in ("config", "tokenizer"):
            value = getattr(job.model, name)
            if value is None or value in ALIASES:
                continue
            if is_there(resolve_from(value, folder)):
                model[name] = str(resolve_from(value, folder))
            elif not may_be_on_the_hub(value, folder):
                found.append((("model", name), *not_there(value, folder, "name a folder, or a hub id")))
        if place.kind == "adapter" and job.adapt.adapters is not None:
            found.append(_adapters_twice(job))
        longest = longest_input(read_config(place) or {})
        if longest is not None and job.train.max_length > longest:
            found.append(too_long(job, longest))
        check_model_files(place, job.model)
    except ModelError as error:
        message, _, fix = str(error).partition("; ")
        found.append((("model", "pretrained"), message, fix))
    verdict = {
        "baseline": _other(job, job.verdict.baseline, folder, ("verdict", "baseline"), found),
        "compare": {
            name: _other(job, place, folder, ("verdict", "compare", name), found)
            for name, place in job.verdict.compare.items()
        },
    }
    launch = {"runs": str(resolve_from(job.launch.runs, folder))}
    track = tuple(_tracker(tracker, folder) for tracker in job.track)
    resolved = job.model_copy(
        update={
            "task": task,
            "adapt": adapt,
            "engine": _engine(job, folder, found),
            "data": job.data.model_copy(update=data),
            "model": job.model.model_copy(update=model),
            "verdict": job.verdict.model_copy(update=verdict),
            "launch": job.launch.model_copy(update=launch),
            "track": track,
        }
    )
    found += [(path, message, "choose another place") for path, message in _unusable(job, folder)]
    return resolved, found


def _trusted(job: Job, task: str, adapt: Adapt, folder: Path, found: list[Violation]) -> tuple[str, ...]:
    """The user's own files: those that the job names for a use, and those that folders may name."""
    named = [str(resolve_from(file, folder).resolve()) for file in job.model.trust_code]
    found += [
        (("model", "trust_code"), f"there is no {file}", "paths are relative to the job file")
        for file in named
        if not Path(file).is_file()
    ]
    if task not in FAMILIES:
        named.append(file_of(task))
    if adapt.own_class is not None:
        named.append(file_of(adapt.own_class))
    function = resolve_from(file_of(job.model.pretrained), folder)
    if function.suffix == ".py" and function.is_file():
        named.append(str(function.resolve()))
    return tuple(dict.fromkeys(file for file in named if file))


def _unusable(job: Job, folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Places that are made when they are needed, and that cannot be made."""
    places: dict[tuple[str, ...], str] = {("data", "cache"): job.data.cache, ("launch", "runs"): job.launch.runs}
    if job.engine.nvme_path is not None:
        places["engine", "nvme_path"] = job.engine.nvme_path
    for index, tracker in enumerate(job.track):
        if tracker.folder is not None:
            places["track", str(index), "folder"] = tracker.folder
        if tracker.uri is not None and tracker.uri.startswith(SQLITE):
            places["track", str(index), "uri"] = tracker.uri.removeprefix(SQLITE)
    for path, place in places.items():
        message = why_unusable(place, folder)
        if message:
            yield path, message


def _other(job: Job, place: str | None, folder: Path, path: tuple[str, ...], found: list[Violation]) -> str | None:
    """The place of a model to compare with, absolute where it is on this machine. It must be of the same task."""
    if place is None:
        return None
    try:
        model = Model(pretrained=place, trust_code=job.model.trust_code, trust_remote_code=job.model.trust_remote_code)
        pretrained = find_pretrained(model, folder)
        check_model_files(pretrained, model)
        own_code(pretrained, model)
        task = task_of(pretrained, model)
    except ModelError as error:
        message, _, fix = str(error).partition("; ")
        found.append((path, message, fix))
        return place
    if task is not None and task in FAMILIES and task != job.task:
        found.append((path, f"{place} was trained for {task}, and this job is for {job.task}", "name another run"))
    full = resolve_from(place, folder)
    return str(full) if is_there(full) else place


def taken_for_hub_ids(job: Job) -> list[str]:
    """What a resolved job names that is not here, and so has to come from the hub."""
    sources = [*job.labelled_sets.values(), *job.data.validation.values()]
    places = [place for source in [*sources, job.data.target] if source is not None for place in source.files]
    models = [job.model.pretrained] if find_pretrained(job.model).kind == "hub" else []
    models += [place for place in (job.model.config, job.model.tokenizer, *job.others.values()) if place is not None]
    models = [place for place in models if place not in ALIASES]
    return list(dict.fromkeys(place for place in [*models, *places] if not Path(place).is_absolute()))


def too_long(job: Job, longest: int) -> Violation:
    """The problem of samples that may be longer than the model's positions."""
    return (
        ("train", "max_length"),
        f"{job.train.max_length} tokens are more than the {longest} positions of {job.model.pretrained}",
        f"train.max_length: {longest}",
    )


def _task(job: Job, folder: Path, found: list[Violation]) -> str:
    """The task, with the absolute path of an own file."""
    try:
        family = find_family(job.task, folder)
    except RequestError as error:
        message, _, fix = str(error).partition("; ")
        found.append((("task",), message, fix))
        return job.task
    return job.task if job.task in FAMILIES else f"{family.place[0]}:{family.place[1]}"


def _processor(job: Job, place: Pretrained, folder: Path) -> list[Violation]:
    """What is wrong where a folder has no processor for images or sounds."""
    try:
        family = find_family(job.task, folder)
    except RequestError:
        return []
    processor = Path(place.tokenizer)
    if family.needs_tokenizer or not processor.is_dir() or (processor / "preprocessor_config.json").is_file():
        return []
    message = f"{processor} has no preprocessor_config.json, which {job.task} needs"
    return [(("model", "pretrained"), message, "model.tokenizer: FOLDER-OR-HUB-ID of an image processor")]


def _adapters_twice(job: Job) -> Violation:
    return (
        ("model", "pretrained"),
        f"{job.model.pretrained} holds adapters, and adapters of adapters are not supported",
        f"merge them first: adaptrun consolidate {job.model.pretrained} -o FOLDER, then model.pretrained: FOLDER",
    )


def _adapt(job: Job, folder: Path, found: list[Violation]) -> Adapt:
    """The method, with the absolute paths of what is rehearsed and of own code."""
    adapt = job.adapt
    if adapt.rehearsed is not None:
        source = _source(adapt.rehearsed.source, folder, ("adapt", "rehearsal", "source"), found)
        return adapt.model_copy(update={"rehearsal": adapt.rehearsed.model_copy(update={"source": source})})
    if adapt.own_class is not None:
        file, _, name = adapt.own_class.rpartition(":")
        path = resolve_from(file, folder)
        if not file or not is_file(path):
            message, fix = not_there(file, folder, "paths are relative to the job file")
            message = message if file else f"name the class of {name} that is the method: {name}:MyMethod"
            found.append((("adapt", "code"), message, fix))
        else:
            try:
                defined_class(path, name)
            except RequestError as error:
                found.append((("adapt", "code"), str(error), ""))
        return adapt.model_copy(update={"code": f"{path}:{name}"})
    return adapt


def _engine(job: Job, folder: Path, found: list[Violation]) -> Engine:
    """The engine with absolute paths of an own DeepSpeed file and of the folder on a local disk."""
    name, update = job.engine.deepspeed, dict[str, str]()
    if job.engine.nvme_path is not None:
        update["nvme_path"] = str(resolve_from(job.engine.nvme_path, folder))
    if name in DEEPSPEED_TEMPLATES:
        return job.engine.model_copy(update=update)
    file = resolve_from(name, folder)
    if not is_file(file):
        near = get_close_matches(name, DEEPSPEED_TEMPLATES, n=1)
        fix = f"did you mean {near[0]}?" if near else f"the templates are {', '.join(DEEPSPEED_TEMPLATES)}"
        found.append((("engine", "deepspeed"), f"there is no template and no file {name!r}", fix))
    return job.engine.model_copy(update=update | {"deepspeed": str(file)})


def _source(source: Source, folder: Path, path: tuple[str, ...], found: list[Violation]) -> Source:
    places = []
    for place in source.files:
        full = resolve_from(place, folder)
        if is_there(full):
            places.append(str(full))
            continue
        places.append(place)
        if not may_be_on_the_hub(place, folder):
            found.append(((*path, "source"), *not_there(place, folder, "paths are relative to the job file")))
    return source.model_copy(update={"source": places[0] if isinstance(source.source, str) else tuple(places)})


def _tracker(tracker: Tracker, folder: Path) -> Tracker:
    """The tracker with absolute paths, also that of a SQLite file."""
    places: dict[str, str] = {}
    if tracker.folder is not None:
        places["folder"] = str(resolve_from(tracker.folder, folder))
    if tracker.uri is not None and tracker.uri.startswith(SQLITE):
        places["uri"] = f"{SQLITE}{resolve_from(tracker.uri.removeprefix(SQLITE), folder)}"
    return tracker.model_copy(update=places)


def _is_path(value: str, folder: Path) -> bool:
    return is_file(resolve_from(value.rpartition(":")[0], folder)) or is_there(resolve_from(value, folder))
