"""Faults planted in real texts are found where they are, without any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data.fingerprints import fingerprint, normalised, repeated
from launcher.data.rows import Row
from launcher.errors import DataError
from launcher.job.schema import Job
from launcher.job.sections.tasks import find_family
from launcher.measure.quality.advice import findings
from launcher.measure.quality.duplicates import contradictions, within
from launcher.measure.quality.label_sets import label_format
from launcher.measure.quality.mojibake import fault_of
from launcher.measure.quality.near_duplicates import LIKENESS, jaccard, near_duplicates, pieces
from launcher.measure.quality.report import look_at
from launcher.measure.quality.samples import SampleSet, read_sets
from tests.cli import adaptrun
from tests.families import JOBS, SAMPLES
from tests.measure.planted import alike, plant, precision_and_recall, write

JOB = """\
name: x
model: {pretrained: minilm}
task: text-classification
data: {train: train.csv, validation: {held: held.csv}, cache: cache}
train: {max_length: 32}
"""


def read(folder: Path, **data: Any) -> list[SampleSet]:
    values = {"train": str(folder / "train.csv"), "validation": {"held": str(folder / "held.csv")}, **data}
    job = Job.model_validate({"name": "x", "model": {"pretrained": "m"}, "task": "text-classification", "data": values})
    of_task = find_family(job.task)
    return read_sets(job, of_task, label_format(job, of_task))


def test_planted_faults_are_found(tmp_path: Path) -> None:
    made = plant(400, 200)
    write(tmp_path / "train.csv", made.train)
    write(tmp_path / "held.csv", made.validation)
    (tmp_path / "job.yaml").write_text(JOB)
    said = adaptrun("gap", "job.yaml", "--no-features", "--json", cwd=tmp_path, code=1)
    report = json.loads(said.stdout)
    assert not report["fit"]

    train = next(one for one in report["within"] if one["set"] == "train")
    again = {here for here, _ in train["pairs"]}
    assert precision_and_recall("duplicates", again, made.duplicates | made.contradicting) == (1, 1)
    pair = next(one for one in report["across"] if one["leaks"])
    assert precision_and_recall("leaks", {here for here, _ in pair["pairs"]}, made.leaks) == (1, 1)
    for here, there in pair["pairs"]:
        assert normalised(made.validation[here - 1][0]) == normalised(made.train[there - 1][0])
    last = {max(number for _, number, _ in one["places"]) for one in report["contradictions"]}
    assert precision_and_recall("contradictions", last, made.contradicting) == (1, 1)
    spoilt = {one["number"] for one in report["mojibake"] if one["set"] == "train"}
    assert precision_and_recall("mojibake", spoilt, made.mojibake) == (1, 1)

    exact = alike([text for text, _ in made.train])
    found = {
        (one["number"] - 1, one["other_number"] - 1)
        for one in report["near"]
        if (one["set"], one["other_set"]) == ("train", "train")
    }
    assert found <= exact, "each is truly alike"
    assert len(found) >= 0.95 * len(exact)
    assert precision_and_recall("near duplicates", {later + 1 for later, _ in found}, made.near)[1] >= 0.9


def test_what_readers_do_not_see_makes_no_difference() -> None:
    def of(text: str, **more: object) -> int:
        return fingerprint(Row("f.csv", 1, {"text": text, "label": "a", **more}), ("label",))

    assert of("Ein  Fuß\n") == of("ein fuß") == of("EIN FUSS") == of("\u3000ein ｆｕß", label="b")
    assert of("ein fuß") != of("ein fu")
    assert of("a", text_pair="b") != of("a b")
    assert of("a", response="b", prompt="c") != of("a", response="d", prompt="c")


def test_an_image_is_known_by_its_bytes_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")

    def of(image: object) -> int:
        return fingerprint(Row(str(tmp_path / "f.jsonl"), 1, {"image": image}), ("label",))

    assert of("a.png") == of(str(tmp_path / "a.png")) == of(b"pixels") == of({"bytes": b"pixels", "path": "b.png"})
    assert of({"bytes": None, "path": "a.png"}) == of(b"pixels") != of(b"others")
    assert of(np.arange(3)) == of(np.arange(3)) != of(np.arange(4))
    with pytest.raises(DataError, match=r"row 1: there is no image .*b\.png; correct the path"):
        of("b.png")


def test_repeated_samples_are_found_with_the_first_like_them() -> None:
    known = np.array([5, 9, 5, 2**64 - 1], dtype=np.uint64)
    asked = np.array([1, 9, 5, 2**64 - 1, 2**64 - 2], dtype=np.uint64)
    assert repeated(known, asked).tolist() == [[1, 1], [2, 0], [3, 3]]
    assert repeated(known[:0], asked).tolist() == []
    assert repeated(known, asked[:0]).tolist() == []


def test_a_sample_under_two_labels_contradicts_itself(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [("a b", "x"), ("c", "x"), ("A  b", "y"), ("", "x"), ("", "y"), ("c", "x")])
    write(tmp_path / "held.csv", [("c", "x"), ("d", "y")])
    sets = read(tmp_path)
    assert [one.places for one in contradictions(sets)] == [(("train", 1, "x"), ("train", 3, "y"))]
    assert within(sets[0]).pairs == ((3, 1), (6, 2)), "texts that say nothing repeat nothing"


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_those_that_comparing_all_with_all_finds(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    base = ["".join(draw.choice(list("abcdefgh "), 80)) for _ in range(20)]
    texts = [
        "".join(draw.choice(list("xyz")) if draw.random() < share else letter for letter in text)
        for text in base
        for share in (0.0, 0.01, 0.03, 0.05, 0.1)
    ]
    write(tmp_path / "train.csv", [(text, "a") for text in texts])
    write(tmp_path / "held.csv", [("other", "a")])
    found = {(one.number - 1, one.other_number - 1): one.likeness for one in near_duplicates(read(tmp_path))}
    exact = {pair for pair in alike(texts) if normalised(texts[pair[0]]) != normalised(texts[pair[1]])}
    assert set(found) <= exact
    assert len(found) >= 0.97 * len(exact) > 20
    for (later, earlier), likeness in found.items():
        assert likeness == jaccard(pieces(normalised(texts[later])), pieces(normalised(texts[earlier]))) >= LIKENESS


def test_many_copies_with_small_changes_are_all_found(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [(f"your parcel is waiting, pay the fee here {n:04}", "a") for n in range(200)])
    write(tmp_path / "held.csv", [("other", "a")])
    found = near_duplicates(read(tmp_path))
    assert {one.number for one in found} == set(range(2, 201))
    assert len(found) < 200 * 200 / 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (" \n ", "empty"),
        ("le cafÃ© est fermÃ©", "mojibake"),
        ("itâ€™s late", "mojibake"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "mojibake"),
        ("a \ufffd b", "replacement character"),
        ("a\x00b", "control character"),
        ("it\x92s late", "control character"),
        ("1 2 3 ... 4 5", "hardly any letters"),
        ("le café est fermé à São Tomé", None),
        ("Привет, как дела?", None),
        ("こんにちは世界", None),
        ("नमस्ते दुनिया", None),
        ("two\nlines\tand more", None),
        ("gate 12 at 10:30", None),
    ],
)
def test_spoilt_texts_are_told_from_those_of_any_language(text: str, fault: str | None) -> None:
    assert fault_of(text) == fault


def test_labels_and_lengths_of_a_bad_file(tmp_path: Path) -> None:
    rows = [(f"text number {'one ' * n}", "common") for n in range(60)] + [("rare one here", "rare"), ("and none", "")]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "held.csv", [("quite new", "unheard"), *[(f"new text {n}", "rare") for n in range(20)]])
    (tmp_path / "job.yaml").write_text(JOB)
    report = json.loads(adaptrun("gap", "job.yaml", "--no-features", "--json", cwd=tmp_path, code=1).stdout)
    train, held = report["balances"]
    assert train["counts"] == {"common": 60, "rare": 1}
    assert train["unlabelled"] == [62]
    assert held["unknown"] == ["unheard"]
    mended = {one["subject"] for one in report["findings"] if one["level"] == "mend"}
    assert mended == {"no label", "unknown labels"}
    lengths = report["lengths"][0]
    assert lengths["longest"] == 59 + 4
    assert lengths["cut"] == pytest.approx(sum(n + 4 > 32 for n in range(60)) / 62)
    moved = report["moves"][0]["classes"]
    assert {one["label"] for one in moved if abs(one["z"]) > 3} == {"common", "rare"}


@pytest.mark.parametrize("family", JOBS)
def test_samples_of_every_family_are_read(family: str, tmp_path: Path) -> None:
    made = JOBS[family]
    data = {"train": made.data(tmp_path, 1, SAMPLES), "validation": {"held": made.data(tmp_path, 2, 9)}}
    values = {"name": "x", "model": {"pretrained": "m"}, "task": made.task, "data": data, "train": made.train}
    job = Job.model_validate(values)
    of_task = find_family(job.task, loss=job.train.loss.name)
    train, held = read_sets(job, of_task, label_format(job, of_task))
    assert (len(train), len(held)) == (SAMPLES, 9)
    assert train.has_texts == (made.task not in ("image-classification", "audio-classification"))
    assert len(set(train.fingerprints.tolist())) >= SAMPLES - 2


@pytest.mark.parametrize(("merged", "told"), [(0, False), (1, True), (2, True), (20, False)])
def test_rows_that_a_quote_has_merged_are_told_where_others_hold_no_line_break(
    merged: int, told: bool, tmp_path: Path
) -> None:
    rows = [f"text number {number} of words,x\n" for number in range(200)]
    rows[7 : 7 + merged] = [f'"text {number},x\ntext {number}"" ",x\n' for number in range(merged)]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(rows))
    (tmp_path / "held.csv").write_text("text,label\nanother,x\n")
    report = look_at(read(tmp_path), True, False)
    lines = [line for line in findings(report) if line.subject == "line breaks in train"]
    assert bool(lines) == told
    if told:
        assert report.line_breaks[0].numbers == tuple(range(8, 8 + merged))
        assert "set `quoting: false`" in lines[0].advice
