"""Check whether a job fits the modules of its model, as a rank would when loading it, without its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from huggingface_hub import snapshot_download

from launcher.adapt.adapters.adapters import AdapterContext
from launcher.adapt.methods import make_method
from launcher.data.labels import BY_NAME
from launcher.engines.fsdp import blocks_of
from launcher.errors import ModelError, RequestError
from launcher.job.model_files import safetensors_files
from launcher.job.pretrained import Pretrained, find_pretrained, tokenizer_files
from launcher.job.requests import Done, ModelCheckRequest
from launcher.job.schema import Job, Model
from launcher.job.sections.tasks import FAMILIES
from launcher.models import task_class
from launcher.models.weights import loading
from launcher.plan.stages import plan_stages
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import check_labels, pretrained_model
from launcher.worker.rank.process import RankProcess
from launcher.worker.training.apply_adaptation import apply_adaptation

ENOUGH = 10**9
"""A number of optimizer steps that is enough for all stages of any model."""


def serve(process: RankProcess, request: ModelCheckRequest) -> Done:
    """Check each job. Raises RequestError for the first that does not fit its model."""
    for name, within in request.planned:
        run = RunFolder(Path(request.folder) / within)
        try:
            check_model(run.job(), run.plan().total_steps)
        except RequestError as error:
            raise RequestError(f"{name}: {error}" if name else str(error)) from error
    return Done()


def check_model(job: Job, total_steps: int | None) -> None:
    """Combine the job's model and method as a rank does, with the weights left in their files.

    These are not checked: models for which it would cost as much as loading (models that are not on this machine, that
    a function builds, or whose weights cannot be left in their files); models whose number of outputs depends on the
    data; and a user's own method, which needs the data. Loading reports the same problems for them.

    total_steps: of the run; None if only the run can know, so that the length of stages is not checked
    Raises ModelError if the job does not fit this model.
    """
    pretrained = _on_this_machine(find_pretrained(job.model), job.model)
    if pretrained is None:
        return
    config = loading.load_config(pretrained, job.model)
    assert config is not None  # a function does not build it
    task_type = task_class(job.task, job.train.loss.name)
    known = loading.known_labels(config, task_type.auto_class)
    if not isinstance(job.model.labels, str):  # a mapping, which depends on the data's labels
        job = job.model_copy(update={"model": job.model.model_copy(update={"labels": BY_NAME})})
    check_labels(job, pretrained, task_type, known)
    if task_type.has_classes and not known and (job.task not in FAMILIES or pretrained.kind == "adapter"):
        return
    labels = known or tuple(map(str, range(config.num_labels))) if task_type.has_classes else ()
    processor = loading.load_processor(pretrained, job.model, task_type.processor_class)
    task = task_type(processor, labels, job.train)
    method = None if job.adapt.own_class else make_method(job, task, dict.fromkeys(job.labelled_sets, 1), 1)
    if not loading.can_stay_in_files(task.auto_class, config):
        return
    loaded = pretrained_model(job, pretrained, config, task, in_parts=True, say=lambda text: None)
    if set(loaded.reshaped) & set(loaded.new):
        return  # a head of another size than in the config, which may be correct
    if job.engine.block is not None:
        blocks_of(loaded.model, job.engine.block)
    setting = AdapterContext(pretrained, job.model.revision, task.auto_class, job.train.seed)
    apply_adaptation(job, loaded, method, setting, plan_stages(job, total_steps or ENOUGH))


def _on_this_machine(pretrained: Pretrained, spec: Model) -> Pretrained | None:
    """The model with local paths of its files, None if it is not on this machine."""
    if pretrained.builder is not None:
        return None
    if pretrained.kind == "hub":
        pretrained = _downloaded(pretrained, spec)
    source = pretrained if pretrained.base is None else pretrained.base.pretrained
    files = safetensors_files(source.kind, Path(source.location))
    places = (Path(pretrained.config), Path(pretrained.tokenizer))
    return pretrained if files and all(place.is_dir() for place in places) else None


def _downloaded(pretrained: Pretrained, spec: Model) -> Pretrained:
    """A model of the hub with its download folder, if it was downloaded."""
    try:
        folder = snapshot_download(pretrained.location, revision=spec.revision, local_files_only=True)
    except (OSError, ValueError):
        return pretrained
    try:
        safetensors_files("folder", Path(folder))
    except ModelError:  # an incomplete download, which loading resumes
        return pretrained
    if not tokenizer_files(Path(folder)):
        return pretrained

    def found(place: str) -> str:
        return folder if place == pretrained.location else place

    config, tokenizer = found(pretrained.config), found(pretrained.tokenizer)
    return replace(pretrained, kind="folder", location=folder, config=config, tokenizer=tokenizer)
