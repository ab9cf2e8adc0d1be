"""Regression: losses as torch has them, figures as scikit-learn and SciPy have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn import metrics
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.job.sections.training import Train
from launcher.models.parts.batch import Batch
from launcher.models.tasks.base import EvalTotals
from launcher.models.tasks.text_regression import TextRegression, spearman
from tests.tiny import WORDS


def task_of(folder: Path, **loss: Any) -> TextRegression:
    return TextRegression(AutoTokenizer.from_pretrained(folder), (), Train(max_length=16, loss=loss))


def tally_of(task: TextRegression, true: Any, found: Any) -> EvalTotals:
    """What an evaluation in uneven batches comes to."""
    sums = torch.zeros(task.statistics_size(), dtype=torch.float64)
    values = torch.zeros((len(true), 2), dtype=torch.float64)
    for ids in np.array_split(np.random.default_rng(0).permutation(len(true)), 7):
        some = torch.from_numpy(ids)
        batch = Batch({}, true[some], torch.ones(len(some)), some, 0)
        sums += task.statistics(batch, found[some])
        values[some] = task.per_sample_values(batch, found[some]).double()
    return EvalTotals(sums, values)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_figures_are_those_of_scikit_learn_and_scipy(offset: float, tiny_model: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    true = (torch.randn(200, generator=draw) * 2).round() / 2 + offset
    found = true * 0.5 + torch.randn(200, generator=draw) + offset / 2
    task = task_of(tiny_model)
    totals = tally_of(task, true, found)
    one, other = true.double().numpy(), found.double().numpy()
    expected = {
        "loss": metrics.mean_squared_error(one, other),
        "mse": metrics.mean_squared_error(one, other),
        "mae": metrics.mean_absolute_error(one, other),
        "pearson": stats.pearsonr(one, other).statistic,
        "r2": metrics.r2_score(one, other),
        "spearman": stats.spearmanr(one, other).statistic,
    }
    assert task.metrics(totals) == pytest.approx(expected, rel=1e-6)
    for name, (low, high) in task.intervals(totals).items():
        assert low < expected[name] < high


def test_a_constant_correlates_with_nothing(tiny_model: Path) -> None:
    task = task_of(tiny_model)
    found = task.metrics(tally_of(task, torch.ones(20), torch.arange(20.0)))
    assert (found["pearson"], found["spearman"], found["r2"]) == (0.0, 0.0, 0.0)
    true = torch.full((50,), 3.3)
    assert task.metrics(tally_of(task, true, true))["r2"] == 1.0
    totals = tally_of(task, true, true + torch.randn(50, generator=torch.Generator().manual_seed(0)))
    assert (task.metrics(totals)["r2"], task.intervals(totals)["r2"]) == (0.0, (0.0, 0.0)), "as scikit-learn has it"
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 9.0])) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [{}, {"name": "huber", "delta": 0.3}])
def test_loss_and_gradient_are_those_of_torch(loss: dict[str, Any], tiny_model: Path) -> None:
    task = task_of(tiny_model, **loss)
    torch.manual_seed(0)
    module = task.build(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)).eval()
    rows = [Row("f", n, {"text": " ".join(WORDS[:n]), "label": n / 2}) for n in range(1, 6)]
    columns = task.prepare(rows, labelled=True)
    batch = task.collate([{name: values[i] for name, values in columns.items()} for i in range(5)], range(5))
    head = module.model.classifier.weight
    ours = module(batch).weighted.sum() / batch.weight
    scores = module.model(**batch.inputs).logits[:, 0]
    theirs = F.huber_loss(scores, batch.targets, delta=0.3) if loss else F.mse_loss(scores, batch.targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(one, head)[0] for one in (ours, theirs)))


@pytest.mark.parametrize("value", ["high", None, "", float("nan"), "inf", True, [1.0], 10**400])
def test_a_label_that_is_no_number_is_told_with_its_place(value: Any, tiny_model: Path) -> None:
    with pytest.raises(DataError, match=r"f\.csv, row 4: the label is .*, not a (finite )?number"):
        task_of(tiny_model).prepare([Row("f.csv", 4, {"text": WORDS[0], "label": value})], labelled=True)
