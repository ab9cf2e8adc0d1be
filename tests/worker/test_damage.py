"""A run that finds its checkpoints damaged or gone: it passes over them with a word, and gives the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.commands.selfcheck import engine_section
from launcher.errors import AdaptrunError
from launcher.files import HASHES
from launcher.job.reading.job_file import load_job
from launcher.job.schema import Job
from launcher.plan.hardware import find_hardware
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt, begin_attempt
from launcher.run.checkpoints import checkpoint_name
from launcher.run.events import Evaluated, EventLog, EventTail, Note
from launcher.run.folder import RunFolder
from launcher.run.results import Result
from launcher.worker.rank.preemption import StopRequest
from launcher.worker.rank.process import RankEnv
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World
from launcher.worker.training import recipe
from tests.damage import DAMAGES, flip_a_bit
from tests.tiny import write_texts
from tests.worlds import Worlds

SAVED, STEPS = (3, 6, 9), 11


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    write_texts(folder / "train.csv", 40, seed=1)
    write_texts(folder / "held.csv", 20, seed=2)
    return folder


def lay_out(folder: Path, material: Path, model: Path, world: int, **settings: Any) -> RunFolder:
    """The folder of a run that saves at steps 3, 6 and 9 of 11 and keeps all."""
    job = Job.model_validate(
        {
            "name": "damaged",
            "model": {"pretrained": str(model), "dropout": 0.0},
            "task": "text-classification",
            "data": {
                "train": str(material / "train.csv"),
                "validation": {"held": str(material / "held.csv")},
                "cache": str(material / "cache"),
                "allow_leakage": True,
            },
            "train": {
                "epochs": 9,
                "max_steps": STEPS,
                "global_batch_size": 8,
                "micro_batch_size": 4,
                "max_length": 32,
                "precision": "fp32",
                "optimizer": {"name": "adamw", "lr": 1e-3},
            },
            "validation": {"every": 3, "metric": "loss"},
            "checkpoint": {"every_steps": 3, "keep": 9, "result": "last"},
            "engine": engine_section("single" if world == 1 else "ddp"),
            "launch": {"processes": world, "device": "cpu", "runs": str(folder.parent)},
            **settings,
        }
    )
    run = RunFolder(folder)
    run.logs.mkdir(parents=True, exist_ok=True)
    run.checkpoints.mkdir(exist_ok=True)
    run.write_job(job)
    run.write_plan(make_plan(job, run.job_file, find_hardware(), processes=world))
    return run


def go(rank: int, size: int, path: str, mischief: str = "") -> str:
    """Go on from what `start.json` says, as a start of a launcher would; gives the error's class and text.

    mischief: a folder that is removed when the last step was made
    """
    folder = RunFolder(Path(path))
    log = EventLog(folder.events_file if rank == 0 else None)
    world = World.at(RankEnv(rank, rank, size), "cpu")
    context = RunContext(
        load_job(folder.job_file), folder.plan(), folder, world, log, Attempt.read(folder) or Attempt()
    )
    choose = recipe.choose_weights

    def mischievous(*arguments: Any) -> Any:
        if mischief and rank == 0:
            shutil.rmtree(mischief)
        world.wait()
        return choose(*arguments)

    recipe.choose_weights = mischievous
    try:
        recipe.fine_tune(context, StopRequest())
    except AdaptrunError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        recipe.choose_weights = choose
        log.close()
    return ""


def notes(run: RunFolder) -> list[str]:
    return [event.text for event in EventTail(run.events_file).read() if isinstance(event, Note)]


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run.model / "model.safetensors")
    return found


def at(run: RunFolder, step: int) -> Path:
    return run.checkpoints / checkpoint_name(step)


def interrupted(
    whole: RunFolder, folder: Path, material: Path, model: Path, world: int, insists: bool = False
) -> RunFolder:
    """The same run as if it had been killed after step 9."""
    run = lay_out(folder, material, model, world)
    for step in SAVED:
        shutil.copytree(at(whole, step), at(run, step))
    begin_attempt(run, "resumed", at(run, 9), insists=insists)
    return run


@pytest.fixture(scope="module")
def whole(material: Path, worlds: Worlds, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing happened to."""
    run = lay_out(tmp_path_factory.mktemp("whole") / "run", material, tiny_model, 1)
    assert worlds.run(1, go, str(run.path)) == [""]
    assert Result.read(run.result_file).result_step == STEPS
    return run


@pytest.mark.parametrize(("world", "file"), [(1, "__0_0.distcp"), (2, "__0_0.distcp"), (1, "progress.json")])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    world: int, file: str, whole: RunFolder, material: Path, tiny_model: Path, worlds: Worlds, tmp_path: Path
) -> None:
    run = interrupted(whole, tmp_path / "run", material, tiny_model, world)
    flip_a_bit(at(run, 9) / file)
    (at(run, 6) / ".metadata").unlink()
    assert worlds.run(world, go, str(run.path)) == [""] * world
    first, second = [note for note in notes(run) if note.startswith("skipped")]
    assert first.startswith(f"skipped step-00000009, which is damaged: {file} ")
    assert second == f"skipped step-00000006, which is damaged: .metadata is missing; resuming from {at(run, 3)}"
    start = Attempt.read(run)
    assert start is not None
    assert start.from_step == 3
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(
            weights(run)[name], tensor, rtol=0 if world == 1 else 1e-3, atol=0 if world == 1 else 1e-4
        )
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        checkpoint_name(step) for step in (*SAVED, STEPS)
    ]


@pytest.mark.parametrize("world", [1, 2])
def test_one_that_was_named_and_one_with_none_before_end_the_start_and_say_which_others_exist(
    world: int, whole: RunFolder, material: Path, tiny_model: Path, worlds: Worlds, tmp_path: Path
) -> None:
    run = interrupted(whole, tmp_path / "run", material, tiny_model, world, insists=True)
    flip_a_bit(at(run, 9) / "__0_0.distcp")
    told = worlds.run(world, go, str(run.path))
    assert len(set(told)) == 1
    assert told[0].startswith(
        f"DamagedCheckpoint: {at(run, 9)} is damaged: __0_0.distcp has changed since it was written"
    )
    assert "the others are step-00000003, step-00000006; resume from one of them: --resume" in told[0]
    begin_attempt(run, "resumed", at(run, 3))
    flip_a_bit(at(run, 3) / "__0_0.distcp")
    told = worlds.run(world, go, str(run.path))
    assert "there is no earlier one to resume from; the others are step-00000006, step-00000009" in told[0]
    assert at(run, 3).is_dir(), "it is left as it is"


def test_one_that_was_removed_before_the_ranks_began_is_passed_over_too(
    whole: RunFolder, material: Path, tiny_model: Path, worlds: Worlds, tmp_path: Path
) -> None:
    run = interrupted(whole, tmp_path / "run", material, tiny_model, 2)
    shutil.rmtree(at(run, 9))
    assert worlds.run(2, go, str(run.path)) == ["", ""]
    assert any(note.startswith("skipped step-00000009, which is damaged: the folder is miss") for note in notes(run))


def test_a_checkpoint_of_an_earlier_version_is_taken_with_a_note(
    whole: RunFolder, material: Path, tiny_model: Path, worlds: Worlds, tmp_path: Path
) -> None:
    run = interrupted(whole, tmp_path / "run", material, tiny_model, 1)
    (at(run, 9) / HASHES).unlink()
    (at(run, 9) / "complete.json").write_text('{"format": 1, "step": 9}')
    assert worlds.run(1, go, str(run.path)) == [""]
    assert [
        note for note in notes(run) if note.startswith("step-00000009 was saved without hashes by an earlier version")
    ]


@pytest.mark.parametrize("what", ["checkpoint", "skeleton"])
@pytest.mark.parametrize("world", [1, 2])
def test_what_was_deleted_in_mid_run_costs_the_choice_and_not_the_run(
    what: str, world: int, material: Path, tiny_model: Path, worlds: Worlds, tmp_path: Path
) -> None:
    train = {
        "epochs": 9,
        "max_steps": 6,
        "global_batch_size": 8,
        "max_length": 32,
        "precision": "fp32",
        "optimizer": {"name": "sgd", "lr": 3.0},
        "clip_norm": None,
    }
    settings = {"train": train, "validation": {"every": 1, "metric": "loss"}, "checkpoint": {"keep": 1}}
    run = lay_out(tmp_path / "run", material, tiny_model, world, **settings)
    best = tmp_path / "run" / "skeleton"
    if what == "checkpoint":
        assert worlds.run(world, go, str(run.path)) == [""] * world
        step = Result.read(run.result_file).best_step
        assert step is not None
        assert step < 6, "it has diverged"
        assert Result.read(run.result_file).result_step == step
        best = at(run, step)
        run = lay_out(tmp_path / "run", material, tiny_model, world, **settings)
        shutil.rmtree(run.checkpoints)
        run.checkpoints.mkdir()
    assert worlds.run(world, go, str(run.path), str(best)) == [""] * world
    result = Result.read(run.result_file)
    assert result.status == "done"
    assert (run.model / "tokenizer.json").is_file()
    if what == "skeleton":
        assert f"{run.skeleton} was damaged, and has been written again: it is missing" in notes(run)
        assert result.result_step == result.best_step
        return
    assert result.result_step == 6
    lost = f"the checkpoint of step {result.best_step}, which was best, cannot be used: the folder is missing"
    assert result.selector == f"being the last, of step 6, since {lost}"
    assert f"{lost}; using the last model, of step 6" in notes(run)
    assert result.verdict is not None
    assert f"The result is the last model, since {lost}" in result.verdict.reason
    last = [event for event in EventTail(run.events_file).read() if isinstance(event, Evaluated)][-1]
    assert result.sets["held"].after["loss"] == last.metrics["held"]["loss"], "measured on the model that was taken"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_result_is_not_published_with_a_skeleton_that_is_damaged(
    damage: str, whole: RunFolder, tmp_path: Path
) -> None:
    from launcher.checkpoint.consolidating import consolidate
    from launcher.errors import CheckpointError

    copy = RunFolder(Path(shutil.copytree(whole.path, tmp_path / "run")))
    consolidate(copy.path, tmp_path / "sound", "fp32", None, None)
    assert not (tmp_path / "sound" / HASHES).exists()
    assert json.loads((tmp_path / "sound" / "config.json").read_text())["model_type"] == "bert"
    DAMAGES[damage](copy.skeleton / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"skeleton is damaged: tokenizer\.json .*--like FOLDER"):
        consolidate(copy.path, tmp_path / "model", "fp32", None, None)
    assert not (tmp_path / "model").exists()


def test_a_run_that_resumes_without_its_selection_weights_is_refused(
    whole: RunFolder, material: Path, tiny_model: Path, worlds: Worlds, tmp_path: Path
) -> None:
    data = {
        "train": str(material / "train.csv"),
        "validation": {"held": str(material / "held.csv")},
        "target": str(material / "held.csv"),
        "cache": str(material / "cache"),
        "allow_leakage": True,
    }
    validation = {"every": 3, "metric": "accuracy", "selector": "importance-weighted"}
    run = lay_out(tmp_path / "run", material, tiny_model, 1, data=data, validation=validation)
    assert worlds.run(1, go, str(run.path)) == [""]
    shutil.rmtree(run.model)
    begin_attempt(run, "resumed", at(run, 9))
    assert worlds.run(1, go, str(run.path)) == [""], "they are sound"
    flip_a_bit(run.selection_file)
    begin_attempt(run, "resumed", at(run, 9))
    (told,) = worlds.run(1, go, str(run.path))
    assert told.startswith(
        f"RequestError: {run.selection_file} is damaged: selection.npy has changed since it was written"
    )
    assert told.endswith("restore the file, or start a new run with --resume never")
