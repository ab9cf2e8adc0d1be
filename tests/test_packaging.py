"""The wheel carries everything, and works from a folder whose own modules bear the package's names."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tiny import tiny_model_folder, write_texts

REPOSITORY = Path(__file__).resolve().parent.parent
LINKED = ("models", "ds_configs", "slurm", "examples")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files, so that nothing left in the tree gets in."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_symlink():
            (source / name).symlink_to(os.readlink(REPOSITORY / name))
        elif (REPOSITORY / name).exists():
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", dist, source],
        check=True,
    )
    return next(dist.glob("*.whl"))


def test_the_wheel_holds_the_linked_folders(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"launcher/models/tasks/text_classification.py", "launcher/examples/film-reviews.yaml"} <= set(names)
    top = {name.split("/")[0] for name in names}
    assert top == {"launcher", next(name for name in top if name.endswith(".dist-info"))}


@pytest.mark.parametrize("folder", LINKED)
def test_the_links_are_relative(folder: str) -> None:
    assert os.readlink(REPOSITORY / "launcher" / folder) == f"../{folder}"


def test_the_wheel_runs_beside_modules_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    installed, work = tmp_path / "installed", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(installed)
    work.mkdir()
    for name in ("launcher.py", "models.py", "slurm.py"):
        (work / name).write_text("raise RuntimeError('the user\\'s own module was imported')\n")
    tiny_model_folder(work / "tiny", layers=1)
    write_texts(work / "train.csv", 20)
    (work / "job.yaml").write_text(
        "{name: own, model: {pretrained: tiny}, task: text-classification, data: {train: train.csv, cache: cache}, "
        "train: {max_steps: 2, global_batch_size: 4, max_length: 32}, launch: {processes: 2, device: cpu}}"
    )
    # The installed wheel goes before the repository's own editable install; -P keeps the folder itself out.
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-c", "from launcher.cli import main; main()", "train", "job.yaml"]
    answer = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert (work / "runs" / "own" / "model" / "model.safetensors").is_file()
    where = [sys.executable, "-P", "-c", "import launcher; print(launcher.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(installed))
