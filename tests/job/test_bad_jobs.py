"""Every mistake in a job file gets a message that says where it is, what was found, and what to do."""

from __future__ import annotations

import random
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.errors import JobError
from launcher.job.reading import load_job

GOOD = """\
name: good
model: {pretrained: tiny}
task: text-classification
data:
  train: {source: train.csv, text: text, label: label}
  validation:
    dev: {source: dev.csv}
train:
  epochs: 2
  global_batch_size: 8
  max_length: 32
  optimizer: {name: adamw, lr: 2e-5}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the good job is good."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text('{"max_position_embeddings": 64}')
    (tmp_path / "tiny" / "tokenizer.json").write_text("{}")
    (tmp_path / "mute").mkdir()
    (tmp_path / "mute" / "config.json").write_text("{}")
    (tmp_path / "finished" / "model").mkdir(parents=True)
    (tmp_path / "finished" / "model" / "config.json").write_text("{}")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "job.yaml").write_text("name: x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"")
    (tmp_path / "build.py").write_text("def build(labels): ...\n")
    for name in ("train.csv", "dev.csv", "target.csv"):
        (tmp_path / name).write_text("text,label\na,b\n")
    return tmp_path


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BAD: dict[str, tuple[str, list[str]]] = {
    "empty file": ("", [":1:1", "the file is empty", "adaptrun init"]),
    "a list": ("- a\n- b\n", [":1:1", "list, not keys and values"]),
    "a word": ("hello\n", ["str, not keys and values"]),
    "broken yaml": (GOOD + "train: {epochs: 1\n", ["not valid YAML", ":14:1"]),
    "a tab": ("name: x\n\tmodel: y\n", [":2:1", "not valid YAML"]),
    "a key twice": (GOOD + "name: again\n", [":13:1: name: the key is there twice", "remove one"]),
    "a list for a key": (GOOD + "? [a, b]\n: c\n", [":13:3", "not valid YAML"]),
    "a value that holds itself": (GOOD + "x: &x [*x]\n", [":13:4: x.0: the value holds itself"]),
    "a control character": (GOOD + "x: \x07\n", [":13:4", "'\\x07' is not allowed"]),
    "a number for a key": (GOOD + "3: 4\n", [":13:1: 3: unknown key '3'"]),
    "no such day": (GOOD + "x: 2020-02-31\n", ["not valid YAML: day is out of range"]),
    "two documents": (GOOD + "---\nname: y\n", ["not valid YAML", "document"]),
    "an object": (replaced("name: good", "name: !!python/object:os.system {}"), ["not valid YAML", "constructor"]),
    "unknown key": (GOOD + "trian: {}\n", [":13:1: trian: unknown key 'trian'", "did you mean train?"]),
    "unknown key below": (replaced("lr: 2e-5", "lrr: 2e-5"), [":12:28: train.optimizer.lrr", "did you mean lr?"]),
    "unknown key of a source": (replaced("text: text", "txt: text"), [":5:30: data.train.txt", "did you mean text?"]),
    "unknown key of a set": (
        replaced("source: dev.csv", "source: dev.csv, tex: a"),
        ["data.validation.dev.tex", "text?"],
    ),
    "far from any key": (GOOD + "zzz: 1\n", ["unknown key 'zzz'", "the keys here are name, model, task"]),
    "missing name": (replaced("name: good\n", ""), [":1:1: name: is missing and needed"]),
    "missing section": (replaced("model: {pretrained: tiny}\n", ""), ["model: is missing and needed"]),
    "missing below": (replaced("{pretrained: tiny}", "{}"), [":2:1: model.pretrained: is missing and needed"]),
    "missing training data": (
        replaced("  train: {source: train.csv, text: text, label: label}\n", ""),
        [":4:1: data.train: is missing and needed"],
    ),
    "bad name": (replaced("name: good", "name: no good"), [":1:1: name: found 'no good'", "letters, digits"]),
    "number for a name": (replaced("name: good", "name: 3"), ["found 3", "text", 'quotes around it: "3"']),
    "unknown task": (replaced("text-classification", "text-clasification"), ["task:", "text-classification?"]),
    "word for a number": (replaced("epochs: 2", "epochs: two"), [":9:3: train.epochs: found 'two'", "a whole number"]),
    "zero epochs": (replaced("epochs: 2", "epochs: 0"), ["train.epochs: found 0", "a number above 0"]),
    "half an epoch": (replaced("epochs: 2", "epochs: 1.5"), ["train.epochs: found 1.5", "a whole number"]),
    "negative rate": (replaced("lr: 2e-5", "lr: -1"), ["train.optimizer.lr: found -1", "a number above 0"]),
    "infinite rate": (replaced("lr: 2e-5", "lr: .inf"), ["train.optimizer.lr: found inf", "a number"]),
    "unknown optimizer": (replaced("adamw", "adam"), [":12:15: train.optimizer.name: found 'adam'", "adamw or sgd"]),
    "union": (replaced("epochs: 2", "micro_batch_size: many"), ["micro_batch_size: found 'many'", "auto or a whole"]),
    "list for a section": (replaced("{name: adamw, lr: 2e-5}", "[1]"), ["train.optimizer: found [1]", "a section"]),
    "yes": (replaced("{pretrained: tiny}", "{pretrained: tiny, trust_remote_code: perhaps}"), ["true or false"]),
    "no such file": (replaced("train.csv", "trian.csv"), [":5:11: data.train.source", "did you mean train.csv?"]),
    "no such set": (replaced("dev.csv", "nowhere/dev.csv"), ["data.validation.dev.source", "relative to the job file"]),
    "no such model": (replaced("tiny}", "./tiny2}"), [":2:9: model.pretrained: there is no", "minilm"]),
    "misspelt alias": (replaced("tiny}", "minlm}"), ["did you mean minilm?"]),
    "no model folder": (replaced("tiny}", "empty}"), ["holds no config.json"]),
    "no tokenizer": (replaced("tiny}", "mute}"), ["holds no tokenizer", "model.tokenizer"]),
    "unfinished run": (replaced("tiny}", "unfinished}"), ["a run without a finished model", "--resume"]),
    "weights alone": (replaced("tiny}", "weights.pt}"), ["holds weights alone", "model.config:"]),
    "no such weights": (replaced("tiny}", "other.pt}"), ["there is no"]),
    "no function": (replaced("tiny}", "build.py}"), ["say which function", "build.py:build"]),
    "unknown function": (replaced("tiny}", '"build.py:bild"}'), ["defines no function 'bild'", "it has build"]),
    "function without tokenizer": (replaced("tiny}", '"build.py:build"}'), ["add model.tokenizer"]),
    "a method without its target": (GOOD + "adapt: {method: dann}\n", ["adapt.method: dann learns", "add data.target"]),
    "a target for nothing": (replaced("data:\n", "data:\n  target: target.csv\n"), ["finetune does not use", "remove"]),
    "unknown method": (GOOD + "adapt: {method: adabn}\n", ["adapt.method: found 'adabn'", "dann or cdan"]),
    "a source for a source-free method": (
        replaced("data:\n", "adapt: {method: shot}\ndata:\n  target: target.csv\n"),
        [":7:3: data.train: shot learns without labelled data", "remove data.train"],
    ),
    "one group alone": (GOOD + "adapt: {method: group-dro}\n", ["weighs training sets", "name several"]),
    "mixing of one set": (replaced("data:\n", "data:\n  mixing: {alpha: 0.5}\n"), ["data.mixing: there is one", "two"]),
    "weights of other sets": (
        replaced("{source: train.csv, text: text, label: label}", "{a: train.csv, b: target.csv}").replace(
            "  validation:\n", "  mixing: {weights: {a: 1, c: 2}}\n  validation:\n"
        ),
        ["data.mixing.weights: weights are of a, c, and the training sets are a, b"],
    ),
    "classes of a number": (
        replaced("task: text-classification", "task: text-regression\nadapt: {method: mcc}").replace(
            "data:\n", "data:\n  target: target.csv\n"
        ),
        ["adapt.method: mcc looks at one class a sample", "text-classification and image-classification"],
    ),
    "features of each word": (
        replaced("task: text-classification", "task: token-classification\nadapt: {method: coral}")
        .replace("data:\n", "data:\n  target: target.csv\n")
        .replace(", text: text", ""),
        ["adapt.method: coral looks at one vector of features a sample"],
    ),
    "a target that judges": (
        replaced("data:\n", "adapt: {method: dann}\ndata:\n  target: dev.csv\n"),
        ["data.validation.dev", "is also data.target"],
    ),
    "no such rehearsal": (
        GOOD + "adapt: {method: finetune, rehearsal: {source: trian.csv}}\n",
        ["adapt.rehearsal.source.source: there is no", "train.csv?"],
    ),
    "no such method file": (GOOD + "adapt: {method: own, code: 'my.py:Mine'}\n", ["adapt.code: there is no"]),
    "plateau without validation": (
        replaced("  validation:\n    dev: {source: dev.csv}\n", "").replace("epochs: 2", "schedule: {name: plateau}"),
        ["train.schedule.name: plateau needs validation data", "add data.validation"],
    ),
    "early stopping without validation": (
        replaced("  validation:\n    dev: {source: dev.csv}\n", "").replace("epochs: 2", "early_stopping: {}"),
        ["train.early_stopping: needs validation data"],
    ),
    "unknown deciding set": (
        GOOD + "validation: {set: test}\n",
        [":13:14: validation.set", "sets of data.validation are dev"],
    ),
    "fp16 on a cpu": (
        replaced("epochs: 2", "precision: fp16") + "launch: {device: cpu}\n",
        ["train.precision", "fp32"],
    ),
    "batch below the world": (
        GOOD + "launch: {processes: 9}\n",
        ["train.global_batch_size: 8 samples", "processes: 8"],
    ),
    "micro above global": (replaced("epochs: 2", "micro_batch_size: 16"), ["16 is more than the 8 samples of a step"]),
    "single of several": (
        GOOD + "engine: {name: single}\nlaunch: {processes: 2}\n",
        ["engine.name: single is one process"],
    ),
    "ddp of one": (GOOD + "engine: {name: ddp}\nlaunch: {processes: 1}\n", ["engine.name: ddp is for several"]),
    "an unknown engine": (GOOD + "engine: {name: horovod}\n", ["found 'horovod'", "ddp, fsdp or deepspeed"]),
    "deepspeed in fp16": (
        replaced("epochs: 2", "precision: fp16") + "engine: {name: deepspeed}\n",
        ["engine.name: fsdp"],
    ),
    "a stage of fsdp": (GOOD + "engine: {name: fsdp, deepspeed: zero3}\n", ["only deepspeed uses deepspeed"]),
    "an unknown template": (GOOD + "engine: {name: deepspeed, deepspeed: zero33}\n", ["did you mean zero3?"]),
    "no DeepSpeed file": (GOOD + "engine: {name: deepspeed, deepspeed: my.json}\n", ["no template and no file"]),
    "a block of ddp": (GOOD + "engine: {name: ddp, block: Layer}\n", ["engine.block: only fsdp uses block"]),
    "unused target": (replaced("data:\n", "data:\n  target: target.csv\n"), ["data.target: finetune does not use"]),
    "endless warm-up": (replaced("epochs: 2", "max_steps: 5\n  schedule: {warmup: 5}"), ["warm-up leave nothing of 5"]),
    "floor above the peak": (replaced("epochs: 2", "schedule: {min_lr: 1}"), ["min_lr: 1 is above the peak"]),
    "momentum of adamw": (replaced("lr: 2e-5", "momentum: 0.9"), ["adamw does not use momentum", "remove momentum"]),
    "patience of cosine": (replaced("epochs: 2", "schedule: {patience: 5}"), ["only plateau uses patience"]),
    "beyond the positions": (
        replaced("max_length: 32", "max_length: 65"),
        ["train.max_length: 65 tokens are more than the 64", "train.max_length: 64"],
    ),
    "validating on training": (replaced("dev.csv", "train.csv"), ["is also trained on"]),
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, (text, _) in BAD.items()])
def test_no_mistake_ends_in_a_traceback(
    text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "job.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["adaptrun", "check", str(folder / "job.yaml")])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*bad, id=name) for name, bad in BAD.items()])
def test_the_message_says_where_what_and_how(text: str, expected: list[str], folder: Path) -> None:
    file = folder / "job.yaml"
    file.write_text(text)
    with pytest.raises(JobError) as raised:
        load_job(file)
    for part in expected:
        assert part in str(raised.value)
    assert re.match(rf"{re.escape(str(file))}:\d+:\d+: ", str(raised.value))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "--set train.epochs: not of the form a.b=c"),
        ("=3", "not of the form a.b=c"),
        ("train..epochs=3", "not of the form a.b=c"),
        ("train.epochs=many", "--set train.epochs=many: train.epochs: found 'many'"),
        ("train.epoch=3", "--set train.epoch=3: train.epoch: unknown key 'epoch'\n    fix: did you mean epochs?"),
        ("name.first=x", "a part of the path is a single value"),
        ("train.epochs={", "the value is not valid YAML"),
        ("data.train.source=nope.csv", "--set data.train.source=nope.csv: data.train.source: there is no"),
        ("launch.processes=9", "train.global_batch_size: 8 samples a step"),
    ],
)
def test_a_bad_override_is_named(override: str, expected: str, folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD)
    with pytest.raises(JobError) as raised:
        load_job(folder / "job.yaml", [override])
    assert expected in str(raised.value)


def test_all_problems_come_at_once(folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD.replace("epochs: 2", "epochs: 0").replace("lr: 2e-5", "lr: -1") + "zzz: 1\n")
    with pytest.raises(JobError) as raised:
        load_job(folder / "job.yaml")
    assert [problem.path for problem in raised.value.problems] == ["train.epochs", "train.optimizer.lr", "zzz"]


def test_a_missing_job_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no such file\n    fix: adaptrun init"):
        load_job(tmp_path / "job.yaml")


def test_a_job_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(JobError, match="cannot be read as UTF-8 text"):
        load_job(tmp_path / "job.yaml")


def test_there_are_at_least_forty_bad_jobs() -> None:
    assert len(BAD) >= 40


def test_no_damage_to_a_job_file_ends_in_a_traceback(folder: Path) -> None:
    draw = random.Random(0)
    pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        "- ",
        "\n",
        "  ",
        "&a ",
        "*a",
        "!!int ",
        "null",
        "~",
        "1e999",
        "'",
        '"',
        "#",
        "? ",
        "\t",
    ]
    for _ in range(400):
        text = GOOD
        for _ in range(draw.randint(1, 3)):
            start = draw.randrange(len(text))
            text = text[:start] + draw.choice([*pieces, ""]) + text[start + draw.randint(0, 6) :]
        (folder / "job.yaml").write_text(text)
        with suppress(JobError):
            load_job(folder / "job.yaml")
