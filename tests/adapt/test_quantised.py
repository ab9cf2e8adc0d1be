"""Frozen weights in 4 bits: `bitsandbytes` computes on CPUs too, so everything but the plan's refusal is seen here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.adapt.adapters.adapters import AdapterContext
from launcher.adapt.adapters.lora import add_lora
from launcher.checkpoint.from_dcp import dcp_weights
from launcher.errors import ModelError
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model
from launcher.job.sections.adapters import LowRank
from launcher.job.sections.training import Optimizer
from launcher.models.weights import loading
from launcher.models.weights.quantised import quantise
from launcher.plan.engines import memory_of
from launcher.plan.memory import Workload
from launcher.plan.model_size import find_model_size
from launcher.worker.requests.selfcheck import make_material
from tests.adapt.runs import STEPS, adapters, lay_out, losses, train
from tests.worlds import Worlds

pytest.importorskip("bitsandbytes")
CLASSIFIER = "AutoModelForSequenceClassification"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "material"
    make_material(folder)
    return folder


def quantised(material: Path, *, in_parts: bool, precision: str = "fp32", **lora: Any) -> Any:
    spec = Model(pretrained=str(material / "model"), dropout=0.0)
    place = find_pretrained(spec)
    torch.manual_seed(0)
    loaded = loading.load_model(place, spec, CLASSIFIER, "abc", loading.load_config(place, spec), in_parts=in_parts)
    setting = AdapterContext(place, None, CLASSIFIER, seed=0, precision=precision)
    add_lora(LowRank.model_validate({"kind": "lora", **lora}), loaded, setting)
    return loaded.model.eval()


def answers(model: Any) -> torch.Tensor:
    ids = torch.arange(2, 62).reshape(4, 15)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_only_the_blocks_are_in_4_bits_and_the_answers_stay_near(kind: str, material: Path) -> None:
    whole = answers(quantised(material, in_parts=False))
    small = quantised(material, in_parts=True, quantised="4bit", kind=kind)
    kinds = {name: parameter.dtype for name, parameter in small.named_parameters()}
    in_4_bits = {name for name, dtype in kinds.items() if dtype == torch.uint8}
    assert in_4_bits == {name for name in kinds if "layer." in name and name.endswith("base_layer.weight")}
    assert not any(parameter.is_meta for parameter in small.parameters())
    found = answers(small)
    assert not torch.equal(found, whole)
    torch.testing.assert_close(found, whole, rtol=0.2, atol=0.05)
    found.sum().backward()
    learning = [parameter for parameter in small.parameters() if parameter.requires_grad]
    assert learning
    assert all(parameter.dtype == torch.float32 and parameter.grad is not None for parameter in learning)
    assert not hasattr(small, "is_loaded_in_4bit")


def test_the_plan_counts_what_is_held(material: Path) -> None:
    from bitsandbytes.nn import Params4bit

    lora = LowRank(kind="lora", quantised="4bit")
    size = find_model_size(find_pretrained(Model(pretrained=str(material / "model"))), adapters=lora)
    assert size is not None
    planned = memory_of(size, Optimizer(), "single", 1, Workload(0, "fp32", recomputes=False)).weights
    held = 0
    for parameter in quantised(material, in_parts=True, quantised="4bit").parameters():
        held += parameter.nbytes
        if isinstance(parameter, Params4bit):
            state = parameter.quant_state
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    assert planned == pytest.approx(held, rel=0.01)


def test_a_run_learns_is_resumed_and_leaves_adapters_of_the_whole_model(
    material: Path, worlds: Worlds, tmp_path: Path
) -> None:
    kind = {"quantised": "4bit", "targets": ["query", "value"]}
    runs = {
        (engine, world): lay_out(tmp_path / f"{engine}{world}", material, engine, world, kind)
        for engine, world in (("single", 1), ("ddp", 2))
    }
    for (_, world), run in runs.items():
        worlds.run(world, train, [(str(run.path), None)])
    first, second = (losses(run) for run in runs.values())
    assert first[-1] < first[0]
    assert second == pytest.approx(first, rel=1e-5)
    run = runs["ddp", 2]
    worlds.run(2, train, [(str(run.path), STEPS // 2)])
    assert losses(run)[STEPS:] == pytest.approx(second[STEPS // 2 :], rel=1e-6)
    kept = {weight.name for weight in dcp_weights(run.checkpoints / f"step-{STEPS:08d}", None)}
    assert all("lora_" in name or "classifier" in name for name in kept)
    assert any(tensor.any() for name, tensor in adapters(run.model).items() if "lora_B" in name)
    spec = Model(pretrained=str(run.model))
    place = find_pretrained(spec)
    loaded = loading.load_model(place, spec, CLASSIFIER, "abc", loading.load_config(place, spec))
    assert not loaded.new


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no plain linear layers to quantise"):
        quantise(torch.nn.Sequential(), [], {}, torch.device("cpu"), torch.float32)
