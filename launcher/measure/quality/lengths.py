"""Lengths of samples in tokens, and what `train.max_length` truncates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.measure.quality.samples import SampleSet

AT_ONCE = 1000


@dataclass(frozen=True)
class Lengths:
    """Tokens of the samples of one set, before truncation.

    cut: share of the samples that are longer than `max_length`
    lost: share of all tokens that are beyond it
    """

    set: str
    max_length: int
    median: int
    p95: int
    longest: int
    cut: float
    lost: float


def lengths_of(data: SampleSet, tokens: NDArray[np.int64], max_length: int) -> Lengths:
    """The lengths of a set, from the tokens of its samples."""
    return Lengths(
        data.name,
        max_length,
        int(np.median(tokens)),
        int(np.quantile(tokens, 0.95)),
        int(tokens.max()),
        float((tokens > max_length).mean()),
        float(np.maximum(tokens - max_length, 0).sum() / max(1, tokens.sum())),
    )


class TokenCounter:
    """Counts tokens with a folder's `tokenizer.json`, which needs no torch.

    Tokens that a chat template adds are not counted. `of` returns None if the file is not there.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, folder: str) -> TokenCounter | None:
        """The counter of a model's folder."""
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            return None
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer)

    def count(self, data: SampleSet) -> NDArray[np.int64]:
        """[samples] tokens."""
        return np.array([count for start in range(0, len(data), AT_ONCE) for count in self._some(data, start)])

    def _some(self, data: SampleSet, start: int) -> Iterator[int]:
        parts = data.parts[start : start + AT_ONCE]
        inputs = [_input(part) for part in parts]
        is_split = bool(parts) and "words" in parts[0]
        for found in self._tokenizer.encode_batch(inputs, is_pretokenized=is_split):
            yield len(found.ids)


def _input(part: Any) -> Any:
    """One text, a pair of them, or words."""
    if "words" in part:
        return part["words"].split(" ")
    texts = list(part.values())
    return (texts[0], texts[1]) if len(texts) == 2 else " ".join(texts)
