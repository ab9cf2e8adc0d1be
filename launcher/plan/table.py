"""`adaptrun plan --gpus`: each engine's memory on given GPUs, which of them fit, and a fix if the job's does not."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from launcher.errors import RequestError
from launcher.job.schema import Job
from launcher.plan.engines import FOR_SEVERAL, named_engine
from launcher.plan.engines.facts import Sharding
from launcher.plan.fit import (
    Devices,
    ShardingOption,
    adapters_that_fit,
    cheapest_change,
    largest_micro_batch,
    shardings_for,
    share_of_a_rank,
    way_of,
)
from launcher.plan.memory import consolidation, mebibytes
from launcher.plan.model_size import ModelSize, size_of_job
from launcher.plan.planner import GPU_MICRO_BATCH

UNITS = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Table:
    """One row per sharding, including the job's own.

    verdict: whether the job fits, and if not, the cheapest change that makes it fit
    """

    size: ModelSize
    devices: Devices
    rows: tuple[ShardingOption, ...]
    verdict: str

    @classmethod
    def of(cls, job: Job, gpus: int, memory: int) -> Table:
        """Compute it from headers and config. Raises RequestError if the model's size is not known on this machine."""
        size = size_of_job(job)
        if size is None:
            raise RequestError(
                f"the size of {job.model.pretrained} is unknown: neither safetensors files nor a config.json with "
                "sizes are on this machine"
            )
        devices = Devices(gpus, memory)
        precision = "bf16" if job.train.precision == "auto" else job.train.precision
        rows = tuple(_row(job, size, precision, devices, sharing) for sharing in shardings_for(job))
        return cls(size, devices, rows, _verdict(job, size, precision, devices, rows))

    def as_json(self) -> str:
        """The bytes and counts as JSON."""
        rows = [asdict(row) | {"total": row.memory.total} for row in self.rows]
        answer = {"size": asdict(self.size), "consolidation": consolidation(self.size), "rows": rows}
        return json.dumps(answer | {"verdict": self.verdict}, indent=2)

    def __str__(self) -> str:
        about = "about " if self.size.is_estimated else ""
        heads = ("engine", "micro-batch", "weights", "gradients", "optimizer", "activations", "buffers", "total", "")
        lines = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        frozen = f" ({self.size.frozen / 1e9:.2f} frozen)" if self.size.frozen else ""
        if self.size.adapters is not None:
            frozen = f" ({self.size.learning / 1e6:.1f} million trained)"
        return "\n".join(
            [
                f"{about}{self.size.parameters / 1e9:.2f} billion parameters{frozen} on {self.devices.count} GPUs of "
                f"{mebibytes(self.devices.memory)}; a process takes",
                *(line.rstrip() for line in text),
                f"while model/ is written: {mebibytes(consolidation(self.size))} more of host memory a process",
                self.verdict,
            ]
        )


def parse_size(text: str) -> int:
    """`80GiB` or `80 GB` in bytes. Raises RequestError."""
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)\s*", text)
    if found is None or found.group(2).upper() not in UNITS:
        raise RequestError(f"{text!r} is not a size; write 80GiB, or 24GB")
    return int(float(found.group(1)) * UNITS[found.group(2).upper()])


def _row(job: Job, size: ModelSize, precision: str, devices: Devices, sharing: Sharding) -> ShardingOption:
    wanted, share = job.train.micro_batch_size, share_of_a_rank(job, sharing, devices.count)
    if wanted == "auto":
        most = min(share, GPU_MICRO_BATCH)
        micro_batch = largest_micro_batch(job, size, precision, devices, sharing, most) or 1
    else:
        micro_batch = min(wanted, share)
    recomputes = job.train.activation_checkpointing
    return way_of(job, size, precision, devices, sharing, micro_batch, recomputes)


def _verdict(job: Job, size: ModelSize, precision: str, devices: Devices, rows: tuple[ShardingOption, ...]) -> str:
    engine = named_engine(job)
    if engine is None or not engine.runs_on(2):
        fitting = next((row for row in rows if row.fits), None)
        now, name = fitting or rows[0], "the first that fits" if fitting else FOR_SEVERAL[0].name
    else:
        name = engine.sharding_of(job).name
        now = next((row for row in rows if row.sharing == name), rows[0])  # ddp on one device is single
    taken = f"{mebibytes(now.memory.total)} of {mebibytes(devices.memory)}"
    if now.fits:
        adapters = adapters_that_fit(job, precision, devices, now) if now.memory.host else None
        instead = "" if adapters is None else f"\n    without host memory: {adapters}"
        return f"fits: {now.sharing} ({name}), {taken} with micro-batches of {now.micro_batch}{instead}"
    return f"does not fit: {name} takes {taken}\n    fix: {cheapest_change(job, size, precision, devices, now)}"


def _cells(row: ShardingOption) -> tuple[str, ...]:
    memory = row.memory
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.communication, memory.total)
    fits = "fits" if row.fits else "does not fit"
    host = f", {mebibytes(memory.host)} of host memory" if memory.host else ""
    return (row.sharing, str(row.micro_batch), *(mebibytes(part) for part in parts), fits + host)
