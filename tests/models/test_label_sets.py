"""Several labels a sample, pairs of texts, and the focal loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.job.sections.training import Train
from launcher.models import task_class
from launcher.models.tasks.base import EvalTotals
from tests.tiny import WORDS

LABELS = ("x", "y", "z")


def task_of(folder: Path, **loss: Any) -> Any:
    kind = task_class("text-classification", loss.get("name", "auto"))
    return kind(AutoTokenizer.from_pretrained(folder), LABELS, Train(max_length=16, loss=loss))


def row(label: Any, separator: str = ",") -> Row:
    return Row("f.csv", 5, {"text": WORDS[0], "label": label}, separator)


def test_labels_are_a_list_or_a_text_with_separators_and_may_be_none(tiny_model: Path) -> None:
    task = task_of(tiny_model, name="binary")
    rows = [row(["z", "x"]), row("x, y ,"), row(""), row([]), row("y|z", "|"), row("y,z", ",")]
    assert task.prepare(rows, labelled=True)["label"] == [[0, 2], [0, 1], [], [], [1, 2], [1, 2]]
    assert task.collect_labels(rows) == LABELS


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "give several labels as a list, or as a text with ',' between them, empty for none"),
        (0.5, "give several labels as a list"),
        (["x", None], "the label is empty"),
        (["q"], "label 'q' does not occur in the training data"),
    ],
)
def test_a_bad_label_is_told_with_its_place(label: Any, said: str, tiny_model: Path) -> None:
    with pytest.raises(DataError, match=rf"f\.csv, row 5: .*{said}"):
        task_of(tiny_model, name="binary").prepare([row(label)], labelled=True)


def test_figures_are_those_of_scikit_learn(tiny_model: Path) -> None:
    task, draw = task_of(tiny_model, name="binary"), np.random.default_rng(0)
    true, scores = draw.integers(0, 2, (60, 3)), torch.from_numpy(draw.normal(size=(60, 3)).astype(np.float32))
    true[:, 2] = 0
    sums = torch.zeros(task.statistics_size(), dtype=torch.float64)
    for ids in np.array_split(np.arange(60), 4):
        some = [{"input_ids": [5], "length": 1, "label": np.flatnonzero(true[i])} for i in ids]
        sums += task.statistics(task.collate(some, ids.tolist()), scores[ids])
    found = task.metrics(EvalTotals(sums, torch.zeros(0)))
    predicted = (scores > 0).numpy().astype(int)
    criterion = nn.BCEWithLogitsLoss()
    assert found == pytest.approx(
        {
            "loss": float(criterion(scores, torch.from_numpy(true).float())),
            "micro_f1": metrics.f1_score(true, predicted, average="micro"),
            "macro_f1": metrics.f1_score(true, predicted, average="macro"),
            "accuracy": (true == predicted).mean(),
            "exact_match": metrics.accuracy_score(true, predicted),
        }
    )
    assert all(
        low <= found[name] <= high for name, (low, high) in task.intervals(EvalTotals(sums, torch.zeros(0))).items()
    )


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_focal_loss_is_its_formula(gamma: float, tiny_model: Path) -> None:
    task = task_of(tiny_model, name="focal", gamma=gamma, class_weights={"x": 1.0, "y": 2.0, "z": 0.5})
    torch.manual_seed(0)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)).eval()
    some = [{"input_ids": list(range(5, 6 + n)), "length": 1 + n, "label": n % 3} for n in range(5)]
    batch = task.collate(some, range(5))
    found = module(batch)
    p = found.outputs.softmax(-1)[range(5), batch.targets]
    weights = torch.tensor([1.0, 2.0, 0.5])[batch.targets]
    torch.testing.assert_close(found.weighted, -weights * (1 - p) ** gamma * p.log())
    assert batch.weight == pytest.approx(float(weights.sum()))


def test_a_pair_is_read_together(tiny_model: Path) -> None:
    task = task_of(tiny_model)
    pair = Row("f.csv", 1, {"text": WORDS[0], "text_pair": f"{WORDS[1]} {WORDS[2]}", "label": "x"})
    columns = task.prepare([pair], labelled=True)
    assert task.processor.decode(columns["input_ids"][0]) == f"[CLS] {WORDS[0]} [SEP] {WORDS[1]} {WORDS[2]} [SEP]"
    batch = task.collate([{name: values[0] for name, values in columns.items()}], [0])
    if "token_type_ids" in batch.inputs:
        assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]
    with pytest.raises(DataError, match="the text_pair is empty"):
        task.prepare([Row("f.csv", 1, {"text": WORDS[0], "text_pair": None, "label": "x"})], labelled=True)
