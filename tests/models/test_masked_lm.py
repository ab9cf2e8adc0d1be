"""Masked language models: which tokens are hidden follows from the seed, the sample and the epoch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from launcher.data.rows import Row
from launcher.errors import DataError, ModelError
from launcher.job.sections.training import Train
from launcher.models.tasks.masked_lm import MaskedLM
from launcher.models.tasks.token_loss import IGNORE_INDEX
from tests.families import bert_with_words, llama, texts
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_with_words(tmp_path_factory.mktemp("bert"))


def task_of(folder: Path, **train: Any) -> MaskedLM:
    return MaskedLM(AutoTokenizer.from_pretrained(folder), (), Train(**{"max_length": 32, **train}))


def examples(task: MaskedLM, some: list[str], labelled: bool = True) -> list[dict[str, Any]]:
    columns = task.prepare([Row("f.csv", n + 1, {"text": text}) for n, text in enumerate(some)], labelled=labelled)
    return [{name: np.asarray(values[i]) for name, values in columns.items()} for i in range(len(some))]


def hidden(task: MaskedLM, some: list[dict[str, Any]], ids: list[int], epoch: int | None) -> dict[int, list[Any]]:
    batch = task.collate([some[i] for i in ids], ids, epoch)
    shown, targets = batch.inputs["input_ids"], batch.targets
    return {i: [part[row, : some[i]["length"]].tolist() for part in (shown, targets)] for row, i in enumerate(ids)}


def test_masks_do_not_depend_on_the_batch_and_change_with_the_epoch(folder: Path) -> None:
    task = task_of(folder)
    some = examples(task, [" ".join(words) for words in texts(1, 12)])
    together = hidden(task, some, list(range(12)), 3)
    apart = [hidden(task, some, ids, 3) for ids in ([5, 1, 11], [0, 2, 3, 4], [6, 7, 8, 9, 10])]
    assert {i: one for part in apart for i, one in part.items()} == together
    assert hidden(task, some, list(range(12)), 4) != together
    assert hidden(task, some, [2], None) == hidden(task, some, [2], None)
    other = task_of(folder, seed=1)
    assert hidden(other, some, list(range(12)), 3) != together
    assert hidden(other, some, [2], None) == hidden(task, some, [2], None), "runs of any seeds are judged alike"


def test_the_share_is_hidden_as_bert_hides_it(folder: Path) -> None:
    task = task_of(folder, mask_share=0.25, max_length=64)
    some = examples(task, [" ".join(WORDS[:40])])
    batches = [task.collate(some, [0], epoch) for epoch in range(200)]
    assert {int((batch.targets != IGNORE_INDEX).sum()) for batch in batches} == {10}
    shown = torch.cat([batch.inputs["input_ids"][batch.targets != IGNORE_INDEX] for batch in batches])
    true = torch.cat([batch.targets[batch.targets != IGNORE_INDEX] for batch in batches])
    assert float((shown == task.processor.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((shown == true).float().mean()) == pytest.approx(0.1, abs=0.03)
    edges = torch.cat([batch.targets[0, [0, -1]] for batch in batches])
    assert (edges == IGNORE_INDEX).all(), "special tokens are never hidden"


def test_one_word_is_always_hidden(folder: Path) -> None:
    task = task_of(folder)
    assert all(task.collate(examples(task, [WORDS[0]]), [0], epoch).weight == 1 for epoch in range(20))


def test_masks_are_filled_as_transformers_fills_them(folder: Path) -> None:
    task = task_of(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    module = task.build(model).eval()
    text = f"{WORDS[0]} [MASK] {WORDS[1]}"
    with torch.no_grad():
        answer = task.answer(module, task.collate(examples(task, [text, "[MASK]"], labelled=False), [0, 1]))[0]
        best = int(model(**task.processor(text, return_tensors="pt")).logits[0, 2].argmax())
    assert answer == {"text": f"{WORDS[0]} {task.processor.decode([best])} {WORDS[1]}"}


@pytest.mark.parametrize(
    ("text", "labelled", "said"),
    [
        ("", True, "row 1: the text is empty"),
        ("???", True, "row 1: the text has no token that could be masked"),
        (WORDS[0], False, r"row 1: the text has no \[MASK\], so there is nothing to predict; put one"),
    ],
)
def test_a_bad_row_is_told_with_its_place(text: str, labelled: bool, said: str, folder: Path) -> None:
    with pytest.raises(DataError, match=said):
        examples(task_of(folder), [text], labelled)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the tokenizer has no mask token"):
        examples(task_of(llama(tmp_path / "llama")), [WORDS[0]])
