"""Folders of a folder for each class, and CoNLL files."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.data.sources import count_rows, read_rows
from launcher.errors import DataError
from launcher.job.sections.data import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/b.PNG", "cat/a.jpeg", "dog/1.png", "dog/notes.txt", ".hidden/x.png", "cat/.y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_files_come_in_order_with_their_class(folder: Path) -> None:
    source = Source(source=str(folder))
    rows = list(read_rows(source, {"image": "image", "label": "label"}))
    names = [(str(Path(str(row.values["image"])).relative_to(folder)), row.values["label"]) for row in rows]
    assert names == [("cat/a.jpeg", "cat"), ("cat/b.PNG", "cat"), ("dog/1.png", "dog")]
    assert [row.number for row in rows] == [1, 2, 3] == list(range(1, 1 + (count_rows(source) or 0)))


def test_without_labels_files_may_lie_in_the_folder_itself(folder: Path) -> None:
    source = Source(source=str(folder / "cat"))
    assert len(list(read_rows(source, {"image": "image"}))) == 2
    with pytest.raises(DataError, match=r"2 files \(a\.jpeg, b\.PNG\) are not in a class folder"):
        list(read_rows(source, {"image": "image", "label": "label"}))


def test_a_folder_of_files_has_no_text(folder: Path) -> None:
    with pytest.raises(DataError, match="a folder of files has no column 'text'"):
        list(read_rows(Source(source=str(folder)), {"text": "text", "label": "label"}))


CONLL = "-DOCSTART- -X- O\n\nAnna NNP B-PER\nsleeps VBZ O\n\n\nRome NNP B-LOC"


def test_sentences_are_lists_of_words_and_labels(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    source = Source(source=str(tmp_path / "a.conll"))
    rows = [row.values for row in read_rows(source, {"words": "words", "label": "label"})]
    assert rows == [{"words": ["Anna", "sleeps"], "label": ["B-PER", "O"]}, {"words": ["Rome"], "label": ["B-LOC"]}]
    assert count_rows(source) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty; it needs one word per line"),
        ("Anna B-PER\n\nsleeps\n", "row 2: the word 'sleeps' has no label"),
    ],
)
def test_a_bad_conll_file_is_told(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(DataError, match=said):
        list(read_rows(Source(source=str(tmp_path / "a.conll")), {"words": "words", "label": "label"}))


def test_a_conll_file_has_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    with pytest.raises(DataError, match="holds words and labels, not a column 'tweet'"):
        list(read_rows(Source(source=str(tmp_path / "a.conll")), {"text": "tweet"}))


def test_class_labels_of_a_saved_data_set_are_named_within_lists(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features({"words": List(Value("string")), "ner": List(ClassLabel(names=["O", "B-PER"]))})
    Dataset.from_dict({"words": [["a", "b"]], "ner": [[0, 1]]}, features=features).save_to_disk(str(tmp_path / "d"))
    source = Source(source=str(tmp_path / "d"), label="ner")
    (row,) = read_rows(source, {"words": "words", "label": "ner"})
    assert row.values["label"] == ["O", "B-PER"]
