"""What `check` shows and refuses of labels and tokenizers, from the files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launcher.commands.check import check_job_file
from launcher.errors import DataError, ModelError
from tests.small_run import write_job

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A job whose model may be changed."""
    shutil.copytree(tiny_model, tmp_path / "model")
    write_job(tmp_path, tmp_path / "model")
    (tmp_path / "train.csv").write_text("text,label\nbabe,neg\ndade,pos\nfafe,neg\ngage,neg\nlale,neg\n")
    for name in ("near.csv", "far.csv"):
        (tmp_path / name).write_text("text,label\nbabe,neg\ndade,pos\n")
    return tmp_path


def trained_on(folder: Path, *labels: object) -> None:
    """Let the model's config say that it has a head for some labels."""
    file = folder / "model" / "config.json"
    config = json.loads(file.read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": dict(enumerate(labels))}
    file.write_text(json.dumps(config))


def test_labels_are_shown_with_three_samples_of_each(folder: Path, capsys: Capsys) -> None:
    check_job_file(folder / "job.yaml", [], as_json=False)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "labels of data.train: 2 in 5 rows",
        "  neg       4  babe | fafe | gage",
        "  pos       1  dade",
    ]
    assert said[-1].endswith("no problem found")


def test_labels_that_a_trained_head_has_in_other_case_are_told(folder: Path, capsys: Capsys) -> None:
    trained_on(folder, "POS", "NEG")
    check_job_file(folder / "job.yaml", [], as_json=False)
    told = "labels matched with the pretrained head: 'pos' is the head's 'POS', 'neg' is the head's 'NEG'"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), (0, 1)])
def test_a_head_without_names_is_refused_until_it_is_said_which_is_which(
    names: tuple[object, ...], folder: Path, capsys: Capsys
) -> None:
    trained_on(folder, *names)
    with pytest.raises(ModelError, match="there is more than one way to match them"):
        check_job_file(folder / "job.yaml", [], as_json=False)
    for said in ("new", f"{{neg: {names[1]}, pos: {names[0]}}}"):
        check_job_file(folder / "job.yaml", [f"model.labels={said}"], as_json=False)
    assert "'neg' is the head's" in capsys.readouterr().out


def test_an_empty_label_is_told_with_its_row(folder: Path) -> None:
    with (folder / "train.csv").open("a") as file:
        file.write("mame,\n")
    with pytest.raises(DataError, match=r"train\.csv, row 6: the label is empty"):
        check_job_file(folder / "job.yaml", [], as_json=False)


def test_vectors_are_shown_as_the_labels_of_their_places(folder: Path, capsys: Capsys) -> None:
    for name in ("train.csv", "near.csv", "far.csv"):
        (folder / name).write_text('text,label\nbabe,"[0, 1, 1]"\ndade,"[0, 0, 1]"\n')
    trained_on(folder, "x", "y", "z")
    check_job_file(folder / "job.yaml", ["train.loss.name=binary"], as_json=False)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "labels of data.train: 2 in 2 rows, as vectors of 0 and 1",
        "  z       2  babe | dade",
        "  y       1  babe",
    ]


def test_the_training_set_decides_how_the_labels_of_others_are_read(folder: Path, capsys: Capsys) -> None:
    (folder / "train.csv").write_text('text,label\nbabe,"[0, 1]"\ndade,[1]\n')
    for name in ("near.csv", "far.csv"):  # lists of one length, which could be vectors
        (folder / name).write_text('text,label\nbabe,"[0, 1]"\ndade,"[0, 1]"\n')
    check_job_file(folder / "job.yaml", ["train.loss.name=binary"], as_json=False)
    said = capsys.readouterr().out
    assert "labels of data.validation.near: 2 in 2 rows\n  0       2" in said
    assert "vectors" not in said


def test_labels_of_a_validation_set_that_training_lacks_are_refused(folder: Path) -> None:
    (folder / "near.csv").write_text("text,label\nbabe,neg\ndade,Pos\n")
    check_job_file(folder / "job.yaml", [], as_json=False)
    (folder / "near.csv").write_text("text,label\nbabe,neg\ndade,mixed\n")
    with pytest.raises(DataError, match=r"near: the labels 'mixed' do not occur .*, which has 'neg', 'pos'"):
        check_job_file(folder / "job.yaml", [], as_json=False)


def test_vectors_in_a_validation_set_where_training_has_names_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "train.csv").write_text("text,label\nbabe,\"['a', 'b']\"\ndade,['a']\n")
    for name in ("near.csv", "far.csv"):
        (folder / name).write_text('text,label\nbabe,"[0, 1]"\ndade,"[1, 1]"\n')
    with pytest.raises(DataError, match="label_format: vector"):
        check_job_file(folder / "job.yaml", ["train.loss.name=binary"], as_json=False)
    as_vectors = "data.validation={near: {source: near.csv, label_format: vector}}"
    check_job_file(folder / "job.yaml", ["train.loss.name=binary", as_vectors], as_json=False)


def test_more_tokens_than_embeddings_are_refused(folder: Path) -> None:
    file = folder / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 165, "content": "extra"})
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"token ids up to 165 \('extra'\), and the model has 165 embeddings"):
        check_job_file(folder / "job.yaml", [], as_json=False)


def test_with_a_mapping_places_of_vectors_are_called_by_their_numbers_as_in_training(
    folder: Path, capsys: Capsys
) -> None:
    for name in ("train.csv", "near.csv", "far.csv"):
        (folder / name).write_text('text,label\nbabe,"[0, 1, 1]"\ndade,"[1, 0, 1]"\n')
    trained_on(folder, "x", "y", "z")
    labels = "model.labels={'0': z, '1': y, '2': x}"
    check_job_file(folder / "job.yaml", ["train.loss.name=binary", labels], as_json=False)
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "labels of data.train: 3 in 2 rows, as vectors of 0 and 1",
        "  2       2  babe | dade",
        "  1       1  babe",
        "  0       1  dade",
    ]
    assert all(f"'{label}' is the head's '{row}'" in said[-2] for label, row in zip("012", "zyx", strict=True))
