"""The greedy soup of Wortsman et al. 2022 (arXiv:2203.05482): a mean of models in which each has to earn its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from launcher.checkpoint.means import pour, publish_mean
from launcher.errors import RequestError
from launcher.job.requests import EvaluationRequest
from launcher.job.schema import Job
from launcher.run.folder import RunFolder, write_whole
from launcher.worker.evaluation.evaluate import evaluate
from launcher.worker.evaluation.inference import TIMEOUT, open_model, prepared_for
from launcher.worker.evaluation.padding_check import choose_batches
from launcher.worker.rank.process import RankEnv
from launcher.worker.rank.world import World
from launcher.worker.training.progress import goodness_of


@dataclass(frozen=True)
class Ingredient:
    """One of the models offered.

    alone, together: its own value, and that of the mean with it
    kept: whether it stayed in the mean
    """

    folder: str
    alone: float
    together: float
    kept: bool


def make_soup(place: RankEnv, folder: RunFolder) -> None:
    """Evaluate, mix, and write the model folder; rank 0 leaves what became of each model.

    Raises ModelError where the folders are not of one model.
    """
    asked = json.loads((folder.path / "soup.json").read_text(encoding="utf-8"))
    job, request = Job.model_validate(asked["job"]), EvaluationRequest.model_validate(asked["request"])
    models = [Path(model) for model in asked["models"]]
    torch.manual_seed(0)
    with World.at(place, request.device).joined(TIMEOUT) as world:
        notes: list[str] = []
        opened = open_model(request, notes.append)
        data = prepared_for(request, opened, world, notes.append)
        task, module = opened.task, opened.module.to(world.device)
        choose_batches(module, task, {"data": data}, world, notes.append)

        def value_of(members: Sequence[Path]) -> float:
            pour(members, module.model)
            metrics = evaluate(module, task, data, world, batch_size=request.batch_size).metrics
            return metric_of(metrics, job.validation.metric)

        found = greedy(models, value_of, lambda value: goodness_of(job, value))
        kept = [Path(one.folder) for one in found if one.kept]
        publish_mean(kept, Path(asked["output"]), asked["dtype"])
        if world.is_first:
            write_whole(folder.result_file, json.dumps({"runs": [asdict(one) for one in found], "notes": notes}))
        world.wait()


def metric_of(metrics: Mapping[str, float], name: str) -> float:
    """The metric that decides. Raises RequestError where the models' task has none of that name."""
    if name not in metrics:
        raise RequestError(
            f"the models have no metric {name!r}, by which the first run's job judges; it is one of "
            f"{', '.join(metrics)}"
        )
    return metrics[name]


def greedy(
    models: Sequence[Path], value_of: Callable[[Sequence[Path]], float], goodness: Callable[[float], float]
) -> list[Ingredient]:
    """Offer the models from the best to the worst; one stays where the mean with it is no worse than without.

    value_of: of the mean of some models; goodness: of a value, larger is better
    """
    alone = {model: value_of([model]) for model in models}
    first, *others = sorted(models, key=lambda model: goodness(alone[model]), reverse=True)
    members, value = [first], alone[first]
    found = [Ingredient(str(first), value, value, kept=True)]
    for model in others:
        together = value_of([*members, model])
        is_kept = goodness(together) >= goodness(value)
        if is_kept:
            members, value = [*members, model], together
        found.append(Ingredient(str(model), alone[model], together, is_kept))
    return found
