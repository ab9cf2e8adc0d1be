"""Each file of a checkpoint carries a hash, which all ranks look at together before they read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import xxhash

from launcher.checkpoint.consolidating import consolidate
from launcher.checkpoint.hashing import dealt, fault_of
from launcher.errors import DamagedCheckpoint
from launcher.files import HASHES, FileHash
from launcher.run.checkpoints import MARKER, METADATA, PROGRESS, complete_checkpoints, quick_fault
from tests.checkpoint.test_saving import save_with_ranks
from tests.damage import DAMAGES, flip_a_bit, truncate
from tests.worlds import Worlds


def faults(rank: int, size: int, checkpoints: list[str]) -> list[str | None]:
    return [fault_of(Path(checkpoint)) for checkpoint in checkpoints]


def saved(worlds: Worlds, writers: int, folder: Path) -> Path:
    worlds.run(writers, save_with_ranks, str(folder))
    (checkpoint,) = complete_checkpoints(folder)
    return checkpoint


@pytest.mark.parametrize("writers", [1, 3])
def test_every_file_is_listed_with_what_was_written(writers: int, worlds: Worlds, tmp_path: Path) -> None:
    checkpoint = saved(worlds, writers, tmp_path)
    listed = json.loads((checkpoint / HASHES).read_text())
    assert set(listed) == {file.name for file in checkpoint.iterdir()} - {HASHES, MARKER}
    assert len(listed) == writers + 2
    for name, known in listed.items():
        content = (checkpoint / name).read_bytes()
        assert known == {"size": len(content), "hash": xxhash.xxh3_128_hexdigest(content)}
    assert quick_fault(checkpoint) is None


def damaged_copies(checkpoint: Path, folder: Path) -> dict[str, str]:
    """Copies of a checkpoint, each with one damage to one file; gives the file that is named."""
    copies = {}
    for file in (
        *sorted(checkpoint.glob("*.distcp")),
        checkpoint / METADATA,
        checkpoint / PROGRESS,
        checkpoint / HASHES,
    ):
        for name, damage in DAMAGES.items():
            copy = folder / f"{file.name}-{name}"
            shutil.copytree(checkpoint, copy)
            damage(copy / file.name)
            copies[str(copy)] = file.name
    return copies


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_any_damage_to_any_file_is_seen_and_named_by_every_rank(readers: int, worlds: Worlds, tmp_path: Path) -> None:
    copies = damaged_copies(saved(worlds, 2, tmp_path / "run"), tmp_path / "copies")
    told = worlds.run(readers, faults, list(copies))
    assert all(said == told[0] for said in told)
    for (copy, file), fault in zip(copies.items(), told[0], strict=True):
        assert fault is not None, copy
        if file != HASHES:
            assert fault.startswith(file), (copy, fault)


def test_sound_ones_and_ones_that_are_gone_are_told_apart(worlds: Worlds, tmp_path: Path) -> None:
    sound = saved(worlds, 2, tmp_path / "run")
    half = shutil.copytree(sound, tmp_path / "half")
    (half / MARKER).unlink()
    told = worlds.run(2, faults, [str(sound), str(half), str(tmp_path / "nowhere")])
    assert told[0] == told[1]
    assert told[0][0] is None
    assert "complete.json is missing" in str(told[0][1])
    assert told[0][2] == "the folder is missing"


def test_a_checkpoint_of_an_earlier_version_is_taken_without_hashes(worlds: Worlds, tmp_path: Path) -> None:
    checkpoint = saved(worlds, 1, tmp_path / "run")
    (checkpoint / HASHES).unlink()
    assert fault_of(checkpoint) == "hashes.json is missing", "this version has written them"
    (checkpoint / MARKER).write_text('{"format": 1, "step": 3}')
    assert fault_of(checkpoint) is None
    assert quick_fault(checkpoint) is None
    (checkpoint / PROGRESS).unlink()
    assert fault_of(checkpoint) == "progress.json is missing"


def test_the_files_are_dealt_so_that_each_is_read_once() -> None:
    hashes = {name: FileHash(size, "") for name, size in (("a", 5), ("b", 9), ("c", 4), ("d", 1), ("e", 0))}
    hands = dealt(hashes, 3)
    assert sorted(name for hand in hands for name in hand) == ["a", "b", "c", "d", "e"]
    assert [sum(known.size for known in hand.values()) for hand in hands] == [9, 5, 5]


def two_checkpoints(folder: Path) -> tuple[Path, Path]:
    from launcher.checkpoint.saving import Checkpoints
    from tests.checkpoint.test_saving import a_state

    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    for step in (1, 2):
        state = a_state(step)
        named = {f"model.{name}": held for name, held in state["model"].items()}
        checkpoints.save(step, {**state, "model": named}, {"step": step}, best_step=None)
    return checkpoints.at(1), checkpoints.at(2)


def test_consolidating_a_run_passes_over_a_damaged_checkpoint_and_says_so(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tests.checkpoint.test_saving import a_state

    _, last = two_checkpoints(tmp_path)
    flip_a_bit(next(last.glob("*.distcp")))
    said: list[str] = []
    consolidate(tmp_path, tmp_path / "model", "fp32", None, None, said.append)
    assert said == [
        "skipped step-00000002, which is damaged: __0_0.distcp has changed since it was written "
        "(its hash differs); using step-00000001"
    ]
    found = load_file(tmp_path / "model" / "model.safetensors")["layer.weight"]
    assert found.tolist() == a_state(1)["model"]["layer.weight"].tolist()


def test_consolidating_a_damaged_checkpoint_that_was_named_is_refused(tmp_path: Path) -> None:
    first, last = two_checkpoints(tmp_path)
    truncate(last / METADATA)
    with pytest.raises(DamagedCheckpoint, match=r"step-00000002 is damaged: \.metadata .*the run are step-00000001"):
        consolidate(last, tmp_path / "model", "fp32", None, None)
    truncate(first / METADATA)
    with pytest.raises(
        DamagedCheckpoint, match=r"all complete checkpoints of .* are damaged: step-00000002: .*; step-"
    ):
        consolidate(tmp_path, tmp_path / "model", "fp32", None, None)
    assert not (tmp_path / "model").exists()
