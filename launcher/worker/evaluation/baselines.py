"""Evaluate other finished models on the sets of a run, before its own model is in memory.

Per-sample results are stored in the run's folder, one file per set and candidate. If a finished run has stored results
of the same samples, they are copied from its folder, without running its model again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from launcher.data.label_vectors import read_as
from launcher.errors import DataError, RequestError
from launcher.job.requests import EvaluationRequest
from launcher.job.schema import Model
from launcher.measure.compare.per_sample_results import PerSampleResults
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import Inputs
from launcher.worker.evaluation.evaluate import evaluate
from launcher.worker.evaluation.inference import open_model, prepared_for
from launcher.worker.evaluation.padding_check import choose_batches
from launcher.worker.evaluation.validation import RESULT
from launcher.worker.rank.run_context import RunContext


def measure_others(context: RunContext, inputs: Inputs) -> None:
    """Evaluate every other model that the job names, with all ranks, unless that was done before.

    Raises RequestError if such a model lacks a label of the sets.
    """
    for candidate, place in context.job.others.items():
        said = json.dumps(_unknown(context, inputs, candidate, place)) if context.world.is_first else None
        lacking: list[str] = json.loads(context.world.from_first(said) or "[]")
        if lacking:
            _measure(context, candidate, place, lacking, inputs)


def _unknown(context: RunContext, inputs: Inputs, candidate: str, place: str) -> list[str]:
    """The sets without results of this model, after copying those that its own run has stored."""
    model = _identity(place)
    run = RunFolder(Path(model).parent if Path(model).name == "model" else Path(model))
    kept = [found for file in run.path.glob(f"outcomes/*/{RESULT}.parquet") if (found := PerSampleResults.read(file))]
    lacking = []
    for name, data in inputs.validation.items():
        file = context.folder.outcomes(name, candidate)
        known = PerSampleResults.read(file)
        if known is not None and (known.model, known.data) == (model, data.folder.name):
            continue
        same = next((found for found in kept if found.data == data.folder.name), None)
        if same is None:
            lacking.append(name)
        else:
            replace(same, model=model).write(file)
    return lacking


def _measure(context: RunContext, candidate: str, place: str, names: list[str], inputs: Inputs) -> None:
    job, world = context.job, context.world

    def say(text: str) -> None:
        context.log.note(f"{candidate}: {text}")

    request = EvaluationRequest(
        model=Model(pretrained=place, trust_code=job.model.trust_code, trust_remote_code=job.model.trust_remote_code),
        data=job.data.validation[names[0]],
        batch_size=context.plan.evaluation_batch,
        device=world.device.type,
        precision=context.plan.precision,
        cache=job.data.cache,
    )
    pairs = any(job.data.validation[name].column("text_pair") is not None for name in names)
    opened = open_model(request, say, pairs=pairs)
    task, module = opened.task, opened.module.to(world.device)
    for name in names:
        context.enter("evaluating", f"{name} with {place}")
        try:
            source = read_as(job.data.validation[name], inputs.validation[name].facts.label_format)
            data = prepared_for(request.model_copy(update={"data": source}), opened, world, say)
        except DataError as error:
            raise RequestError(f"{place} cannot be compared on {name}: {error}") from error
        choose_batches(module, task, {name: data}, world, say)
        found = evaluate(
            module,
            task,
            data,
            world,
            batch_size=request.batch_size,
            precision=request.precision,
            keep_outcomes=True,
        )
        if found.outcomes is not None:
            context.fence.check()
            key = inputs.validation[name].folder.name
            kept = PerSampleResults(key, _identity(place), task.result_columns, found.outcomes)
            kept.write(context.folder.outcomes(name, candidate))


def _identity(place: str) -> str:
    """The resolved path, since a link such as `runs/NAME` may change; a hub id is unchanged."""
    return str(Path(place).resolve()) if Path(place).exists() else place
