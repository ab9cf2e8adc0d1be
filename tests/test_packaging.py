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


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment of its own, which holds the wheel, and reads from here what the wheel needs."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    needed = [path for path in sys.path if path.endswith("site-packages")]
    (Path(packages) / "needed.pth").write_text("\n".join(needed) + "\n")  # after the wheel, so the wheel is found first
    return place / "bin"


def test_an_installed_wheel_goes_from_a_csv_to_a_model_beside_modules_of_the_same_names(
    installed: Path, tmp_path: Path
) -> None:
    for name in ("launcher.py", "models.py", "adapt.py", "slurm.py"):
        (tmp_path / name).write_text("raise RuntimeError('the user\\'s own module was imported')\n")
    tiny_model_folder(tmp_path / "tiny", layers=1)
    write_texts(tmp_path / "train.csv", 20)
    write_texts(tmp_path / "validation.csv", 8, seed=1)

    def adaptrun(*arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [installed / "adaptrun", *arguments]
        answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    adaptrun("init", "--task", "text-classification")
    changes = (
        "model.pretrained=tiny",
        "train.max_length=32",
        "train.max_steps=2",
        "launch.processes=2",
        "launch.device=cpu",
    )
    settings = [word for change in changes for word in ("--set", change)]
    adaptrun("check", "job.yaml", *settings)
    assert "processes  2 ×" in adaptrun("plan", "job.yaml", *settings)
    adaptrun("train", "job.yaml", *settings)
    assert next(tmp_path.glob("runs/*/model/model.safetensors")).is_file()
    where = [installed / "python", "-P", "-c", "import launcher; print(launcher.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(installed.parent))
