"""How the model moves to the domain: a file a method. Nothing here knows of ranks."""

from __future__ import annotations

from launcher.adapt.adapters import Adapters
from launcher.job.pretrained import Pretrained
from launcher.job.schema import Job
from launcher.models.loading import Loaded


def adapt_model(job: Job, loaded: Loaded, pretrained: Pretrained, auto_class: str) -> Adapters | None:
    """Change a loaded model, before any engine has it, as the job's method says; None where nothing was added.

    The one place that branches on a method's name; only the chosen file is imported.
    """
    if job.adapt.method == "finetune":
        return None
    if job.adapt.method == "lora":
        from launcher.adapt.lora import add_lora

        return add_lora(job.adapt, loaded, pretrained, job.model.revision, auto_class, job.train.seed)
    raise ValueError(f"unknown method {job.adapt.method!r}")
