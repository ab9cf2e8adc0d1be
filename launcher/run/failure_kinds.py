"""The kinds of failure: how each is recognised, whether it may pass by itself, and what to do about it."""

from __future__ import annotations

import re
from enum import StrEnum


class FailureKind(StrEnum):
    """What sort of failure a rank had."""

    MEMORY = "out of memory"
    NOT_FINITE = "NaN or infinite"
    DATA = "data"
    HUNG = "no progress"
    COMMUNICATION = "communication"
    KILLED = "killed by the system"
    DISK = "disk"
    DEVICE = "device"
    SUPERSEDED = "superseded"
    CODE = "code"

    @property
    def may_pass(self) -> bool:
        """Whether the same start may go well another time, with nobody changing anything."""
        return self in (FailureKind.HUNG, FailureKind.COMMUNICATION, FailureKind.KILLED, FailureKind.DEVICE)


_BY_ERROR = {
    "OutOfMemory": FailureKind.MEMORY,
    "OutOfMemoryError": FailureKind.MEMORY,
    "MemoryError": FailureKind.MEMORY,
    "NotFinite": FailureKind.NOT_FINITE,
    "DataError": FailureKind.DATA,
    "Hung": FailureKind.HUNG,
    "Superseded": FailureKind.SUPERSEDED,
    "CheckpointError": FailureKind.DISK,
    "OSError": FailureKind.DISK,
    "PermissionError": FailureKind.DISK,
    "DistBackendError": FailureKind.COMMUNICATION,
    "DistNetworkError": FailureKind.COMMUNICATION,
    "DistStoreError": FailureKind.COMMUNICATION,
    "silent death": FailureKind.CODE,
}
_BY_MESSAGE = (
    (re.compile(r"Connection (closed|reset|refused)|Broken pipe|Timed out waiting|[Gg]loo|NCCL|timed out"),
     FailureKind.COMMUNICATION),
    (re.compile(r"CUDA error|cuda runtime|uncorrectable ECC|Xid"), FailureKind.DEVICE),
    (re.compile(r"No space left|Read-only file system|Disk quota"), FailureKind.DISK),
)  # fmt: skip
_CONSEQUENCES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "Timed out waiting",
)
"""What ranks say when another one has died; never the first failure where there is another."""

_DISK = "look at the disk's free space and permissions, then run the same command again to resume"
_ADVICE = {
    "OutOfMemory": "lower train.micro_batch_size (it changes no result), set train.activation_checkpointing: true, or "
    "shard the model over more GPUs: `adaptrun plan JOB --gpus N --gpu-memory SIZE` shows what fits",
    "OutOfMemoryError": "lower train.micro_batch_size: it affects memory, not the result",
    "MemoryError": "lower train.micro_batch_size or launch.processes: neither changes a result",
    "SIGKILL": "often the system's out-of-memory killer: lower train.micro_batch_size or launch.processes",
    FailureKind.NOT_FINITE: "lower train.optimizer.lr, add train.schedule.warmup, or use train.precision: fp32; "
    "discarded-steps.json in the run's folder lists the samples of each skipped step",
    FailureKind.DISK: _DISK,
    FailureKind.HUNG: "the stacks of all ranks are in logs/: look for a collective that only some ranks "
    "reach, or a data source or device that does not respond; launch.patience sets how long to wait",
    FailureKind.DEVICE: "the device or its driver failed; `nvidia-smi -q` and the system's log show more",
    FailureKind.COMMUNICATION: "check the network between the nodes: `adaptrun doctor` tests it; "
    "launch.timeout sets how long a collective waits",
}
SILENT_DEATH = "another rank ended without an error message; the system's log may say why (out of memory, for one)"


def kind_of(error: str, message: str) -> FailureKind:
    """The kind, by the error's class (or the signal's name) and its message."""
    if error.startswith("SIG"):
        return FailureKind.KILLED
    by_message = next((kind for pattern, kind in _BY_MESSAGE if pattern.search(message)), None)
    known = _BY_ERROR.get(error)
    if known is not None and not (error == "OSError" and by_message is not None):
        return known
    return by_message or FailureKind.CODE


def is_consequence(message: str) -> bool:
    """Whether the message only says that another rank is gone."""
    return any(mark in message for mark in _CONSEQUENCES)


def advice(error: str, message: str) -> str | None:
    """What to do about it."""
    if is_consequence(message):
        return SILENT_DEATH
    return _ADVICE.get(error) or _ADVICE.get(kind_of(error, message))
