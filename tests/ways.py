"""One job under every engine: the ways that it must give the same numbers in, in worlds that live on."""

from __future__ import annotations

from pathlib import Path

from launcher.commands.selfcheck import engine_section
from launcher.job.schema import Engine, Job
from launcher.plan.planner import make_plan
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder
from tests.cli import PATIENCE
from tests.verdicts import fine_tune_in
from tests.worlds import Worlds

STRATEGIES = (("single", 1), ("ddp", 2), ("fsdp", 2), ("zero3", 2))
"""Engine and number of processes; the others are compared with the first."""


def train(worlds: Worlds, folder: Path, job: Job, engine: str, size: int) -> RunFolder:
    """Train the job under an engine, into a folder of the engine's name."""
    changed = {
        "engine": Engine.model_validate(engine_section(engine)),
        "launch": job.launch.model_copy(update={"processes": size}),
    }
    job = job.model_copy(update=changed)
    run = RunFolder.create(job, folder / engine)
    run.write_plan(make_plan(job, run.job_file, processes=size))
    worlds.run(size, fine_tune_in, str(run.path), timeout=PATIENCE)
    return run


def losses_and_norms(run: RunFolder) -> list[float]:
    """Of each step in turn."""
    steps = [event for event in EventTail(run.events_file).read() if isinstance(event, Step)]
    return [figure for step in steps for figure in (step.loss, step.gradient_norm)]


def assert_loads(run: RunFolder, auto_class: str) -> None:
    """Fail unless the class of `transformers` loads the model with nothing missing and nothing left over."""
    import transformers

    _, loaded = getattr(transformers, auto_class).from_pretrained(run.model, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loaded
