"""Runs on two made-up domains that end in a verdict, trained in worlds that live on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.planner import make_plan
from launcher.run.folder import RunFolder
from tests.domains import SIGNS, write_domain
from tests.worlds import Worlds


def fine_tune_in(rank: int, size: int, folder: str, checkpoint: str | None = None) -> None:
    """One rank's part of a run that is laid out in `folder`, from the beginning or from a checkpoint."""
    from launcher.run.attempts import Attempt
    from launcher.run.events import EventLog
    from launcher.worker.rank.preemption import StopRequest
    from launcher.worker.rank.run_context import RunContext
    from launcher.worker.rank.world import World
    from launcher.worker.training.recipe import fine_tune

    run = RunFolder(Path(folder))
    log = EventLog(run.events_file if rank == 0 else None)
    context = RunContext(
        load_job(run.job_file), run.plan(), run, World(rank, rank, size), log, Attempt(checkpoint=checkpoint)
    )
    fine_tune(context, StopRequest())
    log.close()


class Laboratory:
    """A folder with data of each domain, and the runs that were made there."""

    def __init__(self, worlds: Worlds, folder: Path, model: Path, *, train: int = 320, held: int = 240) -> None:
        self.worlds, self.folder, self.model = worlds, folder, model
        for domain in SIGNS:
            write_domain(folder / f"{domain}-train.csv", domain, train, seed=1)
            write_domain(folder / f"{domain}-held.csv", domain, held, seed=2)

    def run(self, name: str) -> RunFolder:
        """A run by its name."""
        return RunFolder(self.folder / "runs" / name)

    def train(
        self,
        name: str,
        model: str,
        domain: str,
        *,
        sets: dict[str, str] | None = None,
        world: int = 1,
        verdict: dict[str, Any] | None = None,
        steps: int = 80,
        seed: int = 0,
        optimizer: dict[str, Any] | None = None,
        **sections: Any,
    ) -> RunFolder:
        """Train a model (`tiny`, or a place) on a domain or a file; the first of the sets decides.

        sets: name to file; absent: the held-out texts of the domain, then those of `here`
        """
        held = {domain: f"{domain}-held.csv", "here": "here-held.csv"}
        job = Job.model_validate(
            {
                "name": name,
                "model": {"pretrained": str(self.model) if model == "tiny" else model, "dropout": 0.0},
                "task": "text-classification",
                "data": {
                    "train": str(self.folder / (domain if domain.endswith(".csv") else f"{domain}-train.csv")),
                    "validation": {
                        one: str(self.folder / file) for one, file in (held if sets is None else sets).items()
                    },
                    "cache": str(self.folder / "cache"),
                },
                "train": {
                    "epochs": 50,
                    "max_steps": steps,
                    "global_batch_size": 16,
                    "max_length": 24,
                    "seed": seed,
                    "precision": "fp32",
                    "optimizer": optimizer or {"lr": 3e-3},
                    "schedule": {"name": "linear"},
                },
                "validation": {"every": max(1, steps // 2)},
                "verdict": verdict or {},
                "checkpoint": {"every_steps": max(1, steps // 2), "keep": 3},
                "launch": {"processes": world, "device": "cpu", "runs": str(self.folder / "runs")},
                **sections,
            }
        )
        run = RunFolder.create(job, self.folder / "runs" / name)
        run.write_plan(make_plan(job, run.job_file, processes=world))
        self.worlds.run(world, fine_tune_in, str(run.path), timeout=240)
        return run
