"""Evaluation counts each sample once and gives the same figures at any world size and batch size."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data.prepared import Prepared, PreparedWriter
from tests.worlds import Worlds

SAMPLES = (1, 12, 13, 14, 15, 16, 17, 49)
BATCH_SIZES = (1, 2, 3, 4, 6)
Figures = dict[tuple[int, int], dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of each size, ragged, in three classes of which one is rare."""
    folder = tmp_path_factory.mktemp("prepared")
    for samples in SAMPLES:
        draw = np.random.default_rng(samples)
        lengths = draw.integers(1, 30, samples)
        with PreparedWriter(folder / str(samples)) as writer:
            writer.write(
                {
                    "input_ids": [draw.integers(5, 150, length).tolist() for length in lengths],
                    "length": lengths.tolist(),
                    "label": draw.choice(3, samples, p=[0.5, 0.4, 0.1]).tolist(),
                }
            )
            writer.finish(("a", "b", "c"), ())
    return folder


def evaluate_grid(rank: int, size: int, folder: str, model: str) -> Figures:
    """Every size of data with every batch size, on this rank of a world."""
    from launcher.worker.evaluation.evaluate import evaluate
    from launcher.worker.rank.world import World

    task, module = tiny_task(model)
    figures = {}
    for samples, batch_size in itertools.product(SAMPLES, BATCH_SIZES):
        found = evaluate(
            module, task, Prepared(Path(folder) / str(samples)), World(rank, rank, size), batch_size=batch_size
        )
        figures[samples, batch_size] = {
            "samples": found.samples,
            "metrics": found.metrics,
            "intervals": found.intervals,
        }
    assert module.training
    return figures


def tiny_task(model: str) -> tuple[Any, Any]:
    """The task and the module over a tiny model with three classes."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from launcher.job.sections.training import Train
    from launcher.models.tasks.text_classification import TextClassification

    torch.manual_seed(0)
    task = TextClassification(AutoTokenizer.from_pretrained(model), ("a", "b", "c"), Train(max_length=32))
    return task, task.build(AutoModelForSequenceClassification.from_pretrained(model, num_labels=3)).train()


@pytest.fixture(scope="module")
def alone(worlds: Worlds, data: Path, tiny_model: Path) -> Figures:
    """What one process finds."""
    return worlds.run(1, evaluate_grid, str(data), str(tiny_model))[0]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_figures_do_not_depend_on_world_or_batch_size(
    world: int, worlds: Worlds, data: Path, tiny_model: Path, alone: Figures
) -> None:
    for figures in worlds.run(world, evaluate_grid, str(data), str(tiny_model)):
        for (samples, _), found in figures.items():
            truth = alone[samples, 1]
            assert found["samples"] == samples
            assert found["metrics"].pop("loss") == pytest.approx(truth["metrics"]["loss"], rel=1e-6)
            assert found["metrics"] == {name: v for name, v in truth["metrics"].items() if name != "loss"}
            assert found["intervals"]["accuracy"] == truth["intervals"]["accuracy"]


def test_metrics_equal_those_of_scikit_learn(alone: Figures, data: Path, tiny_model: Path) -> None:
    import torch
    from sklearn import metrics

    task, module = tiny_task(str(tiny_model))
    module.eval()
    prepared = Prepared(data / "49")
    with torch.inference_mode():
        examples = prepared[range(49)]
        predicted = [int(module(task.collate([e], [0])).outputs.argmax()) for e in examples]
    true = [int(example["label"]) for example in examples]
    assert alone[49, 1]["metrics"] == {
        "loss": alone[49, 1]["metrics"]["loss"],
        "accuracy": pytest.approx(metrics.accuracy_score(true, predicted)),
        "balanced_accuracy": pytest.approx(metrics.balanced_accuracy_score(true, predicted)),
        "macro_f1": pytest.approx(metrics.f1_score(true, predicted, average="macro")),
        "matthews": pytest.approx(metrics.matthews_corrcoef(true, predicted)),
    }


def lose_a_sample(rank: int, size: int, folder: str, model: str) -> str:
    """Evaluate with a task that forgets to count."""
    import torch

    from launcher.worker.evaluation.evaluate import evaluate
    from launcher.worker.rank.world import World

    task, module = tiny_task(model)
    counted = task.statistics
    task.statistics = lambda batch, outputs: (
        counted(batch, outputs) - torch.eye(task.statistics_size(), dtype=torch.float64)[0]
    )
    try:
        evaluate(module, task, Prepared(Path(folder) / "13"), World(rank, rank, size), batch_size=32)
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_lost_sample_is_an_error_on_every_rank(worlds: Worlds, data: Path, tiny_model: Path) -> None:
    said = worlds.run(2, lose_a_sample, str(data), str(tiny_model))
    assert all("of 13 samples" in words for words in said)


def evaluate_in_bf16_and_with_nan(rank: int, size: int, folder: str, model: str) -> tuple[float, float, float]:
    """Losses in fp32, in bf16, and after the head became NaN."""
    from launcher.worker.evaluation.evaluate import evaluate
    from launcher.worker.rank.world import World

    task, module = tiny_task(model)
    prepared, world = Prepared(Path(folder) / "17"), World(rank, rank, size)
    losses = [
        evaluate(module, task, prepared, world, batch_size=4, precision=precision).metrics["loss"]
        for precision in ("fp32", "bf16")
    ]
    module.model.classifier.weight.data.fill_(float("nan"))
    broken = evaluate(module, task, prepared, world, batch_size=4)
    assert broken.samples == 17
    return losses[0], losses[1], broken.metrics["loss"]


def test_bf16_is_close_and_nan_is_told(worlds: Worlds, data: Path, tiny_model: Path) -> None:
    for fp32, bf16, broken in worlds.run(2, evaluate_in_bf16_and_with_nan, str(data), str(tiny_model)):
        assert bf16 == pytest.approx(fp32, rel=0.02)
        assert bf16 != fp32
        assert np.isnan(broken)
