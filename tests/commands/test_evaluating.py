"""`adaptrun evaluate` and `predict` on the model of a finished run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.cli import adaptrun
from tests.small_run import Trained, write_job
from tests.tiny import WORDS


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluate_gives_the_figures_of_the_run(processes: int, trained: Trained) -> None:
    said = adaptrun(
        "evaluate", "runs/small", "--data", "near.csv", "--json", "--processes", processes, cwd=trained.folder
    )
    found = json.loads(said.stdout)
    expected = json.loads((trained.run / "result.json").read_text())["sets"]["near"]
    assert found["samples"] == 25
    assert found["metrics"].pop("loss") == pytest.approx(expected["after"].pop("loss"), rel=1e-6)
    assert found["metrics"] == expected["after"]


def test_evaluate_prints_the_count_and_the_intervals(trained: Trained) -> None:
    said = adaptrun("evaluate", "runs/small/model", "--data", "far.csv", "--processes", 1, cwd=trained.folder).stdout
    assert said.startswith("13 samples, each counted once")
    assert "balanced_accuracy" in said
    assert "(95 %: " in said


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as opened:
            return [{k: v if k == "label" else float(v) for k, v in row.items()} for row in csv.DictReader(opened)]
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


@pytest.mark.parametrize(("suffix", "processes"), [(".csv", 1), (".jsonl", 1), (".parquet", 2)])
def test_predictions_are_those_of_transformers(suffix: str, processes: int, trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / f"predictions{suffix}"
    adaptrun("predict", "runs/small", "--data", "near.csv", "-o", output, "--processes", processes, cwd=trained.folder)
    found = read(output)
    with (trained.folder / "near.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    model = AutoModelForSequenceClassification.from_pretrained(trained.run / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.run / "model")
    assert [row["row"] for row in found] == list(range(1, 26))
    for text, row in zip(texts, found, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)).logits[0]
        probabilities = [row["p_class-0"], row["p_class-1"]]
        assert probabilities == pytest.approx(logits.softmax(-1).tolist(), abs=1e-6)
        # Probabilities and logits say the same up to a constant.
        assert torch.tensor(probabilities).log().diff().item() == pytest.approx(logits.diff().item(), abs=1e-4)
        assert row["label"] == model.config.id2label[int(logits.argmax())]


def test_columns_and_the_encoding_can_be_named(trained: Trained, tmp_path: Path) -> None:
    with (trained.folder / "far.csv").open(newline="", encoding="utf-8") as file:
        rows = [f"{row['text']} é\t{row['label']}\n" for row in csv.DictReader(file)]
    data = tmp_path / "far.tsv"
    data.write_text("review\tsense\n" + "".join(rows), encoding="latin-1")
    columns = "--text", "review", "--label", "sense", "--encoding", "latin-1"
    said = adaptrun("evaluate", "runs/small", "--data", data, *columns, "--json", "--processes", 1, cwd=trained.folder)
    assert json.loads(said.stdout)["samples"] == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere", "--data", "near.csv"], "nowhere"),
        (["evaluate", "minilm", "--data", "near.csv"], "no trained head for text-classification; fine-tune it first"),
        (["evaluate", "runs/small", "--data", "no.csv"], "there is no such file"),
        (["evaluate", "runs/small", "--data", "strange.csv"], "row 2: label 'other' does not occur"),
        (
            ["predict", "runs/small", "--data", "near.csv", "-o", "out.xls"],
            "predictions are written to .csv, .jsonl, .parquet",
        ),
        (["predict", "runs/small", "--data", "near.csv", "-o", "no/out.csv"], "there is no folder"),
        (["predict", "runs/small", "--data", "blank.csv", "-o", "out.csv"], "row 2: the text is empty"),
    ],
)
def test_a_wrong_request_ends_with_its_reason(arguments: list[str], message: str, trained: Trained) -> None:
    (trained.folder / "strange.csv").write_text("text,label\nbabe,class-0\nbabe,other\n")
    (trained.folder / "blank.csv").write_text("text\nbabe\n  \n")
    said = adaptrun(*arguments, cwd=trained.folder, code=2)
    assert message in said.stderr
    assert "Traceback" not in said.stderr
    assert not (trained.folder / "out.csv").exists()


def test_a_separator_of_labels_can_be_named(tiny_model: Path, tmp_path: Path) -> None:
    write_job(tmp_path, tiny_model)
    for name, mark in (("train.csv", ";"), ("near.csv", ";"), ("commas.csv", ",")):
        words = WORDS[4:10] if name == "train.csv" else WORDS[:4]
        lines = [f'{word},"x{mark}y"\n' if number % 2 else f"{word},x\n" for number, word in enumerate(words)]
        (tmp_path / name).write_text("text,label\n" + "".join(lines))
    source = "{source: train.csv, label_separator: ';'}"
    sets = [f"data.train={source}", f"data.validation={source.replace('train', 'near')}", "train.loss.name=binary"]
    sets += ["train.max_steps=1", "launch.processes=1"]
    adaptrun("train", "job.yaml", *(f"--set={one}" for one in sets), cwd=tmp_path)
    asked = ["evaluate", "runs/small", "--json", "--processes=1", "--data"]
    found = adaptrun(*asked, "near.csv", "--label-separator=;", cwd=tmp_path).stdout
    assert json.loads(found)["metrics"] == json.loads(adaptrun(*asked, "commas.csv", cwd=tmp_path).stdout)["metrics"]


def test_labels_are_read_as_in_training_unless_it_is_said_otherwise(tiny_model: Path, tmp_path: Path) -> None:
    """Rows that all have the labels 0 and 1 could as well be vectors, of the label 1 alone."""

    def write(name: str, words: list[str], labels: list[list[int]]) -> None:
        rows = [{"text": word, "label": label} for word, label in zip(words, labels, strict=True)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write_job(tmp_path, tiny_model)
    write("train.jsonl", WORDS[4:10], [[0], [0, 1], [1], [], [0, 1], [1]])
    write("both.jsonl", WORDS[:4], [[0, 1]] * 4)
    write("last.jsonl", WORDS[:4], [[1]] * 4)
    sets = ["data.train=train.jsonl", "data.validation=both.jsonl", "train.loss.name=binary", "train.epochs=1"]
    adaptrun("train", "job.yaml", *(f"--set={one}" for one in [*sets, "launch.processes=1"]), cwd=tmp_path)
    result = json.loads((tmp_path / "runs/small/result.json").read_text())

    def loss_on(data: str, *options: str) -> float:
        said = adaptrun("evaluate", "runs/small", "--data", data, *options, "--json", "--processes=1", cwd=tmp_path)
        loss: float = json.loads(said.stdout)["metrics"]["loss"]
        return loss

    (of_both,) = result["sets"].values()
    card = json.loads((tmp_path / "runs/small/model/adaptrun.json").read_text())
    assert card["label_format"] == "names"
    assert loss_on("both.jsonl") == pytest.approx(of_both["after"]["loss"], rel=1e-6)
    as_vectors = loss_on("both.jsonl", "--label-format=vector")
    assert as_vectors != pytest.approx(of_both["after"]["loss"], rel=1e-3)
    assert as_vectors == pytest.approx(loss_on("last.jsonl"), rel=1e-6)
