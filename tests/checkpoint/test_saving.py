"""Checkpoints appear whole or not at all, are read under any world size, and only those asked for are kept."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from launcher.checkpoint import saving
from launcher.checkpoint.reading import read_progress, read_state
from launcher.checkpoint.saving import Checkpoints
from launcher.engines.base import StateDict
from launcher.errors import CheckpointError
from launcher.run.checkpoints import MARKER, PROGRESS, complete_checkpoints, incomplete_checkpoints, step_of
from tests.worlds import Worlds


def a_state(seed: int = 0) -> StateDict:
    draw = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(5, 3, generator=draw), torch.randn(3, generator=draw)
    return {
        "model": {"layer.weight": weight, "layer.bias": bias, "scale": torch.tensor(2.5), "count": torch.tensor(7)},
        "learning": {"layer.weight": weight, "layer.bias": bias},
        "optimizer": {
            "layer.weight": {"step": torch.tensor(4.0), "exp_avg": weight * 2, "exp_avg_sq": weight.square()},
            "layer.bias": {"step": torch.tensor(4.0), "exp_avg": bias * 3},
        },
        "scaler": {},
    }


def empty_like(state: StateDict) -> StateDict:
    model = {name: torch.zeros_like(t) for name, t in state["model"].items()}
    return {"model": model, "learning": state["learning"], "optimizer": {}, "scaler": {}}


def assert_equal(found: StateDict, expected: StateDict) -> None:
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor)
    assert {name: set(slots) for name, slots in found["optimizer"].items()} == {
        name: set(slots) for name, slots in expected["optimizer"].items()
    }
    for name, slots in expected["optimizer"].items():
        for slot, tensor in slots.items():
            assert torch.equal(found["optimizer"][name][slot], tensor)


def save_with_ranks(rank: int, size: int, folder: str) -> None:
    Checkpoints(Path(folder), keep=2).save(3, a_state(), {"step": 3, "loss": 0.1 + 0.2}, best_step=None)


def read_with_ranks(rank: int, size: int, checkpoint: str) -> dict[str, Any]:
    found = read_state(Path(checkpoint), empty_like(a_state()))
    assert_equal(found, a_state())
    return read_progress(Path(checkpoint))


@pytest.mark.parametrize("readers", [1, 2, 3])
@pytest.mark.parametrize("writers", [1, 2, 3])
def test_what_any_world_wrote_any_world_reads(writers: int, readers: int, worlds: Worlds, tmp_path: Path) -> None:
    worlds.run(writers, save_with_ranks, str(tmp_path))
    (checkpoint,) = complete_checkpoints(tmp_path)
    assert checkpoint.name == "step-00000003"
    for progress in worlds.run(readers, read_with_ranks, str(checkpoint)):
        assert progress == {"step": 3, "loss": 0.1 + 0.2}


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(step, a_state(), {"step": step}, best_step=2 if step > 1 else 1)
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [2, 4, 5]
    assert sorted(os.listdir(tmp_path)) == ["step-00000002", "step-00000004", "step-00000005"]


def test_what_goes_on_from_an_earlier_checkpoint_keeps_its_own(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (3, 6, 9):
        checkpoints.save(step, a_state(), {"step": step}, best_step=3)
    again = Checkpoints(tmp_path, keep=1, start=2)
    for step, kept in ((5, [3, 5, 9]), (7, [3, 7, 9]), (9, [3, 9]), (11, [3, 11])):
        again.save(step, a_state(), {"step": step}, best_step=3)
        assert [step_of(path) for path in complete_checkpoints(tmp_path)] == kept


def test_the_model_can_be_read_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, a_state(), {}, best_step=None)
    found = read_state(checkpoints.at(1), empty_like(a_state()), optimizer=False)
    assert found["optimizer"] == {}
    assert torch.equal(found["model"]["layer.weight"], a_state()["model"]["layer.weight"])


def test_a_checkpoint_without_its_marker_does_not_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, a_state(step), {"step": step}, best_step=None)
    (checkpoints.at(2) / MARKER).unlink()
    shutil.copytree(checkpoints.at(2), tmp_path / "step-00000003.partial-1")
    assert complete_checkpoints(tmp_path) == [checkpoints.at(1)]
    assert {path.name for path in incomplete_checkpoints(tmp_path)} == {"step-00000002", "step-00000003.partial-1"}
    checkpoints.save(2, a_state(2), {"step": 2}, best_step=None)
    assert complete_checkpoints(tmp_path) == [checkpoints.at(1), checkpoints.at(2)]


def test_a_save_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, a_state(), {"step": 1}, best_step=None)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save", full_disk)
    with pytest.raises(CheckpointError, match=r"No space left on device .*; earlier checkpoints are intact"):
        checkpoints.save(2, a_state(), {"step": 2}, best_step=None)
    assert complete_checkpoints(tmp_path) == [checkpoints.at(1)]
    assert_equal(read_state(checkpoints.at(1), empty_like(a_state())), a_state())


def save_where_files_may_not_grow(rank: int, size: int, folder: str) -> str:
    """Save step 1, then step 2 while the system refuses to write more than a few bytes a file, then step 3."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(Path(folder), keep=2)
    checkpoints.save(1, a_state(1), {"step": 1}, best_step=None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        checkpoints.save(2, a_state(2), {"step": 2}, best_step=None)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return "nothing was refused"


@pytest.mark.parametrize("size", [1, 2])
def test_a_write_that_the_system_refuses_is_told_by_every_rank(size: int, worlds: Worlds, tmp_path: Path) -> None:
    for said in worlds.run(size, save_where_files_may_not_grow, str(tmp_path)):
        assert "step-00000002.partial-1 could not be written: " in said
        assert "earlier checkpoints are intact" in said
        assert "Traceback" not in said
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [1]
    worlds.run(size, save_with_ranks, str(tmp_path))
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [1, 3]


def test_a_disk_without_room_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, a_state(), {"step": 1}, best_step=None)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"step-00000002.* needs 0 MiB, and .* has 0 MiB free; free some space"):
        checkpoints.save(2, a_state(), {"step": 2}, best_step=None)
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [1]


def save_in_background(rank: int, size: int, folder: str, slow: float) -> tuple[bool, list[int], list[float]]:
    """Save step 1 on a slow disk, change the weights meanwhile, save step 2, and wait."""
    told: list[int] = []
    checkpoints = Checkpoints(
        Path(folder), 2, in_background=True, on_saved=lambda step, path, seconds: told.append(step)
    )
    state = a_state(1)
    with slow_disk(slow):
        checkpoints.save(1, state, {"step": 1}, best_step=None)
        went_on = not (Path(folder) / "step-00000001" / MARKER).exists()
        assert not checkpoints.has_failed()
        for held in state["model"].values():
            held.zero_()
        checkpoints.save(2, a_state(2), {"step": 2}, best_step=None)
        assert told == [1], "at most one is in flight"
        checkpoints.wait()
    return went_on, told, read_state(checkpoints.at(1), empty_like(a_state()))["model"]["layer.bias"].tolist()


@contextmanager
def slow_disk(seconds: float) -> Iterator[None]:
    sync = os.fsync
    os.fsync = lambda file: (time.sleep(seconds), sync(file))[1]
    try:
        yield
    finally:
        os.fsync = sync


@pytest.mark.parametrize("size", [1, 2])
def test_training_goes_on_while_a_copy_is_written(size: int, worlds: Worlds, tmp_path: Path) -> None:
    for went_on, told, bias in worlds.run(size, save_in_background, str(tmp_path), 0.3):
        assert went_on
        assert told == [1, 2]
        assert bias == a_state(1)["model"]["layer.bias"].tolist(), "as it was when the save began"
    assert [step_of(path) for path in complete_checkpoints(tmp_path)] == [1, 2]


def fail_in_background(rank: int, size: int, folder: str, fails_at: str) -> list[str]:
    """Save where one rank alone cannot; it is told by `has_failed`, then raised once, then forgotten."""
    checkpoints = Checkpoints(Path(folder), 2, in_background=True)
    owner = FileSystemWriter if fails_at == "write_data" else Checkpoints
    stage = getattr(owner, fails_at)

    def failing(*arguments: Any) -> Any:
        if rank == (size - 1 if fails_at == "write_data" else 0):
            raise OSError(28, "No space left on device")
        return stage(*arguments)

    setattr(owner, fails_at, failing)
    checkpoints.save(1, a_state(), {"step": 1}, best_step=None)
    while not checkpoints.has_failed():
        time.sleep(0.01)
    said = []
    with pytest.raises(CheckpointError) as error:
        checkpoints.wait()
    said.append(str(error.value))
    setattr(owner, fails_at, stage)
    assert not checkpoints.has_failed()
    checkpoints.save(2, a_state(), {"step": 2}, best_step=None)
    checkpoints.wait()
    return said


@pytest.mark.parametrize("fails_at", ["_make_room", "write_data", "_complete"])
@pytest.mark.parametrize("size", [1, 2])
def test_a_save_that_fails_on_one_rank_is_told_by_all(size: int, fails_at: str, worlds: Worlds, tmp_path: Path) -> None:
    for (said,) in worlds.run(size, fail_in_background, str(tmp_path), fails_at):
        assert "step-00000001.partial-1 could not be written: " in said
        assert "No space left on device" in said
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a mebibyte of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs root, to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def a_large_state() -> StateDict:
    """300 KiB, so that three do not fit a mebibyte with what stands beside them."""
    weight = torch.arange(75_000.0).reshape(300, 250)
    return {"model": {"weight": weight}, "learning": {"weight": weight}, "optimizer": {}, "scaler": {}}


def test_a_disk_that_fills_up_costs_one_save(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk, keep=9)
    for step in (1, 2):
        checkpoints.save(step, a_large_state(), {"step": step}, best_step=None)
    (small_disk / "somebody's").write_bytes(bytes(250_000))
    with pytest.raises(CheckpointError, match=r"step-00000003\.partial-1 could not be written: it needs 0 MiB, and"):
        checkpoints.save(3, a_large_state(), {"step": 3}, best_step=None)
    assert complete_checkpoints(small_disk) == [checkpoints.at(1), checkpoints.at(2)]
    assert_equal(read_state(checkpoints.at(2), a_large_state()), a_large_state())


def test_a_disk_that_fills_up_meanwhile_costs_one_save(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_bytes_of", lambda held: 0)  # somebody else was faster
    checkpoints = Checkpoints(small_disk, keep=9)
    for step in (1, 2):
        checkpoints.save(step, a_large_state(), {"step": step}, best_step=None)
    (small_disk / "somebody's").write_bytes(bytes(300_000))
    with pytest.raises(CheckpointError, match=r"could not be written: .* \(0 MiB are free\); earlier checkpoints"):
        checkpoints.save(3, a_large_state(), {"step": 3}, best_step=None)
    assert sorted(path.name for path in small_disk.iterdir()) == ["somebody's", "step-00000001", "step-00000002"]
    assert_equal(read_state(checkpoints.at(2), a_large_state()), a_large_state())


def test_a_read_only_disk_costs_one_save(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk, keep=9, in_background=True)
    checkpoints.save(1, a_large_state(), {"step": 1}, best_step=None)
    checkpoints.wait()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    checkpoints.save(2, a_large_state(), {"step": 2}, best_step=None)
    with pytest.raises(CheckpointError, match=r"Read-only file system.*; earlier checkpoints are intact"):
        checkpoints.wait()
    assert complete_checkpoints(small_disk) == [checkpoints.at(1)]
    assert_equal(read_state(checkpoints.at(1), a_large_state()), a_large_state())


@pytest.mark.parametrize("damage", ["no metadata", "no tensors", "half the tensors", "another shape", "no progress"])
def test_a_damaged_checkpoint_is_an_error_that_says_so(damage: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, a_state(), {"step": 1}, best_step=None)
    path = checkpoints.at(1)
    like = empty_like(a_state())
    tensors = next(path.glob("*.distcp"))
    if damage == "no metadata":
        (path / ".metadata").unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "half the tensors":
        tensors.write_bytes(tensors.read_bytes()[: tensors.stat().st_size // 2])
    elif damage == "another shape":
        like["model"]["layer.weight"] = torch.zeros(9, 3)
    else:
        (path / PROGRESS).write_text(json.dumps({"step": 1})[:-3])
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_progress(path)
        return
    with pytest.raises(CheckpointError, match=r"step-00000001 cannot be read: .*; resume from another one"):
        read_state(path, like)
