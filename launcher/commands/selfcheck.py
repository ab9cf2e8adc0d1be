"""Same job, same numbers: the same small job over every engine, world and split, compared with one process.

With SGD the losses, the gradient norms and the final weights must agree. With AdamW only the losses can:
where a parameter's true gradient is zero (an attention key's bias, for one) Adam divides rounding noise by
its own size and makes a full step of it, so the weights are no measure there. In bf16 each sum is rounded to 8 bits in
the order it is made in, which the split decides, so those differences are told and held to no bound.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from launcher.errors import ExitCode
from launcher.job.requests import SelfcheckMaterialRequest, SelfcheckRequest
from launcher.job.schema import Job
from launcher.plan.engines import SHARDINGS, engine_with
from launcher.plan.hardware import find_hardware
from launcher.plan.planner import make_plan
from launcher.run.events import EventTail, Step
from launcher.run.folder import RunFolder, temporary_folder
from launcher.supervise.requests import ask_ranks
from launcher.terminal import print_table, wide_console

SGD_BOUND, ADAMW_BOUND = 1e-5, 1e-4
STEPS = 20
GLOBAL_BATCH = 16
CLIP_NORM = 0.1
OPTIMIZERS = {"sgd": {"name": "sgd", "lr": 0.5, "momentum": 0.9}, "adamw": {"name": "adamw", "lr": 1e-3}}
SPLITS = {1: (16, 5, 1), 2: (8, 3), 3: (6, 2)}
"""Micro-batch sizes for each world; the first of world 1 is what all others are compared with."""
COMPARED = {
    count: [each for each in SHARDINGS.values() if not each.uses_host and engine_with(each).runs_on(count)]
    for count in (1, 2)
}
"""How one process, and several, divide the state; ZeRO's stages by the names of their templates."""


@dataclass(frozen=True)
class Case:
    """One way to run the job."""

    optimizer: str
    engine: str
    world: int
    micro_batch: int
    precision: str = "fp32"

    @property
    def kind(self) -> str:
        """What it may be compared with: `sgd`, `adamw`, or `bf16` (with SGD)."""
        return self.optimizer if self.precision == "fp32" else self.precision

    @property
    def name(self) -> str:
        """Also the name of its folder."""
        return f"{self.kind}-{self.engine}-world{self.world}-micro{self.micro_batch}"


CASES = [
    *(
        Case(optimizer, sharding.name, world, size)
        for optimizer in OPTIMIZERS
        for world, sizes in SPLITS.items()
        for sharding in COMPARED[min(world, 2)]
        for size in (sizes if sharding.slices == "nothing" else sizes[-1:])
    ),
    *(
        Case("sgd", sharding.name, world, sizes[0], "bf16")
        for world, sizes in SPLITS.items()
        for sharding in COMPARED[min(world, 2)]
    ),
]


@dataclass(frozen=True)
class Difference:
    """How far a case is from its reference, each relative, the largest over all steps.

    clipped: steps whose gradient was longer than the bound on its norm
    """

    case: str
    kind: str
    steps: int
    clipped: int
    loss: float
    gradient_norm: float
    weights: float

    @property
    def is_within_bounds(self) -> bool:
        """Whether it agrees as well as its kind allows."""
        if self.kind == "bf16":
            return True
        if self.kind == "adamw":
            return self.loss <= ADAMW_BOUND
        return all(figure <= SGD_BOUND for figure in (self.loss, self.gradient_norm, self.weights))  # nan is not


@dataclass(frozen=True)
class Trace:
    """What one case left behind: [steps], [steps], and all weights in one vector."""

    losses: np.ndarray
    norms: np.ndarray
    weights: np.ndarray


def run_selfcheck(as_json: bool) -> ExitCode:
    """Run all cases, print how far they are apart, say whether all are within the bounds."""
    with temporary_folder() as material:
        differences = list(_differences(material))
    report = {
        "max_relative_difference": _largest(
            (d.loss, d.gradient_norm, d.weights) for d in differences if d.kind == "sgd"
        ),
        "adamw_loss_difference": _largest((d.loss,) for d in differences if d.kind == "adamw"),
        "bf16_loss_difference": _largest((d.loss,) for d in differences if d.kind == "bf16"),
        "engines": sorted({case.engine for case in CASES}),
        "bounds": {"max_relative_difference": SGD_BOUND, "adamw_loss_difference": ADAMW_BOUND},
        "cases": [asdict(difference) for difference in differences],
    }
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_table(differences)
    agree = all(difference.is_within_bounds for difference in differences)
    return ExitCode.DONE if agree else ExitCode.FAILED


def _largest(figures: Iterable[tuple[float, ...]]) -> float:
    """nan where one of them is."""
    return float(np.max(list(figures)))


def _differences(material: RunFolder) -> Iterator[Difference]:
    folder = material.path
    ask_ranks(SelfcheckMaterialRequest(folder=str(folder)))
    for world in SPLITS:
        ours = [case for case in CASES if case.world == world]
        for case in ours:
            _lay_out(folder, case)
        names = tuple(case.name for case in ours)
        ask_ranks(SelfcheckRequest(folder=str(folder), cases=names), processes=world)
    for kind in (*OPTIMIZERS, "bf16"):
        reference, *others = [case for case in CASES if case.kind == kind]
        truth = _trace(folder / reference.name)
        for case in others:
            yield _compare(case, _trace(folder / case.name), truth)


def _lay_out(folder: Path, case: Case) -> None:
    """Make the run folder of a case, as `adaptrun train` would."""
    job = Job.model_validate(
        {
            "name": case.name,
            "model": {"pretrained": str(folder / "material" / "model"), "dropout": 0.0},
            "task": "text-classification",
            "data": {"train": str(folder / "material" / "train.csv"), "cache": str(folder / "cache")},
            "train": {
                "epochs": STEPS,
                "max_steps": STEPS,
                "global_batch_size": GLOBAL_BATCH,
                "micro_batch_size": case.micro_batch,
                "max_length": 32,
                "precision": case.precision,
                "clip_norm": CLIP_NORM,
                "optimizer": OPTIMIZERS[case.optimizer],
                "schedule": {"name": "linear", "warmup": 0.1},
            },
            "checkpoint": {"every_steps": STEPS},
            "engine": engine_section(case.engine),
            "launch": {"processes": case.world, "device": "cpu", "runs": str(folder)},
        }
    )
    run = RunFolder.create(job, folder / case.name)
    run.write_plan(make_plan(job, run.job_file, find_hardware(), processes=case.world))


def engine_section(sharding: str) -> dict[str, str]:
    """The job file's `engine` that divides the state so: an engine, or a stage of ZeRO by its template."""
    return dict(SHARDINGS[sharding].section)


def _trace(folder: Path) -> Trace:
    from safetensors.numpy import load_file

    run = RunFolder(folder)
    steps = [event for event in EventTail(run.events_file).read() if isinstance(event, Step)]
    weights = load_file(run.model / "model.safetensors")
    return Trace(
        np.array([step.loss for step in steps]),
        np.array([step.gradient_norm for step in steps]),
        np.concatenate([weights[name].ravel().astype(np.float64) for name in sorted(weights)]),
    )


def _compare(case: Case, found: Trace, truth: Trace) -> Difference:
    assert len(found.losses) == len(truth.losses) == STEPS
    return Difference(
        case=case.name,
        kind=case.kind,
        steps=len(found.losses),
        clipped=int((found.norms > CLIP_NORM).sum()),
        loss=float(np.max(np.abs(found.losses / truth.losses - 1))),
        gradient_norm=float(np.max(np.abs(found.norms / truth.norms - 1))),
        weights=float(np.linalg.norm(found.weights - truth.weights) / np.linalg.norm(truth.weights)),
    )


def _print_table(differences: list[Difference]) -> None:
    from rich.table import Table

    table = Table(title=f"Largest relative difference from one process over {STEPS} steps", title_justify="left")
    for heading in ("case", "loss", "gradient", "weights", "bound", ""):
        table.add_column(heading, justify="left" if heading in ("case", "") else "right", no_wrap=True)
    for found in differences:
        bound = {"sgd": f"{SGD_BOUND:.0e}", "adamw": f"{ADAMW_BOUND:.0e}", "bf16": "none"}[found.kind]
        table.add_row(
            found.case,
            f"{found.loss:.1e}",
            f"{found.gradient_norm:.1e}",
            "—" if found.kind == "adamw" else f"{found.weights:.1e}",
            bound,
            "told" if found.kind == "bf16" else "agrees" if found.is_within_bounds else "differs",
        )
    print_table(table, wide_console())
