"""Match the labels of the data with the outputs of a trained head, by name and without guessing."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from launcher.errors import ModelError
from launcher.job.heads import has_trained_head

BY_NAME: Literal["by-name"] = "by-name"
NEW_HEAD: Literal["new"] = "new"
Mapped = Literal["by-name", "new"] | Mapping[str, str]
"""Values of `model.labels`: match by name, a new head, or a mapping of the data's labels to the head's."""
PLACEHOLDER = re.compile(r"LABEL_(\d+)")


@dataclass(frozen=True)
class LabelMatch:
    """The labels of a model, and their rows in its pretrained head.

    labels: in the order of the model's outputs
    rows: the row of the pretrained head of each label; None for a label that the head lacks
    head: names of the pretrained head's rows; empty without a head
    said: the value of `model.labels`
    """

    labels: tuple[str, ...]
    rows: tuple[int | None, ...]
    head: tuple[str, ...]
    said: Mapped = BY_NAME

    @property
    def keeps_the_head(self) -> bool:
        """Whether all rows of the head keep their positions."""
        return self.rows == tuple(range(len(self.head)))

    @property
    def new(self) -> tuple[str, ...]:
        """Labels that the head lacks."""
        return tuple(label for label, row in zip(self.labels, self.rows, strict=True) if row is None)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Labels of the head that the model no longer has."""
        return tuple(name for row, name in enumerate(self.head) if row not in self.rows)

    def notes(self) -> list[str]:
        """Notes for the user on how labels were matched; none if all names are equal."""
        if not self.head:
            return []
        if self.said == NEW_HEAD:
            return [
                f"model.labels: new: the head is initialised at random; the pretrained head had {listed(self.head)}"
            ]
        found = [(label, self.head[row]) for label, row in zip(self.labels, self.rows, strict=True) if row is not None]
        renamed = [f"{label!r} is the head's {name!r}" for label, name in found if label != name]
        notes = [f"labels matched with the pretrained head: {shortened(renamed)}"] if renamed else []
        if not self.new:
            return notes
        kept = [label for label, _ in found]
        changed = f"the labels differ from those of the pretrained head: kept {listed(kept) or 'none'}"
        changed += f"; new, initialised at random: {listed(self.new)}"
        changed += f"; dropped: {listed(self.dropped)}" if self.dropped else ""
        advice = ". To match labels that have other names: model.labels: {OURS: THE-HEAD'S}"
        return [*notes, changed + advice * (self.said == BY_NAME)]


def head_names(architectures: object, id2label: object, auto_class: str | None) -> tuple[str, ...]:
    """Names of the rows of a trained head, such as `LABEL_0` if they were never named; empty without a head.

    architectures, id2label: from config.json
    auto_class: the task's; a head of another kind does not count
    """
    return output_names(id2label) if has_trained_head(architectures, auto_class) else ()


def output_names(id2label: object) -> tuple[str, ...]:
    """The names of an `id2label` in the order of the outputs; its numbers and names may be strings or integers."""
    if not isinstance(id2label, Mapping):
        return ()
    numbered = {int(number): str(name).strip() for number, name in id2label.items() if str(number).isdecimal()}
    return tuple(numbered[number] for number in sorted(numbered))


def decide_labels(head: Sequence[str], occurring: Sequence[str], said: Mapped = BY_NAME) -> LabelMatch:
    """The label set of a model whose training data have the labels `occurring`, in the order for a new head.

    head: names of the rows of the pretrained head; empty without a head
    A head that has all labels keeps its rows, also those of labels that do not occur, under the data's spelling.
    Raises ModelError if the labels can be matched in two ways, with the setting that decides it.
    """
    match = match_labels(head, occurring, said)
    if not head or said == NEW_HEAD:
        return match
    if not match.new:
        return _spelled_as_the_data(match)
    if all(row is None for row in match.rows) and len(head) == len(occurring) and _are_numbers(head, occurring):
        raise ModelError(
            f"the pretrained head has the labels {listed(head)}, the data have {listed(occurring)}, and "
            "there is more than one way to match them; set model.labels: "
            f"{{{occurring[0]}: {head[0]}, …}}, or model.labels: new for a new head"
        )
    return match


def match_labels(head: Sequence[str], labels: Sequence[str], said: Mapped = BY_NAME) -> LabelMatch:
    """Match the model's labels with the head's rows: by mapping, equal name, name without case, `LABEL_1` as 1.

    Raises ModelError for a name that matches several rows, and for a mapping with unknown names.
    """
    rows: dict[str, int] = {}
    if not isinstance(said, str):
        rows = _said_rows(head, labels, said)
    if said != NEW_HEAD:
        for key, likeness in _LIKENESSES.items():
            rows |= _rows_by(key, likeness, head, labels, rows)
    return LabelMatch(tuple(labels), tuple(rows.get(label) for label in labels), tuple(head), said)


def find_label(labels: Sequence[str], label: str) -> int | None:
    """The index of a label among a model's: of the same name, else of the name that differs only in case."""
    return match_labels(labels, [label]).rows[0]


def folded(name: str) -> str:
    """A name with normalised case and white space."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def is_unnamed(head: Sequence[str]) -> bool:
    """Whether a head's rows have the default names of `transformers`."""
    return bool(head) and all(PLACEHOLDER.fullmatch(name) for name in head)


def unless_unnamed(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a head's rows; empty if they are the default names."""
    return () if is_unnamed(names) else names


def listed(names: Iterable[str], at_most: int = 10) -> str:
    """Some of the names, quoted."""
    return shortened([repr(name) for name in names], at_most)


def shortened(items: Sequence[str], at_most: int = 10) -> str:
    """The first items, and the number of further ones."""
    return ", ".join(items[:at_most]) + (f" and {len(items) - at_most:,} more" if len(items) > at_most else "")


def _rows_by(
    key: Key, likeness: str, head: Sequence[str], labels: Sequence[str], known: Mapping[str, int]
) -> dict[str, int]:
    """Rows of the labels that are not matched yet, by a key of the names. Raises ModelError for an ambiguous key.

    likeness: what names with the same key have in common, for the message
    """
    taken = set(known.values())
    rows, wanted = defaultdict[str, list[int]](list), defaultdict[str, list[str]](list)
    for row, name in enumerate(head):
        if row not in taken and (found := key(name)) is not None:
            rows[found].append(row)
    for label in dict.fromkeys(labels):
        if label not in known and (found := key(label)) is not None:
            wanted[found].append(label)
    for found in rows.keys() & wanted.keys():
        if len(rows[found]) > 1 or len(wanted[found]) > 1:
            names = [head[row] for row in rows[found]]
            fix = "map them: model.labels: {OURS: THE-HEAD'S}"
            if len(set(names)) < len(names):  # names do not identify rows then
                fix = "give each row a different name in id2label of the model's config.json"
            raise ModelError(
                f"the labels {listed(wanted[found])} of the data and {listed(names)} of the pretrained head "
                f"{likeness}; {fix}"
            )
    return {labels[0]: rows[found][0] for found, labels in wanted.items() if found in rows}


def _number(name: str) -> str | None:
    """The number of `LABEL_1` or `1`."""
    found = PLACEHOLDER.fullmatch(name)
    digits = found.group(1) if found else name
    return digits if re.fullmatch(r"0|[1-9]\d{0,8}", digits) else None


Key = Callable[[str], str | None]
_LIKENESSES: dict[Key, str] = {
    str: "have the same name",
    folded: "differ only in case or white space",
    _number: "mean the same number, as LABEL_1 means 1",
}
"""Keys by which names are matched, the strictest first, and their descriptions in messages."""


def _said_rows(head: Sequence[str], labels: Sequence[str], said: Mapping[str, str]) -> dict[str, int]:
    for label, name in said.items():
        if not head:
            raise ModelError("model.labels maps to rows of a trained head, and the model has none for this task")
        for wanted, names, whose in ((label, labels, "the data"), (name, head, "the pretrained head")):
            if wanted not in names:
                near = get_close_matches(wanted, names, n=1, cutoff=0.5)
                fix = f"did you mean {near[0]!r}?" if near else f"it has {listed(names)}"
                raise ModelError(f"model.labels: {whose} has no label {wanted!r}; {fix}")
    if len(set(said.values())) < len(said):
        raise ModelError("model.labels maps several labels to one row of the head; use each row once")
    return {label: list(head).index(name) for label, name in said.items()}


def _are_numbers(head: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether one side has only numbers for names, whose meaning is unknown."""
    return all(_number(name) is not None for name in head) or all(_number(label) is not None for label in labels)


def _spelled_as_the_data(match: LabelMatch) -> LabelMatch:
    """All rows of the head in their positions, under the data's names."""
    ours = {row: label for label, row in zip(match.labels, match.rows, strict=True)}
    numbered = is_unnamed(match.head) and all(label.isdecimal() for label in match.labels)
    names = [ours.get(row) or (str(_number(name)) if numbered else name) for row, name in enumerate(match.head)]
    if len(set(names)) < len(names):  # an unmatched row has the name of another label
        return match
    return replace(match, labels=tuple(names), rows=tuple(range(len(names))))
