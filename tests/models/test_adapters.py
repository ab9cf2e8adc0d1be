"""Adapters of any base that a job can name are added to its weights as `peft` would add them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, LlamaConfig

from launcher.adapt.adapters.adapters import AdapterContext, Adapters, modules_that_learn
from launcher.adapt.adapters.lora import add_lora
from launcher.checkpoint.model_folder import publish_model, write_skeleton
from launcher.engines import make_engine
from launcher.engines.base import EngineSettings
from launcher.errors import ModelError
from launcher.job.pretrained import find_pretrained
from launcher.job.schema import Model
from launcher.job.sections.adapters import LowRank
from launcher.job.sections.training import Optimizer
from launcher.models.weights import loading

CLASSIFIER = "AutoModelForSequenceClassification"
GPT2 = GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0)
LLAMA = LlamaConfig(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    pad_token_id=0,
    tie_word_embeddings=True,
)


def leave_adapters(
    loaded: loading.Loaded, lora: LowRank, setting: AdapterContext, tokenizer: Any, card: Any, folder: Path
) -> Any:
    """Adapters of random values, saved as a run saves them; gives the model that they are in."""
    identity = loaded.identity
    added: Adapters = add_lora(lora, loaded, setting)
    draw = torch.Generator().manual_seed(1)
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=draw)
    module = torch.nn.Module()
    module.model = loaded.model
    engine = make_engine("single", EngineSettings(torch.device("cpu"), precision="fp32", clip_norm=None))
    engine.prepare(module, Optimizer(), {})
    write_skeleton(folder / "skeleton", loaded.model, tokenizer, card | {"base": {"identity": identity}}, added.config)
    publish_model(folder / "model", folder / "skeleton", engine, "fp32")
    return loaded.model.eval()


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.arange(1, 21).reshape(2, 10)).logits
    return logits


def load(
    folder: Path, spec: Model | None = None, *, in_parts: bool = False, labels: tuple[str, ...] = ("a", "b")
) -> loading.Loaded:
    spec = spec or Model(pretrained=str(folder))
    place = find_pretrained(spec)
    return loading.load_model(place, spec, CLASSIFIER, labels, loading.load_config(place, spec), in_parts=in_parts)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    "adapt", [{"kind": "rslora", "alpha": 3}, {"kind": "dora", "alpha": 3}], ids=["rslora", "dora"]
)
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_decoders_and_transposed_layers_are_adapted(
    config: Any, adapt: dict[str, Any], in_parts: bool, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "base")
    spec = Model(pretrained=str(tmp_path / "base"))
    loaded = load(tmp_path / "base")
    lora = LowRank.model_validate({"kind": "lora", "rank": 4, **adapt})
    setting = AdapterContext(find_pretrained(spec), None, CLASSIFIER, seed=0)
    trained = leave_adapters(loaded, lora, setting, tokenizer, {"task": "text-classification"}, tmp_path)
    found = load(tmp_path / "model", in_parts=in_parts)
    assert not found.new
    if in_parts:
        for parameter, source in found.stored.items():
            whole, count = source.whole(), parameter.numel()
            part = source.elements(count // 3, count // 2)  # a product of fewer rows may be rounded otherwise
            torch.testing.assert_close(part, whole.flatten()[count // 3 : count // 2], rtol=1e-5, atol=1e-6)
            torch.utils.swap_tensors(parameter, torch.nn.Parameter(whole))
    torch.testing.assert_close(logits_of(found.model.eval()), logits_of(trained), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match=r"include a head for 'a', 'b', and the data have other labels: 'c'; merge"):
        load(tmp_path / "model", in_parts=in_parts, labels=("b", "c"))
    plain = logits_of(load(tmp_path / "base").model.eval())
    assert (logits_of(trained) - plain).abs().max() > 0.01


def test_the_head_of_a_language_model_is_no_new_head(tiny_model: Path) -> None:
    torch.manual_seed(0)
    language = AutoModelForCausalLM.from_config(LLAMA)
    assert modules_that_learn(loading.Loaded(language, (), ())) == []
    classifier = AutoModelForSequenceClassification.from_config(LLAMA)
    assert modules_that_learn(loading.Loaded(classifier, (), ())) == ["score"]
    bert = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    new = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight")
    assert modules_that_learn(loading.Loaded(bert, new, ())) == ["bert.pooler.dense", "classifier"]


BUILD = """\
import torch
from transformers import BertConfig, BertForSequenceClassification

def build(labels):
    torch.manual_seed(5)
    names = dict(enumerate(labels))
    config = BertConfig(vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, id2label=names,
                        label2id={name: number for number, name in names.items()})
    return BertForSequenceClassification(config)
"""


@pytest.mark.parametrize("kind", ["function", "state dict"])
def test_the_base_may_be_a_function_or_a_state_dict(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    if kind == "function":
        (tmp_path / "build.py").write_text(BUILD)
        spec = Model(pretrained=f"{tmp_path}/build.py:build", tokenizer=str(tiny_model))
    else:
        weights = AutoModelForSequenceClassification.from_pretrained(tiny_model).bert.state_dict()
        torch.save({name: tensor.clone() for name, tensor in weights.items()}, tmp_path / "weights.pt")
        spec = Model(pretrained=str(tmp_path / "weights.pt"), config=str(tiny_model))
    place = find_pretrained(spec)
    card = {"task": "text-classification", "function": place.location if kind == "function" else None}
    base = spec.model_dump(mode="json", include={"config", "tokenizer"})
    loaded = load(tmp_path, spec)
    identity = loaded.identity
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    setting = AdapterContext(place, None, CLASSIFIER, seed=0)
    trained = leave_adapters(loaded, LowRank(kind="lora"), setting, tokenizer, card, tmp_path)
    written = json.loads((tmp_path / "model" / "adaptrun.json").read_text())
    written["base"] = base | {"identity": identity}
    (tmp_path / "model" / "adaptrun.json").write_text(json.dumps(written))
    trusting = Model(pretrained=str(tmp_path / "model"), trust_code=(f"{tmp_path}/build.py",))
    torch.testing.assert_close(logits_of(load(tmp_path, trusting).model.eval()), logits_of(trained))


def of_peft(base: Path, folder: Path, **config: Any) -> dict[str, torch.Tensor]:
    """Leaves adapters that `peft` has made in a folder; gives the weights that it makes of them."""
    import peft

    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, **config))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(folder)
    merged: dict[str, torch.Tensor] = adapted.merge_and_unload().state_dict()
    return merged


@pytest.mark.parametrize(
    "config",
    [{"rank_pattern": {"query": 2}}, {"use_rslora": True, "use_dora": True}],
    ids=["several ranks", "rank-stabilised with magnitudes"],
)
def test_adapters_that_peft_made_are_added_as_peft_adds_them(
    config: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    expected = of_peft(tiny_model, tmp_path, target_modules=["query", "value"], **config)
    found = load(tmp_path).model.state_dict()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [({"init_lora_weights": "pissa"}, "init_lora_weights pissa"), ({"alpha_pattern": {"query": 3}}, "alpha_pattern")],
)
def test_adapters_of_another_kind_are_refused(
    config: dict[str, Any], said: str, tiny_model: Path, tmp_path: Path
) -> None:
    of_peft(tiny_model, tmp_path, target_modules=["query"], **config)
    with pytest.raises(ModelError, match=rf"adapters of an unsupported kind \({said}\); merge them with peft"):
        load(tmp_path)


def test_adapters_that_peft_alone_knows_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = {"peft_type": "IA3", "base_model_name_or_path": str(tiny_model)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {"base_model.model.bert.encoder.layer.0.attention.self.query.ia3_l": torch.ones(32, 1)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapters of an unsupported kind \(peft_type IA3\); merge them with peft"):
        load(tmp_path)


def test_adapters_of_another_model_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(tiny_model)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    for name, inputs, message in (
        ("base_model.model.bert.nothing", 32, r"holds adapters for bert\.nothing\.weight, which Bert.* does not have"),
        (query, 31, "of another shape than the base's"),
    ):
        tensors = {f"{name}.lora_A.weight": torch.ones(2, inputs), f"{name}.lora_B.weight": torch.ones(32, 2)}
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=message):
            load(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"the adapters in .* cannot be read"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no base model for the adapters"):
        find_pretrained(Model(pretrained=str(tmp_path)))
