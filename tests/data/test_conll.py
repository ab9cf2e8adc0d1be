"""CoNLL files, with and without names of columns: words are words, and comments are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.data.sources import count_rows, read_rows
from launcher.errors import DataError
from launcher.job.sections.data import Source
from launcher.job.sections.tasks import find_family

UNIVERSAL = """\
# newdoc id = d1
# sent_id = 1
# text = Vamos al mar.
1\tVamos\tir\tVERB\t_\tNumber=Plur\t0\troot\t_\t_
2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\ta\tADP\tE\t_\t4\tcase\t_\t_
3\tel\tel\tDET\t_\t_\t4\tdet\t_\t_
4\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\tSpaceAfter=No
4.1\tfue\tser\tVERB\t_\t_\t_\t_\t1:conj\t_
5\t.\t.\tPUNCT\t_\t_\t1\tpunct\t_\t_

# sent_id = 2
1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_

"""
WORDS = [["Vamos", "a", "el", "mar", "."], ["#"]]


def read(path: Path, **columns: str) -> list[tuple[list[str], list[str]]]:
    source = Source(source=str(path), **columns)
    rows = list(read_rows(source, {"words": source.words, "label": source.label}))
    assert count_rows(source) == len(rows)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return [(row.values["words"], row.values["label"]) for row in rows]  # type: ignore[misc]


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", ["a.conllu", "a.CONLLU", "a.conll"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_universal_columns_are_read_by_name_whatever_the_file_is_called(
    name: str, ends: str, mark: str, tmp_path: Path
) -> None:
    file = written(tmp_path / name, mark + UNIVERSAL.replace("\n", ends))
    tags = [["VERB", "ADP", "DET", "NOUN", "PUNCT"], ["SYM"]]
    assert read(file) == list(zip(WORDS, tags, strict=True))
    assert read(file, words="form", label="upos") == list(zip(WORDS, tags, strict=True))
    assert read(file, words="LEMMA", label="deprel") == [
        (["ir", "a", "el", "mar", "."], ["root", "case", "det", "obl", "punct"]),
        (["#"], ["root"]),
    ]
    assert read(file, label="feats")[0][1] == ["Number=Plur", "_", "_", "_", "_"]


def test_columns_may_be_named_by_role(tmp_path: Path) -> None:
    source = Source(source=str(written(tmp_path / "a.conllu", UNIVERSAL)), columns={"words": "lemma", "label": "head"})
    rows = read_rows(source, find_family("token-classification").columns(source))
    assert [row.values for row in rows][1] == {"words": ["#"], "label": ["0"]}


def test_a_file_may_name_columns_of_its_own(tmp_path: Path) -> None:
    text = "# global.columns = ID FORM UPOS PARSEME:MWE\n1\tkeeps\tVERB\t1:VID\n2\t# 1\tNUM\t*\n"
    file = written(tmp_path / "a.conllup", text)
    assert read(file, label="parseme:mwe") == [(["keeps", "# 1"], ["1:VID", "*"])]
    assert read(file)[0][1] == ["VERB", "NUM"]
    with pytest.raises(DataError, match=r"no column 'xpos' among 'id', 'form', 'upos', 'parseme:mwe'; did you mean"):
        read(file, label="xpos")
    without = written(tmp_path / "b.conllup", "# global.columns = FORM UPOS\n#tag\tX\n\n#tag\tY\n")
    assert read(without) == [(["#tag"], ["X"]), (["#tag"], ["Y"])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("2\ta\ta\tADP", "2\ta\tADP"), "row 1: line 6 has 9 columns where CoNLL-U has 10, separated by tabs"),
        (("\t", " "), "row 1: line 4 has 1 columns where CoNLL-U has 10, separated by tabs"),
        (("2\ta\ta", "two\ta\ta"), "row 1: line 6 begins with 'two', which is neither a word number nor a range"),
        (("\tSYM", "\t_"), "row 2: the word '#' has no upos; name another column .id, form, lemma"),
    ],
)
def test_a_bad_universal_file_is_told(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(written(tmp_path / "a.conllu", UNIVERSAL.replace(*change)))


def test_a_column_that_nobody_filled_in_is_told_and_one_that_is_not_there(tmp_path: Path) -> None:
    file = written(tmp_path / "a.conllu", UNIVERSAL)
    with pytest.raises(DataError, match="row 1: the word 'Vamos' has no xpos"):
        read(file, label="xpos")
    with pytest.raises(DataError, match="there is no column 'pos' among 'id', 'form', 'lemma', 'upos'"):
        read(file, label="pos")


PLAIN: dict[str, tuple[str, list[tuple[list[str], list[str]]]]] = {
    "tabs": ("New York\tB-LOC\nis\tO\n", [(["New York", "is"], ["B-LOC", "O"])]),
    "several spaces": ("Anna  NNP   B-PER\n", [(["Anna"], ["B-PER"])]),
    "spaces of other kinds": ("10\u00a0000 CD O\n", [(["10\u00a0000"], ["O"])]),
    "trailing white space": ("Anna\tB-PER  \r\n \t\r\nRo\tB-LOC \r\n", [(["Anna"], ["B-PER"]), (["Ro"], ["B-LOC"])]),
    "documents": ("-DOCSTART- -X- O\n\na O\n\n-DOCSTART-\nb O\n", [(["a"], ["O"]), (["b"], ["O"])]),
    "tabs after a document": ("-DOCSTART-\t-X-\n\n# 1\nNew York\tB-LOC\n", [(["New York"], ["B-LOC"])]),
    "keys and values": ("# sent_id = 1\n# text = a b\na\tO\nb\tO\n", [(["a", "b"], ["O", "O"])]),
    "ids": ("# id 5628 domain=en\na _ _ O\n\n# id 77 domain=en\nb _ _ O\n", [(["a"], ["O"]), (["b"], ["O"])]),
    "a source": ("#\tn-tv.de vom 26.02.2005\n1\ta\tO\n2\tb\tO\n", [(["1", "2"], ["O", "O"])]),
    "a title": ("# made by hand, in two days\n\na O\n", [(["a"], ["O"])]),
    "a document of CoNLL 2012": ("#begin document (x); part 000\na N O\n\n#end document\n", [(["a"], ["O"])]),
    "a word": ("the O\n# O\n\n# O\n\n#MeToo O\n", [(["the", "#"], ["O", "O"]), (["#"], ["O"]), (["#MeToo"], ["O"])]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PLAIN.values(), ids=PLAIN)
def test_words_and_labels_of_a_file_without_names(
    text: str, expected: list[tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    assert read(written(tmp_path / "a.conll", text)) == expected


def test_columns_without_names_are_named_by_their_place(tmp_path: Path) -> None:
    file = written(tmp_path / "a.conll", "1 Anna NNP B-PER\n2 sleeps VBZ O\n")
    assert read(file, words="2", label="3") == [(["Anna", "sleeps"], ["NNP", "VBZ"])]
    with pytest.raises(
        DataError, match=r"have no names, so there is no 'pos'; give the number of the column \(`label: 2`\)"
    ):
        read(file, label="pos")
    with pytest.raises(DataError, match=r"row 1: line 1, .* has 4 columns, and column 5 is requested"):
        read(file, label="5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Anna B-PER\n\nNew York B-LOC\nis O\n", "row 2: line 4, 'is O', has 2 columns where line 3 has 3; give each"),
        ("Anna\tB-PER\n\n#hashtag\n", "row 2: the word '#hashtag' has no label; separate word and label by a tab"),
        ("Anna\t\tB-PER\n\n\tx\tO\n", "row 2: line 3, .* has an empty word or label; fill it"),
        ("Anna\tNNP\tB-PER\nis\tVBZ\t\n", "row 1: line 2, .* has an empty word or label; fill it"),
        ("# only a comment = x\n", "the file is empty"),
    ],
)
def test_a_bad_file_without_names_is_told(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(written(tmp_path / "a.conll", text))
