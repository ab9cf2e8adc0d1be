"""Language models that continue a text: plain texts, prompts with responses, or chats.

A chat is written by the tokenizer's own template; what the assistant says is learned, and nothing else. With packing,
several samples lie in one row, each with positions of its own, from which attention knows where it may not look; so it
is a matter of layout, and changes no loss and no gradient.
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
"""Tokens of a predicted response, at most."""


class CausalLM(LanguageTask):
    """Learns the next token."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    inputs: ClassVar[tuple[str, ...]] = ("text", "prompt", "messages")
    targets: ClassVar[tuple[str, ...]] = ("response",)
    settings: ClassVar[tuple[str, ...]] = ("packing",)

    @classmethod
    def columns(cls, source: Source, *, labelled: bool = True) -> dict[str, str]:
        """Chats, or prompts with responses, or plain texts: the first that the source names."""
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
        """As the job says."""
        return self.train.packing

    def prepare(self, rows: Sequence[Row], *, labelled: bool) -> dict[str, list[Any]]:
        """Token ids, and for each token itself where it is learned; prompts that are to be answered have no such."""
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
            message = f"the prompt has {len(ids)} tokens, and the model takes {self.train.max_length} with its answer"
            raise DataError(row.file, f"{message}; shorten it", row.number)
        return ids

    def _nothing_learned(self, ids: list[int], targets: list[int]) -> str:
        if len(ids) < 2:
            return "the text has a single token, and so no next token to predict; remove the row"
        before = next((place for place, target in enumerate(targets) if place and target != IGNORE_INDEX), len(ids))
        return (
            f"what is to be learned begins after {before} tokens, beyond the {self.train.max_length} of "
            "train.max_length; raise it, or shorten what comes before"
        )

    def collate(self, examples: Sequence[Example], ids: Sequence[int], epoch: int | None = None) -> Batch:
        """Right-padded token ids whose target is the next one; packed in training; left-padded to be continued."""
        if "targets" not in examples[0]:
            return self._to_be_continued(examples, ids)
        if self.packs and epoch is not None:
            return self._packed(examples, ids)
        return self.token_batch(examples, ids, [_next(example["targets"]) for example in examples])

    def collate_padded(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Right-padded, prompts too: only `generate` gives left-padded ones their positions."""
        unasked = [np.full(example["length"], IGNORE_INDEX) for example in examples]
        targets = [
            _next(example["targets"]) if "targets" in example else nothing
            for example, nothing in zip(examples, unasked, strict=True)
        ]
        return self.token_batch(examples, ids, targets)

    def _packed(self, examples: Sequence[Example], ids: Sequence[int]) -> Batch:
        """Samples laid into rows in their order; padding is one more sample, that nobody asks."""
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
        """The model with its loss. Raises ModelError for packing in a model that reads a row as one text."""
        if self.packs and not keeps_samples_apart(model):
            raise ModelError(f"{type(model).__name__} would see one sample in another; set train.packing: false")
        return TokenModel(model, self.train.loss.label_smoothing, use_cache=False)

    def answer(self, module: TaskModule, batch: Batch) -> list[dict[str, Any]]:
        """How likely a text is, or the likeliest response to a prompt, token by token."""
        if (batch.targets != IGNORE_INDEX).any():
            return super().answer(module, batch)
        lengths = batch.inputs["attention_mask"].sum(1)
        rooms = (self.train.max_length - lengths).clamp(max=LONGEST_ANSWER)
        answers = [""] * len(rooms)
        for room in rooms.unique().tolist():  # what stands beside a prompt does not decide how long its answer may be
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
    """What each place is to tell: the token after it; the last place nothing."""
    return np.append(targets[1:], IGNORE_INDEX)


def _without(end: int | None, ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids


def _ended(end: int | None) -> list[int]:
    return [] if end is None else [end]
