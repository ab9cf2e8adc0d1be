"""Classification of a text, or of a pair of texts, with any `transformers` encoder or decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from launcher.data.rows import Row
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example
from launcher.models.tasks.classes import Classes, LabelSets
from launcher.models.tasks.text import TextTask


class TextClassification(Classes, TextTask):
    """One label per text or pair."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    has_features: ClassVar[bool] = True
    variants: ClassVar[dict[str, str]] = {"binary": "MultiLabelTextClassification"}

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids, their number, and label indices."""
        columns = self.encode(rows)
        if labelled:
            columns["label"] = self.indices(rows)
        return columns

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Right-padded token ids with the attention mask."""
        return self.batch(examples, ids, *self.answers(examples))


class MultiLabelTextClassification(LabelSets, TextTask):
    """Any number of labels per text or pair."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    has_features: ClassVar[bool] = True
    prepare, collate = TextClassification.prepare, TextClassification.collate
