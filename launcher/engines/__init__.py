"""How the model is spread over the ranks: a file an engine. Nothing here knows of tasks."""

from __future__ import annotations

from launcher.engines.base import Engine, EngineSettings


def make_engine(name: str, settings: EngineSettings) -> Engine:
    """The one place that branches on an engine's name; only the chosen file is imported."""
    if name == "single":
        from launcher.engines.single import SingleEngine

        return SingleEngine(settings)
    if name == "ddp":
        from launcher.engines.ddp import DDPEngine

        return DDPEngine(settings)
    if name == "fsdp":
        from launcher.engines.fsdp import FSDPEngine

        return FSDPEngine(settings)
    if name == "deepspeed":
        from launcher.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(settings)
    raise ValueError(f"unknown engine {name!r}")
