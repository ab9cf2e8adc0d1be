"""`environment.json`: versions, hardware and commit of a run; secrets do not get in."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from launcher.plan.hardware import find_hardware
from launcher.run.folder import RunFolder, write_whole

PACKAGES = ("adaptrun", "torch", "transformers", "datasets", "safetensors", "numpy", "pyarrow", "pydantic", "deepspeed")
_SECRET = re.compile(r"(?i)((?:token|password|secret|key)[\w.-]*=)\S+|\bhf_\w{8,}|(?<=://)[^\s/@]+(?=@)")


def write_environment(folder: RunFolder) -> None:
    """Describe where and with what the run is started."""
    hardware = find_hardware()
    described = {
        "command": redacted(" ".join(sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": hardware.cores,
        "memory": hardware.memory,
        "gpus": [gpu.name for gpu in hardware.gpus],
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }
    write_whole(folder.environment_file, json.dumps(described, indent=2) + "\n")


def redacted(text: str) -> str:
    """The text with the values of tokens, passwords, secrets and keys, and who logs in at an address, struck out."""
    return _SECRET.sub(lambda found: f"{found.group(1) or ''}[redacted]", text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the folder the run is started in, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
