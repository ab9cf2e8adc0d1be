"""Text classification from a row to a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from launcher.data.rows import Row
from launcher.errors import DataError, RequestError
from launcher.job.sections.data import Source
from launcher.job.sections.training import Loss, Train
from launcher.models.tasks.text_classification import TextClassification
from tests.tiny import WORDS


def rows(*samples: tuple[object, object]) -> list[Row]:
    return [Row("f.csv", n, {"text": text, "label": label}) for n, (text, label) in enumerate(samples, start=1)]


def make_task(folder: Path, loss: Loss | None = None, counts: tuple[int, ...] = ()) -> TextClassification:
    train = Train(max_length=8, loss=loss or Loss())
    return TextClassification(AutoTokenizer.from_pretrained(folder), ("a", "b", "c"), train, counts)


def prepared(task: TextClassification, samples: list[Row]) -> list[dict[str, Any]]:
    columns = task.prepare(samples, labelled=True)
    return [{name: values[i] for name, values in columns.items()} for i in range(len(samples))]


def test_names_are_sorted_by_character_and_integers_by_value(tiny_model: Path) -> None:
    collect_labels = make_task(tiny_model).collect_labels
    assert collect_labels(rows(("x", "pear"), ("x", "apple"), ("x", "pear"))) == ("apple", "pear")
    assert collect_labels(rows(("x", "10"), ("x", 9), ("x", "-1"))) == ("-1", "9", "10")
    assert collect_labels(rows(("x", "10"), ("x", "--3"))) == ("--3", "10")


def test_long_texts_are_cut_and_the_length_counts_special_tokens(tiny_model: Path) -> None:
    task = make_task(tiny_model)
    columns = task.prepare(rows((" ".join(WORDS[:30]), "a"), (WORDS[0], "c")), labelled=True)
    assert columns["length"] == [8, 3]
    assert columns["label"] == [0, 2]
    assert columns["input_ids"][0][0] == columns["input_ids"][1][0] == task.processor.cls_token_id


def test_a_label_that_training_lacks_names_file_and_row(tiny_model: Path) -> None:
    with pytest.raises(DataError, match=r"f\.csv, row 2: label 'z' does not occur in the training data, which has 'a'"):
        make_task(tiny_model).prepare(rows((WORDS[0], "a"), (WORDS[0], "z")), labelled=True)


def test_rows_without_labels_are_prepared_for_prediction(tiny_model: Path) -> None:
    task = make_task(tiny_model)
    columns = task.prepare([Row("f.csv", 1, {"text": WORDS[0]})], labelled=False)
    assert set(columns) == {"input_ids", "length"}
    assert task.columns(Source(source="f.csv", text="t", label="l"), labelled=False) == {"text": "t"}


def test_padding_is_masked_and_changes_no_score(tiny_model: Path) -> None:
    task = make_task(tiny_model)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)).eval()
    samples = prepared(task, rows((WORDS[3], "a"), (" ".join(WORDS[:6]), "b")))
    together = task.collate(samples, [5, 9])
    assert together.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1] * 8]
    assert (together.tokens, together.samples, together.ids.tolist()) == (11, 2, [5, 9])
    alone = torch.cat([module(task.collate([sample], [0])).outputs for sample in samples])
    torch.testing.assert_close(module(together).outputs, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, {"a": 0.5, "b": 1.0, "c": 4.0}, "balanced"])
def test_loss_and_gradient_are_those_of_torch(tiny_model: Path, weights: Any, smoothing: float) -> None:
    counts = (6, 3, 1)
    task = make_task(tiny_model, Loss(class_weights=weights, label_smoothing=smoothing), counts)
    torch.manual_seed(1)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)).eval()
    batch = task.collate(prepared(task, rows(*[(WORDS[i], "abc"[i % 3]) for i in range(7)])), range(7))
    head = module.model.classifier.weight

    losses = module(batch)
    ours = losses.weighted.sum() / batch.weight
    (our_gradient,) = torch.autograd.grad(ours, head)

    expected = {None: None, "balanced": torch.tensor([10 / 18, 10 / 9, 10 / 3])}
    vector = torch.tensor([0.5, 1.0, 4.0]) if isinstance(weights, dict) else expected[weights]
    criterion = nn.CrossEntropyLoss(weight=vector, label_smoothing=smoothing)
    theirs = criterion(module.model(**batch.inputs).logits, batch.targets)
    (their_gradient,) = torch.autograd.grad(theirs, head)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-5, atol=1e-7)


def test_filler_weighs_nothing(tiny_model: Path) -> None:
    task = make_task(tiny_model)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3))
    filler = task.collate(prepared(task, rows((WORDS[0], "a"))), [0]).as_filler()
    assert (filler.samples, filler.weight, filler.tokens) == (0, 0.0, 0)
    loss = module(filler).weighted.sum()
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_weights_for_other_labels_are_refused(tiny_model: Path) -> None:
    task = make_task(tiny_model, Loss(class_weights={"a": 1.0, "z": 2.0}))
    with pytest.raises(RequestError, match="class_weights names 'a', 'z', but the labels are 'a', 'b', 'c'"):
        task.class_weights()


def test_predictions_name_the_label_and_give_each_probability(tiny_model: Path) -> None:
    row, other = make_task(tiny_model).predictions(torch.tensor([[0.0, 2.0, 0.0], [5.0, 0.0, 0.0]]))
    assert (row["label"], other["label"]) == ("b", "a")
    assert [row[f"p_{name}"] for name in "abc"] == pytest.approx(torch.tensor([0.0, 2.0, 0.0]).softmax(-1).tolist())


def test_a_model_without_a_padding_token_gets_one(tiny_model: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    model.config.pad_token_id = None
    task = make_task(tiny_model)
    task.build(model)
    assert model.config.pad_token_id == task.processor.pad_token_id


def test_what_evaluation_holds_follows_from_the_samples_and_not_from_the_square_of_the_classes(
    tiny_model: Path,
) -> None:
    """The confusion matrix of 50,000 classes alone would take 20 GB."""
    import tracemalloc

    from launcher.models.tasks.base import EvalTotals

    classes, samples = 50_000, 64
    labels = [f"sku-{number}" for number in range(classes)]
    task = TextClassification(AutoTokenizer.from_pretrained(tiny_model), labels, Train(max_length=16))
    true = np.arange(samples) * 700
    predicted = np.where(np.arange(samples) % 2, true, 49_999)
    scores = torch.zeros((samples, classes))
    scores[range(samples), predicted] = 9.0
    batch = task.collate([{"input_ids": [5], "length": 1, "label": label} for label in true], range(samples))
    assert task.statistics_size() == len(task.statistics(batch, scores)) == 3
    values = task.per_sample_values(batch, scores)
    assert values.shape == (samples, task.kept) == (samples, 1)
    tracemalloc.start()
    totals = EvalTotals(task.statistics(batch, scores), values.double())
    metrics, intervals = task.metrics(totals), task.intervals(totals)
    outcomes = task.per_sample_results(batch, scores).numpy()
    drawn = task.resampled(outcomes, np.ones((10_000, samples)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert outcomes.shape == (samples, 3)
    assert metrics["accuracy"] == 0.5
    assert metrics["balanced_accuracy"] == 0.5
    assert metrics["macro_f1"] == pytest.approx(32 / 65)
    assert intervals["accuracy"][0] < 0.5 < intervals["accuracy"][1]
    assert {name: values[0] for name, values in drawn.items()} == pytest.approx(metrics)
