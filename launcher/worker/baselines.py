"""Measuring other finished models on the sets of a run, before its own model is in memory.

What each model made of each sample lies in the run's folder, a file a set and arm. What a finished run has kept of the
very same samples is taken from its folder, without running its model again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from launcher.data.label_vectors import read_as
from launcher.errors import DataError, RequestError
from launcher.job.evaluation import EvaluationRequest
from launcher.job.schema import Model
from launcher.measure.outcomes import Outcomes
from launcher.run.folder import RunFolder
from launcher.worker.answering import open_model, prepared_for
from launcher.worker.evaluating import evaluate
from launcher.worker.judging import RESULT
from launcher.worker.materials import Materials
from launcher.worker.padding import choose_batches
from launcher.worker.session import Session


def measure_others(session: Session, materials: Materials) -> None:
    """Measure every model that the job names beside its own, with all ranks, unless that was done before.

    Raises RequestError where such a model does not know a label of the sets.
    """
    for arm, place in session.job.others.items():
        said = json.dumps(_unknown(session, materials, arm, place)) if session.world.is_first else None
        lacking: list[str] = json.loads(session.world.from_first(said) or "[]")
        if lacking:
            _measure(session, arm, place, lacking, materials)


def _unknown(session: Session, materials: Materials, arm: str, place: str) -> list[str]:
    """The sets of which nothing is known of this model; what its own run has kept is taken over."""
    model = _identity(place)
    run = RunFolder(Path(model).parent if Path(model).name == "model" else Path(model))
    kept = [found for file in run.path.glob(f"outcomes/*/{RESULT}.parquet") if (found := Outcomes.read(file))]
    lacking = []
    for name, data in materials.validation.items():
        file = session.folder.outcomes(name, arm)
        known = Outcomes.read(file)
        if known is not None and (known.model, known.data) == (model, data.folder.name):
            continue
        same = next((found for found in kept if found.data == data.folder.name), None)
        if same is None:
            lacking.append(name)
        else:
            replace(same, model=model).write(file)
    return lacking


def _measure(session: Session, arm: str, place: str, names: list[str], materials: Materials) -> None:
    job, world = session.job, session.world

    def say(text: str) -> None:
        session.log.note(f"{arm}: {text}")

    request = EvaluationRequest(
        model=Model(pretrained=place, trust_code=job.model.trust_code, trust_remote_code=job.model.trust_remote_code),
        data=job.data.validation[names[0]],
        batch_size=session.plan.evaluation_batch,
        device=world.device.type,
        precision=session.plan.precision,
        cache=job.data.cache,
    )
    pairs = any(job.data.validation[name].column("text_pair") is not None for name in names)
    opened = open_model(request, say, pairs=pairs)
    task, module = opened.task, opened.module.to(world.device)
    for name in names:
        session.enter("evaluating", f"{name} with {place}")
        try:
            source = read_as(job.data.validation[name], materials.validation[name].facts.label_format)
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
            session.fence.check()
            key = materials.validation[name].folder.name
            kept = Outcomes(key, _identity(place), task.outcome_columns, found.outcomes)
            kept.write(session.folder.outcomes(name, arm))


def _identity(place: str) -> str:
    """A link such as `runs/NAME` leads elsewhere tomorrow; a hub id is what it is."""
    return str(Path(place).resolve()) if Path(place).exists() else place
