"""Prepared data carry hashes that are looked at once a start; what is damaged is made again, with a word."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data.prepared import Prepared
from launcher.files import HASHES, Owner, fault_of_folder
from launcher.job.sections.data import Source
from launcher.job.sections.training import Train
from tests.damage import DAMAGES, flip_a_bit
from tests.data.test_prepared import write
from tests.test_files import a_dead_process, named
from tests.tiny import write_texts

FILES = ("samples.arrow", "facts.json", "fingerprints.npy", HASHES)


@pytest.fixture(scope="module")
def kept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds 300 samples, and their source beside it."""
    folder = tmp_path_factory.mktemp("kept")
    write_texts(folder / "t.csv", 300)
    prepare(tiny_model, folder, [])
    return folder


def prepare(model: Path, folder: Path, said: list[str], known: tuple[str, ...] = ()) -> Prepared:
    from transformers import AutoTokenizer

    from launcher.models.tasks.text_classification import TextClassification
    from launcher.worker.data.preparing import Preparer

    preparer = Preparer(
        TextClassification,
        AutoTokenizer.from_pretrained(model),
        "identity",
        Train(max_length=16),
        folder / "cache",
        lambda done, total: None,
        said.append,
    )
    source = Source(source=str(folder / "t.csv"))
    found = preparer.prepare_training({"train": source}, known)["train"]
    preparer.prepare(source, found.facts.labels)
    return found


def samples(prepared: Prepared) -> list[tuple[list[int], int]]:
    return [(sample["input_ids"].tolist(), int(sample["label"])) for sample in prepared[range(len(prepared))]]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_any_damage_to_any_file_is_told_once_and_mended(
    file: str, damage: str, kept: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "copy"))
    expected = prepare(tiny_model, folder, [])
    wanted, fingerprints = samples(expected), expected.fingerprints.tolist()
    DAMAGES[damage](expected.folder / file)
    said: list[str] = []
    found = prepare(tiny_model, folder, said)
    assert found.folder == expected.folder
    assert samples(found) == wanted
    assert found.fingerprints.tolist() == fingerprints
    (told,) = said
    assert told.startswith(f"the prepared data in {found.folder} are damaged, and are prepared again: ")
    assert file == HASHES or f": {file} " in told
    assert fault_of_folder(found.folder) is None
    prepare(tiny_model, folder, said)
    assert len(said) == 1, "they are sound now"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_labels_are_looked_up_again(damage: str, kept: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "copy"))
    (labels,) = folder.rglob("*.labels.json")
    DAMAGES[damage](labels)
    said: list[str] = []
    assert prepare(tiny_model, folder, said).facts.labels == ("class-0", "class-1")
    assert len(said) == (0 if damage == "delete" else 1)
    assert all(f"the labels in {labels} are damaged" in told for told in said)


def test_data_of_an_earlier_version_without_hashes_are_made_again(kept: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "copy"))
    (hashes,) = folder.rglob(HASHES)
    hashes.unlink()
    said: list[str] = []
    prepare(tiny_model, folder, said)
    assert [told.rpartition(": ")[2] for told in said] == ["hashes.json is missing"]


def test_who_reads_damaged_data_meanwhile_goes_on_reading_and_the_folder_is_never_gone(tmp_path: Path) -> None:
    from launcher.data.prepared import PreparedWriter

    rows = write(tmp_path / "p", 50)
    reader = Prepared(tmp_path / "p")
    flip_a_bit(tmp_path / "p" / "fingerprints.npy")
    inode = (tmp_path / "p").stat().st_ino
    with PreparedWriter(tmp_path / "p", replaces=True) as writer:
        writer.write({"input_ids": rows, "length": [len(row) for row in rows], "label": [0] * len(rows)})
        writer.finish(("even", "odd"), (1, 2))
    assert (tmp_path / "p").stat().st_ino == inode
    assert [sample["input_ids"].tolist() for sample in reader[range(50)]] == rows
    assert Prepared(tmp_path / "p")[[7]][0]["label"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def prepare_as_container(folder: str, barrier: Any) -> int:
    """With the process id of every other container."""
    import os

    os.getpid = lambda: 7
    barrier.wait()
    write(Path(folder), 500)
    return len(Prepared(Path(folder)))


def test_containers_whose_processes_have_the_same_number_may_prepare_the_same_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, context.Pool(3, maxtasksperchild=1) as pool:
        barrier = manager.Barrier(3)
        counts = pool.starmap(prepare_as_container, [(str(tmp_path / "p"), barrier)] * 3, chunksize=1)
    assert counts == [500] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert fault_of_folder(tmp_path / "p") is None


def test_what_killed_processes_left_is_removed_by_the_next_that_prepares(tmp_path: Path) -> None:
    left, alive = named(tmp_path / "p", a_dead_process()), named(tmp_path / "p", Owner.this())
    for folder in (left, alive):
        folder.mkdir()
        (folder / "samples.arrow").write_bytes(b"half")
    write(tmp_path / "p", 3)
    assert {path.name for path in tmp_path.iterdir()} == {"p", alive.name}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_outcomes_are_taken_for_none(damage: str, tmp_path: Path) -> None:
    from launcher.measure.compare.per_sample_results import PerSampleResults

    file = tmp_path / "outcomes" / "near" / "before.parquet"
    values = np.random.default_rng(0).standard_normal((500, 3))
    PerSampleResults("data", "model", ("loss", "answer", "label"), values).write(file)
    found = PerSampleResults.read(file)
    assert found is not None
    np.testing.assert_array_equal(found.values, values)
    DAMAGES[damage](file)
    assert PerSampleResults.read(file) is None
