"""`adaptrun doctor`: what this machine, or this allocation, has for a run; each finding good, warning or bad."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from launcher.errors import AdaptrunError, Stopped
from launcher.job.requests import RankCheckRequest
from launcher.plan.hardware import Hardware, find_hardware
from launcher.run.folder import write_whole
from launcher.supervise.requests import ask_ranks

State = Literal["good", "warning", "bad"]
OLDEST = {"torch": (2, 8), "transformers": (5, 0), "deepspeed": (0, 18), "datasets": (4, 0), "safetensors": (0, 5)}
"""The least versions, as pyproject.toml has them."""
GIBIBYTES_FREE = 5
SLOW = 0.1
"""GB/s of an all-reduce below which several processes are not worth their while."""
COLOURS = {"good": "green", "warning": "yellow", "bad": "red"}
RENAMES = 200


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, how it is, what was found, and what to do."""

    name: str
    state: State
    found: str
    fix: str = ""


def diagnose() -> list[Finding]:
    """Look at everything; what cannot be looked at is a finding too."""
    hardware = find_hardware()
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        lambda: _devices(hardware),
        _room,
        _file_system,
        _host_name,
        _slurm,
        _allocation,
        lambda: _ranks(hardware),
    )
    return [finding for check in checks for finding in check()]


def print_diagnosis(as_json: bool) -> int:
    """Print what was found; returns the exit code, which is 1 where something is bad."""
    findings = diagnose()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        from rich.console import Console

        console = Console()
        for finding in findings:
            colour = COLOURS[finding.state]
            console.print(f"[{colour}]{finding.state:8}[/]", end="", highlight=False)
            console.print(f"{finding.name:16} {finding.found}", markup=False, highlight=False, soft_wrap=True)
            if finding.fix:
                console.print(f"{'':24} fix: {finding.fix}", markup=False, highlight=False, soft_wrap=True)
    return int(any(finding.state == "bad" for finding in findings))


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}, on {platform.platform()}"
    if sys.platform != "linux":
        yield Finding(
            "python", "warning", found, "use Linux, where ranks end with their launcher and DeepSpeed is available"
        )
    else:
        yield Finding("python", "good", found)


def _packages() -> Iterator[Finding]:
    for package, oldest in OLDEST.items():
        least = ".".join(map(str, oldest))
        try:
            found = version(package)
        except PackageNotFoundError:
            yield Finding(package, "bad", "not installed", f"pip install '{package}>={least}'")
            continue
        numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
        fix = "" if numbers >= oldest else f"pip install '{package}>={least}'"
        yield Finding(package, "bad" if fix else "good", found, fix)


def _devices(hardware: Hardware) -> Iterator[Finding]:
    yield Finding("cores", "good", f"{hardware.cores}, {hardware.memory / 2**30:.0f} GiB of memory")
    if not hardware.gpus:
        yield Finding("GPUs", "good", "none; runs compute on the CPU")
    for number, gpu in enumerate(hardware.gpus):
        yield Finding(f"GPU {number}", "good", f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB, capability {gpu.capability}")


def _room() -> Iterator[Finding]:
    for name, place in (("disk here", Path.cwd()), ("temporary disk", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free / 2**30
        fix = "" if free >= GIBIBYTES_FREE else "free some space: a checkpoint is three times as large as the model"
        yield Finding(name, "warning" if fix else "good", f"{free:.0f} GiB free at {place}", fix)


def _file_system() -> Iterator[Finding]:
    """A reader must see the old or the new file, whatever happens meanwhile: everything that is saved relies on it."""
    try:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".adaptrun-doctor-") as folder:
            broken = _renames_seen_in_part(Path(folder) / "file")
    except OSError as error:
        yield Finding("file system", "bad", f"{Path.cwd()}: {error}", "start in a folder that you may write to")
        return
    if broken:
        fix = "keep runs on another file system: --set launch.runs=PATH"
        yield Finding("file system", "bad", f"{broken} of {RENAMES} renames were not atomic", fix)
    else:
        yield Finding("file system", "good", f"renames are atomic, {RENAMES} of {RENAMES} times, at {Path.cwd()}")


def _renames_seen_in_part(file: Path) -> int:
    texts = {"a" * 4096, "b" * 4096}
    write_whole(file, "a" * 4096)
    done, broken = threading.Event(), 0

    def write() -> None:
        for number in range(RENAMES):
            write_whole(file, "ab"[number % 2] * 4096)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        broken += file.read_text(encoding="utf-8") not in texts
    writer.join()
    return broken


def _host_name() -> Iterator[Finding]:
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        yield Finding("host name", "warning", f"{name} has no address", f"add {name} to /etc/hosts")
        return
    yield Finding("host name", "good", f"{name} is {address}")


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding("SLURM", "good", "not installed; adaptrun train runs here, adaptrun submit needs a login node")
        return
    done = _said("scontrol", "ping")
    needed = "`adaptrun submit` needs it: `scontrol ping` must answer; ask the cluster's administrators"
    fix = "" if "UP" in done else needed
    yield Finding("SLURM", "warning" if fix else "good", " ".join(done.split()) or "does not answer", fix)


def _allocation() -> Iterator[Finding]:
    """Whether every node of the allocation sees the same files."""
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if "SLURM_JOB_ID" not in os.environ or nodes == 1:
        return
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".adaptrun-doctor-", mode="w") as file:
        file.write("seen\n")
        file.flush()
        said = _said("srun", "--overlap", f"--nodes={nodes}", "--ntasks-per-node=1", "cat", file.name)
    seen = said.split().count("seen")
    fix = "" if seen == nodes else "start in a folder that all nodes share, or set launch.runs to one"
    yield Finding("shared files", "bad" if fix else "good", f"{seen} of {nodes} nodes see {Path.cwd()}", fix)


def _ranks(hardware: Hardware) -> Iterator[Finding]:
    """Start ranks as a run would, and let them talk."""
    ranks = len(hardware.gpus) or 2
    try:
        found = ask_ranks(
            RankCheckRequest(device="cuda" if hardware.gpus else "cpu"),
            processes=ranks,
            stopped="stopped while ranks were tested; nothing is kept",
        )
    except Stopped:
        raise
    except (AdaptrunError, OSError) as error:
        yield Finding("ranks", "bad", str(error), "fix what the message names")
        return
    speed = found.gigabytes_per_second
    fix = "" if speed >= SLOW or ranks == 1 else "several processes will be slow here; try launch.processes: 1"
    talk = f"{ranks} ranks connect over {found.backend}; an all-reduce runs at {speed:.2f} GB/s"
    yield Finding("ranks", "warning" if fix else "good", talk, fix)
    if found.device:
        yield Finding("torch and CUDA", "good", found.device)
    elif hardware.gpus:
        yield Finding("torch and CUDA", "bad", "torch sees no GPU", "install the CUDA build of torch")
    problem = found.deepspeed
    fix = "pip install deepspeed; only engine: {name: deepspeed} needs it" if problem else ""
    yield Finding("DeepSpeed", "warning" if problem else "good", problem or found.operations, fix)


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
