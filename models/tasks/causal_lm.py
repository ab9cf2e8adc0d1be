"""Language models that continue a text: plain texts, prompts with responses, or chats.

A chat is formatted by the tokenizer's chat template; only the assistant's turns are trained on. With packing, several
samples are in one row, each with its own position ids, by which attention separates them. So packing changes only the
layout, and no loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from launcher.data.rows import Row
from launcher.data.values import text_of
from launcher.errors import DataError, ModelError
from launcher.job.sections.data import Source
from launcher.models.parts.batch import Batch
from launcher.models.parts.chats import chat_of, chat_tokens
from launcher.models.parts.packing import keeps_samples_apart
from launcher.models.tasks.base import Example, TaskModule
from launcher.models.tasks.text import no_token, pad
from launcher.models.tasks.token_loss import IGNORE_INDEX, LanguageTask, TokenModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST_ANSWER = 256
"""Maximum number of tokens of a predicted response."""


class CausalLM(LanguageTask):
    """Next-token prediction."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    inputs: ClassVar[tuple[str, ...]] = ("text", "prompt", "messages")
    targets: ClassVar[tuple[str, ...]] = ("response",)
    settings: ClassVar[tuple[str, ...]] = ("packing",)

    @classmethod
    def columns(cls, source: Source, *, labelled: bool = True) -> dict[str, str]:
        """The columns of chats, of prompts with responses, or of plain texts: the first that the source names."""
        found = {role: name for role in ("messages", "prompt", "response", "text") if (name := source.column(role))}
        if "messages" in found:
            return {"messages": found["messages"]}
        if "prompt" in found:
            return {
                role: found[role] for role in ("prompt", "response") if role in found and (labelled or role == "prompt")
            }
        return {"text": found["text"]}

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """The job's `train.packing`."""
        return self.train.packing

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids, and targets: the token itself if it is trained on; prompts to be answered have no targets."""
        pairs = [self._tokens(row, labelled) for row in rows]
        columns: dict[str, list[Any]] = {
            "input_ids": [ids for ids, _ in pairs],
            "length": [len(ids) for ids, _ in pairs],
        }
        if labelled or "text" in rows[0].values:
            columns["targets"] = [targets for _, targets in pairs]
        return columns

    def _tokens(self, row: Row, labelled: bool) -> tuple[list[int], list[int]]:
        longest, end = self.train.max_length, self.processor.eos_token_id
        if "messages" in row.values:
            ids, targets = chat_tokens(self.processor, chat_of(row, labelled), row, labelled)
        elif "prompt" in row.values:
            ids = _without(end, self.processor(text_of(row, "prompt"))["input_ids"])
            targets = [IGNORE_INDEX] * len(ids)
            if labelled:
                response = self.processor(text_of(row, "response"), add_special_tokens=False)["input_ids"]
                response = [*response, *_ended(end)]
                ids, targets = ids + response, targets + response
        else:
            ids = [*_without(end, self.processor(text_of(row))["input_ids"]), *_ended(end)]
            targets = ids
        if not ids:
            raise no_token(row)
        if not labelled and targets.count(IGNORE_INDEX) == len(targets):
            return self._room_to_answer(ids, row), []
        if all(target == IGNORE_INDEX for target in targets[1:longest]):
            raise DataError(row.file, self._nothing_learned(ids, targets), row.number)
        return ids[:longest], targets[:longest]

    def _room_to_answer(self, ids: list[int], row: Row) -> list[int]:
        if len(ids) >= self.train.max_length:
            message = (
                f"the prompt has {len(ids)} tokens, and prompt and answer together may have "
                f"{self.train.max_length} (train.max_length)"
            )
            raise DataError(row.file, f"{message}; shorten it", row.number)
        return ids

    def _nothing_learned(self, ids: list[int], targets: list[int]) -> str:
        if len(ids) < 2:
            return "the text has a single token, and so no next token to predict; remove the row"
        before = next((place for place, target in enumerate(targets) if place and target != IGNORE_INDEX), len(ids))
        return (
            f"the answer begins after {before} tokens, beyond train.max_length: "
            f"{self.train.max_length}; raise train.max_length, or shorten the prompt"
        )

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Right-padded token ids with the next token as target; packed in training; left-padded for generation."""
        if "targets" not in examples[0]:
            return self._to_be_continued(examples, ids)
        if self.packs and epoch is not None:
            return self._packed(examples, ids)
        return self.token_batch(examples, ids, [_next(example["targets"]) for example in examples])

    def collate_padded(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Right-padded, also for prompts: only `generate` gives left-padded ones their position ids."""
        unasked = [np.full(example["length"], IGNORE_INDEX) for example in examples]
        targets = [
            _next(example["targets"]) if "targets" in example else nothing
            for example, nothing in zip(examples, unasked, strict=True)
        ]
        return self.token_batch(examples, ids, targets)

    def _packed(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Samples packed into rows in their order; padding is one more sample, without targets."""
        rows: list[list[Example]] = [[]]
        for example in examples:
            if sum(other["length"] for other in rows[-1]) + example["length"] > self.train.max_length:
                rows.append([])
            rows[-1].append(example)
        lengths = [sum(example["length"] for example in row) for row in rows]
        rests = [max(lengths) - length for length in lengths]
        places = [
            np.concatenate([*(np.arange(example["length"]) for example in row), np.arange(rest)])
            for row, rest in zip(rows, rests, strict=True)
        ]
        targets = pad([np.concatenate([_next(e["targets"]) for e in row]) for row in rows], IGNORE_INDEX)
        tokens = [np.concatenate([e["input_ids"] for e in row]) for row in rows]
        return Batch(
            inputs={
                "input_ids": pad(tokens, self.processor.pad_token_id),
                "position_ids": torch.from_numpy(np.stack(places)),
            },
            targets=targets,
            weights=(targets != IGNORE_INDEX).float(),
            ids=torch.tensor(list(ids)),
            tokens=sum(lengths),
        )

    def _to_be_continued(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        flipped = [{**example, "input_ids": example["input_ids"][::-1]} for example in examples]
        batch = self.token_batch(flipped, ids, [np.full(example["length"], IGNORE_INDEX) for example in examples])
        return Batch(
            {name: tensor.flip(1) for name, tensor in batch.inputs.items()},
            batch.targets,
            batch.weights,
            batch.ids,
            batch.tokens,
        )

    def build(self, model: PreTrainedModel) -> TaskModule:
        """The model with its loss. Raises ModelError for packing with a model that reads a row as one text."""
        if self.packs and not keeps_samples_apart(model):
            raise ModelError(
                f"{type(model).__name__} would attend from one packed sample to another; set train.packing: false"
            )
        return TokenModel(model, self.train.loss.label_smoothing, use_cache=False)

    def answer(self, module: TaskModule, batch: Batch) -> list[dict[str, Any]]:
        """The likelihood of a text, or the greedily decoded response to a prompt."""
        if (batch.targets != IGNORE_INDEX).any():
            return super().answer(module, batch)
        lengths = batch.inputs["attention_mask"].sum(1)
        rooms = (self.train.max_length - lengths).clamp(max=LONGEST_ANSWER)
        answers = [""] * len(rooms)
        for room in rooms.unique().tolist():  # the limit of an answer must not depend on the other prompts of the batch
            alike = torch.nonzero(rooms == room)[:, 0]
            longest = int(lengths[alike].max())
            prompts = {name: tensor[alike, -longest:] for name, tensor in batch.inputs.items()}
            padding = self.processor.pad_token_id
            found = module.model.generate(**prompts, do_sample=False, max_new_tokens=room, pad_token_id=padding)
            texts = self.processor.batch_decode(found[:, longest:], skip_special_tokens=True)
            for place, text in zip(alike.tolist(), texts, strict=True):
                answers[place] = text
        return [{"response": text} for text in answers]


def _next(targets: Any) -> Any:
    """The target of each position: the next token; none for the last position."""
    return np.append(targets[1:], IGNORE_INDEX)


def _without(end: int | None, ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids


def _ended(end: int | None) -> list[int]:
    return [] if end is None else [end]
