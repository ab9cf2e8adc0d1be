"""The plan: everything decided before a process starts, frozen, printed and saved with the run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from launcher.errors import RequestError
from launcher.files import write_whole
from launcher.plan.engines import ENGINES
from launcher.plan.memory import Memory
from launcher.plan.mesh import Mesh
from launcher.plan.split import Split


@dataclass(frozen=True)
class Plan:
    """What will run.

    engine: how the model is distributed over the processes
    deepspeed: configuration passed to DeepSpeed, for its engine only
    device: the device of the tensors
    precision: that of forward and backward; weights stay fp32
    nodes: machines
    processes: ranks on each machine
    threads: CPU threads of each process
    split: how the global batch is split
    micro_batch_limit: limit of the micro-batch size after running out of memory, None if that has not happened
    memory: of each process; None if the model's size is not known on this machine
    whole_gradients: fsdp keeps whole gradients between the micro-batches of a step, which are reduced once a step
    evaluation_batch: samples of full length evaluated at once
    train_samples: None if only the run can know (a hub id that is not downloaded)
    reasons: one sentence for each value that `auto` decided
    commands: the exact commands, one per process group, as argument lists
    warnings: reasons to change the job
    evaluations: which of several validation sets is evaluated when; empty if there is only one
    """

    name: str
    model: str
    engine: str
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16", "fp16"]
    nodes: int
    processes: int
    threads: int
    split: Split
    micro_batch_limit: int | None
    memory: Memory | None
    whole_gradients: bool
    deepspeed: dict[str, Any] | None
    evaluation_batch: int
    epochs: int
    max_steps: int | None
    train_samples: int | None
    reasons: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...] = ()
    evaluations: str = ""

    def with_sets(self, sets: Sequence[str]) -> Plan:
        """The plan with the overrides of the job file in its commands."""
        words = [word for text in sets for word in ("--set", text)]
        return replace(self, commands=tuple((*command, *words) for command in self.commands))

    @property
    def world(self) -> int:
        """Ranks on all machines."""
        return self.nodes * self.processes

    @property
    def mesh(self) -> Mesh:
        """The device mesh of the ranks."""
        return ENGINES[self.engine].mesh(self.world)

    @property
    def spread(self) -> str:
        """The engine in words, with DeepSpeed's stage."""
        return self.engine if self.deepspeed is None else f"deepspeed (ZeRO-{zero_stage(self.deepspeed)})"

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of one epoch; the last may have fewer samples."""
        return None if self.train_samples is None else ceil(self.train_samples / self.split.global_batch)

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the run unless it stops early."""
        if self.steps_per_epoch is None:
            return self.max_steps
        return total_steps(self.train_samples or 0, self.split.global_batch, self.epochs, self.max_steps)

    def as_json(self) -> str:
        """The plan and derived values as JSON."""
        derived = {"steps_per_epoch": self.steps_per_epoch, "total_steps": self.total_steps}
        return json.dumps(asdict(self) | derived, indent=2)

    def __str__(self) -> str:
        lines = [
            ("job", self.name),
            ("model", self.model),
            ("processes", f"{self._ranks()} × {self.threads} CPU threads, engine {self.spread} on {self.device}"),
            ("precision", f"{self.precision} forward and backward, fp32 weights and optimizer"),
            ("batch", str(self.split)),
            ("steps", self._steps()),
            ("memory", "known once the model is loaded" if self.memory is None else str(self.memory)),
            *([("validation", self.evaluations)] if self.evaluations else []),
            *(("command", shlex.join(command)) for command in self.commands),
            *(("because", reason) for reason in self.reasons),
            *(("warning", warning) for warning in self.warnings),
        ]
        return "\n".join(f"{name:10} {text}" for name, text in lines)

    def _ranks(self) -> str:
        return str(self.processes) if self.nodes == 1 else f"{self.nodes} nodes × {self.processes}"

    def _steps(self) -> str:
        if self.train_samples is None:
            return "known once the data are downloaded"
        whole = f"{self.epochs} epochs × ⌈{self.train_samples} / {self.split.global_batch}⌉ = {self.epochs} × "
        whole += f"{self.steps_per_epoch} = {self.epochs * (self.steps_per_epoch or 0)}"
        return whole if self.max_steps is None else f"{whole}, at most {self.max_steps}: {self.total_steps}"

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read back what `save` wrote. Raises RequestError if the file is missing or damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["split"] = Split(**values["split"])
            values["memory"] = None if values["memory"] is None else Memory(**values["memory"])
            values["reasons"] = tuple(values["reasons"])
            values["warnings"] = tuple(values.get("warnings", ()))
            values["commands"] = tuple(tuple(command) for command in values["commands"])
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RequestError(
                f"{path} cannot be read: {type(error).__name__}: {error}; the command that started the "
                "run writes it anew: adaptrun train, or adaptrun submit"
            ) from error


def zero_stage(deepspeed: dict[str, Any]) -> int:
    """The ZeRO stage: optimizer (1), gradients (2) and weights (3) are sharded, each with those before it."""
    stage: int = deepspeed["zero_optimization"]["stage"]
    return stage


def total_steps(samples: int, global_batch: int, epochs: int, max_steps: int | None) -> int:
    """Optimizer steps of `epochs` epochs, each ending with a batch of the remaining samples."""
    steps = epochs * ceil(samples / global_batch)
    return steps if max_steps is None else min(steps, max_steps)
