"""Labels of the data and rows of a trained head: matched by name, never guessed, and always told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from launcher.data.label_vectors import common_places, place_names, places_of, read_as, vector_places, with_names
from launcher.data.labels import Mapped, decide_labels, find_label, head_names, match_labels
from launcher.data.rows import Row
from launcher.data.values import labels_of
from launcher.errors import DataError, ModelError
from launcher.job.sections.data import Source

NLI = ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
LOWER = ("contradiction", "entailment", "neutral")


def rows_of(labels: Sequence[object]) -> list[Row]:
    return [Row("f.csv", number, {"label": label}) for number, label in enumerate(labels, start=1)]


DECIDED: dict[str, tuple[Sequence[str], Sequence[str], Mapped, Sequence[str], Sequence[int | None]]] = {
    "no head": ((), ("a", "b"), "by-name", ("a", "b"), (None, None)),
    "the same": (("b", "a"), ("a", "b"), "by-name", ("b", "a"), (0, 1)),
    "some of them": (("b", "c", "a"), ("a", "b"), "by-name", ("b", "c", "a"), (0, 1, 2)),
    "other case": (NLI, LOWER, "by-name", ("entailment", "neutral", "contradiction"), (0, 1, 2)),
    "some in other case": (NLI, ("entailment",), "by-name", ("entailment", "NEUTRAL", "CONTRADICTION"), (0, 1, 2)),
    "white space": (("very good", "bad"), ("bad ", "Very  good"), "by-name", ("Very  good", "bad "), (0, 1)),
    "case tells apart": (("a", "A"), ("A", "a"), "by-name", ("a", "A"), (0, 1)),
    "one is new": (
        NLI,
        ("contradiction", "mixed", "neutral"),
        "by-name",
        ("contradiction", "mixed", "neutral"),
        (2, None, 1),
    ),
    "one more": (("a", "b"), ("a", "b", "c"), "by-name", ("a", "b", "c"), (0, 1, None)),
    "all are new": (("sports", "politics"), ("cat", "dog"), "by-name", ("cat", "dog"), (None, None)),
    "numbers of unnamed rows": (("LABEL_0", "LABEL_1"), ("0", "1"), "by-name", ("0", "1"), (0, 1)),
    "some of unnamed rows": (("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "2"), "by-name", ("0", "1", "2"), (0, 1, 2)),
    "more than the unnamed rows": (("LABEL_0", "LABEL_1"), ("x", "y", "z"), "by-name", ("x", "y", "z"), (None,) * 3),
    "numbers under LABEL_": (("0", "1"), ("LABEL_1", "LABEL_0"), "by-name", ("LABEL_0", "LABEL_1"), (0, 1)),
    "a new head": (("a", "b"), ("a", "b"), "new", ("a", "b"), (None, None)),
    "as said": (("NEG", "POS"), ("0", "1"), {"0": "POS", "1": "NEG"}, ("1", "0"), (0, 1)),
    "one as said": (NLI, ("no", "entailment", "x"), {"no": "CONTRADICTION"}, ("no", "entailment", "x"), (2, 0, None)),
}


@pytest.mark.parametrize(
    ("head", "data", "said", "labels", "rows"), [pytest.param(*c, id=k) for k, c in DECIDED.items()]
)
def test_labels_are_those_of_the_head_where_it_has_them_all(
    head: Sequence[str], data: Sequence[str], said: Mapped, labels: Sequence[str], rows: Sequence[int | None]
) -> None:
    found = decide_labels(head, data, said)
    assert (found.labels, found.rows) == (tuple(labels), tuple(rows))
    again = match_labels(head, found.labels, said)
    assert again.rows == found.rows, "loading must come to the same"


REFUSED: dict[str, tuple[Sequence[str], Sequence[str], Mapped, str]] = {
    "unnamed": (
        ("LABEL_0", "LABEL_1"),
        ("neg", "pos"),
        "by-name",
        r"more than one way to match them; set model.labels: {neg: LABEL_0",
    ),
    "numbers": (("NEGATIVE", "POSITIVE"), ("0", "1"), "by-name", r"'NEGATIVE', 'POSITIVE', the data have '0', '1'"),
    "numbers of the head": (
        ("0", "1"),
        ("neg", "pos"),
        "by-name",
        "model.labels: new for a new head",
    ),
    "two of the head": (("Pos", "pos"), ("POS", "neg"), "by-name", "only in case or white space; map them"),
    "two of the data": (("pos", "neg"), ("POS", "Pos"), "by-name", "only in case or white space; map them"),
    "one name twice": (
        ("pos", "pos"),
        ("pos", "neg"),
        "by-name",
        r"the labels 'pos' of the data and 'pos', 'pos' of the pretrained head have the same name; give each row",
    ),
    "no such name": (
        ("neg", "pos"),
        ("0", "1"),
        {"0": "negg"},
        "the pretrained head has no label 'negg'; did you mean 'neg'",
    ),
    "no such label": (("neg", "pos"), ("0", "1"), {"2": "neg"}, "the data has no label '2'"),
    "one row twice": (("neg", "pos"), ("0", "1"), {"0": "neg", "1": "neg"}, "several labels to one row of the head"),
    "no head": ((), ("0", "1"), {"0": "neg"}, "the model has none for this task"),
}


@pytest.mark.parametrize(
    ("head", "data", "said", "message"), [pytest.param(*case, id=key) for key, case in REFUSED.items()]
)
def test_what_could_be_read_in_two_ways_is_refused(
    head: Sequence[str], data: Sequence[str], said: Mapped, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        decide_labels(head, data, said)


def test_what_was_matched_is_told() -> None:
    assert decide_labels(("a", "b"), ("a", "b")).notes() == []
    assert decide_labels((), ("a", "b")).notes() == []
    matched, changed = decide_labels(NLI, ("contradiction", "mixed", "neutral")).notes()
    assert matched == (
        "labels matched with the pretrained head: 'contradiction' is the head's 'CONTRADICTION', 'neutral' is the "
        "head's 'NEUTRAL'"
    )
    assert "kept 'contradiction', 'neutral'; new, initialised at random: 'mixed'; dropped: 'ENTAILMENT'." in changed
    assert changed.endswith("To match labels that have other names: model.labels: {OURS: THE-HEAD'S}")


def test_what_model_labels_says_already_is_not_advised_again() -> None:
    (new,) = decide_labels(("a", "b"), ("a", "c"), "new").notes()
    assert new == "model.labels: new: the head is initialised at random; the pretrained head had 'a', 'b'"
    matched, changed = decide_labels(NLI, ("no", "entailment", "x"), {"no": "CONTRADICTION"}).notes()
    assert matched.endswith("'no' is the head's 'CONTRADICTION', 'entailment' is the head's 'ENTAILMENT'")
    assert changed.endswith("new, initialised at random: 'x'; dropped: 'NEUTRAL'")


def test_a_head_of_another_kind_is_none() -> None:
    names = {"1": 1, "0": 0}
    assert head_names(["BertForSequenceClassification"], names, "AutoModelForSequenceClassification") == ("0", "1")
    assert head_names(["BertForTokenClassification"], names, "AutoModelForSequenceClassification") == ()
    assert head_names(["Wav2Vec2ForSequenceClassification"], names, "AutoModelForAudioClassification") == ("0", "1")
    assert head_names(None, names, "AutoModelForSequenceClassification") == ()


def test_a_label_to_judge_is_found_but_for_case() -> None:
    assert find_label(NLI, "Neutral") == 1
    assert find_label(NLI, "other") is None


VECTORS: dict[str, tuple[list[object], int | None]] = {
    "integers": ([[0, 1, 0], [1, 1, 0], [0, 0, 0]], 3),
    "floats": ([[0.0, 1.0], [1.0, 0.0]], 2),
    "one float": ([[0.0], [1.0]], 1),
    "truth values": ([[False, True, True], [True, False, False]], 3),
    "arrays": ([np.array([0, 1, 1]), np.array([1, 0, 0])], 3),
    "as pandas writes lists": (["[0, 1, 0]", "[1, 0, 0]"], 3),
    "as pandas writes arrays": (["[0 1 0]", "[1. 0. 0.]"], 3),
    "with separators": (["0,1,0", "1,0,0"], 3),
    "numbers of labels": ([[0], [1], [0, 1], []], None),
    "other numbers": ([[0, 1], [2, 1]], None),
    "names": ([["a"], ["b", "a"]], None),
    "names that are digits": ([["0", "1"], ["1", "0"]], None),
    "texts": (["a,b", ""], None),
}


@pytest.mark.parametrize(("labels", "places"), [pytest.param(*case, id=key) for key, case in VECTORS.items()])
def test_lists_of_0_and_1_of_one_length_are_vectors(labels: list[object], places: int | None) -> None:
    assert vector_places(rows_of(labels)) == places
    assert vector_places(rows_of(labels), "names") is None


@pytest.mark.parametrize(
    ("labels", "row", "message"),
    [
        ([[0, 0, 1], [0, 1]], 2, "no vector of 3 numbers 0 and 1, unlike the labels of other rows"),
        ([[0, 1], [0, 0, 1]], 2, "no vector of 2 numbers"),
        ([[0, 0, 1], ["a"]], 2, "no vector of 3 numbers"),
        ([[0, 0, 1], [0, 2, 1]], 2, "no vector of 3 numbers"),
        ([[0], [1]], None, "a vector of one label or two labels named 0 and 1"),
        ([0, 1, 1], None, "label_format: vector or label_format: names"),
        (["1", "0"], None, "label_format: vector or label_format: names"),
    ],
)
def test_what_is_neither_a_vector_nor_names_is_refused_with_its_row(
    labels: list[object], row: int | None, message: str
) -> None:
    place = "" if row is None else f", row {row}"
    with pytest.raises(DataError, match=rf"f\.csv{place}: .*{message}"):
        vector_places(rows_of(labels))


def test_the_training_sets_decide_how_the_labels_of_all_are_read(tmp_path: Path) -> None:
    """Rows that all have the labels 0 and 1 could as well be vectors, of the label 1 alone."""

    def written(name: str, labels: list[list[int]]) -> Source:
        (tmp_path / name).write_text("".join(json.dumps({"label": label}) + "\n" for label in labels))
        return Source(source=str(tmp_path / name))

    train, both = written("train.jsonl", [[0], [0, 1], [1]]), written("both.jsonl", [[0, 1], [0, 1]])
    assert common_places({"train": train}) is None
    assert places_of(both) == 2
    assert places_of(read_as(both, "names")) is None
    assert read_as(both.model_copy(update={"label_format": "vector"}), "names").label_format == "vector"
    with pytest.raises(DataError, match=r"a names, b 2 places; make them alike, or set label_format"):
        common_places({"a": train, "b": both})


def test_a_vector_is_read_as_the_names_of_its_places() -> None:
    named = with_names(rows_of([[0, 1, 1], "[0 0 0]", "[1.0, 0.0, 0.0]"]), ("x", "y", "z"))
    assert [row.values["label"] for row in named] == [["y", "z"], [], ["x"]]
    assert vector_places(rows_of([[0], [1]]), "vector") == 1
    assert place_names(3, ("x", "y", "z")) == ("x", "y", "z")
    assert place_names(3, ("x", "y")) == ("0", "1", "2")
    with pytest.raises(DataError, match=r"row 1: the label \[0, 1\] is no vector of 3 numbers"):
        list(with_names(rows_of([[0, 1]]), ("x", "y", "z")))


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a b", "c,d"]', ["a b", "c,d"]),
        ("['a' 'b']", ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("[1, 2.0]", ["1", "2"]),
        ("[]", []),
        ("a, b", ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (3.0, ["3"]),
        (True, ["True"]),
    ],
)
def test_several_labels_are_read_as_pandas_and_datasets_write_them(label: object, names: list[str]) -> None:
    assert labels_of(rows_of([label])[0]) == names


@pytest.mark.parametrize("label", ["[a, b]", "[0 0 ... 0 1]", "['a', 'b'"[:-1] + "]"])
def test_a_text_that_looks_like_a_list_and_is_none_is_refused(label: str) -> None:
    with pytest.raises(DataError, match="looks like a list and cannot be parsed"):
        labels_of(rows_of([label])[0])
