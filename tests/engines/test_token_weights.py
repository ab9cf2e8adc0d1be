"""A loss per token: every split of a step over ranks and micro-batches gives the loss and gradient of the whole.

Responses are ragged; the last step of an epoch holds a single sample, so that some ranks have no token to learn; the
truth is a plain loop over whole global batches with the mean that `transformers` takes itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from launcher.job.schema import Job
from launcher.worker.data.order import SampleOrder
from tests.families import job_values, prompts
from tests.thinning import every
from tests.ways import losses_and_norms, train
from tests.worlds import Worlds

SAMPLES, BATCH, STEPS = 17, 8, 6
LR = 0.2
SPLITS = [
    *(("single", 1, micro) for micro in (8, 3, 1)),
    *(("ddp", 2, micro) for micro in (4, 1)),
    ("ddp", 3, 2),
    *((engine, size, 2) for engine in ("fsdp", "zero1", "zero2", "zero3") for size in (2, 3)),
]


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The job, of prompts and responses."""
    folder = tmp_path_factory.mktemp("responses")
    made = job_values(
        "responses",
        folder,
        epochs=2,
        optimizer={"name": "sgd", "lr": LR, "weight_decay": 0.0},
        schedule={"name": "constant"},
        clip_norm=None,
    )
    data = made["data"] | {"train": prompts(folder, 5, SAMPLES), "validation": {}}
    return made | {"data": data, "validation": {}, "checkpoint": {"result": "last"}}


@cache
def by_hand(folder: str, source: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and gradient norms of each step in turn, and the weights after the last."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from launcher.data.sources import read_rows
    from launcher.job.sections.data import Source
    from launcher.job.sections.training import Train
    from launcher.models.tasks.causal_lm import CausalLM

    task = CausalLM(AutoTokenizer.from_pretrained(folder), (), Train(max_length=32))
    asked = Source(source=source, prompt="prompt", response="response")
    columns = task.prepare(list(read_rows(asked, task.columns(asked))), labelled=True)
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    order, found = SampleOrder(SAMPLES, BATCH, 0), []
    for step in range(STEPS):
        ids = order.batch(step)
        longest = max(columns["length"][i] for i in ids)
        padded = {
            name: torch.tensor([columns[name][i] + [fill] * (longest - columns["length"][i]) for i in ids])
            for name, fill in (("input_ids", 0), ("targets", -100))
        }
        mask = torch.tensor([[1] * columns["length"][i] + [0] * (longest - columns["length"][i]) for i in ids])
        loss = model(input_ids=padded["input_ids"], attention_mask=mask, labels=padded["targets"]).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        found += [loss.item(), norm.item()]
        for parameter in model.parameters():
            parameter.data -= LR * parameter.grad
            parameter.grad = None
    return found, dict(model.state_dict())


GRID = [(*split, packing) for packing in (False, True) for split in SPLITS]


@pytest.mark.parametrize(("engine", "size", "micro", "packing"), every(2, GRID))
def test_every_split_is_the_plain_loop(
    engine: str, size: int, micro: int, packing: bool, values: dict[str, Any], worlds: Worlds, tmp_path: Path
) -> None:
    section = values["train"] | {"micro_batch_size": micro, "packing": packing}
    job = Job.model_validate(values | {"train": section})
    run = train(worlds, tmp_path, job, engine, size)
    truth, weights = by_hand(values["model"]["pretrained"], values["data"]["train"]["source"])
    assert losses_and_norms(run) == pytest.approx(truth, rel=1e-5)
    found = load_file(run.model / "model.safetensors")
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, weights[name], rtol=1e-5, atol=1e-5)
