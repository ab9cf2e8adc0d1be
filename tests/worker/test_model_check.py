"""What a rank would refuse on loading the model is found without reading a weight, and nothing else is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from huggingface_hub import constants
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ViTImageProcessor

from launcher.errors import ModelError, RequestError
from launcher.job.schema import Job
from launcher.models.weights.stored import FIRST_NUMBERS, FileTensor
from launcher.worker.requests.model_check import check_model
from tests.families import bert, llama, vit

STEPS = 10
OWN_TASK = """\
from launcher.models.tasks.text_classification import TextClassification


class Own(TextClassification):
    auto_class = "AutoModelForSequenceClassification"
    losses = ("cross-entropy",)
    inputs = ("text",)
    targets = ("label",)
    has_classes = True

    def configure(self, config):
        assert self.labels.index("yes") >= 0
"""


@pytest.fixture(autouse=True)
def _weights_stay_in_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what tells a base from others, the first numbers of each tensor, and for statistics of batches."""
    rows, whole = FileTensor.rows, FileTensor.whole

    def read_rows(self: FileTensor, start: int, stop: int) -> Tensor:
        assert (stop - start) * prod(self.shape[1:]) <= FIRST_NUMBERS, f"{self.name} was read"
        return rows(self, start, stop)

    def read_whole(self: FileTensor) -> Tensor:
        assert "running" in self.name or "tracked" in self.name, f"{self.name} was read"
        return whole(self)

    monkeypatch.setattr(FileTensor, "rows", read_rows)
    monkeypatch.setattr(FileTensor, "whole", read_whole)


def resnet(folder: Path) -> Path:
    """Normalises over batches, whose statistics are buffers in its file."""
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def finished(folder: Path) -> Path:
    """With a head of three unnamed classes."""
    bert(folder)
    config = BertConfig.from_pretrained(folder, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def mixtral(folder: Path) -> Path:
    """Its experts are stored one by one, and are one parameter in memory."""
    llama(folder)
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    known = transformers.AutoConfig.from_pretrained(folder)
    config = transformers.MixtralConfig(
        vocab_size=known.vocab_size, num_hidden_layers=2, num_local_experts=4, pad_token_id=0, **settings
    )
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def sharded(folder: Path) -> Path:
    """Its weights in several files."""
    bert(folder)
    transformers.BertModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    return folder


def adapters(folder: Path) -> Path:
    """As `peft` writes them, beside a model that tells words."""
    model = transformers.AutoModelForCausalLM.from_pretrained(llama(folder / "base"))
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(folder / "adapters")
    return folder / "adapters"


def job(pretrained: Path | str, task: str = "text-classification", **sections: Any) -> Job:
    sections["model"] = {"pretrained": str(pretrained)} | sections.get("model", {})
    sections["adapt"] = {"method": "finetune"} | sections.get("adapt", {})
    sections["train"] = {"max_length": 32} | sections.get("train", {})
    data = {"train": "t.csv", "validation": "v.csv", "target": "u.csv"}
    return Job.model_validate({"name": "job", "task": task, "data": data} | sections)


@pytest.mark.parametrize(
    ("make", "task", "sections", "message"),
    [
        (bert, "text-classification", {"adapt": {"unfreeze": 4}}, "4 stages that begin after 0, 4, 8, 12 steps do not"),
        (bert, "text-classification", {"adapt": {"unfreeze": 2, "probe": 9}}, "0, 9, 11, 13, 15 steps do not fit"),
        (bert, "text-classification", {"adapt": {"lr_factors": {"clasifier.*": 2}}}, r"named 'clasifier.\*'"),
        (
            bert,
            "text-classification",
            {"adapt": {"interpolate": 0.5}},
            "classifier.bias, classifier.weight are initialised at random",
        ),
        (bert, "text-classification", {"adapt": {"distill": {}}}, "start from a fine-tuned model"),
        (bert, "text-classification", {"model": {"frozen": ["bort.*"]}}, r"no parameter is named 'bort.\*'"),
        (llama, "causal-lm", {"adapt": {"probe": 2}}, "LlamaForCausalLM has no head that can be trained alone"),
        (llama, "text-classification", {"adapt": {"method": "udalm"}}, "no mask token, so udalm cannot mask words"),
        (
            llama,
            "text-classification",
            {"adapt": {"method": "tent", "lr_factors": {"score.*": 2}}},
            r"is trained \(model.frozen or the method\)",
        ),
        (resnet, "image-classification", {"adapt": {"average": {"name": "ema"}}}, "updates statistics of batches"),
        (resnet, "image-classification", {"adapt": {"method": "coral"}}, "normalises over micro-batches"),
        (
            bert,
            "text-classification",
            {"adapt": {"adapters": {"kind": "lora"}, "lr_factors": {"*embeddings*": 2}}},
            r"is trained \(model.frozen or the method\)",
        ),
        (
            bert,
            "text-classification",
            {"engine": {"name": "fsdp", "block": "Layer"}},
            "has no module 'Layer'",
        ),
        (adapters, "causal-lm", {"adapt": {"lr_factors": {"score.*": 2}}}, r"named 'score.\*'"),
    ],
)
def test_what_the_modules_do_not_allow_is_refused(
    make: Callable[[Path], Path], task: str, sections: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        check_model(job(make(tmp_path), task, **sections), STEPS)


def test_without_samples_the_model_says_what_there_is_to_tell_apart(tmp_path: Path) -> None:
    asked = job(finished(tmp_path), adapt={"method": "tent"})
    check_model(asked, STEPS)
    data = asked.data.model_copy(update={"train": {}})
    with pytest.raises(ModelError, match="no trained head with named labels, and tent adapts a trained model"):
        check_model(asked.model_copy(update={"data": data}), STEPS)


@pytest.mark.parametrize(
    ("make", "sections"),
    [
        (bert, {"adapt": {"unfreeze": 3}}),
        (bert, {"adapt": {"lr_factors": {"classifier.*": 2}, "layer_decay": 0.9}}),
        (bert, {"adapt": {"adapters": {"kind": "lora"}, "lr_factors": {"*lora*": 2}}}),
        (bert, {"adapt": {"method": "udalm"}}),
        (bert, {"adapt": {"method": "tent"}}),
        (bert, {"engine": {"name": "fsdp", "block": "BertLayer"}}),
        (sharded, {"adapt": {"layer_decay": 0.9}}),
        (llama, {"adapt": {"method": "dapt"}}),
        (finished, {"adapt": {"interpolate": 0.5, "distill": {}}}),
        (finished, {"train": {"loss": {"class_weights": {"bad": 2.0, "good": 1.0}}}, "adapt": {"layer_decay": 0.9}}),
    ],
)
def test_what_they_allow_is_not(make: Callable[[Path], Path], sections: dict[str, Any], tmp_path: Path) -> None:
    check_model(job(make(tmp_path), **sections), STEPS)


def test_images_too(tmp_path: Path) -> None:
    check_model(job(vit(tmp_path), "image-classification", adapt={"unfreeze": "gradual"}), STEPS)
    with pytest.raises(ModelError, match="do not fit into 4"):
        check_model(job(tmp_path, "image-classification", adapt={"unfreeze": "gradual"}), 4)


def test_nothing_is_said_of_stages_where_the_steps_are_not_known(tmp_path: Path) -> None:
    check_model(job(bert(tmp_path), adapt={"unfreeze": 1000}), None)
    with pytest.raises(ModelError, match="clasifier"):
        check_model(job(tmp_path, adapt={"lr_factors": {"clasifier.*": 2}}), None)


def test_nothing_is_said_of_a_model_whose_weights_would_have_to_be_read(tmp_path: Path) -> None:
    wrong = {"adapt": {"unfreeze": 1000}}
    check_model(job("some/model", **wrong), STEPS)
    folder = bert(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    check_model(job(folder, **wrong), STEPS)
    (tmp_path / "own.py").write_text("def build(labels): raise RuntimeError('was built')\n")
    own = f"{tmp_path}/own.py:build"
    check_model(job(own, model={"tokenizer": str(folder)}, **wrong), STEPS)
    check_model(job(mixtral(tmp_path / "mixture"), "causal-lm", adapt={"lr_factors": {"score.*": 2}}), STEPS)


def test_nothing_is_said_where_only_the_data_tell_how_many_outputs_there_are(tmp_path: Path) -> None:
    bare, whole = bert(tmp_path / "bare"), finished(tmp_path / "whole")
    weights, config = str(whole / "model.safetensors"), {"config": str(bare), "tokenizer": str(bare)}
    check_model(job(weights, model=config, adapt={"interpolate": 0.5}), STEPS)
    (tmp_path / "own.py").write_text(OWN_TASK)
    with pytest.raises(ModelError, match="start from a fine-tuned model"):
        check_model(job(bare, adapt={"distill": {}}), STEPS)
    check_model(job(bare, f"{tmp_path}/own.py:Own", adapt={"distill": {}}), STEPS)


def test_a_method_of_ones_own_is_not_made_without_data(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from launcher.methods import Method\n\n\nclass Own(Method):\n"
        "    def __init__(self, spec, task, sets, target):\n        assert target > 1\n"
    )
    own = {"method": "own", "code": f"{tmp_path}/own.py:Own"}
    check_model(job(bert(tmp_path / "model"), adapt=own), STEPS)
    with pytest.raises(ModelError, match="clasifier"):
        check_model(job(tmp_path / "model", adapt=own | {"lr_factors": {"clasifier.*": 2}}), STEPS)


def test_a_download_that_ended_half_way_is_left_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sharded(downloaded(tmp_path, monkeypatch))
    with pytest.raises(ModelError, match="4 stages"):
        check_model(job("some/model", adapt={"unfreeze": 4}), STEPS)
    next(folder.glob("model-00002*")).unlink()
    check_model(job("some/model", adapt={"unfreeze": 4}), STEPS)


def test_what_was_downloaded_from_the_hub_is_looked_at_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = bert(downloaded(tmp_path, monkeypatch))
    check_model(job("some/model", adapt={"unfreeze": 3}), STEPS)
    with pytest.raises(ModelError, match="4 stages"):
        check_model(job("some/model", adapt={"unfreeze": 4}), STEPS)
    shutil.rmtree(kept)
    check_model(job("some/model", adapt={"unfreeze": 4}), STEPS)


def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's client looks for the files of some/model."""
    kept = tmp_path / "models--some--model"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return kept / "snapshots" / "abc"
