"""Whether a job can be had with the modules of its model: what a rank would find on loading it, without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download

from launcher.adapt import make_method
from launcher.adapt.adapters import Setting
from launcher.job.pretrained import Pretrained, find_pretrained, safetensors_files, tokenizer_files
from launcher.job.schema import Job, Model
from launcher.models import loading, task_class
from launcher.models.base import Task
from launcher.worker.adapted import adapt
from launcher.worker.materials import pretrained_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ENOUGH = 10**9
"""Optimizer steps that all stages of any model fit into."""


def check_model(job: Job, total_steps: int | None) -> None:
    """Put the job's model and method together as a rank does, the weights left in their files.

    Nothing is said of a model that is not on this machine, whose weights cannot be left where they are, or that a
    function builds: that would cost as much as loading it, which says the same.

    total_steps: of the run; None where only the run can know, so that nothing is said of stages that do not fit
    Raises ModelError where the job cannot be had with this model.
    """
    pretrained = _on_this_machine(find_pretrained(job.model), job.model)
    if pretrained is None:
        return
    config = loading.load_config(pretrained, job.model)
    task_type = task_class(job.task, job.train.loss.name)
    processor = loading.load_processor(pretrained, job.model, task_type.processor_class)
    task = task_type(processor, _labels(task_type, config), job.train)
    method = make_method(job, task, dict.fromkeys(job.labelled_sets, 1), 1)
    loaded = pretrained_model(job, pretrained, config, task, in_parts=True)
    setting = Setting(pretrained, job.model.revision, task.auto_class, job.train.seed)
    adapt(job, loaded, method, setting, total_steps or ENOUGH)


def _labels(task_type: type[Task], config: PretrainedConfig | None) -> Sequence[str]:
    """As many as the model has outputs, since the data are not looked at."""
    if not task_type.has_classes or config is None:
        return ()
    return loading.known_labels(config) or tuple(map(str, range(config.num_labels)))


def _on_this_machine(pretrained: Pretrained, spec: Model) -> Pretrained | None:
    """The model with a place here for each of its files, None where it has none."""
    if pretrained.kind == "hub":
        pretrained = _downloaded(pretrained, spec)
    source = pretrained if pretrained.base is None else pretrained.base.pretrained
    places = (Path(pretrained.config), Path(pretrained.tokenizer))
    if not safetensors_files(source.kind, Path(source.location)) or not all(place.is_dir() for place in places):
        return None
    return pretrained


def _downloaded(pretrained: Pretrained, spec: Model) -> Pretrained:
    """A model of the hub as the folder that its files were downloaded to, where they were."""
    try:
        folder = snapshot_download(pretrained.location, revision=spec.revision, local_files_only=True)
    except (OSError, ValueError):
        return pretrained
    if not tokenizer_files(Path(folder)):
        return pretrained

    def found(place: str) -> str:
        return folder if place == pretrained.location else place

    config, tokenizer = found(pretrained.config), found(pretrained.tokenizer)
    return replace(pretrained, kind="folder", location=folder, config=config, tokenizer=tokenizer)
