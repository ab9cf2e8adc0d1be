"""Labels for words: which token bears them, and entities counted as seqeval counts them."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers.normalizers import BertNormalizer
from transformers import AutoModelForTokenClassification, AutoTokenizer

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.job.sections.training import Loss, Train
from launcher.models.parts.entities import entities_of
from launcher.models.tasks.base import EvalTotals
from launcher.models.tasks.token_classification import TokenClassification
from launcher.models.tasks.token_loss import IGNORE_INDEX
from tests.tiny import WORDS

LABELS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
TAGS = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC"))]


def task_of(folder: Path, **train: Any) -> TokenClassification:
    return TokenClassification(AutoTokenizer.from_pretrained(folder), LABELS, Train(**{"max_length": 32, **train}))


def row(words: Any, labels: Any = None) -> Row:
    return Row("f.jsonl", 3, {"words": words} | ({} if labels is None else {"label": labels}))


def examples(task: TokenClassification, rows: list[Row], labelled: bool = True) -> list[dict[str, Any]]:
    columns = task.prepare(rows, labelled=labelled)
    return [{name: np.asarray(values[i]) for name, values in columns.items()} for i in range(len(rows))]


def test_entities_are_those_of_seqeval_even_where_tags_break_the_scheme() -> None:
    draw = random.Random(0)
    for _ in range(3000):
        tags = draw.choices(TAGS, k=draw.randint(1, 8))
        assert entities_of(tags) == set(get_entities(tags)), tags


def test_figures_are_those_of_seqeval(tiny_model: Path) -> None:
    task, draw = task_of(tiny_model), random.Random(1)
    rows = [(words := draw.choices(WORDS, k=draw.randint(1, 9)), draw.choices(LABELS, k=len(words))) for _ in range(40)]
    torch.manual_seed(2)
    module = task.build(AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=5)).eval()
    sums = torch.zeros(task.statistics_size(), dtype=torch.float64)
    predicted = []
    some = examples(task, [row(*one) for one in rows])
    for first in range(0, 40, 7):
        batch = task.collate(some[first : first + 7], range(first, min(40, first + 7)))
        with torch.no_grad():
            outputs = module(batch).outputs
        sums += task.statistics(batch, outputs)
        predicted += [one["labels"] for one in task.predictions(outputs)]
    found = task.metrics(EvalTotals(sums, torch.zeros(0)))
    true = [labels for _, labels in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        for name, metric in expected.items():
            assert found[name] == pytest.approx(float(metric(true, predicted)))
    pairs = [pair for one, other in zip(true, predicted, strict=True) for pair in zip(one, other, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    low, high = task.intervals(EvalTotals(sums, torch.zeros(0)))["accuracy"]
    assert low < found["accuracy"] < high


def test_a_words_first_token_bears_its_label(tiny_model: Path) -> None:
    task = task_of(tiny_model)
    (example,) = examples(task, [row([f"{WORDS[0]}-{WORDS[1]}", WORDS[2]], ["B-PER", "O"])])
    assert example["begins"].tolist() == [-1, 0, -1, -1, 1, -1]
    assert task.collate([example], [0]).targets.tolist() == [
        [IGNORE_INDEX, 1, IGNORE_INDEX, IGNORE_INDEX, 4, IGNORE_INDEX]
    ]


def test_words_beyond_the_length_are_neither_learned_nor_counted(tiny_model: Path) -> None:
    task = task_of(tiny_model, max_length=5)
    (example,) = examples(task, [row(WORDS[:9], ["O"] * 9)])
    assert task.collate([example], [0]).weight == 3


def test_class_weights_weigh_words(tiny_model: Path) -> None:
    weights = dict(zip(LABELS, (1.0, 2.0, 3.0, 4.0, 0.5), strict=True))
    task = task_of(tiny_model, loss=Loss(class_weights=weights))
    batch = task.collate(examples(task, [row(WORDS[:3], ["O", "B-PER", "O"])]), [0])
    assert batch.weights.tolist() == [[0, 0.5, 2.0, 0.5, 0]]


def test_a_word_without_a_token_is_refused_as_its_label_would_be_another_words(tiny_model: Path) -> None:
    task, cut = task_of(tiny_model), task_of(tiny_model, max_length=4)
    for one in (task, cut):
        one.processor.backend_tokenizer.normalizer = BertNormalizer()  # which leaves nothing of what cannot be seen
    for words, place in (([WORDS[0], "\u200b", WORDS[1]], 2), ([WORDS[0], "\ufe0f"], 2)):
        with pytest.raises(
            DataError, match=f"the tokenizer makes no token of word {place}, .*; remove the word and its label"
        ):
            task.prepare([row(words)], labelled=False)
    columns = cut.prepare([row([*WORDS[:4], "\u200b"])], labelled=False)
    assert columns["words"] == [5], "what is beyond max_length is not asked for"


@pytest.mark.parametrize(
    ("words", "labels", "said"),
    [
        ("two words", ["O"], "the words is 'two words', not a list; use a jsonl, parquet or conll file"),
        ([], [], "not a list"),
        (["a", 3], ["O", "O"], "word 2 is 3, not text"),
        (WORDS[:3], ["O", "O"], "3 words and 2 labels; give each word one label"),
        (WORDS[:2], ["O", "B-ORG"], "label 'B-ORG' does not occur in the training data, which has 'B-LOC'"),
        (WORDS[:2], ["O", None], "the label is empty"),
        (WORDS[:2], "O", "the label is 'O', not a list"),
    ],
)
def test_a_bad_row_is_told_with_its_place(words: Any, labels: Any, said: str, tiny_model: Path) -> None:
    with pytest.raises(DataError, match=rf"f\.jsonl, row 3: .*{said}"):
        task_of(tiny_model).prepare([row(words, labels)], labelled=True)
