"""What language models share: a loss for each token, its mean over all tokens with a target, and perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import Example, TaskModule
from launcher.models.tasks.summed import SummedTask, Sums
from launcher.models.tasks.text import TextTask, pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORE_INDEX = -100
"""The target of a token that is not predicted; torch's cross-entropy ignores it."""


class TokenModel(TaskModule):
    """A model with logits [samples, length, classes] and their cross-entropy.

    outputs: [samples, length, 4] of each token: its plain loss, whether the prediction is correct, whether it has a
    target, and the prediction; the logits, whose size is that of the vocabulary, are not returned
    """

    def __init__(self, model: PreTrainedModel, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.model, self.label_smoothing, self.options = model, label_smoothing, options

    def forward(self, batch: Batch) -> Losses:
        """The sum of each sample's weighted token losses."""
        scores = self.model(**batch.inputs, **self.options).logits.float()
        smoothing = self.label_smoothing if self.training else 0.0
        flat, targets = scores.flatten(0, 1), batch.targets.flatten()
        losses = F.cross_entropy(flat, targets, reduction="none", label_smoothing=smoothing).view_as(batch.targets)
        predicted, counts = scores.detach().argmax(-1), batch.targets != IGNORE_INDEX
        outputs = torch.stack([losses.detach(), predicted == batch.targets, counts, predicted.float()], dim=-1)
        return Losses(weighted=(losses * batch.weights).sum(-1), outputs=outputs)


class LanguageTask(SummedTask, TextTask):
    """A family that is trained to predict tokens of texts."""

    losses: ClassVar[tuple[str, ...]] = ("cross-entropy",)
    metric_directions: ClassVar[dict[str, str]] = {"perplexity": "lower", "accuracy": "higher"}
    targets: ClassVar[tuple[str, ...]] = ()
    measured: ClassVar[int] = 3
    learns_language: ClassVar[bool] = True

    def token_batch(self, examples: Sequence[Example], ids: Sequence[int], targets: Sequence[Any]) -> Batch:
        """The padded examples with a target for each token; all tokens with a target have the same weight."""
        padded = pad(targets, IGNORE_INDEX)
        return self.batch(examples, ids, padded, (padded != IGNORE_INDEX).float())

    def sample_stats(self, batch: Batch, outputs: Tensor) -> Tensor:
        """Loss, correct tokens, tokens."""
        return outputs[..., :3].double().sum(1)

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Names of the summands."""
        return ("loss", "right", "tokens")

    def metrics_from_sums(self, sums: Sums) -> dict[str, Sums]:
        """Means over all tokens."""
        loss, right, tokens = np.moveaxis(sums[..., 1:], -1, 0)
        tokens = np.maximum(tokens, 1)
        return {"loss": loss / tokens, "perplexity": np.exp(loss / tokens), "accuracy": right / tokens}

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """The likelihood of each text."""
        sums = outputs[..., :3].double().sum(1).cpu().numpy()
        means = sums[:, 0] / np.maximum(sums[:, 2], 1)
        return [
            {"loss": float(mean), "perplexity": float(np.exp(mean)), "tokens": int(tokens)}
            for mean, tokens in zip(means, sums[:, 2], strict=True)
        ]
