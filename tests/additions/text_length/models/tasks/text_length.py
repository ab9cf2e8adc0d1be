"""How many words a text has, which the text itself says: nobody has to label it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from launcher.data.rows import Row
from launcher.models.tasks.summed import Sums
from launcher.models.tasks.text_regression import TextRegression


class TextLength(TextRegression):
    """A regression on tens of words."""

    targets: ClassVar[tuple[str, ...]] = ()
    metric_directions: ClassVar[dict[str, str]] = {"words_apart": "lower"}

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids, their count, and the words."""
        columns = self.encode(rows)
        if labelled:
            columns["target"] = [len(str(row.values["text"]).split()) / 10 for row in rows]
        return columns

    def metrics_from_sums(self, sums: Sums) -> dict[str, Sums]:
        """Those of a regression, and how many words the answer is off."""
        found = super().metrics_from_sums(sums)
        return found | {"words_apart": 10 * np.sqrt(found["mse"])}
