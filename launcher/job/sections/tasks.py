"""Which task families there are, and what `check` must know of one, read from its file without running it.

A family is a class in a file of `models/tasks/`, or a user's own: `file.py:ClassName`. What it says of itself in class
attributes (`losses = (…)`, `metric_directions = {…}`) is found in its source: no torch is imported to refuse a job.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from launcher.errors import RequestError
from launcher.job.places import is_file, not_there, resolve_from
from launcher.job.sections.data import Source

FAMILIES = {
    "text-classification": "text_classification:TextClassification",
    "text-regression": "text_regression:TextRegression",
    "token-classification": "token_classification:TokenClassification",
    "causal-lm": "causal_lm:CausalLM",
    "masked-lm": "masked_lm:MaskedLM",
    "image-classification": "image_classification:ImageClassification",
    "audio-classification": "audio_classification:AudioClassification",
}
"""Name to module and class in `launcher.models.tasks`; a new family is a file there and a line here."""

_SEVERAL = "text-classification (or image-classification) with train.loss.name: binary learns several labels a sample"
_PREFERENCES = "none learns from preferences; causal-lm learns the chosen answers: prompt: prompt, response: chosen"
OTHER_TASKS = {
    **dict.fromkeys(("multilabel", "multilabelclassification", "multilabeltextclassification"), _SEVERAL),
    **dict.fromkeys(("reward", "rewardmodel", "rewardmodeling", "rewardmodelling", "preference"), _PREFERENCES),
    **dict.fromkeys(("preferences", "dpo", "orpo", "kto", "rlhf", "ppo", "grpo"), _PREFERENCES),
    **dict.fromkeys(("ner", "pos", "tagging"), "token-classification labels each word"),
    **dict.fromkeys(("sft", "clm", "languagemodeling", "textgeneration"), "causal-lm predicts the next token"),
    **dict.fromkeys(("mlm", "fillmask"), "masked-lm predicts masked tokens"),
}
"""What people call tasks, without hyphens, and what is to be done here."""

TASKS = Path(__file__).parents[2] / "models" / "tasks"
LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Family:
    """What a task class says of itself; None where its source does not say it as a plain value.

    place: the file and the class's name
    inputs, targets: roles of a source's columns that it reads
    losses: names for `train.loss.name`, the first being what `auto` means
    settings: the fields of `train` that only some families use and that this one does
    metric_directions: names for `validation.metric` and whether `higher` or `lower` is better
    """

    place: tuple[Path, str]
    auto_class: str | None
    processor_class: str | None
    inputs: tuple[str, ...] | None
    targets: tuple[str, ...] | None
    losses: tuple[str, ...] | None
    settings: tuple[str, ...] | None
    metric_directions: dict[str, str] | None
    has_classes: bool = False
    has_features: bool = False
    learns_language: bool = False

    @property
    def needs_tokenizer(self) -> bool:
        """Whether samples are tokenised."""
        return self.processor_class in (None, "AutoTokenizer")

    @property
    def has_one_class(self) -> bool:
        """Whether each sample has features and one class."""
        return self.has_features and self.has_classes and not self.takes_several_labels

    @property
    def takes_several_labels(self) -> bool:
        """Whether a sample may have any number of labels, as names or as a vector of 0 and 1."""
        return self.losses is not None and self.losses[0] == "binary"

    def columns(self, source: Source, *, labelled: bool = True) -> dict[str, str]:
        """Which columns of a file are read, as far as the source says: role to the column's name in the file."""
        inputs, targets = self.inputs or ("text",), self.targets or ()
        roles = (*inputs, *(targets if labelled else ()))
        found = {role: name for role in roles if (name := source.column(role)) is not None}
        if "prompt" in found or "messages" in found:  # `text` has a default, and these stand in its place
            found.pop("text", None)
        return found

    def is_lower_better(self, metric: str) -> bool:
        """Whether a smaller value of `metric` is the better one."""
        return metric == "loss" or (self.metric_directions or {}).get(metric) == LOWER


def find_family(name: str, folder: Path | None = None, loss: str = "auto") -> Family:
    """The family that `task:` names, in the variant that a loss asks for; an own file is relative to `folder`.

    Raises RequestError where it names none, with the nearest that there is.
    """
    if name in FAMILIES:
        module, _, class_name = FAMILIES[name].partition(":")
        return _read(TASKS / f"{module}.py", class_name, loss)
    if ".py" not in name:
        near = get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
        other = OTHER_TASKS.get(re.sub(r"[-_ ]", "", name.lower()))
        nearest = f"did you mean {near[0]}?" if near else f"the tasks are {', '.join(FAMILIES)}, or file.py:ClassName"
        fix = other or nearest
        raise RequestError(f"there is no task {name!r}; {fix}")
    place, colon, class_name = name.rpartition(":")
    if not colon:
        raise RequestError(f"name the class of {name} that is the task: {name}:MyTask")
    path = resolve_from(place, folder)
    known = _READ.get((path, class_name, loss))
    if not is_file(path):
        if known is not None:
            return known
        raise RequestError("; ".join(not_there(place, folder, "paths are relative to the job file")))
    found = _READ[path, class_name, loss] = _read(path.resolve(), class_name, loss)
    return found


_READ: dict[tuple[Path, str, str], Family] = {}
"""Own tasks that this process has read: one whose file is removed in mid-run costs the run nothing."""


def all_losses() -> frozenset[str]:
    """The losses that our families have."""
    return frozenset(loss for said in _said_of_ours() for loss in said.get("losses", ()))


def all_settings() -> tuple[str, ...]:
    """The fields of `train` that only some of our families use."""
    return tuple(sorted({name for said in _said_of_ours() for name in said.get("settings", ())}))


def _said_of_ours() -> Iterator[dict[str, Any]]:
    ours = _classes_of_models()
    return (dict(_attributes(node)) for node in ours.values())


def defined_class(file: Path, name: str) -> tuple[ast.ClassDef, dict[str, ast.ClassDef]]:
    """A class of a file, which is not run, and all that lie next to it. Raises RequestError where there is none."""
    try:
        classes = _classes_of_models() if file.parent == TASKS else _classes(file)
    except SyntaxError as error:
        place = f"{file}, line {error.lineno}" if error.lineno else str(file)
        raise RequestError(f"{place}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if name not in classes:
        raise RequestError(f"{file} defines no class {name!r}; it has {', '.join(classes) or 'none'}")
    return classes[name], classes


def _read(file: Path, class_name: str, loss: str) -> Family:
    found, classes = defined_class(file, class_name)
    said = _said(found, classes)
    variants = said.get("variants")
    if isinstance(variants, dict) and variants.get(loss) in classes and variants[loss] != class_name:
        return _read(file, variants[loss], "auto")
    metric_directions = said.get("metric_directions")
    return Family(
        place=(file, class_name),
        auto_class=said.get("auto_class"),
        processor_class=said.get("processor_class"),
        inputs=said.get("inputs"),
        targets=said.get("targets"),
        losses=said.get("losses"),
        settings=said.get("settings"),
        metric_directions=metric_directions if isinstance(metric_directions, dict) else None,
        has_classes=bool(said.get("has_classes")),
        has_features=bool(said.get("has_features")),
        learns_language=bool(said.get("learns_language")),
    )


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def _said(node: ast.ClassDef, beside: Mapping[str, ast.ClassDef]) -> dict[str, Any]:
    """The plain values of a class's attributes, inherited ones included.

    A base that several bases share comes after all of them, as Python has it.
    """
    order = list(_with_bases(node, beside))
    said: dict[str, Any] = {}
    for place, one in enumerate(order):
        if one not in order[place + 1 :]:
            said = dict(_attributes(one)) | said
    return said


def _with_bases(node: ast.ClassDef, beside: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """The class and all that it derives from, depth first: classes of the same file, or of `models`."""
    yield node
    for base in node.bases:
        name = ast.unparse(base).rpartition(".")[2]
        if name in beside and name != node.name:
            yield from _with_bases(beside[name], beside)
        elif name in (ours := _classes_of_models()):
            yield from _with_bases(ours[name], ours)


@lru_cache
def _classes_of_models() -> dict[str, ast.ClassDef]:
    return {name: node for file in sorted(TASKS.glob("*.py")) for name, node in _classes(file).items()}


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets: list[ast.expr] = [statement.target]
            value = statement.value
        elif isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        else:
            continue
        with suppress(ValueError):  # no plain value
            plain = ast.literal_eval(value)
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, plain
                elif isinstance(target, ast.Tuple):
                    pairs = zip(target.elts, plain, strict=True)
                    yield from ((part.id, one) for part, one in pairs if isinstance(part, ast.Name))
