"""What a run works on, as its ranks load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from launcher.errors import ModelError
from launcher.job.reading.job_file import load_job
from launcher.plan.planner import make_plan
from launcher.run.attempts import Attempt
from launcher.run.events import EventLog, EventTail, Note
from launcher.run.folder import RunFolder
from launcher.worker.data.inputs import load_model, open_inputs
from launcher.worker.rank.run_context import RunContext
from launcher.worker.rank.world import World
from tests.small_run import write_job


def context(folder: Path, model: Path, *sets: str) -> RunContext:
    """A start of one process, as its rank sees it."""
    job_file = write_job(folder, model)
    job = load_job(job_file, ["launch.processes=1", f"launch.runs={folder / 'runs'}", *sets])
    run = RunFolder.create(job)
    return RunContext(job, make_plan(job, job_file), run, World(), EventLog(run.events_file), Attempt())


def gradients(folder: Path, model: Path, *sets: str) -> tuple[int, list[torch.Tensor]]:
    """How often a part of the first layer computed in one forward and backward, and the gradients."""
    start = context(folder, model, *sets)
    inputs = open_inputs(start)
    module = inputs.task.build(load_model(start, inputs, in_parts=False).model).train()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    module.model.bert.encoder.layer[0].intermediate.register_forward_pre_hook(count)
    torch.manual_seed(1)
    batch = inputs.task.collate(inputs.train[range(8)], range(8))
    module(batch).weighted.sum().backward()
    return calls, [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def test_activation_checkpointing_computes_twice_and_changes_no_gradient(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    once, expected = gradients(tmp_path / "a", tiny_model)
    twice, found = gradients(tmp_path / "b", tiny_model, "train.activation_checkpointing=true")
    assert (once, twice) == (1, 2)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_model_that_cannot_compute_again_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BertForSequenceClassification, "supports_gradient_checkpointing", False)
    start = context(tmp_path, tiny_model, "train.activation_checkpointing=true")
    with pytest.raises(
        ModelError, match=r"does not support activation checkpointing; set " r"train\.activation_checkpointing"
    ):
        load_model(start, open_inputs(start), in_parts=False)


def test_a_new_head_is_named(tiny_model: Path, tmp_path: Path) -> None:
    start = context(tmp_path, tiny_model)
    load_model(start, open_inputs(start), in_parts=False)
    notes = [event.text for event in EventTail(start.folder.events_file).read() if isinstance(event, Note)]
    assert notes == ["new weights, initialised at random: classifier.bias, classifier.weight"]


def test_labels_that_a_trained_head_does_not_know_are_named(tiny_model: Path, tmp_path: Path) -> None:
    """So that a misspelt label, which makes a class of its own, is seen before a head is lost."""
    config = BertConfig.from_pretrained(tiny_model, id2label={0: "class-0", 1: "class-1"})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    for file in tiny_model.glob("tok*"):
        shutil.copy(file, tmp_path / "model")
    start = context(tmp_path, tmp_path / "model")
    train = tmp_path / "train.csv"
    train.write_text(train.read_text() + "babe,clas-1\n")
    load_model(start, open_inputs(start), in_parts=False)
    notes = [event.text for event in EventTail(start.folder.events_file).read() if isinstance(event, Note)]
    assert notes[0] == (
        "the labels differ from those of the pretrained head: kept 'class-0', 'class-1'; new, initialised at random: "
        "'clas-1'. To match labels that have other names: model.labels: {OURS: THE-HEAD'S}"
    )


@pytest.mark.parametrize(
    ("task", "label", "said"),
    [
        ("text-classification", "class-0", "single_label_classification"),
        ("text-regression", "0.5", "regression"),
        ("masked-lm", "", None),
    ],
)
def test_nothing_of_an_earlier_task_is_left_in_the_config(
    task: str, label: str, said: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    config = BertConfig.from_pretrained(tiny_model, problem_type="multi_label_classification", num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    for file in tiny_model.glob("tok*"):
        shutil.copy(file, tmp_path / "model")
    start = context(tmp_path, tmp_path / "model", f"task={task}", "validation.metric=loss", "validation.set=near")
    for name in ("train.csv", "near.csv", "far.csv"):
        rows = [line.split(",")[0] for line in (tmp_path / name).read_text().splitlines()[1:]]
        labels = [label, label.replace("0", "1")] * len(rows)
        (tmp_path / name).write_text("text,label\n" + "\n".join(map(",".join, zip(rows, labels, strict=False))) + "\n")
    model = load_model(start, open_inputs(start), in_parts=False).model
    assert model.config.problem_type == said


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused_before_the_data_are_prepared(
    in_parts: bool, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(tmp_path / "model")
    start = context(tmp_path, tmp_path / "model")
    with pytest.raises(ModelError, match=r"has token ids up to 165 \('extra'\), and the model has 165 embeddings"):
        open_inputs(start)


@pytest.mark.parametrize("pair", ["text_pair: text", "columns: {text_pair: text}"])
def test_a_second_text_of_a_type_that_the_model_lacks_is_refused(pair: str, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = tmp_path / "model" / "tokenizer_config.json"
    said = json.loads(tokenizer.read_text())
    said["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.write_text(json.dumps(said))
    BertModel(BertConfig.from_pretrained(tiny_model, type_vocab_size=1)).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="the second text of a pair token type 1, and the model has 1 token types"):
        start = context(tmp_path, tmp_path / "model", f"data.train={{source: train.csv, {pair}}}")
        load_model(start, open_inputs(start), in_parts=False)
