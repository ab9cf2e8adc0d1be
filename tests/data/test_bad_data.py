"""Every fault of a data file gets a message with file, row and the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launcher.data.rows import Row
from launcher.data.sources import count_rows, read_rows
from launcher.data.values import label_of, text_of
from launcher.errors import DataError
from launcher.job.sections.data import Source

COLUMNS = {"text": "text", "label": "label"}

BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "empty csv": ("a.csv", b"", ["a.csv: the file is empty"]),
    "header alone": ("a.csv", b"text,label\n", ["there is a header and no rows"]),
    "blank lines alone": ("a.csv", b"\n\n\n", ["the file is empty"]),
    "missing column": ("a.csv", b"txt,label\na,b\n", ["no column 'text' among 'txt', 'label'", "did you mean 'txt'?"]),
    "nothing like it": ("a.csv", b"q,label\na,b\n", ["no column 'text' among 'q', 'label'", "name the column"]),
    "a column for each label": (
        "a.csv",
        b"text,toxic,insult,threat\na,0,1,1\n",
        ["no column 'label'", "column of lists, such as [0, 1, 0]", "train.loss.name: binary"],
    ),
    "a misspelt label among others": ("a.csv", b"text,labl,id\na,b,1\n", ["did you mean 'labl'?"]),
    "preferences": (
        "a.jsonl",
        b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
        ["no task learns from pairs", "task: causal-lm", "prompt: prompt, response: chosen"],
    ),
    "duplicate column": ("a.csv", b"text,label,text\na,b,c\n", ["the file has 2 columns 'text'", "rename all but one"]),
    "too few fields": ("a.csv", b"text,label\na,b\nc\n", ["row 2: 1 fields where the header has 2", "quote fields"]),
    "too many fields": ("a.csv", b"text,label\na,b,c\n", ["row 1: 3 fields where the header has 2"]),
    "open quote": ("a.csv", b'text,label\n"a,b\n', ["row 1: not a valid csv row"]),
    "latin-1 bytes": ("a.csv", b"text,label\ncaf\xe9 au lait,b\n", ["byte 0xe9 at offset 14", "encoding: latin-1"]),
    "cut in a character": ("a.csv", b"text,label\na,caf\xc3", ["byte 0xc3 at offset 16"]),
    "utf-16": ("a.csv", "text,label\na,b\n".encode("utf-16"), ["byte 0xff at offset 0"]),
    "tsv as csv": (
        "a.csv",
        b"text\tlabel\na\tb\n",
        ["no column 'text' among 'text\\tlabel'", "separated by '\\t'", "commas in .csv and tabs in .tsv"],
    ),
    "semicolons": ("a.csv", b"text;label\na;b\n", ["no column 'text' among 'text;label'", "separated by ';'"]),
    "empty tsv": ("a.tsv", b"", ["a.tsv: the file is empty"]),
    "ragged tsv": ("a.tsv", b"text\tlabel\na\n", ["row 1: 1 fields"]),
    "empty jsonl": ("a.jsonl", b"", ["a.jsonl: the file is empty"]),
    "broken json": ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text": \n', ["row 2: not valid JSON at column"]),
    "a list": ("a.jsonl", b"[1]\n", ["row 1: a JSON object is needed", "[1]"]),
    "key missing in one row": (
        "a.jsonl",
        b'{"text": "a", "label": "b"}\n{"text": "a", "labl": "b"}\n',
        ["row 2: there is no column 'label' among 'text', 'labl'; did you mean 'labl'?"],
    ),
    "jsonl in latin-1": ("a.jsonl", b'{"text": "\xe9"}\n', ["byte 0xe9 at offset 10"]),
    "no parquet": ("a.parquet", b"PAR0", ["not a readable parquet file"]),
    "unknown kind": ("a.txt", b"x", ["unknown kind of file '.txt'", ".csv, .tsv, .jsonl, .parquet"]),
}


@pytest.mark.parametrize(("name", "content", "expected"), [pytest.param(*bad, id=key) for key, bad in BAD.items()])
def test_a_bad_file_is_named_with_its_fault(name: str, content: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(read_rows(Source(source=str(tmp_path / name)), COLUMNS))
    for part in expected:
        assert part in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_a_missing_file_and_a_bad_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        list(read_rows(Source(source=str(tmp_path / "a.csv")), COLUMNS))
    with pytest.raises(DataError, match="not a folder saved by `datasets`"):
        list(read_rows(Source(source=str(tmp_path)), COLUMNS))


def test_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="unknown encoding 'utf-9'"):
        list(read_rows(Source(source=str(tmp_path / "a.csv"), encoding="utf-9"), COLUMNS))


def test_a_hub_id_that_cannot_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="no-one/no-such-data: neither a file or folder here"):
        list(read_rows(Source(source="no-one/no-such-data"), COLUMNS))


def test_bytes_far_into_a_large_file_are_found_to_the_byte(tmp_path: Path) -> None:
    before = b"text,label\n" + "é,b\n".encode() * 400_000
    (tmp_path / "a.csv").write_bytes(before + b"\xff,b\n")
    with pytest.raises(DataError, match=f"byte 0xff at offset {len(before)} "):
        count_rows(Source(source=str(tmp_path / "a.csv")))


@pytest.mark.parametrize("value", ["", "  \n", None])
def test_an_empty_text_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"f\.csv, row 7: the text is empty"):
        text_of(Row("f.csv", 7, {"text": value}))


@pytest.mark.parametrize("value", [3, 1.5, ["a"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="not text; name the right column"):
        text_of(Row("f.csv", 1, {"text": value}))


LABELS = [
    *[("yes", "yes"), (3, "3"), (-1, "-1"), (2.0, "2"), (" a ", "a"), (True, "True"), ("True", "True")],
    *[("2.0", "2"), ("1.5", "1.5"), (np.int64(4), "4"), (np.float32(4), "4"), (np.bool_(False), "False")],
    *[("[neg]", "[neg]"), ("(1)", "(1)"), ("2,5", "2,5")],
]
"""As pandas, datasets and JSON write them."""


@pytest.mark.parametrize(("value", "name"), LABELS)
def test_labels_are_text_or_integers(value: object, name: str) -> None:
    assert label_of(Row("f.csv", 1, {"label": value})) == name


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), 1.5, ["a"], np.array([1, 0]), "[0, 1]", "['a']"])
def test_what_is_no_label_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"f\.csv, row 2: the label"):
        label_of(Row("f.csv", 2, {"label": value}))


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "rot13", "a\0b", "undefined"])
def test_what_is_no_encoding_of_text_is_refused(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r"unknown encoding|the file is not undefined"):
        list(read_rows(Source(source=str(tmp_path / "a.csv"), encoding=encoding), COLUMNS))


def test_a_mark_of_another_encoding_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\na,b\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"byte 0xff at offset 0 is not utf-8; .* \(`encoding: utf-16`, say\)"):
        list(read_rows(Source(source=str(tmp_path / "a.csv")), COLUMNS))
    (tmp_path / "a.csv").write_bytes(b"text,label\na,b\n")
    with pytest.raises(DataError, match="the file is not utf-16; save the file as UTF-8, or set its encoding"):
        list(read_rows(Source(source=str(tmp_path / "a.csv"), encoding="utf-16"), COLUMNS))


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "b", "text": "c"}\n')
    with pytest.raises(DataError, match="row 1: the key 'text' is given 2 times; remove all but one"):
        list(read_rows(Source(source=str(tmp_path / "a.jsonl")), COLUMNS))


def test_damage_within_a_parquet_file_is_told_with_its_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"text number {number}" for number in range(50)]
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": texts, "label": ["x"] * 50}),
        file,
        compression="none",
        use_dictionary=False,
        row_group_size=10,
    )
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"text number 33", b"text \xff\xfe\xff\xfe\xff\xfe 33"))
    with pytest.raises(DataError, match=r"a\.parquet, row 34: the row is damaged: .*UTF8"):
        list(read_rows(Source(source=str(file)), COLUMNS))
    length = whole.index(b"text number 40") - 4
    file.write_bytes(whole[:length] + b"\xff" * 4 + whole[length + 4 :])
    with pytest.raises(DataError, match=r"a\.parquet, row 41: the data are damaged"):
        list(read_rows(Source(source=str(file)), COLUMNS))


def test_a_value_in_a_message_is_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        text_of(Row("f.parquet", 1, {"text": {"bytes": b"x" * 100_000}}))
    assert len(str(raised.value)) < 200
