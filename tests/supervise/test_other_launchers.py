"""The ranks of a run are ordinary processes: other launchers start them as docs/guides/coming-from.md says."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.job.schema import Job
from launcher.run.folder import RunFolder
from tests.cli import ENVIRONMENT, PATIENCE
from tests.small_run import Trained, write_job

PAGE = Path(__file__).resolve().parents[2] / "docs/guides/coming-from.md"
BIN = Path(sys.executable).parent
TWO_PROCESSES = {"--nproc-per-node 4": "--nproc-per-node 2", "processes 4": "processes 2", "num_gpus 4": "num_gpus 2"}
PORT = {"accelerate": "main_process_port", "deepspeed": "master_port"}
ONE_EACH = {"--nproc-per-node 4": "--nproc-per-node 1", "10.0.0.1": "127.0.0.1"}


def shown(launcher: str, wanted: str, changes: dict[str, str]) -> list[str]:
    """The commands of the page that hold `wanted`, with as few processes as this machine has room for."""
    lines = [line for line in re.findall(rf"^    ({launcher} .*)$", PAGE.read_text(), re.MULTILINE) if wanted in line]
    for old, new in changes.items():
        lines = [line.replace(old, new) for line in lines]
    return lines


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["accelerate", "deepspeed", "two nodes"])
def test_another_launcher_leaves_the_same_model(way: str, trained: Trained, tmp_path: Path, tiny_model: Path) -> None:
    write_job(tmp_path, tiny_model)
    if way == "two nodes":
        lines = shown("torchrun", "--nnodes 2", ONE_EACH | {"29500": free_port()})
    else:
        lines = shown(way, "launcher.worker", TWO_PROCESSES)
        lines = [line.replace(" --", f" --{PORT[way]} {free_port()} --", 1) for line in lines]
    assert len(lines) == (2 if way == "two nodes" else 1)
    environment = ENVIRONMENT | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    environment["OMP_NUM_THREADS"] = "1"  # as the run that it is compared with: the order of sums decides the last bits
    started = []
    for number, line in enumerate(lines):
        with (tmp_path / f"log-{number}").open("w") as log:
            started.append(subprocess.Popen(shlex.split(line), cwd=tmp_path, env=environment, stdout=log, stderr=log))
    codes = [process.wait(PATIENCE) for process in started]
    logs = "\n".join(log.read_text()[-3000:] for log in tmp_path.glob("log-*"))
    assert codes == [0] * len(lines), logs
    run = RunFolder(tmp_path / "runs" / "small")
    assert run.plan().world == 2
    assert (run.path / "model/model.safetensors").read_bytes() == (trained.run / "model/model.safetensors").read_bytes()


def test_the_keys_that_the_page_names_are_in_the_job_file() -> None:
    schema = Job.model_json_schema()

    def has(path: list[str], section: dict[str, object]) -> bool:
        for name in path:
            choices = [section, *section.get("anyOf", []), *section.get("oneOf", [])]  # type: ignore[misc]
            found = [resolve(choice).get("properties", {}).get(name) for choice in choices]  # type: ignore[attr-defined]
            section = next((resolve(one) for one in found if one is not None), {})
            if not section:
                return False
        return True

    def resolve(section: dict[str, object]) -> dict[str, object]:
        while "$ref" in section:
            section = schema["$defs"][str(section["$ref"]).rsplit("/", 1)[1]]
        return section

    named = set(re.findall(r"`((?:train|launch|validation|checkpoint|model|data|engine)\.[a-z_.]+)", PAGE.read_text()))
    assert len(named) > 20
    assert [name for name in sorted(named) if not has(name.split("."), schema)] == []
