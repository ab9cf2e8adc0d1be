"""DeepSpeed's ZeRO: shards the optimizer (1), the gradients (2) and the weights (3), with or without offloading.

The optimizer updates a flat copy of a rank's shard of the weights, in addition to the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.job.schema import Job
from launcher.plan.deepspeed_config import check_deepspeed, read_deepspeed, render_deepspeed
from launcher.plan.engines.facts import EngineFacts, Sharding
from launcher.plan.memory import FLOAT32, Demand, Memory
from launcher.plan.mesh import Mesh
from launcher.plan.split import Split

BUCKET = 500_000_000
"""Default size of DeepSpeed's reduce bucket in elements; the whole bucket is allocated, however small the model."""


def _bucket(need: Demand) -> int:
    return FLOAT32 * (BUCKET if need.takes_what_it_reserves else min(BUCKET, need.size.parameters))


def _zero1(need: Demand) -> Memory:
    return _weights_whole(need, need.learning)


def _zero2(need: Demand) -> Memory:
    return _weights_whole(need, need.stepped)


def _weights_whole(need: Demand, gradients: int) -> Memory:
    weights = need.weights + need.stepped
    return Memory(weights, gradients, need.moments * need.stepped, need.activations(), _bucket(need))


def _zero3(need: Demand) -> Memory:
    weights, buffers = need.part + need.stepped, _bucket(need) + 2 * need.block
    return Memory(weights, need.stepped, need.moments * need.stepped, need.activations(), buffers)


def _zero2_offload(need: Demand) -> Memory:
    return Memory(need.weights, 0, 0, need.activations(), 2 * _bucket(need), host=_stepped_on_host(need))


def _zero3_offload(need: Demand) -> Memory:
    host = need.part + _stepped_on_host(need)
    return Memory(0, 0, 0, need.activations(), _bucket(need) + 2 * need.block, host=host)


def _stepped_on_host(need: Demand) -> int:
    """Bytes of the flat copy, its gradients and its moments."""
    return (2 + need.moments) * need.stepped


def _template(name: str) -> dict[str, str]:
    return {"name": "deepspeed", "deepspeed": name}


class DeepSpeed(EngineFacts):
    """Facts on `launcher/engines/deepspeed.py`."""

    name = "deepspeed"
    shardings = (
        Sharding("zero1", _template("zero1"), _zero1, "optimizer"),
        Sharding("zero2", _template("zero2"), _zero2, "gradients"),
        Sharding("zero3", _template("zero3"), _zero3, "weights"),
        Sharding("zero2_offload", _template("zero2_offload"), _zero2_offload, "gradients", uses_host=True),
        Sharding("zero3_offload", _template("zero3_offload"), _zero3_offload, "weights", uses_host=True),
    )

    def mesh(self, ranks: int) -> Mesh:
        """All ranks shard one copy of the moments at least."""
        return Mesh(shard=ranks)

    def sharding_of(self, job: Job) -> Sharding:
        """The sharding in the file of `engine.deepspeed`; for a user's file, that of the closest template."""
        zero = read_deepspeed(job).values.get("zero_optimization", {})
        stage, offload = zero.get("stage", 2), zero.get("offload_optimizer")
        # "none" disables offloading
        uses_host = isinstance(offload, dict) and offload.get("device") not in (None, "none")
        slices = "weights" if stage == 3 else "optimizer" if stage == 1 and not uses_host else "gradients"
        return next(each for each in self.shardings if (each.uses_host, each.slices) == (uses_host, slices))

    def check(self, job: Job, job_file: Path) -> None:
        """Check the file of `engine.deepspeed`. Raises JobError."""
        check_deepspeed(job, job_file)

    def config(self, job: Job, job_file: Path, split: Split, precision: str) -> dict[str, Any]:
        """DeepSpeed's JSON. Raises JobError."""
        return render_deepspeed(job, job_file, split, precision)
