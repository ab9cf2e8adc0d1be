"""Masked language models, as in BERT (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from launcher.data.rows import Row
from launcher.errors import DataError, ModelError
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example, TaskModule
from launcher.models.tasks.token_loss import IGNORE_INDEX, LanguageTask, TokenModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = NDArray[np.int64]


class MaskedLM(LanguageTask):
    """Predicts masked tokens: a share of each text, sampled anew each epoch, at least one.

    Of those, 80 % become the mask token, 10 % a random token, and 10 % are unchanged, since texts in use have no masks.
    """

    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    settings: ClassVar[tuple[str, ...]] = ("mask_share",)
    reads_marks: ClassVar[bool] = True  # a mask in a text marks the word to predict

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids; in prediction, of texts with masks to fill."""
        mask = self.processor.mask_token_id
        if mask is None:
            raise ModelError(
                "the tokenizer has no mask token, so its model does not predict masked words; use causal-lm"
            )
        columns = self.encode(rows)
        for row, ids in zip(rows, columns["input_ids"], strict=True):
            if labelled and all(token in self._special for token in ids):
                raise DataError(row.file, "the text has no token that could be masked; remove the row", row.number)
            if not labelled and mask not in ids:
                fault = f"the text has no {self.processor.mask_token}, so there is nothing to predict"
                raise DataError(row.file, f"{fault}; put one in place of the word", row.number)
        return columns if labelled else {**columns, "given": [1] * len(rows)}

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.processor.all_special_ids)

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Right-padded token ids with some masked; in evaluation always the same ones, whatever the seed."""
        if "given" in examples[0]:
            mask = self.processor.mask_token_id
            asked = [np.where(example["input_ids"] == mask, mask, IGNORE_INDEX) for example in examples]
            return self.token_batch(examples, ids, asked)
        pairs = [self._hidden(example["input_ids"], id_, epoch) for example, id_ in zip(examples, ids, strict=True)]
        shown = [{**example, "input_ids": tokens} for example, (tokens, _) in zip(examples, pairs, strict=True)]
        return self.token_batch(shown, ids, [targets for _, targets in pairs])

    def _hidden(self, ids: Any, sample: int, epoch: int | None) -> tuple[Tokens, Tokens]:
        """The input tokens, and the target of each."""
        draw = (0, 0, sample) if epoch is None else (self.train.seed, epoch + 1, sample)
        return hidden_words(self.processor, self._special, ids, self.train.mask_share, draw)

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss."""
        return TokenModel(model, self.train.loss.label_smoothing)

    def answer(self, module: TaskModule, batch: Batch) -> list[dict[str, Any]]:
        """Each text with its masks filled by the most likely tokens."""
        predicted = module(batch).outputs[..., 3].long()
        inputs = batch.inputs["input_ids"]
        filled = inputs.where(batch.targets == IGNORE_INDEX, predicted)
        return [{"text": text} for text in self.processor.batch_decode(filled, skip_special_tokens=True)]


def hidden_words(
    processor: Any, special: Collection[int], ids: Any, share: float, draw: Sequence[int]
) -> tuple[Tokens, Tokens]:
    """A text's tokens with a share of them masked, at least one, and the target of each token.

    special: tokens that are never masked
    draw: seed of the random choice, integers
    """
    chance = np.random.default_rng(list(draw))
    tokens: Tokens = np.array(ids, dtype=np.int64)
    targets = np.full_like(tokens, IGNORE_INDEX)
    candidates = np.flatnonzero(~np.isin(tokens, list(special)))
    count = min(len(candidates), max(1, round(share * len(candidates))))
    chosen = chance.permutation(candidates)[:count]
    targets[chosen] = tokens[chosen]
    fate = chance.random(count)
    others = chance.integers(len(processor), size=count)
    tokens[chosen] = np.where(fate < 0.8, processor.mask_token_id, np.where(fate < 0.9, others, tokens[chosen]))
    return tokens, targets
