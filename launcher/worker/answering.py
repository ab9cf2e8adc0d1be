"""Evaluating or predicting with a model folder, on the data of one request."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from launcher.data.cache import tokenizer_identity
from launcher.data.prepared import Prepared
from launcher.errors import ModelError
from launcher.job.evaluation import EvaluationRequest
from launcher.job.pretrained import Pretrained, find_pretrained, longest_input
from launcher.job.schema import Loss
from launcher.models import loading, task_class
from launcher.models.base import Task, TaskModule
from launcher.run.folder import RunFolder, write_whole
from launcher.worker.evaluating import evaluate
from launcher.worker.predicting import merge_predictions, predict
from launcher.worker.preparing import Preparer
from launcher.worker.process import Place
from launcher.worker.world import World

DEFAULT_TASK, DEFAULT_LENGTH = "text-classification", 512
TIMEOUT = 30.0


def answer(place: Place, folder: RunFolder) -> None:
    """Load the model, map the data, evaluate or predict; rank 0 writes `result.json`."""
    request = EvaluationRequest.model_validate_json((folder.path / "request.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    with World.at(place, request.device).joined(TIMEOUT) as world:
        task, module, pretrained = open_model(request)
        data = _prepared(request, task, pretrained, world)
        module.to(world.device)
        if request.output is None:
            evaluation = evaluate(module, task, data, world, batch_size=request.batch_size, precision=request.precision)
            result: dict[str, object] = asdict(evaluation)
        else:
            predict(module, task, data, world, folder.path, batch_size=request.batch_size, precision=request.precision)
            world.wait()
            result = {"rows": len(data), "output": request.output}
            if world.is_first:
                merge_predictions(folder.path, world.size, len(data), Path(request.output))
        if world.is_first:
            write_whole(folder.result_file, json.dumps(result))
        world.wait()


def open_model(request: EvaluationRequest) -> tuple[Task, TaskModule, Pretrained]:
    """The model of a folder with the head it was trained with. Raises ModelError where it has none."""
    pretrained = find_pretrained(request.model)
    card = loading.read_card(Path(pretrained.location))
    config = loading.load_config(pretrained, request.model)
    labels = loading.known_labels(config)
    if config is None or not labels:
        raise ModelError(f"{pretrained.location} has no trained head with named labels; fine-tune it first")
    task_type = task_class(card.get("task", DEFAULT_TASK))
    tokenizer = loading.load_tokenizer(pretrained, request.model)
    longest = longest_input(config.to_dict()) or DEFAULT_LENGTH
    length = request.max_length or card.get("max_length") or min(DEFAULT_LENGTH, longest)
    task = task_type(tokenizer, labels, length, Loss())
    loaded = loading.load_finished(pretrained, request.model, task_type.auto_class, labels, config, card)
    return task, task.build(loaded), pretrained


def _prepared(request: EvaluationRequest, task: Task, pretrained: Pretrained, world: World) -> Prepared:
    """Rank 0 prepares; the others wait for its word."""
    preparer = Preparer(
        task_type=type(task),
        tokenizer=task.tokenizer,
        identity=tokenizer_identity(pretrained.tokenizer, request.model.revision),
        max_length=task.max_length,
        cache=Path(request.cache),
        progress=lambda done, total: None,
    )
    place = None
    if world.is_first:
        place = str(preparer.prepare(request.data, task.labels, labelled=request.output is None).folder)
    return Prepared(Path(world.from_first(place) or ""))
