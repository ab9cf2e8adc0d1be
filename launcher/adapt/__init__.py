"""How the model moves to the domain: a file a method. Nothing here knows of ranks."""

from __future__ import annotations

from launcher.adapt.adapters import Adapters, Setting
from launcher.job.schema import Adapt
from launcher.models.loading import Loaded


def adapt_model(method: Adapt, loaded: Loaded, setting: Setting) -> Adapters | None:
    """Change a loaded model, before any engine has it, as its method says; None where nothing was added.

    The one place that branches on a method's name; only the chosen file is imported.
    """
    if method.method == "finetune":
        return None
    if method.method == "lora":
        from launcher.adapt.lora import add_lora

        return add_lora(method, loaded, setting)
    raise ValueError(f"unknown method {method!r}")
