"""The progress of a run, saved with every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import inf, isnan
from typing import Any

from launcher.job.schema import Job
from launcher.job.sections.tasks import find_family
from launcher.worker.evaluation.evaluate import Metrics


@dataclass
class Stall:
    """The number of consecutive evaluations without an improvement of at least `min_delta`."""

    best: float | None = None
    count: int = 0

    def observe(self, goodness: float, min_delta: float) -> int:
        """Add an evaluation; larger is better. Returns the count."""
        if self.best is None or goodness > self.best + min_delta:
            self.best, self.count = goodness, 0
        else:
            self.count += 1
        return self.count


@dataclass
class Progress:
    """The state of a run apart from weights and optimizer.

    data: name of the prepared training data, which depends on their content
    base: identity of the pretrained weights, if checkpoints do not contain all needed weights; else empty
    step: optimizer steps done
    seconds: spent training, over all attempts
    before: metrics of the pretrained model on every validation set
    best_step, best: the best evaluation by the deciding metric (larger is better)
    plateau: factor of the plateau schedule on the learning rate
    micro_batch_limit: limit of the micro-batch size after running out of memory
    awaits_judgement: whether an evaluation at this step is due and was not finished
    discarded: steps skipped for a NaN or infinite loss or gradient; in a row: the most recent consecutive ones
    finished: whether training ended early because validation no longer improved, or the model collapsed
    method: state of the method of `adapt`
    """

    data: str = ""
    base: str = ""
    step: int = 0
    seconds: float = 0.0
    before: Metrics = field(default_factory=dict)
    best_step: int | None = None
    best: float | None = None
    plateau: float = 1.0
    plateau_stall: Stall = field(default_factory=Stall)
    stopping_stall: Stall = field(default_factory=Stall)
    micro_batch_limit: int | None = None
    awaits_judgement: bool = False
    discarded: int = 0
    discarded_in_a_row: int = 0
    finished: bool = False
    method: dict[str, Any] = field(default_factory=dict)

    def judge(self, job: Job, value: float) -> bool:
        """Update with a value of the deciding metric. Returns whether it is the best so far."""
        goodness = goodness_of(job, value)
        schedule, stopping = job.train.schedule, job.train.early_stopping
        if schedule.name == "plateau" and self.plateau_stall.observe(goodness, schedule.min_delta) >= schedule.patience:
            self.plateau *= schedule.factor
            self.plateau_stall.count = 0
        if stopping is not None:
            self.finished = self.stopping_stall.observe(goodness, stopping.min_delta) >= stopping.patience
        if goodness > (-inf if self.best is None else self.best):
            self.best, self.best_step = goodness, self.step
            return True
        return False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; floats are restored bit for bit."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Read back what `as_dict` gave."""
        stalls = {name: Stall(**values[name]) for name in ("plateau_stall", "stopping_stall")}
        return cls(**{**values, **stalls})


def goodness_of(job: Job, value: float) -> float:
    """A value of the deciding metric such that larger is better; NaN is worse than any number."""
    family = find_family(job.task, loss=job.train.loss.name)
    goodness = -value if family.is_lower_better(job.validation.metric) else value
    return -inf if isnan(goodness) else goodness
