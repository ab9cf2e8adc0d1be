"""Every mistake in a job file gets a message that says where it is, what was found, and what to do."""

from __future__ import annotations

import json
import random
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.errors import JobError
from launcher.job.reading.job_file import load_job
from launcher.job.reading.overrides import apply_overrides
from launcher.plan.deepspeed_config import read_deepspeed
from launcher.run.folder import RunFolder
from tests.cli import adaptrun

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
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "headless" / "tokenizer.json").write_text("{}")
    (tmp_path / "mute").mkdir()
    (tmp_path / "mute" / "config.json").write_text("{}")
    (tmp_path / "finished" / "model").mkdir(parents=True)
    (tmp_path / "finished" / "model" / "config.json").write_text("{}")
    (tmp_path / "tagger").mkdir()
    (tmp_path / "tagger" / "config.json").write_text("{}")
    (tmp_path / "tagger" / "tokenizer.json").write_text("{}")
    (tmp_path / "tagger" / "adaptrun.json").write_text('{"task": "token-classification"}')
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "job.yaml").write_text("name: x")
    for name, base in (("adapted", str(tmp_path / "tiny")), ("alone", "/x/y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    (tmp_path / "empty").mkdir()
    for name, splits in (("splits", ["train", "validation", "test"]), ("evals", ["dev", "final"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    (tmp_path / "weights.pt").write_bytes(b"")
    (tmp_path / "build.py").write_text("def build(labels): ...\n")
    for name in ("train.csv", "dev.csv", "target.csv"):
        (tmp_path / name).write_text("text,label\na,b\n")
    return tmp_path


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def with_target(source: str) -> str:
    return replaced("  train: {", f"  target: {source}\n  train: {{") + "adapt: {method: mmd}\n"


BAD: dict[str, tuple[str, list[str]]] = {
    "empty file": ("", [":1:1", "the file is empty", "adaptrun init"]),
    "a list": ("- a\n- b\n", [":1:1", "list, not keys and values"]),
    "a word": ("hello\n", ["str, not keys and values"]),
    "broken yaml": (GOOD + "train: {epochs: 1\n", ["not valid YAML", ":14:1"]),
    "a tab": ("name: x\n\tmodel: y\n", [":2:1", "not valid YAML"]),
    "a key twice": (GOOD + "name: again\n", [":13:1: name: the key is given twice", "remove one"]),
    "a list for a key": (GOOD + "? [a, b]\n: c\n", [":13:3", "not valid YAML"]),
    "a value that holds itself": (GOOD + "x: &x [*x]\n", [":13:4: x.0: the value contains itself"]),
    "a control character": (GOOD + "x: \x07\n", [":13:4", "'\\x07' is not allowed"]),
    "a number for a key": (GOOD + "3: 4\n", [":13:1: 3: unknown key '3'"]),
    "a word for true or false": (
        replaced("{pretrained: tiny}", "{pretrained: tiny, trust_remote_code: !!bool maybe}"),
        [":2:46: model.trust_remote_code: not valid YAML: 'maybe' is not a valid !!bool", "remove !!bool"],
    ),
    "a number without digits": (
        replaced("epochs: 2", "epochs: !!int"),
        [":9:11: train.epochs", "'' is not a valid !!int"],
    ),
    "a tag of Python": (
        replaced("epochs: 2", "epochs: !!timestamp x"),
        [":9:11: train.epochs: not valid YAML: the tag !!timestamp is not allowed", "remove it"],
    ),
    "a thousand levels": (GOOD + "x: " + "[" * 1000, [":13:103: not valid YAML: nested deeper than 100 levels"]),
    "a thousand levels of aliases": (
        GOOD + "".join(f"x{i}: &x{i} [{f'*x{i - 1}' if i else ''}]\n" for i in range(1000)),
        ["nested deeper than 100 levels"],
    ),
    "aliases that multiply": (
        GOOD + "x0: &x0 [1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 10)),
        ["with its aliases expanded, the file has more than 100,000 values", "remove the alias"],
    ),
    "merges that multiply": (
        GOOD + "x0: &x0 {a: 1}\n" + "".join(f"x{i}: &x{i} {{<<: [*x{i - 1}, *x{i - 1}]}}\n" for i in range(1, 30)),
        ["more than 100,000 values"],
    ),
    "a merge with itself": (GOOD + "x: &x {<<: *x}\n", [":13:4: x: the value contains itself"]),
    "a merge with a word": (GOOD + "x: {<<: y}\n", [":13:9: x: << needs a section"]),
    "a merged key there is not": (GOOD + "<<: {a: 1}\n", [":13:6: a: unknown key 'a'"]),
    "nothing for a key": (
        replaced("{pretrained: tiny}", "{pretrained: tiny, ~: 1}"),
        [":2:27: model.~: unknown key '~'"],
    ),
    "an endless number": (
        replaced("epochs: 2", f"epochs: {'9' * 5000}"),
        [":9:11: train.epochs: a number of 5,000 characters; at most 300 are allowed"],
    ),
    "half of a character": (replaced("name: good", 'name: "\\ud800"'), [":1:7: name: not valid YAML: half of a char"]),
    "no such character": (
        replaced("name: good", 'name: "\\UFFFFFFFF"'),
        [":1:10: not valid YAML: a number out of range"],
    ),
    "a number as it was written": (replaced("name: good", "name: 1.10"), ["found 1.1", 'quotes around it: "1.10"']),
    "a name that is too long": (
        replaced("{pretrained: tiny}", f"{{pretrained: {'x' * 5000}}}"),
        [":2:9: model.pretrained: ", "is longer than a path can be (255 bytes a name"],
    ),
    "a source that is too long": (replaced("train.csv", f"{'x' * 300}"), [":5:11: data.train.source", "longer than"]),
    "a folder that is too long": (GOOD + f"launch: {{runs: {'x/' * 4000}}}\n", [":13:10: launch.runs", "longer than"]),
    "a place with a NUL": (replaced("{pretrained: tiny}", '{pretrained: "a\\0b"}'), ["contains a NUL character"]),
    "the home of nobody": (
        replaced("train.csv", "~nobody-here/train.csv"),
        [
            ":5:11: data.train.source",
            "there is no user 'nobody-here' on this machine, so the path ~nobody-here/train.csv cannot be resolved",
        ],
    ),
    "runs in the home of nobody": (
        GOOD + "launch: {runs: ~nobody-here/runs}\n",
        [":13:10: launch.runs: there is no user 'nobody-here'", "fix: choose another place"],
    ),
    "lines that end in CR alone": (GOOD.replace("\n", "\r") + "x: \x07\r", [":13:4", "'\\x07' is not allowed"]),
    "two documents": (GOOD + "---\nname: y\n", ["not valid YAML", "document"]),
    "an object": (
        replaced("name: good", "name: !!python/object:os.system {}"),
        ["not valid YAML: the tag !!python/object:os.system is not"],
    ),
    "unknown key": (GOOD + "trian: {}\n", [":13:1: trian: unknown key 'trian'", "did you mean train?"]),
    "unknown key below": (replaced("lr: 2e-5", "lrr: 2e-5"), [":12:28: train.optimizer.lrr", "did you mean lr?"]),
    "unknown key of a source": (replaced("text: text", "txt: text"), [":5:30: data.train.txt", "did you mean text?"]),
    "unknown key of a set": (
        replaced("source: dev.csv", "source: dev.csv, tex: a"),
        ["data.validation.dev.tex", "text?"],
    ),
    "far from any key": (GOOD + "zzz: 1\n", ["unknown key 'zzz'", "the keys here are name, model, task"]),
    "missing name": (replaced("name: good\n", ""), [":1:1: name: is required and missing"]),
    "missing section": (replaced("model: {pretrained: tiny}\n", ""), ["model: is required and missing"]),
    "missing below": (replaced("{pretrained: tiny}", "{}"), [":2:1: model.pretrained: is required and missing"]),
    "missing training data": (
        replaced("  train: {source: train.csv, text: text, label: label}\n", ""),
        [":4:1: data.train: is required and missing"],
    ),
    "bad name": (replaced("name: good", "name: no good"), [":1:1: name: found 'no good'", "letters, digits"]),
    "number for a name": (replaced("name: good", "name: 3"), ["found 3", "text", 'quotes around it: "3"']),
    "unknown task": (replaced("text-classification", "text-clasification"), ["task:", "text-classification?"]),
    "several labels as a task": (
        replaced("text-classification", "multi-label-classification"),
        ["task: there is no task", "text-classification (or image-classification) with train.loss.name: binary"],
    ),
    "a task of preferences": (
        replaced("text-classification", "dpo"),
        ["there is no task 'dpo'", "causal-lm learns the chosen answers: prompt: prompt, response: chosen"],
    ),
    "no split to judge on": (
        replaced("{source: dev.csv}", "{source: splits}"),
        [":7:11: data.validation.dev.source: holds the splits", "fix: data.validation.dev.split: validation"],
    ),
    "no split to train on": (
        replaced("train.csv", "evals"),
        [":5:11: data.train.source: holds the splits dev, final", "fix: data.train.split: dev"],
    ),
    "one folder for both": (
        replaced("train.csv", "splits").replace("dev.csv", "splits"),
        ["data.validation.dev.source: holds the splits train, validation, test", "split: validation"],
    ),
    "word for a number": (replaced("epochs: 2", "epochs: two"), [":9:3: train.epochs: found 'two'", "a whole number"]),
    "zero epochs": (replaced("epochs: 2", "epochs: 0"), ["train.epochs: found 0", "a number above 0"]),
    "half an epoch": (replaced("epochs: 2", "epochs: 1.5"), ["train.epochs: found 1.5", "a whole number"]),
    "negative rate": (replaced("lr: 2e-5", "lr: -1"), ["train.optimizer.lr: found -1", "a number above 0"]),
    "infinite rate": (replaced("lr: 2e-5", "lr: .inf"), ["train.optimizer.lr: found inf", "a number"]),
    "unknown optimizer": (
        replaced("adamw", "adam"),
        [":12:15: train.optimizer.name: found 'adam'", "adamw, sgd or schedule_free_adamw"],
    ),
    "union": (replaced("epochs: 2", "micro_batch_size: many"), ["micro_batch_size: found 'many'", "auto or a whole"]),
    "list for a section": (replaced("{name: adamw, lr: 2e-5}", "[1]"), ["train.optimizer: found [1]", "a section"]),
    "yes": (replaced("{pretrained: tiny}", "{pretrained: tiny, trust_remote_code: perhaps}"), ["true or false"]),
    "no such file": (replaced("train.csv", "trian.csv"), [":5:11: data.train.source", "did you mean train.csv?"]),
    "unknown tracker": (
        GOOD + "track: [tensorbord]\n",
        [":13:9", "track.0", "'tensorbord'", "did you mean tensorboard"],
    ),
    "tracker twice": (GOOD + "track: [wandb, {name: wandb, mode: offline}]\n", [":13:16", "wandb is named twice"]),
    "unused tracker setting": (
        GOOD + "track:\n  - {name: wandb, uri: x}\n",
        [":14:19", "track.0.uri", "only mlflow uses uri, not wandb", "remove uri"],
    ),
    "tracker's unknown key": (
        GOOD + "track: {name: wandb, projct: x}\n",
        ["track.projct", "unknown key 'projct'", "did you mean project"],
    ),
    "no such set": (replaced("dev.csv", "nowhere/dev.csv"), ["data.validation.dev.source", "relative to the job file"]),
    "no such model": (replaced("tiny}", "./nothing}"), [":2:9: model.pretrained: there is no", "minilm"]),
    "a misspelt folder": (replaced("tiny}", "./tiny2}"), [":2:9: model.pretrained: there is no", "did you mean tiny?"]),
    "a misspelt file of weights": (replaced("tiny}", "weight.pt}"), ["there is no", "did you mean weights.pt?"]),
    "no such tokenizer": (
        replaced("{pretrained: tiny}", "{pretrained: tiny, tokenizer: ./tinny}"),
        [":2:27: model.tokenizer: there is no", "did you mean tiny?"],
    ),
    "misspelt alias": (replaced("tiny}", "minlm}"), ["did you mean minilm?"]),
    "no model folder": (replaced("tiny}", "empty}"), ["holds no config.json"]),
    "no tokenizer": (replaced("tiny}", "mute}"), ["holds no tokenizer", "model.tokenizer"]),
    "unfinished run": (replaced("tiny}", "unfinished}"), ["a run without a finished model", "--resume"]),
    "weights alone": (replaced("tiny}", "weights.pt}"), ["holds only weights", "model.config:"]),
    "no such weights": (replaced("tiny}", "other.pt}"), ["there is no"]),
    "no function": (replaced("tiny}", "build.py}"), ["name the function", "build.py:build"]),
    "unknown function": (replaced("tiny}", '"build.py:bild"}'), ["defines no function 'bild'", "it has build"]),
    "function without tokenizer": (replaced("tiny}", '"build.py:build"}'), ["add model.tokenizer"]),
    "a method without its target": (GOOD + "adapt: {method: dann}\n", ["adapt.method: dann learns", "add data.target"]),
    "a target for nothing": (
        replaced("data:\n", "data:\n  target: target.csv\n"),
        ["data.target: finetune does not use", "remove"],
    ),
    "a method there is not": (GOOD + "adapt: {method: adabn}\n", ["adapt.method: found 'adabn'", "dann or cdan"]),
    "a source for a source-free method": (
        replaced("data:\n", "adapt: {method: shot}\ndata:\n  target: target.csv\n"),
        [":7:3: data.train: shot learns without labelled data", "remove data.train"],
    ),
    "nothing to stay near": (
        replaced("tiny}", "headless}") + "adapt: {method: finetune, distill: {}}\n",
        [
            "adapt.distill",
            "is a BertModel: its head for text-classification would be initialised at random",
            "or remove distill",
        ],
    ),
    "nowhere to go back to": (
        replaced("tiny}", "headless}") + "adapt: {method: finetune, interpolate: auto}\n",
        ["adapt.interpolate", "its head for text-classification would be initialised at random", "or adapt.probe: 0.2"],
    ),
    "never labelled": (
        with_target("target.csv").replace("method: mmd", "method: self-training").replace("epochs: 2", "epochs: 1"),
        ["adapt.after_epochs", "the target would first be labelled after 1 of 1 epochs", "train.epochs: 2, or more"],
    ),
    "a mean of one": (
        GOOD + "adapt: {method: finetune, average: {name: swa, start: 0.9}}\n",
        ["only one of 2 epochs would be averaged"],
    ),
    "one group alone": (GOOD + "adapt: {method: group-dro}\n", ["weights training sets", "name several"]),
    "mixing of one set": (
        replaced("data:\n", "data:\n  mixing: {alpha: 0.5}\n"),
        ["data.mixing: there is only one training set", "two"],
    ),
    "weights of other sets": (
        replaced("{source: train.csv, text: text, label: label}", "{a: train.csv, b: target.csv}").replace(
            "  validation:\n", "  mixing: {weights: {a: 1, c: 2}}\n  validation:\n"
        ),
        ["data.mixing.weights: weights are given for a, c, and the training sets are a, b"],
    ),
    "classes of a number": (
        replaced("task: text-classification", "task: text-regression\nadapt: {method: mcc}").replace(
            "data:\n", "data:\n  target: target.csv\n"
        ),
        ["adapt.method: mcc needs one class per sample", "text-classification and image-classification"],
    ),
    "features of each word": (
        replaced("task: text-classification", "task: token-classification\nadapt: {method: coral}")
        .replace("data:\n", "data:\n  target: target.csv\n")
        .replace(", text: text", ""),
        ["adapt.method: coral needs one feature vector per sample"],
    ),
    "a target that judges": (
        replaced("data:\n", "adapt: {method: dann}\ndata:\n  target: dev.csv\n"),
        ["data.validation.dev", "is also data.target"],
    ),
    "no such rehearsal": (
        GOOD + "adapt: {method: finetune, rehearsal: {source: trian.csv}}\n",
        ["adapt.rehearsal.source.source: there is no", "train.csv?"],
    ),
    "a method and a probe": (
        replaced("data:\n", "adapt: {method: dann, probe: 0.2}\ndata:\n  target: target.csv\n"),
        ["adapt.probe: dann trains the features from the first step on", "remove probe, or method: finetune"],
    ),
    "a method and a teacher": (
        replaced("data:\n", "adapt: {method: dann, distill: {weight: 0.5}}\ndata:\n  target: target.csv\n"),
        ["adapt.distill: dann cannot be combined with a distillation loss"],
    ),
    "choosing by a source that is not there": (
        replaced(
            "data:\n",
            "adapt: {method: shot}\nvalidation: {selector: importance-weighted}\ndata:\n  target: target.csv\n",
        ),
        ["validation.selector: importance-weighted compares data.train with the target", "shot has no data.train"],
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
    "a verdict on no such set": (
        GOOD + "verdict: {set: test}\n",
        [":13:11: verdict.set: there is no validation set 'test'", "sets of data.validation are dev"],
    ),
    "holding no such set": (GOOD + "verdict: {must_hold: [test]}\n", ["verdict.must_hold", "validation set 'test'"]),
    "holding what should improve": (GOOD + "verdict: {must_hold: [dev]}\n", ["verdict.must_hold: dev is already"]),
    "a gate without validation": (
        replaced("  validation:\n    dev: {source: dev.csv}\n", "") + "verdict: {gate: true}\n",
        ["verdict.gate: there is nothing to evaluate on", "add data.validation"],
    ),
    "no such metric for a verdict": (
        GOOD + "verdict: {metric: acuracy}\n",
        ["verdict.metric", "did you mean accuracy?"],
    ),
    "no such baseline": (GOOD + "verdict: {baseline: ./runs/none}\n", [":13:11: verdict.baseline: there is no"]),
    "an unfinished baseline": (
        GOOD + "verdict: {baseline: unfinished}\n",
        ["verdict.baseline", "without a finished model"],
    ),
    "a baseline for another task": (
        GOOD + "verdict: {compare: {other: tagger}}\n",
        ["verdict.compare.other: tagger was trained for token-classification, and this job is for text-classification"],
    ),
    "the pretrained model's name": (
        GOOD + "verdict: {compare: {pretrained: tiny}}\n",
        ["'pretrained' is the name of another model in the comparison"],
    ),
    "a taken name of a candidate": (
        GOOD + "verdict: {compare: {before: tiny}}\n",
        ["'before' is the name of another model in the comparison"],
    ),
    "a margin below zero": (GOOD + "verdict: {margin: -1}\n", ["verdict.margin: found -1"]),
    "selection without a target": (
        GOOD + "validation: {selector: importance-weighted}\n",
        ["validation.selector", "add data.target"],
    ),
    "selection by what cannot be weighted": (
        replaced("data:\n", "data:\n  target: target.csv\n")
        + "validation: {selector: importance-weighted, metric: macro_f1}\n",
        ["validation.metric: macro_f1 is not a mean over samples"],
    ),
    "selection for another task": (
        replaced("data:\n", "data:\n  target: target.csv\n").replace("text-classification", "text-regression")
        + "validation: {selector: importance-weighted}\n",
        ["validation.selector: importance-weighted is for classification"],
    ),
    "fp16 on a cpu": (
        replaced("epochs: 2", "precision: fp16") + "launch: {device: cpu}\n",
        ["train.precision", "fp32"],
    ),
    "start of adapters": (
        GOOD + "adapt: {adapters: {kind: lora}, l2_sp: 0.1}\n",
        [":13:33: adapt.l2_sp: adapters are new weights, so there are no pretrained ones", "remove l2_sp, or adapters"],
    ),
    "chosen without validation": (
        replaced("  validation:\n    dev: {source: dev.csv}\n", "") + "adapt: {method: finetune, interpolate: auto}\n",
        ["adapt.interpolate: auto needs validation data", "write 0.5"],
    ),
    "a teacher of numbers": (
        replaced("text-classification", "text-regression") + "adapt: {method: finetune, distill: {}}\n",
        ["adapt.distill: text-regression with the loss mean-squared has no probabilities", "adapt.l2_sp"],
    ),
    "averages on a disk": (
        GOOD
        + "engine: {name: deepspeed, deepspeed: zero3_nvme, nvme_path: .}\n"
        + "adapt: {method: finetune, average: {name: ema}}\n",
        ["adapt.average: average keeps copies of the weights in memory, and zero3_nvme", "zero3_offload"],
    ),
    "unknown average": (
        GOOD + "adapt: {method: finetune, average: {name: emma}}\n",
        ["adapt.average.name: found 'emma'", "did you mean ema?"],
    ),
    "more than all": (GOOD + "adapt: {method: finetune, interpolate: 1.5}\n", ["adapt.interpolate: found 1.5"]),
    "schedule-free under ZeRO": (
        replaced("adamw", "schedule_free_adamw") + "engine: {name: deepspeed}\n",
        [
            "train.optimizer.name: schedule_free_adamw does not work with DeepSpeed's sharded weights",
            "engine.name: fsdp",
        ],
    ),
    "schedule-free with a schedule": (
        replaced("adamw", "schedule_free_adamw"),
        ["train.schedule.name: schedule_free_adamw replaces the schedule, and this one is cosine", "constant"],
    ),
    "two averages": (
        replaced("{name: adamw, lr: 2e-5}", "{name: schedule_free_adamw}\n  schedule: {name: constant}")
        + "adapt: {method: finetune, average: {name: ema}, l2_sp: 0.1}\n",
        [
            "adapt.average: schedule_free_adamw already averages",
            "adapt.l2_sp: schedule_free_adamw updates other weights",
        ],
    ),
    "batch below the world": (
        GOOD + "launch: {processes: 9}\n",
        ["train.global_batch_size: 8 samples", "processes: 8"],
    ),
    "micro above global": (replaced("epochs: 2", "micro_batch_size: 16"), ["16 is more than the 8 samples per step"]),
    "single of several": (
        GOOD + "engine: {name: single}\nlaunch: {processes: 2}\n",
        ["engine.name: single is one process"],
    ),
    "ddp of one": (GOOD + "engine: {name: ddp}\nlaunch: {processes: 1}\n", ["engine.name: ddp is for several"]),
    "an unknown engine": (GOOD + "engine: {name: horovod}\n", ["found 'horovod'", "ddp, fsdp or deepspeed"]),
    "a stage of fsdp": (GOOD + "engine: {name: fsdp, deepspeed: zero3}\n", ["only deepspeed uses deepspeed"]),
    "a device by another name": (
        GOOD + "launch: {device: gpu}\n",
        ["launch.device: found 'gpu'", "did you mean cuda?"],
    ),
    "an unknown template": (GOOD + "engine: {name: deepspeed, deepspeed: zero33}\n", ["did you mean zero3?"]),
    "no DeepSpeed file": (GOOD + "engine: {name: deepspeed, deepspeed: my.json}\n", ["no template and no file"]),
    "a block of ddp": (GOOD + "engine: {name: ddp, block: Layer}\n", ["engine.block: only fsdp uses block"]),
    "unknown method": (GOOD + "adapt: {method: dan}\n", [":13:9: adapt.method: found 'dan'", "did you mean dann?"]),
    "no method": (GOOD + "adapt: {rank: 8}\n", [":13:9: adapt.rank: unknown key 'rank'", "the keys here are method"]),
    "a method for trained heads": (
        with_target("target.csv").replace("method: mmd", "method: tent").replace("tiny}", "headless}"),
        [
            "adapt.method: ",
            "its head for text-classification would be initialised at random",
            "start from a fine-tuned model",
        ],
    ),
    "a wrong option without a method": (
        GOOD + "adapt: {unfreeze: gradul}\n",
        [":13:9: adapt.unfreeze: found 'gradul'"],
    ),
    "no such number": (GOOD + "adapt: {layer_decay: 1.5}\n", ["found 1.5; allowed is a number of at most 1"]),
    "unknown key of a method": (
        GOOD + "adapt: {adapters: {kind: lora, rnk: 8}}\n",
        ["adapt.adapters.rnk", "did you mean rank?"],
    ),
    "key of another method": (
        GOOD + "adapt: {method: finetune, rank: 8}\n",
        ["adapt.rank", "the keys here are method"],
    ),
    "no rank": (
        GOOD + "adapt: {adapters: {kind: lora, rank: 0}}\n",
        [":13:32: adapt.adapters.rank: found 0", "a number above 0"],
    ),
    "no targets": (
        GOOD + "adapt: {adapters: {kind: lora, targets: []}}\n",
        ["found []; allowed is auto or a non-empty list"],
    ),
    "in 8 bits": (GOOD + "adapt: {adapters: {kind: lora, quantised: 8bit}}\n", ["allowed is false or 4bit"]),
    "in 4 bits on a cpu": (
        GOOD + "adapt: {adapters: {kind: lora, quantised: 4bit}}\nlaunch: {device: cpu}\n",
        ["adapt.adapters.quantised: bitsandbytes computes on GPUs", "quantised: false, or launch.device: auto"],
    ),
    "in 4 bits and sliced": (
        GOOD + "adapt: {adapters: {kind: lora, quantised: 4bit}}\nengine: {name: fsdp}\n",
        [
            "adapt.adapters.quantised: weights in 4 bits cannot be sharded, and fsdp shards them",
            "engine.name: ddp",
        ],
    ),
    "in 4 bits and merged": (
        GOOD + "adapt: {adapters: {kind: lora, quantised: 4bit, merge: true}}\n",
        ["adapt.adapters.merge: the adapters were trained on weights in 4 bits"],
    ),
    "frozen beside adapters": (
        replaced("{pretrained: tiny}", "{pretrained: tiny, frozen: [a]}") + "adapt: {adapters: {kind: lora}}\n",
        [":2:27: model.frozen: all weights but the adapters and the head are frozen already"],
    ),
    "adapters as a method": (
        GOOD + "adapt: {method: lora, rank: 4, rank_stabilised: true, targets: [query], layer_decay: 0.5}\n",
        [
            ":13:9: adapt.method: adapters are no method, they combine with every method",
            "adapt: {adapters: {kind: rslora, rank: 4, targets: [query]}, layer_decay: 0.5}",
        ],
    ),
    "adapters of weights that adapters freeze": (
        GOOD + "adapt: {method: tent, adapters: {kind: lora}}\n",
        ["adapt.adapters: tent trains only scales and shifts of normalisation layers, which adapters freeze"],
    ),
    "adapters of adapters": (
        replaced("{pretrained: tiny}", "{pretrained: adapted}") + "adapt: {adapters: {kind: lora}}\n",
        ["model.pretrained: adapted holds adapters", "merge them first: adaptrun consolidate adapted -o FOLDER"],
    ),
    "adapters without a base": (
        replaced("{pretrained: tiny}", "{pretrained: alone}"),
        ["holds adapters of", "no /x/y"],
    ),
    "endless warm-up": (
        replaced("epochs: 2", "max_steps: 5\n  schedule: {warmup: 5}"),
        ["warm-up leave no other step of 5"],
    ),
    "floor above the peak": (replaced("epochs: 2", "schedule: {min_lr: 1}"), ["min_lr: 1 is above the peak"]),
    "momentum of adamw": (
        replaced("lr: 2e-5", "momentum: 0.9"),
        ["only sgd uses momentum", "remove momentum"],
    ),
    "patience of cosine": (replaced("epochs: 2", "schedule: {patience: 5}"), ["only plateau uses patience"]),
    "beyond the positions": (
        replaced("max_length: 32", "max_length: 65"),
        ["train.max_length: 65 tokens are more than the 64", "train.max_length: 64"],
    ),
    "a loss of another task": (
        replaced("epochs: 2", "loss: {name: huber}"),
        ["train.loss.name: text-classification has no loss 'huber'", "it has cross-entropy, focal, binary"],
    ),
    "a misspelt loss": (replaced("epochs: 2", "loss: {name: foccal}"), ["did you mean focal?"]),
    "smoothing of the focal loss": (
        replaced("epochs: 2", "loss: {name: focal, label_smoothing: 0.1}"),
        ["train.loss.label_smoothing: only cross-entropy use"],
    ),
    "class weights of several labels": (
        replaced("epochs: 2", "loss: {name: binary, class_weights: balanced}"),
        ["train.loss.class_weights: only cross-entropy and focal"],
    ),
    "class weights without classes": (
        replaced("task: text-classification", "task: causal-lm")
        .replace("label: label", "limit: 5")
        .replace("epochs: 2", "loss: {class_weights: balanced}"),
        ["train.loss.class_weights: causal-lm has no classes"],
    ),
    "labels of a head without classes": (
        replaced("task: text-classification", "task: causal-lm").replace("label: label", "label_format: vector") + "\n",
        ["label_format: causal-lm has no classes"],
    ),
    "a metric of another task": (
        GOOD + "validation: {metric: perplexity}\n",
        ["validation.metric: text-classification has no metric 'perplexity'", "it has loss, accuracy"],
    ),
    "a metric of one label for several": (
        replaced("epochs: 2", "loss: {name: binary}") + "validation: {metric: matthews}\n",
        ["has no metric 'matthews'", "micro_f1"],
    ),
    "a column of another task": (
        replaced("text: text, label: label", "messages: chat"),
        ["data.train.messages: text-classification does not read messages", "it reads label, text, text_pair"],
    ),
    "a response without its prompt": (
        replaced("task: text-classification", "task: causal-lm").replace("text: text, label: label", "response: a"),
        ["data.train: prompt is missing", "name the column"],
    ),
    "chats and prompts": (
        replaced("task: text-classification", "task: causal-lm").replace(
            "text: text, label: label", "messages: m, prompt: p, response: a"
        ),
        ["data.train: messages and prompt", "keep one"],
    ),
    "images without their processor": (
        replaced("task: text-classification", "task: image-classification").replace(
            "text: text, label: label", "limit: 5"
        ),
        ["model.pretrained:", "has no preprocessor_config.json, which image-classification needs", "model.tokenizer"],
    ),
    "packing a classifier": (replaced("epochs: 2", "packing: true"), ["text-classification does not use packing"]),
    "masks of a classifier": (replaced("epochs: 2", "mask_share: 0.3"), ["does not use mask_share"]),
    "augmented texts": (replaced("epochs: 2", "augment: {flip: true}"), ["does not use augment", "remove augment"]),
    "a task without its class": (
        replaced("text-classification", "own.py"),
        ["name the class of own.py that is the task"],
    ),
    "no such task file": (replaced("text-classification", "own.py:Mine"), ["task: there is no", "own.py"]),
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
        ("train.epochs", "--set train.epochs: expected a.b=c"),
        ("=3", "expected a.b=c"),
        ("train..epochs=3", "expected a.b=c"),
        ("train.epochs=many", "--set train.epochs=many: train.epochs: found 'many'"),
        ("train.epoch=3", "--set train.epoch=3: train.epoch: unknown key 'epoch'\n    fix: did you mean epochs?"),
        (
            "train.optimiser.lr=3",
            "--set train.optimiser.lr=3: train.optimiser: unknown key 'optimiser'\n    fix: did you",
        ),
        ("name.first=x", "a part of this path holds a single value"),
        ("train.epochs={", "not valid YAML"),
        ("data.train.source=nope.csv", "--set data.train.source=nope.csv: data.train.source: there is no"),
        ("launch.processes=9", "train.global_batch_size: 8 samples per step"),
    ],
)
def test_a_bad_override_is_named(override: str, expected: str, folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD)
    with pytest.raises(JobError) as raised:
        load_job(folder / "job.yaml", [override])
    assert expected in str(raised.value)


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (replaced("text: text", "text: tekst"), "train.csv: there is no column 'tekst' among 'text', 'label'"),
        (
            replaced("dev.csv}", "dev.csv, label: labl}"),
            "dev.csv: there is no column 'labl' among 'text', 'label'; did",
        ),
        (
            with_target("{source: target.csv, text: words}"),
            "target.csv: there is no column 'words' among 'text', 'label'",
        ),
    ],
    ids=["train", "validation", "target"],
)
def test_a_column_that_is_not_there_is_found_before_anything_starts(
    command: str, text: str, expected: str, folder: Path
) -> None:
    (folder / "job.yaml").write_text(text)
    assert expected in adaptrun(command, "job.yaml", cwd=folder, code=2).stderr


def test_a_target_needs_no_labels(folder: Path) -> None:
    (folder / "target.csv").write_text("text\na\n")
    (folder / "job.yaml").write_text(with_target("target.csv"))
    assert "no problem found" in adaptrun("check", "job.yaml", cwd=folder).stdout


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


def test_a_tracker_that_is_not_installed_is_told_with_the_command_that_mends_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "job.yaml").write_text(GOOD + "track: [tensorboard, {name: wandb}]\n")
    (folder / "own" / "wandb").mkdir(parents=True)  # what wandb leaves where it ran, which is no package
    for module in ("tensorboard", "wandb"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [str(folder / "own")])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(JobError) as wrong:
        load_job(folder / "job.yaml")
    assert [problem.path for problem in wrong.value.problems] == ["track.0", "track.1"]
    assert "job.yaml:13:9: track.0: tensorboard is not installed" in str(wrong.value)
    assert "pip install 'adaptrun[wandb]'" in str(wrong.value)


def test_a_job_without_training_data_can_be_trained_but_not_compared(folder: Path) -> None:
    lines = replaced("  train: {source: train.csv, text: text, label: label}\n", "  target: target.csv\n")
    (folder / "job.yaml").write_text(lines + "adapt: {method: tent}\n")
    assert load_job(folder / "job.yaml").data.train == {}
    with pytest.raises(JobError, match=r"data\.train: is required and missing"):
        load_job(folder / "job.yaml", trains=False)


def test_the_target_may_judge_where_that_is_allowed_or_nothing_is_learned_from_it(folder: Path) -> None:
    lines = replaced("data:\n", "data:\n  target: dev.csv\n  allow_leakage: true\n")
    (folder / "job.yaml").write_text(lines + "adapt: {method: dann}\n")
    assert load_job(folder / "job.yaml").data.target is not None
    chosen = lines.replace("  allow_leakage: true\n", "") + "validation: {selector: importance-weighted}\n"
    (folder / "job.yaml").write_text(chosen)
    assert load_job(folder / "job.yaml").selects_for_target


def test_a_set_may_be_called_source(folder: Path) -> None:
    lines = replaced("    dev: {source: dev.csv}\n", "    source: {source: dev.csv}\n    target: target.csv\n")
    (folder / "job.yaml").write_text(lines)
    assert list(load_job(folder / "job.yaml").data.validation) == ["source", "target"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_deepspeed_file_without_end_is_refused(text: str, folder: Path) -> None:
    (folder / "ds.json").write_text(text)
    (folder / "job.yaml").write_text(GOOD + "engine: {name: deepspeed, deepspeed: ds.json}\n")
    with pytest.raises(JobError, match=r"ds.json:1:1: too deeply nested, or too long a number"):
        read_deepspeed(load_job(folder / "job.yaml"))


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"name: caf\xe9\n", ":1:10: cannot be read as UTF-8"), (b"#" * (2**20 + 1), "larger than 1 MiB"), (b"", "empty")],
)
def test_a_file_that_is_no_text_is_told_where(content: bytes, place: str, folder: Path) -> None:
    (folder / "job.yaml").write_bytes(content)
    with pytest.raises(JobError, match=place):
        load_job(folder / "job.yaml")


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_job_is_read_with_any_ends_of_lines(mark: bytes, end: bytes, folder: Path) -> None:
    (folder / "job.yaml").write_bytes(mark + GOOD.encode().replace(b"\n", end))
    assert load_job(folder / "job.yaml").name == "good"


def test_values_are_those_of_yaml_1_2(folder: Path) -> None:
    own = "adapt: {method: own, code: 'my.py:Mine', settings: {a: 1e-5, b: 010, c: 20:00, d: off, e: 0x1F, f: 1_000}}\n"
    (folder / "my.py").write_text("class Mine: ...\n")
    (folder / "job.yaml").write_text(GOOD.replace("lr: 2e-5", "lr: 2e-5, weight_decay: 1e-2") + own)
    job = load_job(folder / "job.yaml")
    assert job.train.optimizer.lr == 2e-5
    assert job.adapt.settings == {"a": 1e-5, "b": "010", "c": "20:00", "d": "off", "e": 31, "f": "1_000"}  # type: ignore[union-attr]
    run = RunFolder.create(job, folder / "run")
    assert load_job(run.job_file) == job


def test_aliases_and_merge_keys_are_read(folder: Path) -> None:
    sections = "  validation:\n    dev: &dev {source: dev.csv}\n    other: {<<: *dev, limit: 1}\n    same: *dev\n"
    (folder / "job.yaml").write_text(GOOD.replace("  validation:\n    dev: {source: dev.csv}\n", sections))
    found = load_job(folder / "job.yaml").data.validation
    assert (found["other"].limit, found["same"].limit) == (1, None)
    assert found["other"].source == found["same"].source == str(folder / "dev.csv")


def test_a_folder_whose_name_is_not_utf_8_is_refused(folder: Path) -> None:
    strange = folder / "caf\udce9"
    strange.mkdir()
    (strange / "job.yaml").write_text(GOOD)
    with pytest.raises(JobError, match="the path of its folder is not UTF-8"):
        load_job(strange / "job.yaml")


def test_an_override_may_add_to_a_list() -> None:
    values: dict[str, dict[str, list[str]]] = {"model": {"trust_code": ["a.py"]}}
    apply_overrides(values, ["model.trust_code+=[b.py]", "model.frozen+=[x]"])
    assert values == {"model": {"trust_code": ["a.py", "b.py"], "frozen": ["x"]}}


@pytest.mark.parametrize("override", ["model.pretrained+=[b]", "model.trust_code+=b.py", "model.frozen+=x"])
def test_what_is_no_list_is_not_replaced_by_what_is_added(override: str) -> None:
    values = {"model": {"pretrained": "m", "trust_code": ["a.py"]}}
    with pytest.raises(JobError, match=r"\+= appends a list to a list, and one of the two is not a list"):
        apply_overrides(values, [override])
    assert values == {"model": {"pretrained": "m", "trust_code": ["a.py"]}}


@pytest.mark.parametrize(
    ("task", "architecture", "is_trained"),
    [
        ("audio-classification", "Wav2Vec2ForSequenceClassification", True),
        ("audio-classification", "ASTForAudioClassification", True),
        ("audio-classification", "Wav2Vec2Model", False),
        ("image-classification", "ViTForImageClassification", True),
        ("image-classification", "BertForSequenceClassification", False),
    ],
)
def test_a_trained_head_is_known_by_the_classes_that_a_task_takes(
    task: str, architecture: str, is_trained: bool, folder: Path
) -> None:
    trained = folder / "trained"
    trained.mkdir()
    (trained / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (trained / "preprocessor_config.json").write_text("{}")
    text = GOOD.replace("text-classification", task).replace("tiny}", "trained}")
    text = text.replace("text: text, ", "").replace("  max_length: 32\n", "")
    (folder / "job.yaml").write_text(text + "adapt: {method: finetune, distill: {}}\n")
    if is_trained:
        assert load_job(folder / "job.yaml").adapt.distill is not None
        return
    with pytest.raises(JobError) as raised:
        load_job(folder / "job.yaml")
    (problem,) = raised.value.problems
    assert problem.message == f"{trained} is a {architecture}: its head for {task} would be initialised at random"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("{prompt: q}", "response is missing: prompt and response are used together"),
        ("{response: a}", "prompt is missing: prompt and response are used together"),
        ("{messages: m, prompt: q, response: a}", "messages and prompt are alternatives"),
    ],
)
def test_columns_that_are_named_by_role_follow_the_same_rules(columns: str, message: str, folder: Path) -> None:
    text = GOOD.replace("text-classification", "causal-lm").replace(
        "text: text, label: label}", f"columns: {columns}}}"
    )
    (folder / "job.yaml").write_text(text)
    with pytest.raises(JobError) as raised:
        load_job(folder / "job.yaml")
    assert [(problem.path, problem.message) for problem in raised.value.problems] == [("data.train", message)]


def test_places_that_are_made_later_lie_beside_the_job_file(folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD)
    sets = ["engine.name=deepspeed", "engine.deepspeed=zero3_nvme", "engine.nvme_path=disk", "launch.runs=there"]
    job = load_job(folder / "job.yaml", [*sets, "data.cache=kept"])
    assert (job.engine.nvme_path, job.launch.runs, job.data.cache) == (
        str(folder / "disk"),
        str(folder / "there"),
        str(folder / "kept"),
    )
