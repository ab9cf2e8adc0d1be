"""Language modelling on the target: masked (Devlin et al. 2019) or causal, with a body shared with the task.

The model then has two heads: the task's, and the pretrained language model head. The latter's output matrix is tied to
the word embeddings if the pretrained model ties them. Only the hidden states of tokens to be predicted go through that
head; with a share of 15 % this is a seventh of the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.adapt.methods.method import TARGET, ForwardOutputs, Method, ModelDims, StepBatch, StepInfo
from launcher.errors import ModelError
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import Example, Task
from launcher.models.tasks.masked_lm import hidden_words
from launcher.models.tasks.text import pad
from launcher.models.tasks.token_loss import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED, CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"


class _HiddenStates(nn.Module):
    """Replaces the body of a language model, and returns hidden states that another body has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=self.given)


class LanguageHead(nn.Module):
    """A pretrained language model without its body: hidden states [tokens, width] to logits [tokens, vocabulary]."""

    def __init__(self, model: PreTrainedModel, body: PreTrainedModel) -> None:
        super().__init__()
        self.states = _HiddenStates()
        setattr(model, model.base_model_prefix, self.states)
        output, embeddings = model.get_output_embeddings(), body.get_input_embeddings()
        if output is not None and getattr(model.config, "tie_word_embeddings", True):
            output.weight = embeddings.weight
        self.head = model

    def forward(self, hidden: Tensor) -> Tensor:
        """The logits of some tokens."""
        self.states.given = hidden.unsqueeze(0)
        scores: Tensor = self.head(input_ids=hidden.new_zeros((1, len(hidden)), dtype=torch.int64)).logits[0]
        self.states.given = None
        return scores.float()


class LanguageMethod(Method):
    """A method with a term `language`, the language modelling loss on the target."""

    loss_terms: ClassVar[tuple[str, ...]] = ("task", "language")

    def __init__(self, spec: Any, task: Task, sets: Mapping[str, int], target: int) -> None:
        super().__init__(spec, task, sets, target)
        if not self.is_causal and task.processor.mask_token_id is None:
            raise ModelError(
                f"the tokenizer has no mask token, so {spec.method} cannot mask words; use method: dapt, "
                "which can predict the next word instead"
            )

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.task.processor.all_special_ids)

    @property
    def is_causal(self) -> bool:
        """Whether the next token is predicted, instead of masked ones."""
        objective = getattr(self.spec, "objective", "masked")
        return objective == "causal" or (objective == "auto" and self.task.processor.mask_token_id is None)

    def extra_modules(self, around: ModelDims) -> nn.Module:
        """The language model head."""
        return around.language_head(CAUSAL if self.is_causal else MASKED)

    def collate(
        self, examples: Sequence[Example], ids: Sequence[int], sets: Sequence[int], moment: StepInfo
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Mask tokens of target samples anew in each step; the targets of all tokens."""
        shown, all_targets = [], []
        for example, id_, which in zip(examples, ids, sets, strict=True):
            if which != TARGET:
                shown.append(example)
                all_targets.append(torch.full((int(example["length"]),), IGNORE_INDEX).numpy())
                continue
            tokens, targets = self._asked(example, id_, moment)
            shown.append({**example, "input_ids": tokens})
            all_targets.append(targets)
        batch = self.task.collate(shown, ids, moment.epoch)
        return batch, {"targets": pad(all_targets, IGNORE_INDEX)}

    def _asked(self, example: Example, id_: int, moment: StepInfo) -> tuple[Any, Any]:
        """A target sample's input tokens, and the target of each position."""
        tokens = torch.tensor(example["input_ids"], dtype=torch.int64).numpy()
        if self.is_causal:
            targets = torch.full((len(tokens),), IGNORE_INDEX).numpy()
            targets[:-1] = tokens[1:]
            return tokens, targets
        draw = (self.task.train.seed, moment.step, id_)
        return hidden_words(self.task.processor, self._special, tokens, self.spec.mask_share, draw)

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """All predicted tokens have the same weight."""
        counts = (batch.extra["targets"] != IGNORE_INDEX).sum(1).float()
        return {"task": batch.sample_weights, "language": counts}

    def terms(self, seen: ForwardOutputs, parts: Callable[[Tensor], Tensor], batch: StepBatch) -> dict[str, Tensor]:
        """The task's loss, and the language modelling loss."""
        targets = batch.extra["targets"]
        asked = targets != IGNORE_INDEX
        if not asked.any():
            asked = torch.zeros_like(asked)
            asked[0, 0] = True  # one with weight zero, so that all ranks run the same operations
        scores = parts(seen.hidden[asked])
        losses = F.cross_entropy(scores, targets[asked], reduction="none", ignore_index=IGNORE_INDEX)
        rows = torch.arange(len(targets), device=targets.device).unsqueeze(1).expand_as(targets)[asked]
        language = torch.zeros_like(seen.losses).index_add(0, rows, losses)
        return {"task": seen.losses, "language": language}
