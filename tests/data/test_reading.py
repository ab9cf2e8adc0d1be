"""Rows come out as they went in, whatever the format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.data.sources import count_rows, read_rows
from launcher.errors import DataError
from launcher.job.data import Source

TEXTS = [
    "plain",
    "a comma, and a\ttab",
    'a "quote"',
    "two\nlines",
    "next line \x85 and line separator \u2028 and form feed \x0c",
    "carriage\rreturn",
    "naïve café 日本語 🙂",
]
COLUMNS = {"text": "text", "label": "label"}


def write_csv(path: Path, delimiter: str = ",") -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([["text", "label"], *([text, "x"] for text in TEXTS)])


def write_jsonl(path: Path) -> None:
    lines = [json.dumps({"text": text, "label": "x"}, ensure_ascii=False) for text in TEXTS]
    path.write_bytes("\r\n".join(lines).encode())


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": TEXTS, "label": ["x"] * len(TEXTS)}), path, row_group_size=2)


def write_saved(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": TEXTS, "label": ["x"] * len(TEXTS)}).save_to_disk(str(path))


WRITERS = {
    "a.csv": write_csv,
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.jsonl": write_jsonl,
    "a.parquet": write_parquet,
    "saved": write_saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_separators_inside_a_field_make_no_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    source = Source(source=str(tmp_path / name))
    rows = list(read_rows(source, COLUMNS))
    assert [row.values["text"] for row in rows] == TEXTS
    assert [row.number for row in rows] == list(range(1, len(TEXTS) + 1))
    assert count_rows(source) == len(TEXTS)


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 100])
def test_several_files_are_read_in_order_up_to_the_limit(limit: int, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    write_jsonl(tmp_path / "b.jsonl")
    source = Source(source=(str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")), limit=limit)
    rows = list(read_rows(source, COLUMNS))
    assert [row.values["text"] for row in rows] == (TEXTS + TEXTS)[:limit]
    assert count_rows(source) == min(limit, 2 * len(TEXTS))
    assert rows[-1].file.endswith("a.csv" if limit <= len(TEXTS) else "b.jsonl")


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,b\n".encode("cp1252"))
    source = Source(source=str(tmp_path / "a.csv"), encoding="cp1252")
    assert [row.values["text"] for row in read_rows(source, COLUMNS)] == ["café"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\na,b\n".encode("utf-8-sig"))
    assert len(list(read_rows(Source(source=str(tmp_path / "a.csv")), COLUMNS))) == 1


def test_columns_are_taken_by_the_names_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body,stars\n1,hello,5\n")
    rows = list(read_rows(Source(source=str(tmp_path / "a.csv")), {"text": "body", "label": "stars"}))
    assert rows[0].values == {"text": "hello", "label": "5"}


def test_a_field_may_be_longer_than_the_csv_module_allows_by_default(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "a" * 200_000 + ",b\n")
    assert count_rows(Source(source=str(tmp_path / "a.csv"))) == 1


def test_class_labels_of_a_parquet_file_of_datasets_are_read_by_name(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    kind = ClassLabel(names=["no", "yes"])
    features = Features({"text": Value("string"), "label": kind, "several": Sequence(kind), "number": Value("int64")})
    rows = {"text": ["a", "b"], "label": [1, -1], "several": [[0, 1], []], "number": [1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    source = Source(source=str(tmp_path / "a.parquet"))
    found = [row.values for row in read_rows(source, {"label": "label", "several": "several", "number": "number"})]
    assert found == [
        {"label": "yes", "several": ["no", "yes"], "number": 1},
        {"label": None, "several": [], "number": 0},
    ]


def test_class_labels_of_a_saved_data_set_are_read_by_name(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "saved"))
    source = Source(source=str(tmp_path / "saved"), split="test")
    assert [row.values["label"] for row in read_rows(source, COLUMNS)] == ["good", "bad"]
    assert count_rows(source) == 2
    with pytest.raises(DataError, match="no split 'dev'; set `split` to one of train, test"):
        list(read_rows(Source(source=str(tmp_path / "saved"), split="dev"), COLUMNS))
