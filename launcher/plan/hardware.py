"""This machine's hardware, detected without torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU: its memory in bytes, its compute capability."""

    name: str
    memory: int
    capability: float


@dataclass(frozen=True)
class Hardware:
    """Available GPUs, available physical cores, memory in bytes."""

    gpus: tuple[Gpu, ...]
    cores: int
    memory: int


def find_hardware() -> Hardware:
    """Query the system and the NVIDIA driver."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return Hardware(_visible(_gpus(), os.environ), min(allowed, physical), psutil.virtual_memory().total)


def _gpus() -> tuple[Gpu, ...]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()  # no driver, no GPU
    lines = [line.split(", ") for line in answer.splitlines() if line.strip()]
    return tuple(Gpu(name, int(memory) * 2**20, float(capability)) for name, memory, capability in lines)


def _visible(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs in CUDA_VISIBLE_DEVICES, which a scheduler sets: up to the first invalid entry, as CUDA does.

    A UUID counts as the next of the existing GPUs.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (entry.strip() for entry in listed.split(",")):
        number = int(entry) if entry.isdecimal() else len(chosen)
        if entry in ("", "-1") or number >= len(gpus):
            break
        chosen.append(gpus[number])
    return tuple(chosen)
