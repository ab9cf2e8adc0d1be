"""A rank that is killed at any stage of a save costs nothing but that save."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.run.checkpoints import complete_checkpoints, last_checkpoint, step_of
from launcher.run.folder import RunFolder
from tests.cli import adaptrun
from tests.small_run import write_job
from tests.supervise.test_failures import mischievous

OWN = """\
import os, signal
from pathlib import Path
from transformers import AutoModelForSequenceClassification

def build(labels):
    stage, rank, turn = {stage!r}, {rank!r}, 3
    if stage and os.environ.get("RANK", "0") == rank and not Path("killed").exists():
        import launcher.checkpoint.saving as saving
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        owner = {{"write_data": FileSystemWriter, "_write_synced": saving}}.get(stage, saving.Checkpoints)
        original, calls = getattr(owner, stage), 0
        def killing(*arguments):
            nonlocal calls
            calls += 1
            if calls == turn * {calls}:
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)
        setattr(owner, stage, killing)
    import torch
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=len(labels))
"""

STAGES = [
    ("_make_room", 0, 1, "before anything is there"),
    ("write_data", 1, 1, "while tensors are written"),
    ("_complete", 0, 1, "when all tensors are there"),
    ("_write_synced", 0, 2, "between the rename and the marker"),
    ("_remove_old", 0, 1, "between the marker and the removal of older ones"),
]
"""The function, the rank, its calls a save, and when it is."""


def train(folder: Path, model: Path, stage: str, rank: int, calls: int, code: int = 0) -> str:
    folder.mkdir(exist_ok=True)
    if not (folder / "own.py").exists():
        write_job(folder, model)
        mischievous(folder, model, "pass")
        (folder / "own.py").write_text(OWN.format(stage=stage, rank=str(rank), calls=calls, model=str(model)))
    sets = "--set", "train.epochs=1", "--set", "checkpoint.every_steps=1", "--set", "checkpoint.result=last"
    return adaptrun("train", "job.yaml", *sets, cwd=folder, code=code).stdout


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> bytes:
    folder = tmp_path_factory.mktemp("reference") / "job"
    train(folder, tiny_model, "", 0, 1)
    return (folder / "runs/small/model/model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "rank", "calls", "when"), STAGES, ids=[when for *_, when in STAGES])
def test_the_last_complete_checkpoint_is_intact_and_used(
    stage: str, rank: int, calls: int, when: str, tiny_model: Path, reference: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    train(folder, tiny_model, stage, rank, calls, code=1)
    (path,) = (folder / "runs").glob("small-*")
    run = RunFolder(path)
    last = last_checkpoint(run.checkpoints)
    assert last is not None
    assert step_of(last) == (3 if stage == "_remove_old" else 2)
    said = train(folder, tiny_model, stage, rank, calls)
    assert f"resuming from {last.name}" in said
    assert (folder / "runs/small/model/model.safetensors").read_bytes() == reference
    assert [path.name for path in run.checkpoints.iterdir()] == [p.name for p in run.checkpoints.glob("step-????????")]
    assert len(complete_checkpoints(run.checkpoints)) >= 2
