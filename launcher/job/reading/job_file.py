"""From a job file to a `Job`, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from launcher.errors import JobError, Problem
from launcher.job.reading.overrides import apply_overrides
from launcher.job.reading.paths import resolve_paths
from launcher.job.reading.positions import Document, read_document
from launcher.job.rules.general import broken_rules
from launcher.job.schema import Job
from launcher.job.sections.old_spelling import is_old, respelt
from launcher.job.sections.section import Section

AnySection = TypeVar("AnySection", bound=Section)

PYTHON = Path("Python")
"""Stands for the file of a job that has none."""
OTHER_WORDS = {"gpu": "cuda", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""What people write for words that are allowed, and what no likeness of letters would lead to."""


def load_job(path: Path, sets: Sequence[str] = (), *, trains: bool = True) -> Job:
    """Read, override, check and resolve a job file. Raises JobError with all problems at once.

    trains: false where the job's data and model are only looked at
    """
    document = read_document(path)
    origins = apply_overrides(document.values, sets)
    folder = path.resolve().parent
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        message = "the path of its folder is not UTF-8, so the files of a run could not record it"
        raise JobError([Problem(str(path), "", message, "rename the folder")]) from None
    return _checked(document, origins, folder, trains)


def read_job(path: Path, sets: Sequence[str] = ()) -> Job:
    """The job as its file and the overrides have it; neither rules nor files are checked. Raises JobError."""
    document = read_document(path)
    return _validated(Job, document, apply_overrides(document.values, sets))


def load_kept_job(path: Path) -> Job:
    """The job of a run as it was resolved and checked when the run began, perhaps by 0.1.0.

    Raises JobError for a damaged file.

    Nothing asks whether its data are still there: prepared, they are not read again.
    """
    document = read_document(path)
    if is_old(document.values.get("adapt")):
        document.values["adapt"] = respelt(document.values["adapt"])
    return _validated(Job, document, {})


def check_job(values: Mapping[str, Any], folder: Path) -> Job:
    """Check and resolve a job that was built in Python, by the same rules; relative paths are relative to `folder`."""
    return _checked(_in_python(values), {}, folder)


def _checked(document: Document, origins: Mapping[tuple[str, ...], str], folder: Path, trains: bool = True) -> Job:
    job = _validated(Job, document, origins)
    resolved, found = resolve_paths(job, folder)
    found += broken_rules(resolved, trains)
    if found:
        raise JobError([Problem(_where(p, document, origins), ".".join(p), message, fix) for p, message, fix in found])
    return resolved


def load_section(
    path: Path, section: type[AnySection], origin: str, given: Mapping[str, tuple[str, Any]] | None = None
) -> AnySection:
    """Read and check another file in the same way. Raises JobError with all problems at once.

    origin: where such a file comes from, for who has none
    given: fields that the command line overrides, with the words that do so; a list is added to that of the file
    """
    document = read_document(path, origin)
    for field, (_, value) in (given or {}).items():
        before = document.values.get(field)
        document.values[field] = [*before, *value] if isinstance(value, list) and isinstance(before, list) else value
    return _validated(section, document, {(field,): words for field, (words, _) in (given or {}).items()})


def check_section(values: Mapping[str, Any], section: type[AnySection]) -> AnySection:
    """Check a section that was built in Python in the same way."""
    return _validated(section, _in_python(values), {})


def _in_python(values: Mapping[str, Any]) -> Document:
    return Document(PYTHON, _plain(values), {(): str(PYTHON)})


def _plain(value: Any) -> Any:
    """The value as a file would give it."""
    if isinstance(value, Mapping):
        return {name: _plain(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return fspath(value) if isinstance(value, PathLike) else value


def _validated(section: type[AnySection], document: Document, origins: Mapping[tuple[str, ...], str]) -> AnySection:
    try:
        return section.model_validate(document.values)
    except ValidationError as invalid:
        raise JobError(list(_problems(invalid, section, document, origins))) from None


def _problems(
    invalid: ValidationError,
    section: type[BaseModel],
    document: Document,
    origins: Mapping[tuple[str, ...], str],
) -> Iterator[Problem]:
    """One problem a path: the branches of a union are reported together."""
    by_path: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for error in invalid.errors():
        by_path.setdefault(_real_path(error, document.values), []).append(error)
    for path, errors in by_path.items():
        message, fix = _explain(section, path, errors, document.written)
        yield Problem(_where(path, document, origins), ".".join(path), message, fix)


def _real_path(error: ErrorDetails, values: Any) -> tuple[str, ...]:
    """The path as the file has it, without the names of union branches and of sets that had no name."""
    path: list[str] = []
    for position, part in enumerate(error["loc"]):
        is_last = position == len(error["loc"]) - 1
        is_in_mapping = isinstance(values, dict) and part in values
        is_in_list = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if is_in_mapping or is_in_list:
            values = values[part]
        elif not (is_last and error["type"] == "missing"):
            continue
        path.append(str(part))
    if error["type"].startswith("union_tag_"):  # what is wrong is the key that tells the branches apart
        path.append(error["ctx"]["discriminator"].strip("'"))
    if error["type"] == "respelt":
        path.append(error["ctx"]["key"])
    return tuple(path)


def _explain(
    section: type[BaseModel],
    path: tuple[str, ...],
    errors: Sequence[ErrorDetails],
    written: Mapping[tuple[str, ...], str],
) -> tuple[str, str]:
    first = errors[0]
    if first["type"] in ("missing", "union_tag_not_found"):
        return "is required and missing", ""
    if first["type"] == "respelt":
        return first["ctx"]["message"], first["ctx"]["fix"]
    if first["type"] in ("extra_forbidden", "invalid_key"):
        known = _known_keys(section, first["loc"][:-1])
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
        return f"unknown key {path[-1]!r}", fix
    allowed = " or ".join(dict.fromkeys(_allowed(error) for error in errors))
    found = first["ctx"]["tag"] if first["type"] == "union_tag_invalid" else first["input"]
    message = f"found {_shown(found)}; allowed is {allowed}"
    words = [word for error in errors for word in _words(error)]
    other = OTHER_WORDS.get(str(found).lower())
    near = [other] if other in words else get_close_matches(str(found), words, n=1, cutoff=0.5)
    if near:
        return message, f"did you mean {near[0]}?"
    if isinstance(first["input"], bool | int | float) and any(error["type"] == "string_type" for error in errors):
        return message, f'put quotes around it: "{written.get(path, first["input"])}"'
    return message, ""


def _allowed(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error":
            return str(context["expected"]).replace("'", "").replace("False", "false")
        case "union_tag_invalid":
            return str(context["expected_tags"]).replace("'", "").replace(", ", " or ")
        case "too_short":
            return "a non-empty list"
        case "greater_than":
            return f"a number above {context['gt']:g}"
        case "greater_than_equal":
            return f"a number of at least {context['ge']:g}"
        case "less_than_equal":
            return f"a number of at most {context['le']:g}"
        case "less_than":
            return f"a number below {context['lt']:g}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return "a number"
        case "bool_parsing" | "bool_type":
            return "true or false"
        case "string_type":
            return "text"
        case "string_pattern_mismatch":
            return "letters, digits, . _ and - (a letter or digit first)"
        case "string_too_long":
            return f"at most {context['max_length']} characters"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "a section of keys and values"
        case "tuple_type" | "list_type":
            return "a list"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"][0].lower() + error["msg"][1:]


def _words(error: ErrorDetails) -> list[str]:
    context = error.get("ctx", {})
    key = {"literal_error": "expected", "union_tag_invalid": "expected_tags"}.get(error["type"], "")
    expected = str(context.get(key, ""))
    return expected.replace("'", "").replace(" or ", ", ").split(", ")


def _known_keys(section: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys of the section at `path`, in which a section of several kinds is followed by its kind."""
    models: list[type[BaseModel]] = [section]
    for part in path:
        field = models[0].model_fields.get(str(part)) if models else None
        if field is not None:
            models = list(_sections(field.annotation))
        elif len(models) > 1:
            models = [model for model in models if part in _kinds(model)] or models
    return list(models[0].model_fields) if models else []


def _kinds(model: type[BaseModel]) -> set[object]:
    """The words that stand for a section where there are several kinds of it."""
    return {word for field in model.model_fields.values() for word in get_args(field.annotation)}


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _where(path: tuple[str, ...], document: Document, origins: Mapping[tuple[str, ...], str]) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    if path not in document.places:
        below = (origin for names, origin in origins.items() if names[: len(path)] == path)
        return next(below, document.where(path))
    return document.where(path)


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
