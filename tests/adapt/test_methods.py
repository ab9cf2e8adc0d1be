"""What the options of `adapt` compute, one by one, against float64 formulas; and models that cannot have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from launcher.adapt.methods.group_dro import GroupRobust
from launcher.adapt.methods.method import BatchObservations, StepInfo
from launcher.adapt.options.averaging import first_step, weight_after
from launcher.adapt.options.distillation import add_teacher, divergence
from launcher.adapt.options.layerwise_lr import distances, learning_rate_factors
from launcher.adapt.options.unfreezing import learning_sets
from launcher.checkpoint.means import means, pour
from launcher.errors import ModelError
from launcher.job.schema import Job
from launcher.job.sections.adapting import Adapting, Distill, Ema, Swa
from launcher.job.sections.methods import Finetune, GroupDro
from launcher.models.parts.batch import Batch, Losses
from launcher.models.tasks.base import TaskModule
from launcher.models.weights.loading import Loaded
from launcher.plan.stages import StagePlan, plan_stages
from launcher.worker.requests.lr_range_test import smoothed, suggestion, verdict
from launcher.worker.requests.soup import greedy
from launcher.worker.training.apply_adaptation import check_start

SIZES: dict[str, Any] = {"vocab_size": 11, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


def bert(layers: int = 3) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **SIZES))


def gpt() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_positions=16))


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=2, num_heads=2)
    )


def resnet() -> PreTrainedModel:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    )


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            bert,
            {
                "bert.embeddings.word_embeddings.weight": 4,
                "bert.encoder.layer.0.output.dense.weight": 3,
                "bert.encoder.layer.2.output.dense.weight": 1,
                "bert.pooler.dense.weight": 0,
                "classifier.weight": 0,
            },
        ),
        (gpt, {"transformer.wte.weight": 3, "transformer.h.0.ln_1.weight": 2, "transformer.ln_f.weight": 0}),
        (
            t5,
            {
                "shared.weight": 5,
                "encoder.block.0.layer.0.layer_norm.weight": 4,
                "decoder.block.1.layer.0.layer_norm.weight": 1,
                "decoder.final_layer_norm.weight": 0,
            },
        ),
        (resnet, {"resnet.embedder.embedder.convolution.weight": 3, "classifier.1.weight": 0}),
    ],
)
def test_distances_are_counted_in_blocks_from_the_top(make: Any, expected: dict[str, int]) -> None:
    found = distances(make())
    assert {name: found[name] for name in expected} == expected


def test_rates_fall_layer_by_layer_and_by_named_groups() -> None:
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    found = learning_rate_factors(
        Finetune(layer_decay=0.5, lr_factors={"classifier.bias": 3.0, "classifier.*": 7.0}), model
    )
    assert found["classifier.weight"] == 7.0
    assert found["classifier.bias"] == 3.0
    assert found["bert.encoder.layer.0.output.dense.weight"] == 0.125
    assert not any("embeddings" in name for name in found)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"lr_factors": {"clasifier.*": 2.0}},
            r"no parameter is named 'clasifier.\*'; the model's parts are bert, classifier",
        ),
        ({"layer_decay": 0.9}, "has no repeated layers"),
    ],
)
def test_groups_that_are_not_there_are_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        learning_rate_factors(Finetune.model_validate(spec), bert(layers=1))


def stages(spec: dict[str, Any], steps: int = 100, model: PreTrainedModel | None = None) -> StagePlan:
    job = Job.model_validate(
        {
            "name": "staged",
            "model": {"pretrained": "minilm"},
            "task": "text-classification",
            "data": {"train": "train.csv"},
            "adapt": spec,
        }
    )
    return plan_stages(job, steps).with_learning(learning_sets(job.adapt, Loaded(model or bert(), (), ())), job.adapt)


def learned(found: StagePlan, name: str) -> list[bool]:
    return [name in stage.learning for stage in found.stages]


@pytest.mark.parametrize(
    ("spec", "starts"),
    [
        ({}, [0]),
        ({"probe": 0.2}, [0, 20]),
        ({"probe": {"steps": 5}}, [0, 5]),
        ({"unfreeze": 10}, [0, 10, 20, 30, 40]),
        ({"unfreeze": 0.2}, [0, 20, 40, 60, 80]),
        ({"unfreeze": "gradual"}, [0, 12, 25, 38, 50]),
        ({"unfreeze": 10, "probe": 3}, [0, 3, 13, 23, 33, 43]),
        ({"unfreeze": "gradual", "probe": 10}, [0, 10, 20, 30, 40, 50]),
    ],
)
def test_stages_follow_from_the_job_and_the_layers(spec: dict[str, Any], starts: list[int]) -> None:
    found = stages(spec)
    assert [stage.start for stage in found.stages] == starts
    assert [stage.end for stage in found.stages] == [*starts[1:], 100]
    assert all(found.at(stage.start) is found.at(stage.end - 1) is stage for stage in found.stages)
    assert found.at(100) is found.stages[-1]
    assert found.stages[-1].learning == {name for name, _ in bert().named_parameters()}
    for before, after in zip(found.stages, found.stages[1:], strict=False):
        assert before.learning < after.learning


def test_the_head_learns_first_and_the_embeddings_last() -> None:
    found = stages({"unfreeze": 10, "probe": 3})
    assert found.stages[0].learning == {"classifier.weight", "classifier.bias"}
    assert learned(found, "bert.pooler.dense.weight") == [False, True, True, True, True, True]
    assert learned(found, "bert.encoder.layer.2.output.dense.weight") == [False, False, True, True, True, True]
    assert learned(found, "bert.embeddings.word_embeddings.weight") == [False] * 5 + [True]
    assert found.since("bert.encoder.layer.0.output.dense.weight") == 4


@pytest.mark.parametrize(
    ("spec", "model", "message"),
    [
        ({"unfreeze": 30}, bert, r"5 stages that begin after 0, 30, 60, 90, 120 steps do not fit into 100"),
        ({"probe": 100}, bert, r"2 stages that begin after 0, 100 steps do not fit into 100"),
        ({"probe": 10}, gpt, "GPT2LMHeadModel has no head that can be trained alone"),
    ],
)
def test_stages_that_cannot_be_are_refused(spec: dict[str, Any], model: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        stages(spec, model=model())


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        (Swa(name="swa", start=0.5, every=2), [10, 12, 14, 16, 18, 20]),
        (Swa(name="swa", start=0.5), [10, 15, 20]),
        (Swa(name="swa", start=0.6), [15, 20]),
        (Swa(name="swa", start=0.0, every=9), [1, 10, 19]),
    ],
)
def test_swa_is_the_plain_mean_of_its_members(spec: Swa, taken: list[int]) -> None:
    weights, average = torch.randn(21, dtype=torch.float64), float("nan")
    for step in range(1, 21):
        weight = weight_after(spec, step, total_steps=20, steps_per_epoch=5)
        average = (
            float(weights[step])
            if weight == 1
            else average
            if not weight
            else ((1 - weight) * average + weight * float(weights[step]))
        )
    assert first_step(spec, 20, 5) == taken[0]
    assert average == pytest.approx(float(weights[taken].mean()), rel=1e-12)


def test_a_group_without_samples_in_a_batch_keeps_its_weight() -> None:
    method = GroupRobust(GroupDro(method="group-dro", step_size=0.5), None, {"a": 9, "b": 9, "c": 9}, 0)  # type: ignore[arg-type]
    losses, sets = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64), torch.tensor([0, 0, 1])
    found = BatchObservations({"losses": losses}, sets, torch.ones(3, dtype=torch.float64), StepInfo(0, 1))
    weights = method.sample_factors(found)["task"]
    *present, absent = method.state["q"]
    assert absent == pytest.approx(1 / 3)
    assert present == pytest.approx([1 / 3, 1 / 3])
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    other = BatchObservations({"losses": torch.tensor([1.0, 3.0, 4.0]).double()}, sets, found.weights, StepInfo(1, 1))
    method.sample_factors(other)
    *present, absent = method.state["q"]
    assert absent == pytest.approx(1 / 3)
    assert present[1] / present[0] == pytest.approx(2.718281828459045)
    assert sum(method.state["q"]) == pytest.approx(1)


def test_ema_forgets_its_start_quickly_and_then_weighs_steps_alike() -> None:
    weights = [weight_after(Ema(name="ema", decay=0.75), step, 40, 5) for step in range(1, 41)]
    assert weights[0] == pytest.approx(9 / 11)
    assert weights == sorted(weights, reverse=True)
    assert weights[25:] == [0.25] * 15
    assert weights[24] > 0.25


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
@pytest.mark.parametrize("independent", [False, True])
def test_divergence_and_its_gradient(shape: tuple[int, ...], independent: bool) -> None:
    torch.manual_seed(0)
    scores, aims, temperature = torch.randn(shape, requires_grad=True), torch.randn(shape), 2.5
    found = divergence(scores, aims, temperature, independent=independent)
    found.sum().backward()
    exact = scores.detach().double().requires_grad_()
    if independent:
        p, q = (aims.double() / temperature).sigmoid(), (exact / temperature).sigmoid()
        expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(-1)
    else:
        p, q = (aims.double() / temperature).softmax(-1), (exact / temperature).softmax(-1)
        expected = (p * (p / q).log()).sum(-1)
    expected.sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert scores.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(scores.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


class Scores(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(4, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return type("Output", (), {"logits": self.linear(x) if self.linear.out_features == 3 else x})


class Module(TaskModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Scores(1)  # type: ignore[assignment]

    def forward(self, batch: Batch) -> Losses:
        logits = self.model(**batch.inputs).logits
        return Losses(F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights, logits.detach())


def test_a_teacher_adds_its_loss_while_training_alone() -> None:
    module, teacher = Module(), Scores(2)
    batch = Batch({"x": torch.randn(5, 4)}, torch.tensor([0, 1, 2, 0, 1]), torch.rand(5), torch.arange(5), 5)
    plain = module(batch).weighted
    add_teacher(module, teacher, Distill(weight=0.3, temperature=2.0))
    module.train()
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    weighted = module(batch).weighted
    weighted.sum().backward()
    x, student = batch.inputs["x"].double(), module.model.linear.weight.detach().double().requires_grad_()
    scores = x @ student.T + module.model.linear.bias.detach().double()
    aims = x @ teacher.linear.weight.double().T + teacher.linear.bias.double()
    p, q = (aims / 2).softmax(-1), (scores / 2).softmax(-1)
    both = 0.7 * F.cross_entropy(scores, batch.targets, reduction="none") + 0.3 * 4 * (p * (p / q).log()).sum(-1)
    expected = both * batch.weights.double()
    expected.sum().backward()
    torch.testing.assert_close(weighted.double(), expected, rtol=1e-6, atol=1e-6)
    assert student.grad is not None
    torch.testing.assert_close(module.model.linear.weight.grad.double(), student.grad, rtol=1e-5, atol=1e-6)
    module.eval()
    torch.testing.assert_close(module(batch).weighted, plain)


NEW = ("classifier.bias", "classifier.weight")


@pytest.mark.parametrize(
    ("adapt", "model", "new", "message"),
    [
        (
            {"interpolate": 0.5},
            bert,
            NEW,
            r"adapt.interpolate: classifier.bias, classifier.weight are initialised at random",
        ),
        ({"distill": {}}, bert, NEW, r"adapt.distill: classifier.bias, .* start from a fine-tuned model"),
        ({"average": {"name": "ema"}}, resnet, (), r"adapt.average: ResNetForImageClassification updates statistics"),
        ({"interpolate": 1.0}, resnet, (), r"adapt.interpolate: ResNetForImageClassification updates statistics"),
    ],
)
def test_a_start_that_is_none_is_refused(adapt: dict[str, Any], model: Any, new: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_start(Finetune.model_validate(adapt), Loaded(model(), new, ()))


def test_with_a_probe_a_new_head_has_a_start() -> None:
    check_start(Finetune(interpolate=0.5, probe=0.2), Loaded(bert(), NEW, ()))


def test_a_greedy_soup_keeps_what_makes_it_no_worse() -> None:
    values = {"a": 0.7, "b": 0.9, "c": 0.8, "bc": 0.9, "bca": 0.85}
    found = greedy([Path(name) for name in "abc"], lambda parts: values["".join(map(str, parts))], lambda value: value)
    assert [(one.folder, one.alone, one.together, one.kept) for one in found] == [
        ("b", 0.9, 0.9, True),
        ("c", 0.8, 0.9, True),
        ("a", 0.7, 0.85, False),
    ]


def test_means_are_taken_tensor_by_tensor(tmp_path: Path) -> None:
    tensors = [{"weight": torch.randn(3, 4), "steps": torch.tensor([number])} for number in (7, 8, 9)]
    for number, held in enumerate(tensors):
        (tmp_path / str(number)).mkdir()
        save_file(held, tmp_path / str(number) / "model.safetensors")
    folders = [tmp_path / str(number) for number in range(3)]
    model = nn.Linear(4, 3, bias=False)
    model.register_buffer("steps", torch.tensor([0]))
    pour(folders, model)
    expected = torch.stack([held["weight"].double() for held in tensors]).mean(0)
    torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-6, atol=1e-7)
    assert model.steps.tolist() == [7]
    save_file({"weight": torch.randn(3, 5), "steps": torch.tensor([1])}, folders[2] / "model.safetensors")
    with pytest.raises(ModelError, match=r"2 is of another model than .*0: they differ in weight"):
        means(folders)


def test_the_suggested_rate_is_a_tenth_of_that_of_the_least_loss() -> None:
    steps = [(10.0 ** (-7 + number / 4), 1.0 if number < 8 else abs(number - 20) / 12) for number in range(30)]
    points = smoothed(steps)
    sums = [sum(0.1 * 0.9 ** (last - k) * steps[k][1] for k in range(last + 1)) for last in range(30)]
    unbiased = [value / (1 - 0.9 ** (number + 1)) for number, value in enumerate(sums)]
    assert [point.smoothed for point in points] == pytest.approx(unbiased, rel=1e-12)
    least = min(range(30), key=lambda number: unbiased[number])
    assert suggestion(points) == pytest.approx(steps[least][0] / 10)
    assert "a tenth of" in verdict(points, suggestion(points))
    flat = smoothed([(1e-3, 1.0), (1e-2, 1.1)])
    assert suggestion(flat) is None
    assert "did not fall" in verdict(flat, None)


def test_the_options_are_those_of_every_method() -> None:
    assert issubclass(Finetune, Adapting)
    assert Finetune().copies == 0
    assert Finetune(l2_sp=0.1, interpolate=0.5, average=Ema(name="ema")).copies == 2
