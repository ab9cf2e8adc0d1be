"""What shares a batch with a sample changes none of its numbers: batches are chosen so, or the model is refused."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from launcher.data.prepared import Prepared, PreparedWriter
from launcher.data.rows import Row
from launcher.errors import ModelError
from launcher.job.schema import Job
from launcher.job.sections.training import Train
from launcher.models.parts.batch import Losses
from launcher.models.parts.padding_token import agree_on_padding
from launcher.models.parts.stateless import forget_between_calls
from launcher.models.tasks.base import Task
from launcher.models.tasks.causal_lm import CausalLM
from launcher.models.tasks.text_classification import TextClassification
from launcher.models.tasks.token_loss import TokenModel
from launcher.worker.data.micro_batching import deal, deal_by_length
from launcher.worker.evaluation.evaluate import evaluate
from launcher.worker.evaluation.padding_check import TRIED, choose_batches
from launcher.worker.rank.world import World
from tests.architectures import SEEN_PADDING, SIZES, small_model
from tests.families import jsonl
from tests.thinning import thinned
from tests.tiny import WORDS
from tests.ways import losses_and_norms, train
from tests.worlds import Worlds

QUICK = ("bert", "fnet", "xlnet", "phi3", "dynamic", "t5")
OTHERS = sorted({*SIZES, "dynamic", "canine"} - {*QUICK})
LENGTHS = [*range(2, 11), 4, 7, 9, *range(36, 47), 40]


def texts(lengths: list[int]) -> list[str]:
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS, k=length)) for length in lengths]


def prepared(folder: Path, task: Task, lengths: list[int] = LENGTHS) -> Prepared:
    rows = [
        Row("f.csv", number, {"text": text, "label": "ab"[number % 2]})
        for number, text in enumerate(texts(lengths), start=1)
    ]
    with PreparedWriter(folder) as writer:
        writer.write(task.prepare(rows, labelled=True))
        writer.finish(task.labels, ())
    return Prepared(folder)


def opened(folder: Path, **train: Any) -> tuple[TextClassification, Any]:
    """The task and its module, as a run has them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    forget_between_calls(model)
    agree_on_padding(model, tokenizer)
    task = TextClassification(tokenizer, ("a", "b"), Train(max_length=250, **train))
    return task, task.build(model)


def step(task: Task, module: Any, data: Prepared, micro_batch: int) -> tuple[float, Tensor]:
    """Loss and gradient of all samples as one global batch, dealt as the loop deals it."""
    places, turns = np.arange(len(data)), -(-len(data) // micro_batch)
    if task.one_length:
        (hand,) = deal_by_length(places, data.lengths, 1, micro_batch)
    else:
        (hand,) = deal(places, data.lengths, 1, turns)
    module.train().zero_grad()
    total = 0.0
    for ids in hand:
        if len(ids):
            loss = module(task.collate(data[ids], ids.tolist(), 0)).weighted.sum() / len(data)
            loss.backward()
            total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def batches_chosen(module: nn.Module, task: Task, data: Prepared, precision: str = "fp32") -> list[str]:
    """What is told of the choice."""
    told: list[str] = []
    choose_batches(module, task, {"data": data}, World(), told.append, precision)
    return told


@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)])
def test_no_batch_size_changes_a_number(kind: str, tmp_path: Path) -> None:
    named = {"pad_token_id": 1} if kind in ("gpt2", "llama") else {}  # which is not the tokenizer's
    task, module = opened(small_model(kind, tmp_path / "model", **named))
    data = prepared(tmp_path / "data", task)
    told = batches_chosen(module, task, data)
    assert task.one_length == bool(told) == (kind in SEEN_PADDING)
    losses = [evaluate(module, task, data, World(), batch_size=size).metrics["loss"] for size in (1, 4, 32)]
    assert losses == pytest.approx([losses[0]] * 3, rel=2e-6)
    (loss, gradient), (other, others) = (step(task, module, data, size) for size in (1, 8))
    assert other == pytest.approx(loss, rel=2e-6)
    torch.testing.assert_close(others, gradient, rtol=1e-3, atol=2e-5)


def test_what_is_found_is_told(tmp_path: Path) -> None:
    task, module = opened(small_model("fnet", tmp_path / "model"))
    data = prepared(tmp_path / "data", task)
    assert batches_chosen(module, task, data) == [
        "padding changes the scores of FNetForSequenceClassification, so each batch holds samples of one length "
        "without padding; this needs more and smaller batches"
    ]
    assert batches_chosen(module, task, data) == [], "once"
    assert task.one_length


def test_samples_of_one_length_need_no_choice(tmp_path: Path) -> None:
    task, module = opened(small_model("fnet", tmp_path / "model"))
    assert batches_chosen(module, task, prepared(tmp_path / "data", task, [5] * 6)) == []
    assert not task.one_length


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    task, module = opened(small_model("bert", tmp_path / "model"))
    hooks = len(module.model.base_model._forward_hooks)
    torch.backends.cuda.matmul.allow_tf32 = True
    batches_chosen(module.train(), task, prepared(tmp_path / "data", task))
    assert torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    assert module.training
    assert len(module.model.base_model._forward_hooks) == hooks


class Remembering(nn.Module):
    """Adds to its scores how often it was called."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.calls = head, 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.head(hidden) + torch.tensor([0.1, 0.0]) * self.calls
        return scores


class Mixing(nn.Module):
    """Takes from each sample's scores the mean of its batch."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.head(hidden)
        return scores - scores.mean(0)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (Remembering, "gives the same sample different scores each time it is computed"),
        (Mixing, "gives a sample change with the other samples of its batch"),
    ],
)
def test_a_model_that_no_batches_are_right_for_is_refused(head: type, said: str, tmp_path: Path) -> None:
    task, module = opened(small_model("bert", tmp_path / "model"))
    module.model.classifier = head(module.model.classifier)
    with pytest.raises(ModelError, match=f"BertForSequenceClassification {said}"):
        batches_chosen(module, task, prepared(tmp_path / "data", task))


def test_what_one_rank_finds_changes_nothing_of_how_often_it_computes(tmp_path: Path) -> None:
    """Each forward pass of a sharded model waits for those of all other ranks."""
    computed = {}
    for kind, head in (("bert", None), ("fnet", None), ("bert", Remembering), ("bert", Mixing)):
        task, module = opened(small_model(kind, tmp_path / kind))
        module.model.classifier = module.model.classifier if head is None else head(module.model.classifier)
        calls: list[int] = []
        module.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        data = prepared(tmp_path / f"{kind}-{head}", task)
        with suppress(ModelError):
            batches_chosen(module, task, data)
        computed[kind, head] = len(calls)
    assert len(set(computed.values())) == 1, computed
    assert computed["bert", None] > TRIED


def test_a_sample_that_the_model_cannot_compute_is_told(tmp_path: Path) -> None:
    task, module = opened(small_model("gpt2", tmp_path / "model", n_positions=40))
    data = prepared(tmp_path / "data", task, [3, 44])
    with pytest.raises(
        ModelError, match=r"cannot compute a sample of 45 tokens: index out of range.*lower train\.max_length"
    ):
        batches_chosen(module, task, data)


def causal(folder: Path, kind: str, **settings: Any) -> tuple[CausalLM, TokenModel]:
    small_model(kind, folder, "AutoModelForCausalLM")
    task = CausalLM(AutoTokenizer.from_pretrained(folder), (), Train(max_length=64, **settings))
    return task, TokenModel(AutoModelForCausalLM.from_pretrained(folder), use_cache=False)


@pytest.mark.parametrize(("kind", "leaks"), [("llama", False), ("phi3", True), ("bloom", True)])
def test_samples_that_a_packed_row_changes_are_refused(kind: str, leaks: bool, tmp_path: Path) -> None:
    task, module = causal(tmp_path / "model", kind, packing=True)
    data = prepared(tmp_path / "data", task, [3, 5, 8, 8, 12])
    if leaks:
        with pytest.raises(
            ModelError, match=r"gives packed samples different scores than unpacked ones; " r"set train\.packing: false"
        ):
            batches_chosen(module, task, data)
    else:
        assert batches_chosen(module, task, data) == []


def test_prompts_to_be_continued_are_padded_on_the_right_to_look_at_the_model(tmp_path: Path) -> None:
    task, module = causal(tmp_path / "model", "gpt2")
    rows = [Row("f.csv", number, {"prompt": text}) for number, text in enumerate(texts([3, 9, 5, 5]), start=1)]
    with PreparedWriter(tmp_path / "data") as writer:
        writer.write(task.prepare(rows, labelled=False))
        writer.finish((), ())
    assert batches_chosen(module, task, Prepared(tmp_path / "data")) == []


class Coarse(nn.Module):
    """A task's module whose hidden states are rounded as bf16 rounds them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, batch: Any) -> Losses:
        found: Losses = self.inner(batch)
        return found


@pytest.mark.parametrize(("kind", "pads"), [("bert", False), ("convbert", True)])
def test_sixteen_bits_are_no_padding(kind: str, pads: bool, tmp_path: Path) -> None:
    task, module = opened(small_model(kind, tmp_path / "model"))
    batches_chosen(Coarse(module.bfloat16()), task, prepared(tmp_path / "data", task), "bf16")
    assert task.one_length == pads


def job(folder: Path, kind: str, micro_batch: int) -> Job:
    """Two epochs over 21 texts of unlike length, in global batches of 8: ranks and turns without samples occur."""
    model = folder / "model"
    if not model.is_dir():
        small_model(kind, model)
        rows = ({"text": text, "label": "ab"[len(text) % 2]} for text in texts([*LENGTHS[:21]]))
        jsonl(folder / "train.jsonl", rows)
    data = str(folder / "train.jsonl")
    return Job.model_validate(
        {
            "name": f"micro-{micro_batch}",
            "model": {"pretrained": str(model), "dropout": 0.0},
            "task": "text-classification",
            "data": {"train": data, "validation": data, "allow_leakage": True, "cache": str(folder / "cache")},
            "train": {
                "epochs": 2,
                "global_batch_size": 8,
                "micro_batch_size": micro_batch,
                "max_length": 60,
                "precision": "fp32",
                "optimizer": {"name": "sgd", "lr": 0.01},
            },
            "launch": {"device": "cpu"},
        }
    )


STRATEGIES = [("single", 1, 1), ("single", 1, 8), ("fsdp", 2, 1), ("zero3", 2, 2)]


@pytest.mark.parametrize(
    "kind",
    thinned(["bart", "fnet", "t5", "big_bird", "xlnet", "bert"], ["fnet"]),
)
def test_a_run_has_the_same_numbers_on_any_ranks_and_micro_batches(kind: str, worlds: Worlds, tmp_path: Path) -> None:
    found = []
    for engine, size, micro_batch in STRATEGIES:
        folder = tmp_path / f"{engine}-{micro_batch}"
        folder.mkdir()
        found.append(losses_and_norms(train(worlds, folder, job(tmp_path, kind, micro_batch), engine, size)))
    assert len(found[0]) == 2 * 6
    for others in found[1:]:
        assert others == pytest.approx(found[0], rel=2e-4)
