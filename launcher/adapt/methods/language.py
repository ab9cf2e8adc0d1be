"""Learning the language of the target: hidden words (Devlin et al. 2019) or the next word, from a shared body.

The model has two heads then: the task's, and the one with which it was pretrained to tell words. Its output matrix is
the model's own word embeddings where the pretrained model ties them. Only the hidden states of words that are to be
told go through that head, so that it costs a seventh of what it would with a share of 15 %.
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
    """Stands where a language model has its body, and gives what another body has made already."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=self.given)


class LanguageHead(nn.Module):
    """A pretrained language model without its body: hidden states [words, width] to scores [words, vocabulary]."""

    def __init__(self, model: PreTrainedModel, body: PreTrainedModel) -> None:
        super().__init__()
        self.states = _HiddenStates()
        setattr(model, model.base_model_prefix, self.states)
        output, embeddings = model.get_output_embeddings(), body.get_input_embeddings()
        if output is not None and getattr(model.config, "tie_word_embeddings", True):
            output.weight = embeddings.weight
        self.head = model

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores of some words."""
        self.states.given = hidden.unsqueeze(0)
        scores: Tensor = self.head(input_ids=hidden.new_zeros((1, len(hidden)), dtype=torch.int64)).logits[0]
        self.states.given = None
        return scores.float()


class LanguageMethod(Method):
    """A method one of whose terms, `language`, is the loss of words of the target."""

    loss_terms: ClassVar[tuple[str, ...]] = ("task", "language")

    def __init__(self, spec: Any, task: Task, sets: Mapping[str, int], target: int) -> None:
        super().__init__(spec, task, sets, target)
        if not self.is_causal and task.processor.mask_token_id is None:
            raise ModelError(
                f"the tokenizer has no mask token, so {spec.method} has no words to hide; use method: dapt, which "
                "learns the next word too"
            )

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.task.processor.all_special_ids)

    @property
    def is_causal(self) -> bool:
        """Whether each next word is told, instead of hidden ones."""
        objective = getattr(self.spec, "objective", "masked")
        return objective == "causal" or (objective == "auto" and self.task.processor.mask_token_id is None)

    def extra_modules(self, around: ModelDims) -> nn.Module:
        """The head that tells words."""
        return around.language_head(CAUSAL if self.is_causal else MASKED)

    def collate(
        self, examples: Sequence[Example], ids: Sequence[int], sets: Sequence[int], moment: StepInfo
    ) -> tuple[Batch, dict[str, Tensor]]:
        """Words of target samples hidden anew in each step; what is to be told of each word."""
        shown, told = [], []
        for example, id_, which in zip(examples, ids, sets, strict=True):
            if which != TARGET:
                shown.append(example)
                told.append(torch.full((int(example["length"]),), IGNORE_INDEX).numpy())
                continue
            tokens, targets = self._asked(example, id_, moment)
            shown.append({**example, "input_ids": tokens})
            told.append(targets)
        batch = self.task.collate(shown, ids, moment.epoch)
        return batch, {"told": pad(told, IGNORE_INDEX)}

    def _asked(self, example: Example, id_: int, moment: StepInfo) -> tuple[Any, Any]:
        """A target sample's words as shown, and of each word what its place is to tell."""
        tokens = torch.tensor(example["input_ids"], dtype=torch.int64).numpy()
        if self.is_causal:
            told = torch.full((len(tokens),), IGNORE_INDEX).numpy()
            told[:-1] = tokens[1:]
            return tokens, told
        draw = (self.task.train.seed, moment.step, id_)
        return hidden_words(self.task.processor, self._special, tokens, self.spec.mask_share, draw)

    def weights(self, batch: StepBatch) -> dict[str, Tensor]:
        """Each word that is to be told counts alike."""
        told = (batch.extra["told"] != IGNORE_INDEX).sum(1).float()
        return {"task": batch.sample_weights, "language": told}

    def terms(self, seen: ForwardOutputs, parts: Callable[[Tensor], Tensor], batch: StepBatch) -> dict[str, Tensor]:
        """The task's loss, and that of the words."""
        told = batch.extra["told"]
        asked = told != IGNORE_INDEX
        if not asked.any():
            asked = torch.zeros_like(asked)
            asked[0, 0] = True  # one that counts nothing, so that all ranks compute alike
        scores = parts(seen.hidden[asked])
        losses = F.cross_entropy(scores, told[asked], reduction="none", ignore_index=IGNORE_INDEX)
        rows = torch.arange(len(told), device=told.device).unsqueeze(1).expand_as(told)[asked]
        language = torch.zeros_like(seen.losses).index_add(0, rows, losses)
        return {"task": seen.losses, "language": language}
