"""Features are those of the model, in the order of the samples, the same at any world size, and extracted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from launcher.job.schema import Job
from launcher.job.sections.tasks import find_family
from launcher.measure.quality.label_sets import label_format
from launcher.measure.quality.samples import read_sets
from launcher.run.events import EventTail, Note
from launcher.run.folder import RunFolder
from tests.architectures import small_model
from tests.damage import DAMAGES
from tests.families import JOBS, SAMPLES, job_values
from tests.worlds import Worlds


def extract(rank: int, size: int, path: str, values: dict[str, Any]) -> dict[str, str]:
    """The files of the features of each set."""
    from launcher.worker.evaluation.features import features_of_sets
    from launcher.worker.rank.process import RankEnv
    from launcher.worker.rank.world import World

    return features_of_sets(
        Job.model_validate(values), RunFolder(Path(path)), World.at(RankEnv(rank, rank, size), "cpu")
    )


def extracted(worlds: Worlds, size: int, folder: Path, values: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    folder.mkdir()
    answers = worlds.run(size, extract, str(folder), values)
    assert all(answer == answers[0] for answer in answers)
    return {name: np.load(file) for name, file in answers[0].items()}


@pytest.mark.parametrize("name", ["pairs", "regression", "tokens", "responses", "chats, packed", "masked", "images"])
def test_every_family_gives_one_vector_a_sample_at_any_world_size(name: str, worlds: Worlds, tmp_path: Path) -> None:
    values = job_values(name, tmp_path)
    unlabelled = JOBS[name].data(tmp_path, 3, 5)
    if name not in ("regression", "tokens"):
        values["data"]["target"] = unlabelled
    alone = extracted(worlds, 1, tmp_path / "one", values)
    values["data"]["cache"] = str(tmp_path / "other-cache")
    values["validation"] = {**values["validation"], "batch_size": 3}
    together = extracted(worlds, 2, tmp_path / "two", values)
    assert alone.keys() == together.keys() >= {"train", "held"}
    assert {name: len(found) for name, found in alone.items()}.items() >= {"train": SAMPLES, "held": 9}.items()
    for set_name, found in alone.items():
        assert found.dtype == np.float32
        assert found.shape[1] == 32
        assert len(np.unique(found, axis=0)) > len(found) / 2
        np.testing.assert_allclose(found, together[set_name], atol=2e-6)


def test_several_training_sets_are_one_in_the_order_in_which_they_are_read(worlds: Worlds, tmp_path: Path) -> None:
    values = job_values("focal", tmp_path)
    train, held = values["data"]["train"], values["data"]["validation"]["held"]
    values["data"]["train"] = {"films": train, "shops": held}
    values["data"]["target"] = JOBS["focal"].data(tmp_path, 3, 5)
    found = extracted(worlds, 2, tmp_path / "run", values)
    assert [len(found[name]) for name in ("train", "held", "target")] == [SAMPLES + 9, 9, 5]
    np.testing.assert_allclose(found["train"][SAMPLES:], found["held"], atol=2e-6)
    job = Job.model_validate(values)
    of_task = find_family(job.task, loss=job.train.loss.name)
    read, other, _ = read_sets(job, of_task, label_format(job, of_task))
    assert len(read) == SAMPLES + 9
    np.testing.assert_array_equal(read.fingerprints[SAMPLES:], other.fingerprints)


def test_they_are_the_mean_of_the_last_hidden_state_without_padding(worlds: Worlds, tmp_path: Path) -> None:
    values = job_values("focal", tmp_path)
    found = extracted(worlds, 2, tmp_path / "run", values)["train"]
    model = AutoModel.from_pretrained(values["model"]["pretrained"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(values["model"]["pretrained"])
    lines = Path(values["data"]["train"]["source"]).read_text().splitlines()
    for row, line in zip(found, lines, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(json.loads(line)["text"], return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(row, hidden.mean(0).numpy(), atol=2e-6)


def test_they_are_kept_until_the_model_or_the_data_change(worlds: Worlds, tmp_path: Path) -> None:
    values = job_values("focal", tmp_path)
    first = worlds.run(1, extract, str(tmp_path), values)[0]
    written = {file: Path(file).stat().st_mtime_ns for file in first.values()}
    assert worlds.run(1, extract, str(tmp_path), values)[0] == first
    assert {file: Path(file).stat().st_mtime_ns for file in first.values()} == written

    held = Path(values["data"]["validation"]["held"]["source"])
    held.write_text(held.read_text().replace("babe", "bide") + '{"text": "bide", "label": "a"}\n')
    second = worlds.run(1, extract, str(tmp_path), values)[0]
    assert second["train"] == first["train"]
    assert second["held"] != first["held"]

    model = AutoModel.from_pretrained(values["model"]["pretrained"])
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 0.01
    model.save_pretrained(values["model"]["pretrained"])
    third = worlds.run(1, extract, str(tmp_path), values)[0]
    assert not set(third.values()) & set(second.values())
    assert not list(Path(next(iter(third.values()))).parent.glob(".*")), "nothing half written is left"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ones_are_extracted_again_with_a_word(damage: str, worlds: Worlds, tmp_path: Path) -> None:
    values = job_values("focal", tmp_path)
    files = worlds.run(1, extract, str(tmp_path), values)[0]
    expected = np.load(files["train"])
    DAMAGES[damage](Path(files["train"]))
    assert worlds.run(2, extract, str(tmp_path), values) == [files, files]
    np.testing.assert_allclose(np.load(files["train"]), expected, atol=2e-6)
    notes = [event.text for event in EventTail(tmp_path / "metrics.jsonl").read() if isinstance(event, Note)]
    told = [note for note in notes if note.startswith(f"the features in {files['train']} are damaged")]
    assert len(told) == (0 if damage == "delete" else 1)


def test_a_model_whose_numbers_padding_changes_gets_batches_of_one_length_with_a_word(
    worlds: Worlds, tmp_path: Path
) -> None:
    values = job_values("focal", tmp_path)
    values["model"] = {"pretrained": str(small_model("fnet", tmp_path / "fnet"))}
    files = worlds.run(1, extract, str(tmp_path), values)[0]
    notes = [event.text for event in EventTail(tmp_path / "metrics.jsonl").read() if isinstance(event, Note)]
    assert sum("each batch holds samples of one length" in note for note in notes) == 1
    values["data"]["cache"] = str(tmp_path / "other-cache")
    values["validation"] = {**values["validation"], "batch_size": 1}
    again = worlds.run(1, extract, str(tmp_path), values)[0]
    np.testing.assert_allclose(np.load(files["train"]), np.load(again["train"]), atol=2e-6)
