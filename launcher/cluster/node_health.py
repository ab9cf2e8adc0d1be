"""Whether a node is fit to run ranks, looked at before they start, and without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.plan.hardware import find_hardware
from launcher.plan.plan import Plan

GPU_MEMORY_TAKEN = 0.1
"""Of a GPU's memory: more than that is taken by something else."""
MEGABYTES_FREE = 100


@dataclass(frozen=True)
class GpuState:
    """What the driver says of one GPU: bytes in MiB, and errors that its memory could not correct."""

    index: int
    uuid: str
    total: int
    used: int
    uncorrected: int

    def is_ours(self, environment: Mapping[str, str]) -> bool:
        """Whether CUDA_VISIBLE_DEVICES leaves it to us: a driver may also show those that other jobs use."""
        listed = environment.get("CUDA_VISIBLE_DEVICES")
        names = [] if listed is None else [name.strip() for name in listed.split(",")]
        return listed is None or str(self.index) in names or any(name and self.uuid.startswith(name) for name in names)


def faults_of_this_node(plan: Plan) -> list[str]:
    """What speaks against this node; empty where it is fit."""
    faults = []
    free = shutil.disk_usage(tempfile.gettempdir()).free // 2**20
    if free < MEGABYTES_FREE:
        faults.append(f"{tempfile.gettempdir()} has {free} MiB free")
    if plan.device == "cuda":
        found = len(find_hardware().gpus)
        if found < plan.processes:
            faults.append(f"it has {found} GPUs, and {plan.processes} are needed")
        faults += gpu_faults([gpu for gpu in gpu_states() if gpu.is_ours(os.environ)])
    return faults


def gpu_faults(states: list[GpuState]) -> list[str]:
    """What speaks against these GPUs."""
    faults = []
    for gpu in states:
        if gpu.uncorrected:
            faults.append(f"GPU {gpu.index} has {gpu.uncorrected} uncorrected ECC errors")
        if gpu.used > GPU_MEMORY_TAKEN * gpu.total:
            faults.append(f"{gpu.used} of {gpu.total} MiB of GPU {gpu.index} are used by other processes")
    return faults


def gpu_states() -> list[GpuState]:
    """Ask the NVIDIA driver; none where there is no driver."""
    query = "index,uuid,memory.total,memory.used,ecc.errors.uncorrected.volatile.total"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [parse_gpu_state(line) for line in said.splitlines() if line.strip()]


def parse_gpu_state(line: str) -> GpuState:
    """One line of nvidia-smi; a GPU without ECC says so in words."""
    index, uuid, total, used, uncorrected = (part.strip() for part in line.split(","))
    return GpuState(int(index), uuid, int(total), int(used), int(uncorrected) if uncorrected.isdigit() else 0)
