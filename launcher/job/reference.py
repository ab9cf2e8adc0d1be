"""The reference page and the editor schema of the job file, made from the fields' own descriptions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from launcher.job.schema import Job
from launcher.job.sections.data import Source
from launcher.job.sections.marks import mark_in

DOCS = Path(__file__).parents[2] / "docs"
PAGE, SCHEMA = "reference/job-file.md", "reference/job-schema.json"

HEAD = """\
# The job file

One YAML file determines the result; the machines it runs on determine only how long it takes.
`make docs` writes this page from the descriptions in `launcher/job`.

- Unknown keys are errors, and so are combinations that cannot work; `adaptrun check job.yaml` lists all of them.
- Relative paths are relative to the job file.
- A run resumes with a job that agrees in every key but those that may change on resume; these change none of its
  numbers.
- `--set train.optimizer.lr=1e-4` overrides the file and is checked the same way.
- Editors complete and check the file with `docs/reference/job-schema.json`: for the YAML language server, begin the
  file with `# yaml-language-server: $schema=` and the path of that file.
"""


def page() -> str:
    """The reference page."""
    return tables(HEAD, Job)


def tables(head: str, model: type[BaseModel]) -> str:
    """A page with a table of each section of a YAML file."""
    return "\n".join([head, *_section(model, "")])


def schema() -> str:
    """The JSON schema, with the short forms that the file may use."""
    made = Job.model_json_schema()
    short = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    data = made["$defs"]["Data"]["properties"]
    one = {"$ref": "#/$defs/Source"}
    data["target"] = {"anyOf": [one, *short["anyOf"]], "description": data["target"]["description"]}
    named = {"type": "object", "additionalProperties": {"anyOf": [one, *short["anyOf"]]}}
    for name in ("train", "validation"):
        data[name] = {"anyOf": [one, *short["anyOf"], named], "description": data[name]["description"]}
    one, names = {"$ref": "#/$defs/Tracker"}, made["$defs"]["Tracker"]["properties"]["name"]["enum"]
    tracker, track = {"anyOf": [one, {"enum": names}]}, made["properties"]["track"]
    made["properties"]["track"] = {
        "anyOf": [*tracker["anyOf"], {"type": "array", "items": tracker}],
        "description": track["description"],
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "adaptrun job file"}
    return json.dumps({**made, **head}, indent=2) + "\n"


def _section(model: type[BaseModel], path: str, leave_out: Collection[str] = ()) -> Iterator[str]:
    below: list[tuple[str, list[type[BaseModel]]]] = []
    yield from ("", f"## {path or 'Top level'}", "", "| key | default | what it does |", "|---|---|---|")
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        sections = _models_in(field.annotation)
        if sections and sections[0] is not Source:
            below.append((_place(f"{path}.{name}".lstrip("."), field.annotation), sections))
        yield f"| `{name}` | {_default(field)} | {field.description}{_on_resume(field)} |"
    for place, kinds in below:
        shared = _shared(kinds)
        for kind in kinds:
            yield from _section(kind, place if len(kinds) == 1 else f"{place} ({_kind(kind)})", shared)
        if shared:
            yield from _section(kinds[0].__base__ or kinds[0], place, [_first(kinds[0])])
    if path == "data":
        yield from _section(Source, "data.target and each set of data.train and data.validation")


def _on_resume(field: FieldInfo) -> str:
    """What the mark of a field says; the profile of a cluster has none, since it may always change."""
    mark = mark_in(field)
    return "" if mark is None or mark.is_section or "numbers" in mark.decides else " *May change on resume.*"


def _shared(kinds: Sequence[type[BaseModel]]) -> set[str]:
    """Fields that the kinds of a section have from one base; they are listed once."""
    base, *others = {kind.__base__ for kind in kinds}
    if others or len(kinds) == 1 or base is None or not issubclass(base, BaseModel) or not base.model_fields:
        return set()
    return set(base.model_fields) - {_first(kinds[0])}


def _first(model: type[BaseModel]) -> str:
    return next(iter(model.model_fields))


def _kind(model: type[BaseModel]) -> str:
    """`method: dann`: the field that tells this kind of a section from the others comes first."""
    name = _first(model)
    return f"{name}: {' or '.join(get_args(model.model_fields[name].annotation))}"


def _place(path: str, annotation: Any) -> str:
    return f"{path}, each of the list" if get_origin(annotation) is tuple else path


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "none" if field.default_factory is dict else "see below"
    if field.default is PydanticUndefined:
        return "**needed**"
    if field.default is None or field.default == ():
        return "none"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
