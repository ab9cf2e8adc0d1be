"""Small runs with adapters, in worlds that stay alive: the self-check's model and texts, a job, an engine, a world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from launcher.commands.selfcheck import engine_section
from launcher.errors import Stopped
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.hardware import find_hardware
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt
from launcher.run.events import EventLog, EventTail, Step
from launcher.run.folder import RunFolder
from launcher.worker.rank.process import RankEnv

SGD: dict[str, Any] = {"name": "sgd", "lr": 0.5, "momentum": 0.9}
STEPS = 8
ENGINES = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")


def engines_of(world: int) -> tuple[str, ...]:
    """Those that a world of that size can have."""
    return tuple(name for name in ENGINES if name != ("ddp" if world == 1 else "single"))


def lay_out(folder: Path, material: Path, engine: str, world: int, adapt: dict[str, Any], **train: Any) -> RunFolder:
    """The run folder of a job with adapters, or of a method that is named, planned for an engine and world.

    It validates each four steps where the material has texts to validate on.
    """
    kept = material / "validation.csv"
    validation = {"validation": str(kept)} if kept.is_file() else {}
    job = Job.model_validate(
        {
            "name": "adapters",
            "model": {"pretrained": str(material / "model"), "dropout": 0.0},
            "task": "text-classification",
            "data": {
                "train": str(material / "train.csv"),
                "cache": str(material / "cache"),
                "validation": validation,
                "allow_leakage": True,  # figures are compared with each other alone
            },
            "adapt": adapt if "method" in adapt else {"adapters": {"kind": "lora", "rank": 4, **adapt}},
            "train": {
                "epochs": 9,
                "max_steps": STEPS,
                "global_batch_size": 16,
                "micro_batch_size": 3,
                "max_length": 32,
                "precision": "fp32",
                "clip_norm": 1.0,
                "optimizer": SGD,
                "schedule": {"name": "constant"},
                **train,
            },
            "validation": {"every": STEPS // 2, "metric": "accuracy"},
            "checkpoint": {"every_steps": STEPS // 2, "keep": 9},
            "engine": engine_section(engine),
            "launch": {"processes": world, "runs": str(folder)},
        }
    )
    return write_run(folder, job, world)


def write_run(folder: Path, job: Job, world: int) -> RunFolder:
    """A folder with the job and its plan, ready for `train`.

    A plan of weights in 4 bits needs a GPU, so that of whole weights stands in for it.
    """
    run = RunFolder(folder)
    run.logs.mkdir(parents=True, exist_ok=True)
    run.checkpoints.mkdir(exist_ok=True)
    run.write_job(job)
    planned = job
    if job.adapt.adapters is not None and job.adapt.adapters.is_quantised:
        whole = job.adapt.adapters.model_copy(update={"quantised": False})
        planned = job.model_copy(update={"adapt": job.adapt.model_copy(update={"adapters": whole})})
    run.write_plan(make_plan(planned, run.job_file, find_hardware(), processes=world))
    return run


def train(rank: int, size: int, runs: list[tuple[str, int | None]]) -> None:
    """Fine-tune each run with the ranks of this world, from the checkpoint of a step or from the beginning."""
    from launcher.worker.rank.preemption import StopRequest
    from launcher.worker.rank.run_context import RunContext
    from launcher.worker.rank.world import World
    from launcher.worker.training.recipe import fine_tune

    for path, start in runs:
        folder = RunFolder(Path(path))
        log = EventLog(folder.events_file if rank == 0 else None)
        checkpoint = None if start is None else str(folder.checkpoints / f"step-{start:08d}")
        world = World.at(RankEnv(rank, rank, size), "cpu")
        context = RunContext(
            load_job(folder.job_file), folder.plan(), folder, world, log, Attempt(checkpoint=checkpoint)
        )
        try:
            fine_tune(context, StopRequest())
        except Stopped:
            pass
        finally:
            log.close()


def losses(run: RunFolder) -> list[float]:
    """Of each step."""
    return [event.loss for event in EventTail(run.events_file).read() if isinstance(event, Step)]


def adapters(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of an adapter folder."""
    return load_file(folder / "adapter_model.safetensors")


def of_peft(folder: Path) -> Any:
    """The folder as `peft` reads it, on the base that it names."""
    import peft
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = peft.PeftConfig.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(
        config.base_model_name_or_path, config=AutoConfig.from_pretrained(folder / "config")
    )
    model = peft.get_peft_model(base, config)
    found = model.load_adapter(folder, "default")
    assert not [name for name in found.missing_keys if "lora_" in name or "classifier" in name]
    assert not found.unexpected_keys
    return model.eval()
