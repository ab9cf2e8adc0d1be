"""How the model is distributed over the ranks: one file per engine. Nothing here depends on tasks."""

from __future__ import annotations

from launcher.engines.base import Engine, EngineSettings
from launcher.engines.torch_engine import TorchEngine


def make_engine(name: str, settings: EngineSettings) -> Engine:
    """The one place that branches on an engine's name; only the chosen file is imported."""
    if name == "single":
        from launcher.engines.single import OneDevice

        return TorchEngine(settings, OneDevice(settings.device))
    if name == "ddp":
        from launcher.engines.ddp import DataParallel

        return TorchEngine(settings, DataParallel(settings.device, settings.mesh))
    if name == "fsdp":
        from launcher.engines.fsdp import FullySharded

        return TorchEngine(settings, FullySharded(settings))
    if name == "deepspeed":
        from launcher.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(settings)
    raise ValueError(f"unknown engine {name!r}")
