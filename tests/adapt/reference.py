"""A run's steps again, each from the weights that the run had: the whole global batch at once, in float64."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from launcher.checkpoint.planners import LoadPlanner
from launcher.job.reading.job_file import load_job
from launcher.run.attempts import Attempt
from launcher.run.events import EventLog
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import load_model, open_inputs
from launcher.worker.data.train_data import TrainData
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World


def saved(run: RunFolder, step: int) -> dict[str, Tensor]:
    """The model (`model.…`) and what a method adds to it (`parts.…`), as the checkpoint after some steps has them."""
    reader = FileSystemReader(run.checkpoints / f"step-{step:08d}")
    named = reader.read_metadata().state_dict_metadata
    room = {name: torch.empty(found.size) for name, found in named.items() if name.startswith("model/")}
    load(room, storage_reader=reader, planner=LoadPlanner(), no_dist=True)
    return {name.removeprefix("model/"): tensor for name, tensor in room.items()}


class Reference:
    """What a formula needs of a step: its batch, and the model's answers to all of it, with gradient.

    weights: all that learns, under its name in a checkpoint
    memory: what a formula keeps from step to step
    source, target: [samples] which are labelled, and which are of the target
    """

    def __init__(self, run: RunFolder, first_parts: Callable[[Reference], dict[str, Tensor]]) -> None:
        self.run, self.job = run, load_job(run.job_file)
        context = RunContext(self.job, run.plan(), run, World(), EventLog(None), Attempt())
        self.inputs = open_inputs(context)
        self.task, self.spec, self.seed = self.inputs.task, self.job.adapt, self.job.train.seed
        self.model = load_model(context, self.inputs, in_parts=False).model.double()
        self.feed = TrainData(self.job, self.task, self.inputs.train, self.inputs.target, None)
        self.memory: dict[str, Any] = {}
        self.weights: dict[str, Tensor] = {f"model.{name}": p for name, p in self.model.named_parameters()}
        for name, tensor in first_parts(self).items():
            self.weights[f"parts.{name}"] = tensor.detach().double().requires_grad_()

    def go_to(self, step: int) -> None:
        """Take up the weights before a step, and its batch."""
        held = saved(self.run, step) if step else {}
        for name, weight in self.weights.items():
            weight.grad = None
            if step:
                weight.data.copy_(held[name])
        self.step = step
        places = self.feed.samples(step)
        self.sets = torch.from_numpy(self.feed.sets(places))
        self.source, self.target = self.sets >= 0, self.sets == -1
        self.ids: list[int] = self.feed.pool.found(places)[1].tolist()
        self.examples = self.feed.pool[places]
        self.labels = torch.tensor([int(example.get("label", 0)) for example in self.examples])

    def compute(self, examples: Any = None) -> None:
        """Features, logits and the task's loss of each sample."""
        self.hidden, self.features, self.logits = self._answers(examples or self.examples)
        self.losses = F.cross_entropy(self.logits, self.labels, reduction="none")
        self.p = self.logits.softmax(-1)

    def look(self) -> tuple[Tensor, Tensor]:
        """Features and class probabilities of the whole target."""
        target = self.inputs.target
        assert target is not None
        with torch.no_grad():
            _, features, logits = self._answers(target[np.arange(len(target))])
        return features, logits.softmax(-1)

    def _answers(self, examples: Any) -> tuple[Tensor, Tensor, Tensor]:
        body = self.model.bert(**self.task.padded(examples))  # type: ignore[attr-defined]
        return body.last_hidden_state, body.pooler_output, self.model.classifier(body.pooler_output)

    @property
    def task_loss(self) -> Tensor:
        return self.losses[self.source].mean()

    @property
    def epoch(self) -> tuple[int, int]:
        """How many have passed, and steps within it."""
        target = self.inputs.target
        samples = sum(self.inputs.train.sizes) or len(target or ())
        return divmod(self.step, ceil(samples / self.job.train.global_batch_size))

    @property
    def target_ids(self) -> list[int]:
        return [id_ for id_, is_target in zip(self.ids, self.target.tolist(), strict=True) if is_target]
