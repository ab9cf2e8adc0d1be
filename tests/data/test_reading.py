"""Rows come out as they went in, whatever the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.data.sources import count_rows, read_rows
from launcher.errors import DataError
from launcher.job.sections.data import Source

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
    source = Source(source=str(tmp_path / name), quoting=True)
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


MEANINGLESS = ['"Great', "so-so", '5" screen', 'no "idea', '"', 'the end"']
"""Texts of a tsv file whose quotes mean nothing; read as quotes, four rows would come out."""


def test_quotes_in_a_tsv_file_are_characters_unless_it_is_said_that_they_quote(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{text}\tx\n" for text in MEANINGLESS))
    assert [row.values["text"] for row in read_rows(Source(source=str(file)), COLUMNS)] == MEANINGLESS
    assert count_rows(Source(source=str(file))) == len(MEANINGLESS)
    file.write_text('"text"\t"label"\n"a\tb\nc ""d"""\tx\n')
    assert [row.values["text"] for row in read_rows(Source(source=str(file), quoting=True), COLUMNS)] == ['a\tb\nc "d"']


def test_quotes_in_a_csv_file_quote_unless_it_is_said_that_they_do_not(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text,label\n"a, b",x\n')
    assert [row.values["text"] for row in read_rows(Source(source=str(file)), COLUMNS)] == ["a, b"]
    file.write_text('text,label\n"Great,x\n')
    with pytest.raises(
        DataError, match=r"row 1: not a valid csv row: .*; if quotes are ordinary characters .* `quoting: false`"
    ):
        list(read_rows(Source(source=str(file)), COLUMNS))
    assert [row.values["text"] for row in read_rows(Source(source=str(file), quoting=False), COLUMNS)] == ['"Great']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"text"\t"label"\n"a"\t"b"\n', "the column names are quoted, .*; set `quoting: true`"),
        ('text\tlabel\n"a\nb"\tx\n', "row 1: 1 fields where the header has 2; if fields .* set `quoting: true`"),
    ],
)
def test_a_tsv_file_that_is_quoted_after_all_is_told_so(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(DataError, match=said):
        list(read_rows(Source(source=str(tmp_path / "a.tsv")), COLUMNS))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_mark_is_skipped_in_every_encoding(name: str, encoding: str, tmp_path: Path) -> None:
    text = "text,label\né,b\n" if name == "a.csv" else '{"text": "é", "label": "b"}\n'
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    rows = read_rows(Source(source=str(tmp_path / name), encoding=encoding), COLUMNS)
    assert [row.values for row in rows] == [{"text": "é", "label": "b"}]


ODD = {
    "a number of 5,000 digits": "9" * 5000,
    "deep nesting": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "deep strings": "[" * 2000 + '"]}, \\" \\\\"' + "]" * 2000,
    "a key twice": '{"b": 1, "b": 2}',
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_python_cannot_hold_is_not_read_where_nobody_reads_it(odd: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = '{"text": "a", "label": "b", "more": 1}\n'
    file.write_text(good + f'{{"more" : {odd}, "text":"c \\"d\\", {{", "label": {{"e": [1]}}}}\n' + good)
    rows = list(read_rows(Source(source=str(file)), COLUMNS))
    assert [row.values for row in rows][1] == {"text": 'c "d", {', "label": {"e": [1]}}
    assert len(rows) == 3
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: "):
        list(read_rows(Source(source=str(file)), {"text": "more"}))


HALVES = ['{"text": "a \\ud83d", "label": "b"}', '{"text": "a", "label": ["b", {"c": "\\udc00"}]}']


@pytest.mark.parametrize("line", HALVES)
def test_half_a_character_is_told_with_its_row(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude42", "label": "b", "more": "\\ud83d"}\n' + line + "\n")
    with pytest.raises(
        DataError, match=r"row 2: the (text|label) contains half a character \(the lone " r"surrogate .u[ds]"
    ):
        list(read_rows(Source(source=str(tmp_path / "a.jsonl")), COLUMNS))


def test_half_a_character_in_a_csv_file_of_an_odd_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\na,b\nc\\ud83d,d\n")
    with pytest.raises(DataError, match="row 2: the text contains half a character"):
        list(read_rows(Source(source=str(tmp_path / "a.csv"), encoding="raw_unicode_escape"), COLUMNS))


@pytest.mark.parametrize("format", ["torch", "numpy", "pandas", "arrow", None])
def test_how_a_saved_data_set_was_shown_does_not_matter(format: str | None, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"]), "n": Value("int64")})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0], "n": [1, 2]}, features=features)
    data.with_format(format, columns=["label"]).save_to_disk(str(tmp_path / "saved"))
    source = Source(source=str(tmp_path / "saved"))
    rows = [row.values for row in read_rows(source, {**COLUMNS, "n": "n"})]
    assert rows == [{"text": "a", "label": "good", "n": 1}, {"text": "b", "label": "bad", "n": 2}]
    assert count_rows(source) == 2
    with pytest.raises(DataError, match="there is no column 'body' among 'text', 'label', 'n'; name the column"):
        list(read_rows(source, {"text": "body"}))


def test_sounds_and_images_of_a_saved_data_set_are_not_decoded_by_it(tmp_path: Path) -> None:
    from datasets import Audio, Dataset, Image

    held = {"bytes": b"no sound at all", "path": "a.wav"}
    data = Dataset.from_dict({"text": ["a"], "label": ["b"], "audio": [held], "image": [held]})
    data.cast_column("audio", Audio()).cast_column("image", Image()).save_to_disk(str(tmp_path / "saved"))
    source = Source(source=str(tmp_path / "saved"))
    assert [row.values for row in read_rows(source, COLUMNS)] == [{"text": "a", "label": "b"}]
    (row,) = read_rows(source, {"audio": "audio", "image": "image"})
    assert row.values == {"audio": held, "image": held}


def saved_with_names(place: Path, numbers: list[int], names: list[str]) -> None:
    """A folder saved by `datasets`, whose numbers nobody has compared with the names."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict({"text": list("abc"), "label": numbers}).save_to_disk(str(place))
    info = place / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "features": features.to_dict()}))


def parquet_with_names(place: Path, numbers: list[int], names: list[str]) -> None:
    """The same as a parquet file of `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    said = json.dumps({"info": {"features": features.to_dict()}})
    table = pa.table({"text": list("abc"), "label": numbers})
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), place)


@pytest.mark.parametrize(("write", "file"), [(saved_with_names, "saved"), (parquet_with_names, "saved.parquet")])
def test_a_label_without_a_name_is_told_and_a_missing_one_is_none(write: Any, file: str, tmp_path: Path) -> None:
    source = Source(source=str(tmp_path / file))
    write(tmp_path / file, [1, 0, -1], ["bad", "good"])
    assert [row.values["label"] for row in read_rows(source, COLUMNS)] == ["good", "bad", None]
    write(tmp_path / file, [1, 2, 0], ["bad", "good"])
    with pytest.raises(DataError, match="row 2: the label 2 has no name: its column has 2; correct it"):
        list(read_rows(source, COLUMNS))
