"""The greedy soup of Wortsman et al. 2022 (arXiv:2203.05482): a mean of models, added one by one if it improves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launcher.checkpoint.means import pour, publish_mean
from launcher.errors import RequestError
from launcher.job.requests import Ingredient, SoupAnswer, SoupRequest
from launcher.worker.evaluation.evaluate import evaluate
from launcher.worker.evaluation.inference import opened
from launcher.worker.rank.process import RankProcess
from launcher.worker.training.progress import goodness_of


def serve(process: RankProcess, request: SoupRequest) -> SoupAnswer:
    """Evaluate the models, average the selected ones, and write the model folder.

    Raises ModelError if the folders are of different models.
    """
    models = [Path(model) for model in request.models]
    with opened(request.evaluation, process.place, labelled=True) as (model, data, world, notes):

        def value_of(members: Sequence[Path]) -> float:
            pour(members, model.module.model)
            batch_size = request.evaluation.batch_size
            metrics = evaluate(model.module, model.task, data, world, batch_size=batch_size).metrics
            return metric_of(metrics, request.job.validation.metric)

        found = greedy(models, value_of, lambda value: goodness_of(request.job, value))
        kept = [Path(one.folder) for one in found if one.kept]
        publish_mean(kept, Path(request.output), request.dtype)
        world.wait()
    return SoupAnswer(runs=tuple(found), notes=tuple(notes))


def metric_of(metrics: Mapping[str, float], name: str) -> float:
    """The deciding metric. Raises RequestError if the models' task has none of that name."""
    if name not in metrics:
        raise RequestError(
            f"the models have no metric {name!r}, the validation.metric of the first run's job; they have "
            f"{', '.join(metrics)}"
        )
    return metrics[name]


def greedy(
    models: Sequence[Path], value_of: Callable[[Sequence[Path]], float], goodness: Callable[[float], float]
) -> list[Ingredient]:
    """Try the models from the best to the worst; one is kept if the mean with it is no worse than without.

    value_of: metric of the mean of some models; goodness: of a value, larger is better
    """
    alone = {model: value_of([model]) for model in models}
    first, *others = sorted(models, key=lambda model: goodness(alone[model]), reverse=True)
    members, value = [first], alone[first]
    found = [Ingredient(folder=str(first), alone=value, together=value, kept=True)]
    for model in others:
        together = value_of([*members, model])
        is_kept = goodness(together) >= goodness(value)
        if is_kept:
            members, value = [*members, model], together
        found.append(Ingredient(folder=str(model), alone=alone[model], together=together, kept=is_kept))
    return found
